//! `cargo xtask cri [FILTER...]`: the suite of a node with real containers, its pods on Debian's containerd.
//!
//! What cannot hold there says so and counts as passed (`run_natively` in `host-node/tests/node/machine.rs`).

use crate::{Outcome, needs, shell};
use std::process::Command;

/// Parts of the suite in which no pod runs.
const WITHOUT_PODS: [&str; 4] = ["service::", "ingress::", "routes::", "overlay::"];

/// Runs the suite; without a filter all of it in which pods run.
pub fn cri(filter: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(shell::root()).env("PINTLE_RUNTIME", "cri");
    cargo.args(["test", "--release", "--workspace", "--test", "node", "--"]).args(filter);
    for part in WITHOUT_PODS {
        cargo.args(["--skip", part]);
    }
    if cargo.status()?.success() { Ok(()) } else { Err("the suite failed on containerd".into()) }
}
