//! Running programs with their output shown, and where things are.

use crate::Outcome;
use std::{path::PathBuf, process::Command};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    pintle_tests::workspace()
}

/// Runs a program in the workspace, its output on ours; fails when it fails.
pub fn run(program: &str, args: &[&str]) -> Outcome {
    eprintln!("+ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).current_dir(root()).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{program} {}` failed: {status}", args.join(" ")).into()) }
}

/// Runs cargo as we were run.
pub fn cargo(args: &[&str]) -> Outcome {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run(&cargo, args)
}
