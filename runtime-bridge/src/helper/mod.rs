//! The helper: the single-threaded parent of all containers of one state directory.
//!
//! Why a process of its own: a clone from a threaded process may run nothing but async-signal-safe code, and its
//! child's `waitpid` belongs to its parent. So cloning, waiting, reading the containers' output and writing their logs
//! are done by one process with one thread, which outlives the daemon: `kill -9` of the daemon loses nothing, a new daemon
//! reconnects to the socket. When the helper itself is killed, containers go on (their output waits in fifos), and the next helper
//! adopts them by pid and start time.
//!
//! It stays in the daemon's own cgroup: a service manager that ends the daemon must not end the whole group
//! (systemd: `KillMode=process`).
//!
//! What it is not: it decides nothing, pulls nothing, and never blocks on a container, a disk full of logs or a client.
//! It runs from a sealed in-memory copy of the program, so that a container cannot overwrite the program through
//! /proc/<pid>/exe, and it is not dumpable.

pub(crate) mod containers;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod processes;
pub(crate) mod protocol;
pub(crate) mod rootfs;
pub(crate) mod sandboxes;
pub(crate) mod seccomp;
pub(crate) mod serve;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use crate::state::{Layout, write_json};
use crate::sys;

/// First argument of a process that is to become a helper.
const MAGIC: &str = "container-helper";
/// Where the helper finds its first connection.
const CONNECTION_FD: i32 = 3;
/// Pid and start time of the helper, in the run directory.
pub(crate) const PID_FILE: &str = "helper.json";

/// Becomes the helper and never returns, when the process was started as one; otherwise returns at once. To be called
/// first thing in `main`, before any thread or async runtime starts.
pub fn maybe_run() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != MAGIC) {
        return;
    }
    let (Some(state), Some(run)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: {MAGIC} <state directory> <run directory>");
        std::process::exit(2);
    };
    let layout = Layout { state: PathBuf::from(state), run: PathBuf::from(run) };
    match run_helper(layout) {
        Ok(()) => std::process::exit(0),
        Err(e) => {
            eprintln!("container helper: {e}");
            std::process::exit(1);
        }
    }
}

/// Starts a helper; returns it and the socket it already serves.
pub(crate) fn spawn(layout: &Layout, program: Option<&Path>) -> io::Result<(Child, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let program = File::open(program.unwrap_or(Path::new("/proc/self/exe")))?;
    let sealed = sys::sealed_copy(&program)?;
    let errors = OpenOptions::new().append(true).create(true).mode(0o600).open(layout.run.join("helper.log"))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    command
        .arg0("pintle-container-helper")
        .arg(MAGIC)
        .arg(&layout.state)
        .arg(&layout.run)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let theirs_raw = theirs.as_raw_fd();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            // dup2 clears close-on-exec; a descriptor that is already in place keeps it and needs it cleared.
            let placed = if theirs_raw == CONNECTION_FD {
                libc::fcntl(CONNECTION_FD, libc::F_SETFD, 0)
            } else {
                libc::dup2(theirs_raw, CONNECTION_FD)
            };
            if placed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let child = command.spawn()?;
    drop(theirs);
    Ok((child, ours))
}

/// Connects to a helper that runs already.
pub(crate) fn connect(layout: &Layout) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    // A socket's path is limited to 107 bytes; through a descriptor any directory's is short.
    let directory = File::open(&layout.run)?;
    let address = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), protocol::SOCKET);
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(address.as_str())?)?;
    Ok(socket)
}

fn listen(layout: &Layout) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let directory = File::open(&layout.run)?;
    let _ = std::fs::remove_file(layout.run.join(protocol::SOCKET));
    let address = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), protocol::SOCKET);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(address.as_str())?)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

fn run_helper(layout: Layout) -> io::Result<()> {
    if sys::thread_count()? != 1 {
        return Err(io::Error::other("maybe_run() must be called before any thread is started"));
    }
    // SAFETY: the parent placed a socket there, and nothing else of this process owns it.
    let first = unsafe { OwnedFd::from_raw_fd(CONNECTION_FD) };
    nix::sys::stat::fstat(first.as_fd())?;
    sys::close_on_exec_from(3)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(layout.run.join("helper.lock"))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        return Err(io::Error::other("another helper serves this state directory"));
    };
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    raise_file_limit();
    // The containers' parent is the last to go; where the capability for this is missing it is as mortal as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let pid = nix::unistd::getpid().as_raw();
    write_json(&layout.run.join(PID_FILE), &(pid, processes::start_ticks(pid).unwrap_or(0)))?;
    let listener = listen(&layout)?;
    serve::Helper::new(layout)?.run(listener, first)
}

/// The limit on open files that the helper was started with: what its containers get.
pub(crate) static ORIGINAL_FILE_LIMIT: OnceLock<(u64, u64)> = OnceLock::new();

/// Many containers mean many descriptors; what the hard limit allows is taken.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = ORIGINAL_FILE_LIMIT.set((soft, hard));
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
