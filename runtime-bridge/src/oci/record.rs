//! What is kept of a container between two commands: `ROOT/ID/state.json`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Refused, doing};
use crate::cgroup::Hierarchies;
use crate::helper::processes;
use crate::spec::ContainerId;
use crate::state::{boot_id, read_json, write_json};
use crate::sys;

/// The version of the specification that the states name.
pub(super) const SPEC_VERSION: &str = "1.2.0";
/// How long the end of killed processes may take.
const END: Duration = Duration::from_secs(10);

/// Where a container stands, in the specification's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
        }
    }
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) cgroup: String,
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    boot_id: String,
    created: jiff::Timestamp,
    annotations: BTreeMap<String, String>,
    pub(super) rootfs: PathBuf,
    #[serde(skip)]
    directory: PathBuf,
}

impl Record {
    /// A new container's, whose directory is made.
    pub(super) fn new(root: &Path, id: &str, bundle: &Path, spec: &oci_spec::runtime::Spec) -> Result<Self, Refused> {
        ContainerId::parse(id).map_err(doing("id"))?;
        let directory = root.join(id);
        std::fs::create_dir_all(root).map_err(doing(root.display()))?;
        std::fs::create_dir(&directory).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => format!("container with id {id} already exists"),
            _ => format!("{}: {e}", directory.display()),
        })?;
        let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.to_string_lossy().into_owned());
        Ok(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            cgroup: cgroup.unwrap_or_else(|| format!("/pintle-oci/{id}")),
            pid: 0,
            start_ticks: 0,
            boot_id: boot_id(),
            created: jiff::Timestamp::now(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            rootfs: super::plan::rootfs(spec, bundle)?,
            directory,
        })
    }

    pub(super) fn read(root: &Path, id: &str) -> Result<Self, Refused> {
        ContainerId::parse(id).map_err(doing("id"))?;
        let directory = root.join(id);
        let found: Option<Self> = read_json(&directory.join("state.json")).map_err(doing(directory.display()))?;
        found.map(|record| Self { directory, ..record }).ok_or_else(|| format!("container {id} does not exist"))
    }

    pub(super) fn write(&self) -> Result<(), Refused> {
        write_json(&self.directory.join("state.json"), self).map_err(doing("write state"))
    }

    /// Where the init waits for its start.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("start")
    }

    /// The init, unless it has ended.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let alive = || processes::same_process(self.pid, self.start_ticks).filter(|pidfd| !sys::pidfd_ended(pidfd.as_fd()));
        (self.pid > 0 && self.boot_id == boot_id()).then(alive)?
    }

    pub(super) fn status(&self) -> Status {
        match (self.pidfd(), self.socket().exists()) {
            (None, _) => Status::Stopped,
            (Some(_), true) => Status::Created,
            (Some(_), false) => Status::Running,
        }
    }

    /// The state document.
    pub(super) fn state(&self) -> Value {
        let status = self.status();
        json!({
            "ociVersion": SPEC_VERSION, "id": self.id, "status": status.as_str(), "pid": if status == Status::Stopped { 0 } else { self.pid },
            "bundle": self.bundle, "rootfs": self.rootfs, "created": self.created.to_string(), "annotations": self.annotations,
        })
    }

    /// Takes away what `create` made. Only `force` ends what still runs.
    pub(super) fn remove(&self, force: bool) -> Result<(), Refused> {
        let hierarchies = Hierarchies::detect();
        if let Some(pidfd) = self.pidfd() {
            if !force {
                return Err(format!("container {} is not stopped: {}", self.id, self.status().as_str()));
            }
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        hierarchies.kill_all(&self.cgroup);
        let end = Instant::now() + END;
        while let Err(e) = hierarchies.remove(&self.cgroup) {
            if Instant::now() > end {
                return Err(format!("remove cgroup {}: {e}", self.cgroup));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_dir_all(&self.directory).map_err(doing(self.directory.display()))
    }
}
