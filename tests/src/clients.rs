//! Clients that others wrote, which the tests run as users do: where `cargo xtask` puts them, and what to start.
//!
//! A client program of ours (`tests/clients/{go,kube,python}`) knows scenarios: `PROGRAM list` names them, `PROGRAM NAME` does one and ends
//! with 0 when everything was as that client's users expect. kubectl and Helm are driven by the transcripts in `tests/clients/commands`.

use crate::{Error, programs, run, workspace};
use std::{path::PathBuf, process::Command};

/// A client program with scenarios.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// What its tests are called after.
    pub name: &'static str,
    program: &'static str,
    script: Option<&'static str>,
}

/// All of them.
pub const CLIENTS: [Client; 3] = [
    Client { name: "client_go", program: "client", script: None },
    Client { name: "kube_rs", program: "kube/debug/pintle-client-kube", script: None },
    Client { name: "python", program: "python/bin/python", script: Some("python/client.py") },
];

/// Where the programs are: `target/clients`, with a kubectl and a Helm of today.
pub fn folder() -> PathBuf {
    programs().with_file_name("clients")
}

/// Their sources.
pub fn sources() -> PathBuf {
    workspace().join("tests/clients")
}

impl Client {
    /// Whether it was built here.
    pub fn is_there(&self) -> bool {
        folder().join(self.program).exists()
    }

    /// To do one scenario, or `list`.
    pub fn command(&self, scenario: &str) -> Command {
        let mut command = Command::new(folder().join(self.program));
        command.args(self.script.map(|script| sources().join(script))).arg(scenario);
        command
    }

    /// Names of the scenarios.
    pub fn scenarios(&self) -> Result<Vec<String>, Error> {
        Ok(run(&mut self.command("list"))?.lines().map(str::to_owned).collect())
    }
}
