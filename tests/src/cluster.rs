//! A cluster started with the `pintle` command, as a user would.

use crate::{Error, eventually, kubectl::Kubectl, programs, run};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A cluster in a data directory. `down` is the caller's, so that a failed test can leave it for inspection.
#[derive(Debug, Clone)]
pub struct Cluster {
    data_dir: PathBuf,
    port: u16,
}

impl Cluster {
    /// The cluster of `data_dir`, whether it runs or not, its API on `port` of the loopback address.
    pub fn new(data_dir: impl Into<PathBuf>, port: u16) -> Self {
        Self { data_dir: data_dir.into(), port }
    }

    /// Where its state is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Port of the API on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `pintle up --nodes N` with more arguments; also repairs a cluster that lost processes. Returns what it printed.
    pub fn up(&self, nodes: u8, more: &[&str]) -> Result<String, Error> {
        run(self.pintle("up").args(["--nodes", &nodes.to_string(), "--port", &self.port.to_string()]).args(more))
    }

    /// `pintle down` with more arguments.
    pub fn down(&self, more: &[&str]) -> Result<String, Error> {
        run(self.pintle("down").args(more))
    }

    /// A kubectl for it.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.data_dir.join("kubeconfig"))
    }

    /// Pid of the kernel (`kernel`) or of a host-node (`node-1`).
    pub fn pid(&self, process: &str) -> Result<u32, Error> {
        let path = self.data_dir.join("run").join(format!("{process}.pid"));
        let text = std::fs::read_to_string(&path).map_err(Error::io(path.display().to_string()))?;
        text.trim().parse().map_err(|_| Error::Command { command: path.display().to_string(), status: "not a pid".into(), output: text })
    }

    /// `kill -9` of the kernel or a host-node.
    pub fn kill(&self, process: &str) -> Result<(), Error> {
        let pid = self.pid(process)?.to_string();
        run(Command::new("kill").args(["-9", &pid]))?;
        // It holds its files and ports until its last thread is gone, and its first is a zombie before that.
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            let ended = state.is_empty() || (state.starts_with('Z') && threads <= 1);
            if ended { Ok(()) } else { Err(format!("{process} is still there")) }
        };
        eventually("a killed process is gone", Duration::from_secs(10), gone)
    }

    /// A line of `pintle layout` by its name; empty when there is none.
    pub fn layout(&self, name: &str) -> Result<String, Error> {
        let text = run(&mut self.pintle("layout"))?;
        let value = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name);
        Ok(value.map(|(_, value)| value.to_owned()).unwrap_or_default())
    }

    /// The machine's address on the bridge that joins the nodes; a registry for them listens there.
    pub fn gateway(&self) -> Result<Ipv4Addr, Error> {
        let text = self.layout("gateway")?;
        text.parse().map_err(|_| Error::Command { command: "pintle layout".into(), status: "no gateway".into(), output: text })
    }

    /// The parent cgroup of a node's pods, below each hierarchy.
    pub fn cgroup(&self, node: &str) -> Result<String, Error> {
        Ok(format!("{}/{node}", self.layout("cgroup")?))
    }

    /// The name of a node's network, for `ip netns`.
    fn network_namespace(&self, node: &str) -> Result<String, Error> {
        Ok(format!("{}{node}", self.layout("network-namespaces")?.trim_end_matches('*')))
    }

    /// A command that will run in a node's network, as a program of that machine would; its words are to be added.
    pub fn in_node(&self, node: &str) -> Result<Command, Error> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.network_namespace(node)?]);
        Ok(command)
    }

    /// The words before a command that put it into a node's network and mounts, as its daemon is.
    pub fn inside_node(&self, node: &str) -> Result<Vec<String>, Error> {
        let mounts = self.data_dir.join("run").join(format!("{node}.mnt"));
        let network = format!("--net=/run/netns/{}", self.network_namespace(node)?);
        Ok(["nsenter".into(), format!("--mount={}", mounts.display()), network].into())
    }

    fn pintle(&self, verb: &str) -> Command {
        let mut command = Command::new(programs().join("pintle"));
        command.arg(verb).arg("--data-dir").arg(&self.data_dir);
        command
    }
}
