//! `cargo xtask churn [--pods N] [--seconds S] [--seed X]`: pods of one node under random kills, as `host-node/tests/node/churn.rs` does them, and then,
//! where the kernel is killed too, those of a node of a whole cluster, as `tests/tests/cluster/churn.rs` does.

use crate::{Outcome, compile, needs, shell};
use std::process::Command;

/// Option, variable that the test reads, value when not given.
const SETTINGS: &[(&str, &str, &str)] =
    &[("--pods", "PINTLE_CHURN_PODS", "200"), ("--seconds", "PINTLE_CHURN_SECONDS", "600"), ("--seed", "PINTLE_CHURN_SEED", "1")];

/// Runs the churn; fails when API and machine do not agree at its end, or when anything is left.
pub fn churn(args: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    let given = |option: &str| args.iter().position(|arg| arg == option).and_then(|at| args.get(at + 1));
    if let Some(unknown) = args.iter().step_by(2).find(|arg| !SETTINGS.iter().any(|(option, ..)| arg == option)) {
        return Err(format!("{unknown}: only --pods N, --seconds S and --seed X").into());
    }
    let mut settings = Vec::new();
    for (option, variable, usual) in SETTINGS {
        let value = given(option).map_or(*usual, String::as_str);
        value.parse::<u64>().map_err(|_| format!("{option} {value}: not a number"))?;
        settings.push((variable, value));
    }
    needs::wasm_target()?;
    compile::programs()?;
    compile::modules()?;
    compile::examples()?;
    for suite in ["node", "cluster"] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--release", "--workspace", "--test", suite, "--", "churn", "--nocapture"]);
        if !cargo.current_dir(shell::root()).envs(settings.iter().copied()).status()?.success() {
            return Err(format!("the churn of the {suite} found something, with {settings:?}").into());
        }
    }
    Ok(())
}
