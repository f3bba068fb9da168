//! A guest that calls its host with pointers into its own memory (a core module), as a component with one function, `call`: an operation and bytes go in; bytes or an
//! error come out. What it prints goes to WASI's standard output at once, so that a guest that traps has been heard.
//!
//! Its host is WebAssembly as well here (`host.wat`): a module that copies between the guest's memory and another one. Guest and host need each other, so the guest is given functions
//! that jump through a table, and the table is filled once both are there. The guest's code is not changed.

use crate::{
    AdaptError,
    guest::{Guest, Import},
};
use std::{collections::BTreeSet, fmt::Write as _};
use wasm_encoder::{
    Alias, CanonicalOption, ComponentBuilder, ComponentExportKind, ComponentOuterAliasKind, ComponentTypeRef, ComponentValType, ExportKind,
    InstanceType, ModuleArg, PrimitiveValType, TypeBounds,
};

/// The host in WebAssembly, but for the contract.
const HOST: &str = include_str!("host.wat");
/// What every such guest may import of, beside WASI 0.2 (`wasi:...`), which guests of newer toolchains call without being components.
const PREVIEW1: &str = "wasi_snapshot_preview1";
/// The interfaces of WASI 0.2 that output goes through.
const OUTPUT: [&str; 3] = ["wasi:io/error@0.2.0", "wasi:io/streams@0.2.0", "wasi:cli/stdout@0.2.0"];
const WRITE: &str = "[method]output-stream.blocking-write-and-flush";
/// The host's memory, which is there before the host because those functions write to it.
const MEMORY: &str = "(module (memory (export \"memory\") 1))";
/// Functions that start a guest, in the order that waPC hosts call them.
const STARTS: [&str; 3] = ["_initialize", "_start", "wapc_init"];
/// What guests of a kind and their host have agreed on.
pub struct Contract {
    /// The interface that the component exports, with its version.
    pub interface: &'static str,
    /// What guests import functions of, beside WASI.
    pub spaces: &'static [&'static str],
    /// What the host calls of the guest, in the text format.
    pub calls: String,
    /// The rest of the host, in the text format.
    pub host: String,
}

/// The component.
///
/// # Errors
/// `Import` when it wants more than the contract and WASI have.
pub fn component(guest: &Guest, bytes: &[u8], contract: &Contract) -> Result<Vec<u8>, AdaptError> {
    if let Some(other) = guest.others.first() {
        return Err(AdaptError::Import(other.clone()));
    }
    let known = |import: &&Import| {
        let space = import.module.as_str();
        space == PREVIEW1 || contract.spaces.contains(&space) || import.is_wasi2()
    };
    if let Some(import) = guest.imports.iter().find(|import| !known(import)) {
        return Err(AdaptError::Import(import.key()));
    }
    let assemble = |text: &str| wat::parse_str(text).map_err(crate::unreadable);
    let host = assemble(&host(guest, contract))?;
    // A guest that names a function of the contract which there is not is told here, by name, and not by the linker.
    let served = Guest::read(&host)?;
    if let Some(import) = guest.imports.iter().find(|import| !served.exports(&import.key())) {
        return Err(AdaptError::Import(import.key()));
    }
    Ok(link(guest, contract.interface, [bytes, &host, &assemble(&jumps(guest))?, &assemble(&filling(guest))?, &assemble(MEMORY)?]))
}

/// The host for this guest: it starts it as it wants to be started, and answers what it imports of WASI and is not served.
fn host(guest: &Guest, contract: &Contract) -> String {
    let text = HOST.replace(";; {contract}", &contract.host);
    let (mut imports, mut start, mut more) = (contract.calls.clone(), String::new(), String::new());
    for name in STARTS.into_iter().filter(|name| guest.exports(name)) {
        let _ = writeln!(imports, "(import \"guest\" \"{name}\" (func ${name}))");
        let _ = writeln!(start, "(call ${name})");
    }
    let mut added = BTreeSet::new();
    for import in guest.imports.iter().filter(|i| !contract.spaces.contains(&&*i.module) && !text.contains(&format!("\"{}\"", i.key()))) {
        if !added.insert(import.key()) {
            continue;
        }
        let body = if import.is_wasi2() { wasi2(&import.name).into() } else { import.refusal() };
        let _ = writeln!(more, "(func (export \"{}\"){} {body})", import.key(), import.signature());
    }
    let text = text.replace(";; {imports}", &imports).replace(";; {start}", &start);
    match text.trim_end().strip_suffix(')') {
        Some(open) => format!("{open}{more})"),
        None => text,
    }
}

/// What a function of WASI 0.2 does here, as the canonical ABI calls it: nothing that has an effect, but for output, which is the log. What is not named
/// ends the instance.
fn wasi2(name: &str) -> &'static str {
    match name {
        "get-environment" | "get-arguments" | "get-directories" => "(i64.store $theirs (local.get 0) (i64.const 0))",
        "insecure-seed" => "(i64.store $theirs (local.get 0) (i64.const 1)) (i64.store $theirs offset=8 (local.get 0) (i64.const 2))",
        "get-stdout" | "get-stderr" | "get-stdin" => "(i32.const 1)",
        "[method]output-stream.check-write" => {
            "(i32.store8 $theirs (local.get 1) (i32.const 0)) (i64.store $theirs offset=8 (local.get 1) (i64.const 4096))"
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            "(call $print (local.get 1) (local.get 2)) (i32.store8 $theirs (local.get 3) (i32.const 0))"
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => "(i32.store8 $theirs (local.get 1) (i32.const 0))",
        _ if name.starts_with("[resource-drop]") => "",
        _ => "(unreachable)",
    }
}

/// A module whose functions jump through its table: what the guest is linked to.
fn jumps(guest: &Guest) -> String {
    let count = guest.imports.len();
    let mut text = format!("(module (table $t (export \"t\") {count} {count} funcref)\n");
    for (i, import) in guest.imports.iter().enumerate() {
        let arguments: String = (0..import.ty.params().len()).map(|n| format!("(local.get {n}) ")).collect();
        let signature = import.signature();
        let _ = writeln!(
            text,
            "(type $y{i} (func{signature})) (func (export \"{i}\") (type $y{i}) {arguments}(call_indirect $t (type $y{i}) (i32.const {i})))"
        );
    }
    text + ")"
}

/// A module that fills that table with the host's functions, and is nothing else.
fn filling(guest: &Guest) -> String {
    let (count, mut text) = (guest.imports.len(), "(module ".to_owned());
    let mut functions = String::new();
    for (i, import) in guest.imports.iter().enumerate() {
        let first = guest.imports.iter().position(|other| other.key() == import.key()).unwrap_or(i);
        if first == i {
            let _ = writeln!(text, "(import \"host\" \"{}\" (func $f{i}{}))", import.key(), import.signature());
        }
        let _ = write!(functions, " $f{first}");
    }
    format!("{text}(import \"jumps\" \"t\" (table {count} {count} funcref)) (elem (i32.const 0) func{functions}))")
}

/// Imports the interfaces of output, as far as they are called; the instances.
fn output(out: &mut ComponentBuilder) -> [u32; 3] {
    let resource = ComponentTypeRef::Type(TypeBounds::SubResource);
    let outer = |index| Alias::Outer { kind: ComponentOuterAliasKind::Type, count: 1, index };
    let import = |out: &mut ComponentBuilder, name: &str, ty: &InstanceType| {
        let ty = out.type_instance(None, ty);
        out.import(name, ComponentTypeRef::Instance(ty))
    };
    let mut ty = InstanceType::new();
    ty.export("error", resource);
    let errors = import(out, OUTPUT[0], &ty);
    let error = out.alias_export(errors, "error", ComponentExportKind::Type);
    // Types are numbered as they are defined, aliased and exported.
    let mut ty = InstanceType::new();
    ty.export("output-stream", resource);
    ty.alias(outer(error));
    ty.export("error", ComponentTypeRef::Type(TypeBounds::Eq(1)));
    ty.ty().defined_type().own(2);
    ty.ty().defined_type().variant([("last-operation-failed", Some(ComponentValType::Type(3))), ("closed", None)]);
    ty.export("stream-error", ComponentTypeRef::Type(TypeBounds::Eq(4)));
    ty.ty().defined_type().borrow(0);
    ty.ty().defined_type().list(PrimitiveValType::U8);
    ty.ty().defined_type().result(None, Some(ComponentValType::Type(5)));
    ty.ty()
        .function()
        .params([("self", ComponentValType::Type(6)), ("contents", ComponentValType::Type(7))])
        .result(Some(ComponentValType::Type(8)));
    ty.export(WRITE, ComponentTypeRef::Func(9));
    let streams = import(out, OUTPUT[1], &ty);
    let stream = out.alias_export(streams, "output-stream", ComponentExportKind::Type);
    let mut ty = InstanceType::new();
    ty.alias(outer(stream));
    ty.export("output-stream", ComponentTypeRef::Type(TypeBounds::Eq(0)));
    ty.ty().defined_type().own(1);
    ty.ty().function().params(Vec::<(&str, ComponentValType)>::new()).result(Some(ComponentValType::Type(2)));
    ty.export("get-stdout", ComponentTypeRef::Func(3));
    [errors, streams, import(out, OUTPUT[2], &ty)]
}

/// Puts the modules (guest, host, jumps, filling, memory) together and lifts the host's one function.
fn link(guest: &Guest, interface: &str, modules: [&[u8]; 5]) -> Vec<u8> {
    let mut out = ComponentBuilder::default();
    let [_, streams, stdout] = output(&mut out);
    let [guest_module, host_module, jumps_module, filling_module, memory_module] = modules.map(|module| out.core_module_raw(None, module));
    let mine = out.core_instantiate(None, memory_module, []);
    let memory = out.core_alias_export(None, mine, "memory", ExportKind::Memory);
    let lowered: Vec<(&str, ExportKind, u32)> = [(stdout, "get-stdout"), (streams, WRITE)]
        .map(|(instance, name)| {
            let function = out.alias_export(instance, name, ComponentExportKind::Func);
            let number = out.lower_func(None, function, [CanonicalOption::Memory(memory)]);
            (name.rsplit('.').next().unwrap_or(name), ExportKind::Func, number)
        })
        .into();
    let lowered = out.core_instantiate_exports(None, lowered);
    let jumps = out.core_instantiate(None, jumps_module, []);
    let mut spaces: Vec<(String, u32)> = Vec::new();
    let modules: BTreeSet<&str> = guest.imports.iter().map(|import| import.module.as_str()).collect();
    for module in modules {
        let functions: Vec<(&str, u32)> = guest
            .imports
            .iter()
            .enumerate()
            .filter(|(_, import)| import.module == module)
            .map(|(i, import)| (import.name.as_str(), out.core_alias_export(None, jumps, &i.to_string(), ExportKind::Func)))
            .collect();
        let exports = functions.iter().map(|(name, index)| (*name, ExportKind::Func, *index)).collect::<Vec<_>>();
        spaces.push((module.to_owned(), out.core_instantiate_exports(None, exports)));
    }
    let arguments: Vec<(&str, ModuleArg)> = spaces.iter().map(|(name, index)| (name.as_str(), ModuleArg::Instance(*index))).collect();
    let guest = out.core_instantiate(None, guest_module, arguments);
    let needs = [("guest", guest), ("mine", mine), ("output", lowered)].map(|(name, instance)| (name, ModuleArg::Instance(instance)));
    let host = out.core_instantiate(None, host_module, needs);
    out.core_instantiate(None, filling_module, [("host", ModuleArg::Instance(host)), ("jumps", ModuleArg::Instance(jumps))]);

    let [realloc, done, call] = ["realloc", "done", "call"].map(|name| out.core_alias_export(None, host, name, ExportKind::Func));
    let (bytes, encoder) = out.type_defined(None);
    encoder.list(PrimitiveValType::U8);
    let (outcome, encoder) = out.type_defined(None);
    encoder.result(Some(ComponentValType::Type(bytes)), Some(ComponentValType::Type(bytes)));
    let (ty, mut encoder) = out.type_function(None);
    encoder
        .params([("operation", ComponentValType::Primitive(PrimitiveValType::String)), ("payload", ComponentValType::Type(bytes))])
        .result(Some(ComponentValType::Type(outcome)));
    let options =
        [CanonicalOption::UTF8, CanonicalOption::Memory(memory), CanonicalOption::Realloc(realloc), CanonicalOption::PostReturn(done)];
    let function = out.lift_func(None, call, ty, options);
    out.export("call", ComponentExportKind::Func, function, None);
    // An instance of that is what a component that exports the interface has.
    let mut outer = ComponentBuilder::default();
    let given: Vec<_> = OUTPUT.into_iter().zip(output(&mut outer)).map(|(name, it)| (name, ComponentExportKind::Instance, it)).collect();
    let inner = outer.component(None, out);
    let instance = outer.instantiate(None, inner, given);
    outer.export(interface, ComponentExportKind::Instance, instance, None);
    outer.finish()
}
