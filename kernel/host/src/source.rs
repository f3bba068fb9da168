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
use pintle_signing::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How the file beside a kept version ends that says who vouches for it.
const PROVENANCE: &str = "signed";

/// Where a component was, and who vouches for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Of the artifact's manifest; empty: it was in no registry.
    pub manifest_digest: String,
    pub signatures: Vec<Signature>,
}

impl Provenance {
    /// Whether the holder of one of these keys (PEM) signed it.
    pub fn is_by_one_of(&self, keys: &[String]) -> bool {
        let keys: Vec<PublicKey> = keys.iter().filter_map(|key| PublicKey::from_pem(key).ok()).collect();
        self.signatures.iter().any(|signature| keys.iter().any(|key| signature.is_by(key, &self.manifest_digest)))
    }
}

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
        self.program(reference)?;
        if !reference.contains("@sha256:") {
            return Err(bad(reference, "it does not say which: it needs @sha256:..."));
        }
        let keep = self.kept.as_ref().map(|folder| folder.display().to_string());
        let keep = keep.iter().flat_map(|folder| ["--keep", folder]);
        self.artifact(&["fetch", reference].into_iter().chain(keep).collect::<Vec<_>>(), reference)
    }

    fn program(&self, reference: &str) -> Result<&PathBuf, HostError> {
        self.artifact_program.as_ref().ok_or_else(|| bad(reference, "the program that pulls modules is not there"))
    }

    /// What the program that knows registries says.
    fn artifact(&self, words: &[&str], reference: &str) -> Result<Bytes, HostError> {
        let mut command = Command::new(self.program(reference)?);
        command.args(words).stdin(Stdio::null());
        let output = command.output().map_err(|e| bad(reference, e))?;
        if !output.status.success() {
            return Err(bad(reference, String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(output.stdout.into())
    }

    /// Who vouches for a module. Blocks on files and on a registry.
    ///
    /// # Errors
    /// The registry cannot be asked.
    pub fn provenance(&self, spec: &ModuleSpec) -> Result<Provenance, HostError> {
        match &spec.source {
            Source::Oci(reference) => {
                let manifest_digest = reference.split_once('@').map(|(_, digest)| digest.to_owned()).unwrap_or_default();
                match self.artifact(&["signatures", reference], reference) {
                    Ok(listed) => {
                        Ok(Provenance { manifest_digest, signatures: serde_json::from_slice(&listed).map_err(|e| bad(reference, e))? })
                    }
                    // Without the registry, what was known holds: signatures are worth the same wherever they lie.
                    Err(error) => self.known(&spec.digest).filter(|known| known.manifest_digest == manifest_digest).ok_or(error),
                }
            }
            Source::Kept(digest) => Ok(self.known(digest).unwrap_or_default()),
            _ => Ok(Provenance::default()),
        }
    }

    /// Who vouched for the component of this digest when it was kept.
    fn known(&self, digest: &str) -> Option<Provenance> {
        let kept = std::fs::read(self.place(digest)?.with_extension(PROVENANCE)).ok()?;
        serde_json::from_slice(&kept).ok()
    }

    /// Keeps the bytes of a version that runs, so that it can be gone back to wherever it came from. Blocks on files.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self, digest: &str, wasm: &[u8], provenance: &Provenance) -> std::io::Result<()> {
        let Some(path) = self.place(digest) else { return Ok(()) };
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        if *provenance != Provenance::default() {
            std::fs::write(path.with_extension(PROVENANCE), serde_json::to_vec(provenance)?)?;
        }
        if path.is_file() {
            return Ok(());
        }
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&fresh, wasm)?;
        std::fs::rename(fresh, path)
    }

    /// Throws the kept bytes of a version away.
    pub fn forget(&self, digest: &str) {
        for path in self.place(digest).into_iter().flat_map(|path| [path.with_extension(PROVENANCE), path]) {
            let _ = std::fs::remove_file(path);
        }
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
