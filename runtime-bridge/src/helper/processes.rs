//! Processes by number: telling one from a later one with the same number, and how one ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;

use crate::state::{Exit, ExitCause, now_ns};
use crate::sys;

/// Exit code of a process whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;

/// When process `pid` was started, in clock ticks since boot.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// The parent of process `pid`.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 4)?.parse().ok()
}

/// A pidfd of `pid`, if it is still the process that started at `ticks`.
pub(crate) fn same_process(pid: i32, ticks: u64) -> Option<OwnedFd> {
    let pidfd = sys::pidfd_open(pid).ok()?;
    (start_ticks(pid)? == ticks).then_some(pidfd)
}

/// Field `number` (as proc(5) counts) of /proc/<pid>/stat; the command in parentheses may contain anything.
fn stat_field(pid: i32, number: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 2..];
    rest.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// An exit from a wait status.
pub(crate) fn exit_of(status: i32, oom_killed: bool) -> Exit {
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let code = signal.map_or_else(|| libc::WEXITSTATUS(status), |s| 128 + s);
    let cause = if oom_killed { ExitCause::OutOfMemory } else { ExitCause::Ended };
    Exit { code, signal, cause, at_ns: now_ns() }
}

/// How a process ended that is not our child: from its zombie, or from what the kernel keeps with the pidfd.
pub(crate) fn exit_of_stranger(pid: i32, pidfd: BorrowedFd<'_>, oom_killed: bool) -> Exit {
    let zombie = || (stat_field(pid, 3)? == "Z").then(|| stat_field(pid, 52))??.parse().ok();
    match sys::pidfd_exit_status(pidfd.as_fd()).or_else(zombie) {
        Some(status) => exit_of(status, oom_killed),
        None => unknown_exit(if oom_killed { ExitCause::OutOfMemory } else { ExitCause::Unobserved }),
    }
}

/// An exit of which only the cause is known.
pub(crate) fn unknown_exit(cause: ExitCause) -> Exit {
    let code = if cause == ExitCause::OutOfMemory { 137 } else { UNKNOWN_CODE };
    Exit { code, signal: None, cause, at_ns: now_ns() }
}
