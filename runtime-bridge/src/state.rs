//! What is known about sandboxes and containers: the files of the state directory and the types made from them.
//!
//! Layout below the state directory:
//! ```text
//! containers/<id>/bundle.json   the spec and what it and the image come to (argv, env, layers, cgroup); once, by the daemon
//! containers/<id>/status.json   phase, pid, start time, exit; written by the helper alone, by rename
//! containers/<id>/upper, work   the writable layer
//! containers/<id>/stdout, ...   fifos of its stdio
//! sandboxes/<id>.json           the sandbox's spec; once, by the daemon
//! images/                       see the image module
//! runtime.json                  what a purge must know besides: the cgroup parent
//! trash/                        directories on their way out
//! run/                          the helper's socket, namespace pins (or wherever RuntimeConfig::run_dir says)
//! ```
//! Invariant: a status file is replaced as a whole; a reader sees the old or the new one, never half of one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::error::{Error, Result};
use crate::label::Labels;
use crate::spec::{ContainerId, ContainerSpec, SandboxId, SandboxSpec, User};

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

impl Event {
    /// Waits for the end of a container. `look` says how it has ended, if it has; `events` are followed since before the first look, so
    /// nothing is missed. `None`: the runtime was closed.
    ///
    /// # Errors
    /// What `look` says.
    pub async fn until_exited<L: Future<Output = Result<Option<Exit>>>>(
        id: &ContainerId,
        mut events: broadcast::Receiver<Self>,
        look: impl Fn() -> L,
    ) -> Result<Option<Exit>> {
        loop {
            if let Some(exit) = look().await? {
                return Ok(Some(exit));
            }
            loop {
                match events.recv().await {
                    Ok(Self::Exited { id: ended, exit }) if ended == *id => return Ok(Some(exit)),
                    Ok(Self::Exited { .. }) => {}
                    // Events may have been missed.
                    Ok(Self::HelperRestarted) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Ok(None),
                }
            }
        }
    }
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

/// What a container comes to after spec and image were put together: all that a helper needs to start it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bundle {
    pub(crate) spec: ContainerSpec,
    pub(crate) sandbox: SandboxId,
    pub(crate) image_id: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: User,
    pub(crate) stop_signal: i32,
    /// Directories below the layer directory, uppermost first.
    pub(crate) layers: Vec<String>,
    /// Below every hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) created_at_ns: i64,
    /// What the machine's security modules hold it to.
    #[serde(default)]
    pub(crate) labels: Labels,
}

/// What the helper writes about a container that it has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: i32,
    /// Field 22 of /proc/<pid>/stat: tells a process from a later one with its pid.
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
    pub(crate) started_at_ns: i64,
    pub(crate) exit: Option<Exit>,
}

/// A sandbox's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) spec: SandboxSpec,
    /// Below every hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) boot_id: String,
    pub(crate) created_at_ns: i64,
    /// It is being taken down: whoever finds it later finds a part of it.
    #[serde(default)]
    pub(crate) condemned: bool,
}

/// What a runtime was opened with, for those who come after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) cgroup_parent: String,
}

/// The paths of a runtime's directories.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
}

impl Layout {
    pub(crate) fn new(state: &Path, run: Option<&Path>) -> Self {
        Self { state: state.to_owned(), run: run.map_or_else(|| state.join("run"), Path::to_owned) }
    }
    pub(crate) fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }
    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }
    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("bundle.json")
    }
    pub(crate) fn status(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("status.json")
    }
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }
    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(format!("{id}.json"))
    }
    pub(crate) fn images(&self) -> PathBuf {
        self.state.join("images")
    }
    pub(crate) fn layers(&self) -> PathBuf {
        self.images().join("layers")
    }
    pub(crate) fn settings(&self) -> PathBuf {
        self.state.join("runtime.json")
    }
    /// Directories that are out of use and wait to be removed.
    pub(crate) fn trash(&self) -> PathBuf {
        self.state.join("trash")
    }
    /// Namespace pins and the shared /dev/shm of a sandbox.
    pub(crate) fn pins(&self, id: &SandboxId) -> PathBuf {
        self.run.join("sandboxes").join(id.as_str())
    }
    /// The empty directory that every container mounts its root on, each in its own mount namespace.
    pub(crate) fn root_mount(&self) -> PathBuf {
        self.run.join("rootfs")
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Identifies this boot of the machine.
pub(crate) fn boot_id() -> String {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

/// Replaces `path` as a whole.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    std::fs::rename(&temporary, path)
}

/// Reads a state file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::os(format!("read {}", path.display()), e)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(Error::DamagedState { path: path.to_owned(), reason: e.to_string() }),
    }
}
