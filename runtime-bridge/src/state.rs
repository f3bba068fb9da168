//! What is known about sandboxes and containers: the files of the state directory and the types made from them.
//!
//! Layout below the state directory:
//! ```text
//! containers/<id>/spec.json     ContainerSpec, written once by the daemon
//! containers/<id>/bundle.json   what the spec and the image come to (argv, env, layers, cgroups), once, by the daemon
//! containers/<id>/status.json   phase, pid, start time, exit; written by the helper alone, by rename
//! containers/<id>/upper, work   the writable layer
//! sandboxes/<id>/spec.json      SandboxSpec
//! run/                          sockets, namespace pins, fifos (or wherever RuntimeConfig::run_dir says)
//! ```
//! Invariant: a status file is replaced as a whole; a reader sees the old or the new one, never half of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, SandboxId};

/// Where a container stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Created, never started.
    Created,
    /// Its init runs.
    Running,
    /// Its init has ended (or never came up); `exit` says how.
    Exited,
}

impl Phase {
    /// Lower-case name for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Exited => "exited",
        }
    }
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// By itself or by a signal.
    Ended,
    /// Killed by the kernel for its memory limit (Kubernetes: OOMKilled).
    OutOfMemory,
    /// It ended while no helper was there to see it and the kernel could not tell; the code is 255.
    Unobserved,
    /// The machine restarted; the code is 255.
    MachineRestarted,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why.
    pub cause: ExitCause,
    /// When, nanoseconds since the epoch.
    pub at_ns: i64,
}

impl Exit {
    /// Whether the kernel killed it for its memory limit.
    pub fn oom(&self) -> bool {
        self.cause == ExitCause::OutOfMemory
    }
}

/// One container as seen from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// The image id it was made from.
    pub image_id: String,
    /// The image as the spec named it.
    pub image: String,
    /// Where it stands.
    pub phase: Phase,
    /// Its init's process id in the node's PID namespace, while running.
    pub pid: Option<i32>,
    /// When it was created, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// When it was started.
    pub started_at_ns: Option<i64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// From the spec.
    pub labels: BTreeMap<String, String>,
    /// From the spec.
    pub annotations: BTreeMap<String, String>,
    /// From the spec.
    pub log_path: Option<PathBuf>,
}

/// One sandbox as seen from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxState {
    /// Its id.
    pub id: SandboxId,
    /// Pinned network namespace; `None` on the host's network.
    pub netns_path: Option<PathBuf>,
    /// Whether its namespaces still exist (false after a restart of the machine).
    pub ready: bool,
    /// When it was created, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// From the spec.
    pub labels: BTreeMap<String, String>,
    /// From the spec.
    pub annotations: BTreeMap<String, String>,
}

/// What the runtime tells without being asked.
#[derive(Clone, Debug)]
pub enum Event {
    /// A container ended.
    Exited {
        /// The container.
        id: ContainerId,
        /// How.
        exit: Exit,
    },
    /// The helper died and was started again; running containers were adopted. Their list is worth reading anew.
    HelperRestarted,
}

/// Use of resources by one container (or one cgroup).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used, nanoseconds, cumulative.
    pub cpu_usage_ns: u64,
    /// Memory charged, bytes.
    pub memory_usage_bytes: u64,
    /// Memory charged without inactive file cache, bytes: what the kubelet calls the working set.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub memory_rss_bytes: u64,
    /// Number of tasks.
    pub pids: u64,
    /// When it was read, nanoseconds since the epoch.
    pub at_ns: i64,
}
