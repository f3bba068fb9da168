//! `cargo xtask cri [FILTER...]`: the suite of a node with real containers, its pods on Debian's containerd.

use crate::{Outcome, needs, shell};
use std::process::Command;

/// Runs the suite; without a filter all of it.
pub fn cri(filter: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(shell::root()).env("PINTLE_RUNTIME", "cri");
    cargo.args(["test", "--release", "--workspace", "--test", "node", "--"]).args(filter);
    if cargo.status()?.success() { Ok(()) } else { Err("the suite failed on containerd".into()) }
}
