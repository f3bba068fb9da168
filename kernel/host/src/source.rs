//! A module's bytes: from its object, from a file in the folders that the operator allowed, from a registry (by digest, through a program that
//! knows registries), from what the kernel kept of earlier versions, or from the folder that ships with the kernel. Whatever the source, the digest that the object names must be theirs.

use crate::{
    engine::digest_of,
    fault::HostError,
    limits::WASM_BYTES_MAX,
    spec::{ModuleSpec, Source},
};
use base64::Engine as _;
use bytes::Bytes;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where modules may come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub builtin_dir: Option<PathBuf>,
    pub source_dirs: Vec<PathBuf>,
    pub artifact_program: Option<PathBuf>,
    /// Where that program keeps what it pulled.
    pub kept: Option<PathBuf>,
}

impl Sources {
    /// Reads the bytes of a module and holds them against its digest. Blocks on files.
    ///
    /// # Errors
    /// `Source`, `TooLarge` or `DigestMismatch`.
    pub fn read(&self, spec: &ModuleSpec) -> Result<Bytes, HostError> {
        let wasm = match &spec.source {
            Source::Inline(text) => self.inline(text)?,
            Source::File(path) => self.file(path)?,
            Source::Builtin(name) => self.builtin(name)?,
            Source::Oci(reference) => self.oci(reference)?,
            Source::Kept(digest) => self.kept(digest)?,
        };
        if !spec.digest.is_empty() {
            let actual = digest_of(&wasm);
            if actual != spec.digest {
                return Err(HostError::DigestMismatch { expected: spec.digest.clone(), actual });
            }
        }
        Ok(wasm)
    }

    fn inline(&self, text: &str) -> Result<Bytes, HostError> {
        let compact: String = text.split_ascii_whitespace().collect();
        base64::engine::general_purpose::STANDARD.decode(compact).map(Bytes::from).map_err(|e| bad("inline", e))
    }

    fn file(&self, path: &str) -> Result<Bytes, HostError> {
        let candidates: Vec<PathBuf> =
            if Path::new(path).is_absolute() { vec![path.into()] } else { self.source_dirs.iter().map(|dir| dir.join(path)).collect() };
        let real = candidates
            .iter()
            .find_map(|candidate| candidate.canonicalize().ok())
            .ok_or_else(|| bad(path, "there is no such file in the allowed folders"))?;
        let allowed = |dir: &PathBuf| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir));
        if !self.source_dirs.iter().any(allowed) {
            return Err(bad(path, "it is outside the folders that modules may be read from"));
        }
        read(&real, path)
    }

    fn oci(&self, reference: &str) -> Result<Bytes, HostError> {
        let program = self.artifact_program.as_ref().ok_or_else(|| bad(reference, "the program that pulls modules is not there"))?;
        if !reference.contains("@sha256:") {
            return Err(bad(reference, "it does not say which: it needs @sha256:..."));
        }
        let mut command = Command::new(program);
        command.args(["fetch", reference]).stdin(Stdio::null());
        if let Some(folder) = &self.kept {
            command.arg("--keep").arg(folder);
        }
        let output = command.output().map_err(|e| bad(reference, e))?;
        if !output.status.success() {
            return Err(bad(reference, String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(output.stdout.into())
    }

    /// Keeps the bytes of a version that runs, so that it can be gone back to wherever it came from. Blocks on files.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self, digest: &str, wasm: &[u8]) -> std::io::Result<()> {
        let Some(path) = self.place(digest).filter(|path| !path.is_file()) else { return Ok(()) };
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&fresh, wasm)?;
        std::fs::rename(fresh, path)
    }

    /// Where the bytes of this digest are kept.
    fn place(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.kept.as_ref().map(|folder| folder.join(hex))
    }

    fn kept(&self, digest: &str) -> Result<Bytes, HostError> {
        let path = self.place(digest).ok_or_else(|| bad(digest, "it is no digest, or this kernel keeps nothing"))?;
        let wasm = read(&path, digest)?;
        let actual = digest_of(&wasm);
        if actual == digest { Ok(wasm) } else { Err(HostError::DigestMismatch { expected: digest.to_owned(), actual }) }
    }

    fn builtin(&self, name: &str) -> Result<Bytes, HostError> {
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let dir = self.builtin_dir.as_ref().filter(|_| plain).ok_or_else(|| bad(name, "no such module ships with the kernel"))?;
        read(&dir.join(format!("{name}.wasm")), name)
    }
}

fn bad(name: &str, problem: impl ToString) -> HostError {
    HostError::Source { source_name: name.to_owned(), problem: problem.to_string() }
}

fn read(path: &Path, name: &str) -> Result<Bytes, HostError> {
    let length = std::fs::metadata(path).map_err(|e| bad(name, e))?.len();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > WASM_BYTES_MAX {
        return Err(HostError::TooLarge { actual: length, limit: WASM_BYTES_MAX });
    }
    std::fs::read(path).map(Bytes::from).map_err(|e| bad(name, e))
}
