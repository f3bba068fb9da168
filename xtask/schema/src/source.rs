//! Finds the unpacked source of a dependency.
//!
//! Cargo has unpacked it before this script runs, because the package depends on it. The registry's folder is looked
//! at first (no process to start); `cargo metadata` knows about every other arrangement (vendored, patched, git).

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of `name` at the version that Cargo.lock fixes. Stops the build when it cannot be found.
pub fn locate(manifest_dir: &Path, name: &str) -> PathBuf {
    from_registry(manifest_dir, name)
        .or_else(|| from_metadata(manifest_dir, name))
        .unwrap_or_else(|| panic!("the source of {name} was found neither in cargo's registry folder nor by cargo metadata"))
}

fn from_registry(manifest_dir: &Path, name: &str) -> Option<PathBuf> {
    let version = locked_version(manifest_dir, name)?;
    let home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut roots: Vec<PathBuf> = std::fs::read_dir(home.join("registry/src")).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    roots.sort();
    roots.into_iter().map(|root| root.join(format!("{name}-{version}"))).find(|dir| dir.join("src/lib.rs").is_file())
}

fn locked_version(manifest_dir: &Path, name: &str) -> Option<String> {
    let lock = manifest_dir.ancestors().map(|dir| dir.join("Cargo.lock")).find(|file| file.is_file())?;
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(lock).ok()?;
    let entry = text.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
    let line = entry.lines().find(|line| line.starts_with("version = "))?;
    Some(line.trim_start_matches("version = ").trim_matches('"').to_owned())
}

fn from_metadata(manifest_dir: &Path, name: &str) -> Option<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO")?)
        .args(["metadata", "--offline", "--format-version", "1", "--filter-platform"])
        .arg(std::env::var("HOST").ok()?)
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let package = text.split(&format!("{{\"name\":\"{name}\",\"version\":")).nth(1)?;
    let path = package.split("\"manifest_path\":\"").nth(1)?.split('"').next()?;
    Path::new(path).parent().map(Path::to_owned)
}
