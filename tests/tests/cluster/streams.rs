//! Logs, exec and port-forward by a client that is not kubectl: Python's, whose WebSockets speak the old subprotocols.

use crate::{Outcome, Test, setup::Setup};
use pintle_tests::{clients::CLIENTS, run};

pub const TESTS: &[Test] = &[
    ("python_client_reads_logs_and_execs", |setup| python(setup, "pod_logs_and_exec")),
    ("python_client_forwards_a_port", |setup| python(setup, "pod_port_forward")),
];
/// What the names of these tests begin with.
pub const PREFIX: &str = "python_";

/// Says so when the client was not made here.
pub fn missing() -> bool {
    let missing = !CLIENTS.iter().any(|client| client.name == "python" && client.is_there());
    if missing {
        println!("skipped: the Python client was not built");
    }
    missing
}

fn python(setup: &Setup, scenario: &str) -> Outcome {
    let client = CLIENTS.iter().find(|client| client.name == "python").ok_or("no Python client in the table")?;
    let mut command = client.command(scenario);
    command.env("KUBECONFIG", setup.cluster.data_dir().join("kubeconfig")).env("IMAGE", "registry.pintle.test/web:1");
    Ok(run(&mut command).map(drop)?)
}
