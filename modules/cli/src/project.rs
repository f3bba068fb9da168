//! The folder of a module: made from the repository's own examples, which are tested there, and built by the tools of its language.

use crate::{CliError, toolchain::Toolchain};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What comes out of a build in another language than Rust.
const MODULE: &str = "module.wasm";

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

/// What it is written in.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Language {
    /// With the SDK.
    Rust,
    /// Against the WIT world, by componentize-js.
    Javascript,
    /// Against the WIT world, by componentize-py.
    Python,
    /// With the SDK for Go, by Go's own toolchain.
    Go,
}

/// One example as a template: its own names, and its files.
struct Template {
    package: &'static str,
    module: &'static str,
    /// The one that decides.
    decides: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! template {
    ($package:literal, $module:literal, $decides:literal $(, $file:literal)*) => {
        Template {
            package: $package,
            module: $module,
            decides: $decides,
            files: &[
                ($decides, include_str!(concat!("../../../examples/", $package, "/", $decides))),
                ("module.json", include_str!(concat!("../../../examples/", $package, "/module.json"))),
                $(($file, include_str!(concat!("../../../examples/", $package, "/", $file))),)*
            ],
        }
    };
}

fn template(kind: Kind, language: Language) -> Option<Template> {
    Some(match (language, kind) {
        (Language::Rust, Kind::Controller) => template!("module-controller", "greeter", "src/lib.rs", "Cargo.toml", "Cargo.lock"),
        (Language::Rust, Kind::Admission) => template!("module-admission", "tagged-images", "src/lib.rs", "Cargo.toml", "Cargo.lock"),
        (Language::Rust, Kind::SchedulerPlugin) => {
            template!("module-scheduler-plugin", "licences", "src/lib.rs", "Cargo.toml", "Cargo.lock")
        }
        (Language::Javascript, Kind::Admission) => {
            template!("module-javascript", "memory-limits", "rule.js", "rule.test.js", "build.js", "package.json", ".gitignore")
        }
        (Language::Python, Kind::Controller) => {
            template!("module-python", "python-greeter", "greeting.py", "app.py", "test_greeting.py", "requirements.txt", ".gitignore")
        }
        (Language::Javascript, Kind::Controller) => {
            template!(
                "module-javascript-controller",
                "javascript-greeter",
                "greeting.js",
                "greeting.test.js",
                "build.js",
                "package.json",
                ".gitignore"
            )
        }
        (Language::Python, Kind::Admission) => {
            template!("module-python-admission", "python-owners", "owners.py", "app.py", "test_owners.py", "requirements.txt", ".gitignore")
        }
        (Language::Go, Kind::Controller) => template!("module-go", "go-keeper", "keeper.go", "keeper_test.go", "go.mod", ".gitignore"),
        (Language::Go, Kind::Admission) => {
            template!("module-go-admission", "go-registries", "rule.go", "rule_test.go", "go.mod", ".gitignore")
        }
        _ => return None,
    })
}

/// Makes the folder of a new module.
///
/// # Errors
/// A name that no module can have, a folder that is there, no SDK, no example of that kind in that language.
pub fn new(name: &str, kind: Kind, language: Language, sdk: Option<PathBuf>) -> Result<(), CliError> {
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
    let template = template(kind, language).ok_or(CliError::NoTemplate { kind, language })?;
    for (file, text) in template.files {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(CliError::io(parent.display().to_string()))?;
        fs::write(&path, template.fill(text, name, &sdk)).map_err(CliError::io(path.display().to_string()))?;
    }
    if matches!(language, Language::Rust) {
        fs::write(folder.join(".gitignore"), "/target\n").map_err(CliError::io(".gitignore"))?;
    }
    println!(
        "{name}/{} decides, {name}/module.json says what it may see and do. Next:\n\n  cd {name}\n  pintle module test\n  pintle module push",
        template.decides
    );
    Ok(())
}

impl Template {
    fn fill(&self, text: &str, name: &str, sdk: &Path) -> String {
        let file = |package: &str| format!("{}.wasm", package.replace('-', "_"));
        text.replace("../../modules/sdk", &sdk.display().to_string())
            .replace(&file(self.package), &file(name))
            // Go keeps names without a dot for itself, "go" and "cmd" among them.
            .replace(&format!("module {}\n", self.package), &format!("module example.com/{name}\n"))
            .replace(&format!("\"{}\"", self.package), &format!("\"{name}\""))
            .replace(&format!("\"name\": \"{}\"}}", self.module), &format!("\"name\": \"{name}\"}}"))
    }
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
/// `Program` when a tool fails; a folder that holds no module; what cannot be adapted.
pub fn build() -> Result<Built, CliError> {
    let text = fs::read_to_string("module.json").map_err(CliError::io("module.json"))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|e| CliError::unexpected("module.json", e))?;
    let kind = manifest["spec"]["type"].as_str().unwrap_or_default();
    let toolchain = Toolchain::here()?;
    let path = toolchain.build(kind)?;
    let built = fs::read(&path).map_err(CliError::io(path.display().to_string()))?;
    if toolchain == Toolchain::Cargo {
        return Ok(Built { manifest, wasm: built, path });
    }
    adapt(&path, Path::new(MODULE)).map(|wasm| Built { manifest, wasm, path: MODULE.into() })
}

/// Joins a guest that was not built for the pipe with the adapter for what it exports, and writes the module to `out`.
///
/// # Errors
/// It cannot be adapted, or a file cannot be used.
pub fn adapt(guest: &Path, out: &Path) -> Result<Vec<u8>, CliError> {
    let program = std::env::current_exe().map_err(CliError::io("this program"))?.with_file_name("pintle-adapt");
    let status = Command::new(&program).args([guest, out]).status().map_err(CliError::io(program.display().to_string()))?;
    if !status.success() {
        return Err(CliError::Program("pintle-adapt".into()));
    }
    fs::read(out).map_err(CliError::io(out.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_bears_the_new_name_everywhere() {
        for kind in [Kind::Controller, Kind::Admission] {
            let template = template(kind, Language::Rust).expect("an example");
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
