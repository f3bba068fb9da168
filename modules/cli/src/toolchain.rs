//! The tools of a module's language, as the files of its folder show it: each is run as its users run it.
//!
//! JavaScript and Python are built against `wit/module.wit`, which is written into the folder: the contract that the adapters beside this program know. Go has it in
//! its SDK (modules/sdk/go).

use crate::CliError;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const RUST_TARGET: &str = "wasm32-wasip2";
const WIT: &str = include_str!("../../../wit/module.wit");
/// What other toolchains leave behind.
const GUEST: &str = "guest.wasm";

/// Who builds a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    Cargo,
    Npm,
    Python,
    Go,
    /// Somebody else did: there is only what came out.
    Elsewhere,
}

/// The file that shows each.
const SIGNS: [(&str, Toolchain); 5] = [
    ("Cargo.toml", Toolchain::Cargo),
    ("package.json", Toolchain::Npm),
    ("requirements.txt", Toolchain::Python),
    ("go.mod", Toolchain::Go),
    (GUEST, Toolchain::Elsewhere),
];

impl Toolchain {
    /// The one of this folder.
    ///
    /// # Errors
    /// `NoToolchain`.
    pub fn here() -> Result<Self, CliError> {
        let sign = SIGNS.iter().find(|(file, _)| Path::new(file).is_file());
        sign.map(|(_, toolchain)| *toolchain).ok_or(CliError::NoToolchain)
    }

    /// Runs the module's own tests, without a cluster and without WebAssembly.
    ///
    /// # Errors
    /// `Program` when one fails.
    pub fn test(self) -> Result<(), CliError> {
        match self {
            Self::Cargo => run(Command::new("cargo").arg("test")),
            Self::Npm => run(Command::new("npm").args(["test", "--silent"])),
            Self::Python => run(Command::new("python3").args(["-m", "unittest"])),
            Self::Go => run(Command::new("go").args(["test", "./..."])),
            Self::Elsewhere => Err(CliError::unexpected(GUEST, "it was built elsewhere, and so are its tests")),
        }
    }

    /// Builds what is in this folder, a module of this `spec.type`; the WebAssembly that came out.
    ///
    /// # Errors
    /// `Program` when a tool fails.
    pub fn build(self, kind: &str) -> Result<PathBuf, CliError> {
        match self {
            Self::Cargo => return cargo(),
            Self::Elsewhere => {}
            Self::Go => {
                let words = ["build", "-trimpath", "-buildmode=c-shared", "-ldflags=-s -w", "-o", GUEST, "."];
                run(Command::new("go").args(words).envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]))?;
            }
            Self::Npm => {
                write_wit()?;
                if !Path::new("node_modules").exists() {
                    run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--silent"]))?;
                }
                run(Command::new("npm").args(["run", "--silent", "build"]))?;
            }
            Self::Python => {
                write_wit()?;
                if !Path::new(".venv/bin/componentize-py").exists() {
                    run(Command::new("python3").args(["-m", "venv", ".venv"]))?;
                    run(Command::new(".venv/bin/pip").args(["install", "--quiet", "--requirement", "requirements.txt"]))?;
                }
                let world = format!("{kind}-module");
                let words = ["--quiet", "--wit-path", "wit/module.wit", "--world", &world, "componentize", "app", "--output", GUEST];
                run(Command::new(".venv/bin/componentize-py").args(words))?;
            }
        }
        Ok(GUEST.into())
    }
}

fn write_wit() -> Result<(), CliError> {
    fs::create_dir_all("wit").and_then(|()| fs::write("wit/module.wit", WIT)).map_err(CliError::io("wit/module.wit"))
}

fn cargo() -> Result<PathBuf, CliError> {
    run(Command::new("cargo").args(["build", "--release", "--target", RUST_TARGET]))?;
    let output =
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output().map_err(CliError::io("cargo metadata"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| CliError::unexpected("cargo metadata", e))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut targets = packages.iter().filter_map(|p| p["targets"].as_array()).flatten();
    let library = targets.find(|t| t["crate_types"].as_array().is_some_and(|types| types.iter().any(|t| t == "cdylib")));
    let name =
        library.and_then(|t| t["name"].as_str()).ok_or_else(|| CliError::unexpected("Cargo.toml", "no library of crate type cdylib"))?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    Ok(Path::new(target).join(RUST_TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_"))))
}

fn run(command: &mut Command) -> Result<(), CliError> {
    let what = format!("{command:?}").replace('"', "");
    let status = command.status().map_err(CliError::io(what.clone()))?;
    if status.success() { Ok(()) } else { Err(CliError::Program(what)) }
}
