//! What there is to know of a guest that is a core module: what it imports and exports.

use crate::AdaptError;
use std::collections::BTreeSet;
use wasmparser::{ExternalKind, FuncType, Parser, Payload, TypeRef, ValType};

/// WASI's "bad file descriptor" and "not supported".
const BADF: u32 = 8;
const NOTSUP: u32 = 58;

/// A function that the guest imports.
pub struct Import {
    /// Whose.
    pub module: String,
    /// Which.
    pub name: String,
    /// Its parameters and results.
    pub ty: FuncType,
}

impl Import {
    /// As a host exports it.
    pub fn key(&self) -> String {
        format!("{}/{}", self.module, self.name.split(AGAIN).next().unwrap_or_default())
    }

    /// Whether it is of WASI 0.2, which guests of newer toolchains call without being components.
    pub fn is_wasi2(&self) -> bool {
        self.module.starts_with("wasi:")
    }

    /// Its parameters and results in the text format.
    pub fn signature(&self) -> String {
        let list = |word: &str, types: &[ValType]| types.iter().map(|t| format!(" ({word} {t})")).collect::<String>();
        format!("{}{}", list("param", self.ty.params()), list("result", self.ty.results()))
    }

    /// The body, in the text format, of a function of WASI preview 1 that is not served.
    pub fn refusal(&self) -> String {
        match self.ty.results() {
            [ValType::I32] if self.name.starts_with("fd_") => format!("(i32.const {BADF})"),
            [ValType::I32] => format!("(i32.const {NOTSUP})"),
            _ => "(unreachable)".into(),
        }
    }
}

/// Between the name of a function and a number, where a guest imports it again.
const AGAIN: char = '#';

/// The guest with a name of its own for each import: a component may not import one twice, and Go's toolchain does.
///
/// # Errors
/// It is no core module.
pub fn distinct(bytes: Vec<u8>) -> Result<Vec<u8>, AdaptError> {
    let guest = Guest::read(&bytes)?;
    let names: BTreeSet<String> = guest.imports.iter().map(Import::key).collect();
    if names.len() == guest.imports.len() || !guest.others.is_empty() {
        return Ok(bytes);
    }
    let mut module = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        let payload = payload.map_err(crate::unreadable)?;
        if let Payload::ImportSection(section) = payload {
            let mut imports = wasm_encoder::ImportSection::new();
            for (number, import) in section.into_imports().enumerate() {
                let import = import.map_err(crate::unreadable)?;
                let TypeRef::Func(ty) = import.ty else { continue };
                let again = guest.imports[..number].iter().any(|other| other.module == import.module && other.name == import.name);
                let name = if again { format!("{}{AGAIN}{number}", import.name) } else { import.name.to_owned() };
                imports.import(import.module, &name, wasm_encoder::EntityType::Function(ty));
            }
            module.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            module.section(&wasm_encoder::RawSection { id, data: bytes.get(range.start as usize..range.end as usize).unwrap_or_default() });
        }
    }
    Ok(module.finish())
}

/// What there is to know of a core module.
#[derive(Default)]
pub struct Guest {
    /// Functions that it imports.
    pub imports: Vec<Import>,
    /// What it imports that is no function.
    pub others: Vec<String>,
    /// What it exports.
    pub exports: Vec<(String, ExternalKind)>,
}

impl Guest {
    /// Reads it.
    ///
    /// # Errors
    /// It is no core module.
    pub fn read(bytes: &[u8]) -> Result<Self, AdaptError> {
        let (mut guest, mut types) = (Self::default(), Vec::new());
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(crate::unreadable)? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types.extend(group.map_err(crate::unreadable)?.into_types());
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(crate::unreadable)?;
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        let TypeRef::Func(at) = import.ty else {
                            guest.others.push(format!("{module}/{name}"));
                            continue;
                        };
                        let ty = types.get(at as usize).map(wasmparser::SubType::unwrap_func).cloned();
                        guest.imports.push(Import { module, name, ty: ty.unwrap_or_else(|| FuncType::new([], [])) });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(crate::unreadable)?;
                        guest.exports.push((export.name.to_owned(), export.kind));
                    }
                }
                _ => {}
            }
        }
        Ok(guest)
    }

    /// Whether it exports a function of this name.
    pub fn exports(&self, name: &str) -> bool {
        self.exports.iter().any(|(export, kind)| export == name && *kind == ExternalKind::Func)
    }
}

/// Whether these bytes are a core module, not a component.
pub fn is_core(bytes: &[u8]) -> bool {
    Parser::is_core_wasm(bytes)
}
