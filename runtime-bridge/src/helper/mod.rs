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
pub(crate) mod profile;
pub(crate) mod protocol;
pub(crate) mod rootfs;
pub(crate) mod sandboxes;
pub(crate) mod seccomp;
pub(crate) mod serve;
pub(crate) mod users;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::spec::ContainerId;
use crate::state::{Layout, write_json};
use crate::sys;

/// First argument of a process that is to become a helper.
const MAGIC: &str = "container-helper";
/// What a helper is called in a list of processes.
const NAME: &str = "pintle-container-helper";
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
    let predecessor = arguments.next().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    match run_helper(layout, predecessor) {
        Ok(()) => std::process::exit(0),
        Err(e) => {
            eprintln!("container helper: {e}");
            std::process::exit(1);
        }
    }
}

/// What a helper leaves to the program that replaces it in the same process: descriptors by number.
#[derive(Debug, Serialize, Deserialize)]
struct Estate {
    lock: i32,
    listener: i32,
    terminals: Vec<(ContainerId, i32)>,
    file_limit: (u64, u64),
}

/// A sealed in-memory copy of the program that helpers are made of.
pub(crate) fn sealed_program(program: Option<&Path>) -> io::Result<OwnedFd> {
    sys::sealed_copy(&File::open(program.unwrap_or(Path::new("/proc/self/exe")))?)
}

/// Starts a helper; returns it and the socket it already serves.
pub(crate) fn spawn(layout: &Layout, program: Option<&Path>) -> io::Result<(Child, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let sealed = sealed_program(program)?;
    let errors = OpenOptions::new().append(true).create(true).mode(0o600).open(layout.run.join("helper.log"))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    command
        .arg0(NAME)
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

fn run_helper(layout: Layout, predecessor: Option<Estate>) -> io::Result<()> {
    if sys::thread_count()? != 1 {
        return Err(io::Error::other("maybe_run() must be called before any thread is started"));
    }
    sys::close_on_exec_from(3)?;
    let (lock, listener, first, terminals) = match predecessor {
        Some(estate) => inherit(estate),
        None => {
            // SAFETY: the parent placed a socket there, and nothing else of this process owns it.
            let first = unsafe { OwnedFd::from_raw_fd(CONNECTION_FD) };
            nix::sys::stat::fstat(first.as_fd())?;
            raise_file_limit();
            (take_lock(&layout)?, listen(&layout)?, Some(first), Vec::new())
        }
    };
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // The containers' parent is the last to go; where the capability for this is missing it is as mortal as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let pid = nix::unistd::getpid().as_raw();
    write_json(&layout.run.join(PID_FILE), &(pid, processes::start_ticks(pid).unwrap_or(0)))?;
    match serve::Helper::new(layout.clone(), terminals)?.run(&listener, first)? {
        serve::Ending::Quit => Ok(()),
        serve::Ending::Replace { program, terminals } => Err(replace(&layout, lock, listener, &program, terminals)),
    }
}

/// Held as long as the helper lives: at most one serves a state directory.
fn take_lock(layout: &Layout) -> io::Result<OwnedFd> {
    let path = layout.run.join("helper.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // SAFETY: flock takes integers only.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
        return Err(io::Error::other("another helper serves this state directory"));
    }
    Ok(file.into())
}

type Inheritance = (OwnedFd, OwnedFd, Option<OwnedFd>, Vec<(ContainerId, OwnedFd)>);

fn inherit(estate: Estate) -> Inheritance {
    // SAFETY: the predecessor, in this very process, left these descriptors open for us and nobody else knows them.
    let take = |fd: i32| unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = ORIGINAL_FILE_LIMIT.set(estate.file_limit);
    let terminals = estate.terminals.into_iter().map(|(id, fd)| (id, take(fd))).collect();
    (take(estate.lock), take(estate.listener), None, terminals)
}

/// Executes `program` in this process, which stays the containers' parent. Returns only when that fails.
fn replace(layout: &Layout, lock: OwnedFd, listener: OwnedFd, program: &OwnedFd, terminals: Vec<(ContainerId, OwnedFd)>) -> io::Error {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let estate = Estate {
        lock: lock.as_raw_fd(),
        listener: listener.as_raw_fd(),
        terminals: terminals.iter().map(|(id, fd)| (id.clone(), fd.as_raw_fd())).collect(),
        file_limit: ORIGINAL_FILE_LIMIT.get().copied().unwrap_or((1024, 4096)),
    };
    for fd in [&lock, &listener].into_iter().chain(terminals.iter().map(|(_, fd)| fd)) {
        if let Err(e) = fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())) {
            return e.into();
        }
    }
    let words = serde_json::to_vec(&estate).map_err(io::Error::from).and_then(|estate| {
        let program = format!("/proc/self/fd/{}", program.as_raw_fd());
        let words = [NAME.as_bytes(), MAGIC.as_bytes(), layout.state.as_os_str().as_bytes(), layout.run.as_os_str().as_bytes(), &estate];
        Ok((sys::cstring(program)?, words.iter().map(sys::cstring).collect::<io::Result<Vec<_>>>()?))
    });
    // Not std's exec: that one unblocks signals, and one that waits (a SIGTERM to the daemon's group) would end us.
    match words {
        Ok((program, words)) => match nix::unistd::execv(&program, &words) {
            Err(e) => e.into(),
        },
        Err(e) => e,
    }
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
