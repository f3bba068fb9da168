//! Starting programs that outlive us, and finding and ending them again.

use crate::{ClusterError, Layout};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Runs a command to its end and returns its standard output.
pub fn run(program: &str, args: &[&str]) -> Result<String, ClusterError> {
    let command = || format!("{program} {}", args.join(" "));
    let output =
        Command::new(program).args(args).output().map_err(|e| ClusterError::Command { command: command(), output: e.to_string() })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(ClusterError::Command { command: command(), output: String::from_utf8_lossy(&output.stderr).trim().into() })
    }
}

/// Starts a program in a session of its own, its output in the cluster's log directory, its pid in the run directory.
pub fn start(layout: &Layout, name: &str, argv: &[String]) -> Result<(), ClusterError> {
    let log = layout.log(name);
    let in_dir = |source| ClusterError::Directory { path: log.display().to_string(), source };
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(in_dir)?;
    }
    let out = fs::OpenOptions::new().create(true).append(true).open(&log).map_err(in_dir)?;
    let err = out.try_clone().map_err(in_dir)?;
    // `setsid` execs in place, so the child's pid is the program's.
    let child = Command::new("setsid")
        .args(argv)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|e| ClusterError::Command { command: argv.join(" "), output: e.to_string() })?;
    let pid_file = layout.pid_file(name);
    fs::write(&pid_file, child.id().to_string()).map_err(|source| ClusterError::Directory { path: pid_file.display().to_string(), source })
}

/// The pid of a process that we started, if it still runs the program it was started for.
pub fn running(layout: &Layout, name: &str) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(layout.pid_file(name)).ok()?.trim().parse().ok()?;
    // A recycled pid belongs to somebody else: ours names the data directory on its command line.
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let root = layout.root().as_os_str().as_encoded_bytes();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    // In the moment of an exec the command line is empty.
    (!zombie && (command.is_empty() || command.windows(root.len()).any(|w| w == root))).then(|| Pid::from_raw(pid))
}

/// Ends a process: TERM, then KILL after `grace`. Returns when it is gone.
pub fn stop(layout: &Layout, name: &str, grace: Duration) {
    let Some(pid) = running(layout, name) else {
        let _ = fs::remove_file(layout.pid_file(name));
        return;
    };
    let _ = kill(pid, Signal::SIGTERM);
    if !wait_until(grace, || running(layout, name).is_none()) {
        let _ = kill(pid, Signal::SIGKILL);
        wait_until(Duration::from_secs(5), || running(layout, name).is_none());
    }
    let _ = fs::remove_file(layout.pid_file(name));
}

/// Polls a condition until it holds or the time is up; says which.
pub fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
