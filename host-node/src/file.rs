//! Files that are replaced as a whole.
//!
//! Invariant: a reader (this process after a crash included) sees the old content or the new one, never half of one.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, Step};

/// Writes `bytes` to `path` by rename; the file's mode is `mode`.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let shown = path.display();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = std::path::PathBuf::from(temporary);
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .step(|| format!("creating {}", temporary.display()))?;
    file.write_all(bytes).step(|| format!("writing {shown}"))?;
    set_mode(&temporary, mode)?;
    std::fs::rename(&temporary, path).step(|| format!("replacing {shown}"))
}

/// Writes a value as JSON by rename, readable by root only.
pub fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Malformed { what: path.display().to_string(), source })?;
    replace(path, &bytes, 0o600)
}

/// Reads a JSON file; `None` when it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Malformed { what: path.display().to_string(), source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
    }
}

/// Makes a directory and its parents; those that are made get `mode`.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).step(|| format!("making {}", path.display()))
}

/// Sets a file's mode whatever the umask says.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).step(|| format!("setting the mode of {}", path.display()))
}

/// Removes a tree; a missing one is not an error.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("removing {}", path.display()), error)),
        _ => Ok(()),
    }
}

/// A directory for one test, removed with it.
#[cfg(test)]
pub(crate) struct TestDir(pub std::path::PathBuf);

#[cfg(test)]
impl TestDir {
    /// A fresh directory.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("host-node-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }
}

#[cfg(test)]
impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
