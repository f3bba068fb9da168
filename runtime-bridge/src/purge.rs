//! Removing everything that a state directory stands for, whoever died before.
//!
//! Works from files alone: it needs neither a daemon nor a helper. The helper goes first, so that nothing is started
//! behind our back; then processes, cgroups, mounts, and the files last, because they are what this works from.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::Hierarchies;
use crate::error::{Error, Result};
use crate::helper::{PID_FILE, processes};
use crate::runtime::remove_directory;
use crate::spec::ContainerId;
use crate::state::{Bundle, Layout, SandboxRecord, Settings, Status, read_json};
use crate::sys;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module's description. A state directory that is not there is purged already.
pub(crate) fn purge(layout: &Layout) -> Result<()> {
    let Ok(state) = fs::canonicalize(&layout.state) else { return Ok(()) };
    let run = fs::canonicalize(&layout.run).unwrap_or_else(|_| state.join("run"));
    let layout = Layout { state, run };
    let hierarchies = Hierarchies::detect();
    let mut dying = Vec::new();
    if let Ok(Some((pid, ticks))) = read_json::<(i32, u64)>(&layout.run.join(PID_FILE)) {
        dying.extend(kill(pid, ticks));
        await_all(&mut dying);
    }
    let mut groups = Vec::new();
    for name in names(&layout.containers()) {
        let Ok(id) = ContainerId::parse(&name) else { continue };
        if let Ok(Some(status)) = read_json::<Status>(&layout.status(&id)) {
            dying.extend(kill(status.pid, status.start_ticks));
        }
        if let Ok(Some(bundle)) = read_json::<Bundle>(&layout.bundle(&id)) {
            groups.push(bundle.cgroup);
        }
    }
    for name in names(&layout.sandboxes()) {
        if let Ok(Some(record)) = read_json::<SandboxRecord>(&layout.sandboxes().join(&name)) {
            groups.push(record.cgroup);
        }
    }
    for group in &groups {
        // Killed by group as well: execs, and whatever shares another PID namespace.
        dying.extend(hierarchies.processes(group).into_iter().filter_map(|pid| sys::pidfd_open(pid).ok()));
        hierarchies.kill_all(group);
    }
    await_all(&mut dying);
    let mut left = Ok(());
    for group in &groups {
        if let Err(e) = hierarchies.remove(group) {
            left = Err(Error::os("remove cgroups", e));
        }
        if let Some(parent) = Path::new(group).parent() {
            hierarchies.prune_up(&parent.to_string_lossy());
        }
    }
    if let Ok(Some(settings)) = read_json::<Settings>(&layout.settings()) {
        hierarchies.prune_up(&settings.cgroup_parent);
    }
    for mount in mounts_below(&layout.state).into_iter().chain(mounts_below(&layout.run)) {
        // One that another mount namespace has unmounted in the meantime is no failure.
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    left?;
    remove_directory(&layout.run)?;
    remove_directory(&layout.state)
}

fn kill(pid: i32, ticks: u64) -> Option<OwnedFd> {
    let pidfd = processes::same_process(pid, ticks)?;
    let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    Some(pidfd)
}

fn await_all(dying: &mut Vec<OwnedFd>) {
    let deadline = Instant::now() + PATIENCE;
    for pidfd in dying.drain(..) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Mount points below `directory`, deepest first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(directory))
        .collect();
    found.reverse();
    found
}

/// mountinfo writes blanks and backslashes as octal.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |text, (code, plain)| text.replace(code, plain))
}
