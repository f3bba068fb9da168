//! A real kubectl, pointed at one cluster.

use crate::{Error, eventually, run};
use serde_json::Value;
use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Uses the cluster that `kubeconfig` names.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self { kubeconfig: kubeconfig.into() }
    }

    /// A kubectl command, not started yet. Its discovery cache is the cluster's own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        command.env("KUBECONFIG", &self.kubeconfig).arg("--cache-dir").arg(cache).args(args);
        command
    }

    /// Runs to the end and returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String, Error> {
        run(&mut self.command(args))
    }

    /// Runs with text on standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Result<String, Error> {
        let line = format!("kubectl {}", args.join(" "));
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io(line.clone()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(Error::io(line.clone()))?;
        }
        let output = child.wait_with_output().map_err(Error::io(line.clone()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let printed = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Command { command: line, status: output.status.to_string(), output: printed })
    }

    /// Starts one that keeps running (`get -w`, `logs -f`), its output piped.
    pub fn start(&self, args: &[&str]) -> Result<Child, Error> {
        self.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(Error::io(args.join(" ")))
    }

    /// `kubectl get ... -o json`.
    pub fn get(&self, args: &[&str]) -> Result<Value, Error> {
        let all: Vec<&str> = ["get", "-o", "json"].iter().chain(args).copied().collect();
        let text = self.run(&all)?;
        serde_json::from_str(&text).map_err(|e| Error::Command { command: all.join(" "), status: e.to_string(), output: text })
    }

    /// Applies manifests given as YAML. The marker in front keeps kubectl from taking YAML's flow style for JSON.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        self.run_with(&["apply", "-f", "-"], &format!("---\n{manifests}"))
    }

    /// Gets until `wanted` says yes; the error carries its last objection.
    pub fn wait_for(
        &self,
        what: &str,
        args: &[&str],
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> Result<(), String>,
    ) -> Result<Value, Error> {
        eventually(what, limit, || {
            let value = self.get(args).map_err(|e| e.to_string())?;
            wanted(&value).map(|()| value)
        })
    }
}

/// The items of a list.
pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A pod's Ready condition.
pub fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
