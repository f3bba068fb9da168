//! The crate of a module: made from the repository's own examples, which are tested there, and built by the user's cargo.

use crate::CliError;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-wasip2";

/// What a new module is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Brings objects to what others ask for.
    Controller,
    /// Judges requests before they are stored.
    Admission,
    /// Says of nodes whether they will do for a pod, beside the default scheduler.
    SchedulerPlugin,
}

/// One example as a template: its own names, and its files.
struct Template {
    package: &'static str,
    module: &'static str,
    files: [(&'static str, &'static str); 4],
}

macro_rules! template {
    ($package:literal, $module:literal) => {
        Template {
            package: $package,
            module: $module,
            files: [
                ("Cargo.toml", include_str!(concat!("../../../examples/", $package, "/Cargo.toml"))),
                ("Cargo.lock", include_str!(concat!("../../../examples/", $package, "/Cargo.lock"))),
                ("module.json", include_str!(concat!("../../../examples/", $package, "/module.json"))),
                ("src/lib.rs", include_str!(concat!("../../../examples/", $package, "/src/lib.rs"))),
            ],
        }
    };
}

impl Kind {
    fn template(self) -> Template {
        match self {
            Self::Controller => template!("module-controller", "greeter"),
            Self::Admission => template!("module-admission", "tagged-images"),
            Self::SchedulerPlugin => template!("module-scheduler-plugin", "licences"),
        }
    }
}

/// Makes the folder of a new module.
///
/// # Errors
/// A name that no module can have, a folder that is there, no SDK.
pub fn new(name: &str, kind: Kind, sdk: Option<PathBuf>) -> Result<(), CliError> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') || name.len() > 63 {
        return Err(CliError::Name(name.to_owned()));
    }
    let sdk = sdk.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk").into());
    let sdk = sdk.canonicalize().ok().filter(|sdk| sdk.join("Cargo.toml").is_file()).ok_or(CliError::NoSdk(sdk))?;
    let folder = PathBuf::from(name);
    if folder.exists() {
        return Err(CliError::Exists(folder));
    }
    let template = kind.template();
    for (file, text) in template.files {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(CliError::io(parent.display().to_string()))?;
        fs::write(&path, template.fill(text, name, &sdk)).map_err(CliError::io(path.display().to_string()))?;
    }
    fs::write(folder.join(".gitignore"), "/target\n").map_err(CliError::io(".gitignore"))?;
    println!(
        "{name}/src/lib.rs decides, {name}/module.json says what it may see and do. Next:\n\n  cd {name}\n  pintle module test\n  pintle module push"
    );
    Ok(())
}

impl Template {
    fn fill(&self, text: &str, name: &str, sdk: &Path) -> String {
        let file = |package: &str| format!("{}.wasm", package.replace('-', "_"));
        text.replace("../../modules/sdk", &sdk.display().to_string())
            .replace(&file(self.package), &file(name))
            .replace(&format!("\"{}\"", self.package), &format!("\"{name}\""))
            .replace(&format!("\"name\": \"{}\"}}", self.module), &format!("\"name\": \"{name}\"}}"))
    }
}

/// Runs the module's own tests.
///
/// # Errors
/// `Program` when one fails.
pub fn test() -> Result<(), CliError> {
    run(Command::new("cargo").arg("test"))
}

/// A built module and its manifest.
pub struct Built {
    /// The Module object of `module.json`.
    pub manifest: Value,
    /// The component.
    pub wasm: Vec<u8>,
    /// Where it lies.
    pub path: PathBuf,
}

impl Built {
    /// Of the Module object.
    ///
    /// # Errors
    /// `module.json` names none.
    pub fn name(&self) -> Result<String, CliError> {
        let name = self.manifest["metadata"]["name"].as_str();
        name.map(str::to_owned).ok_or_else(|| CliError::unexpected("module.json", "no metadata.name"))
    }

    /// `sha256:` and 64 hex digits.
    pub fn digest(&self) -> String {
        Sha256::digest(&self.wasm).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} KiB, {})", self.path.display(), self.wasm.len() >> 10, self.digest())
    }
}

/// Builds the module of this folder.
///
/// # Errors
/// `Program` when cargo fails; a folder that holds no module.
pub fn build() -> Result<Built, CliError> {
    let text = fs::read_to_string("module.json").map_err(CliError::io("module.json"))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|e| CliError::unexpected("module.json", e))?;
    run(Command::new("cargo").args(["build", "--release", "--target", TARGET]))?;
    let output =
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output().map_err(CliError::io("cargo metadata"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| CliError::unexpected("cargo metadata", e))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut targets = packages.iter().filter_map(|p| p["targets"].as_array()).flatten();
    let library = targets.find(|t| t["crate_types"].as_array().is_some_and(|types| types.iter().any(|t| t == "cdylib")));
    let name =
        library.and_then(|t| t["name"].as_str()).ok_or_else(|| CliError::unexpected("Cargo.toml", "no library of crate type cdylib"))?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    let path = Path::new(target).join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
    let wasm = fs::read(&path).map_err(CliError::io(path.display().to_string()))?;
    Ok(Built { manifest, wasm, path })
}

fn run(command: &mut Command) -> Result<(), CliError> {
    let what = format!("{command:?}").replace('"', "");
    let status = command.status().map_err(CliError::io(what.clone()))?;
    if status.success() { Ok(()) } else { Err(CliError::Program(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_bears_the_new_name_everywhere() {
        for kind in [Kind::Controller, Kind::Admission] {
            let template = kind.template();
            let filled: String = template.files.iter().map(|(_, text)| template.fill(text, "my-own", Path::new("/sdk"))).collect();
            assert!(
                filled.contains("name = \"my-own\"") && filled.contains("\"name\": \"my-own\"") && filled.contains("my_own.wasm"),
                "{filled}"
            );
            assert!(filled.contains("path = \"/sdk\""));
            for old in [template.package, &*format!("\"{}\"", template.module), &*template.package.replace('-', "_")] {
                assert!(!filled.contains(old), "{old} is left");
            }
        }
    }
}
