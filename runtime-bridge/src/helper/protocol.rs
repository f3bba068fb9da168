//! What daemon and helper say to each other: JSON messages, one a packet, descriptors beside them.
//!
//! A packet larger than [`INLINE_MAX`] travels as a memfd in the first descriptor slot. Both sides are the same
//! program in two versions at worst, so the version is checked first ([`Op::Hello`]), and `Hello`, `Replace` and `Quit` never change.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, StartFailure};
use crate::spec::{ContainerId, SandboxId, TerminalSize, User};
use crate::state::Exit;

/// Raised with every change of these types.
pub(crate) const VERSION: u32 = 4;
/// Name of the helper's socket in the run directory.
pub(crate) const SOCKET: &str = "helper.sock";

const INLINE_MAX: usize = 64 * 1024;
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
const FDS_MAX: usize = 5;

/// Daemon to helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) seq: u64,
    pub(crate) op: Op,
}

/// What the daemon may ask.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Hello {
        version: u32,
    },
    /// Execute the program given as descriptor in place of this one: same process, same children.
    Replace,
    /// End, leaving containers as they are (another helper takes over).
    Quit,
    CreateSandbox {
        id: SandboxId,
    },
    RemoveSandbox {
        id: SandboxId,
    },
    /// Answered with the sandbox's network namespace as a descriptor.
    NetNs {
        id: SandboxId,
    },
    Start {
        id: ContainerId,
    },
    Signal {
        id: ContainerId,
        signal: i32,
    },
    KillAll {
        id: ContainerId,
    },
    /// Drop all knowledge of an ended (or never started) container.
    Forget {
        id: ContainerId,
    },
    /// Descriptors: stdin, stdout, stderr of the process; none on a terminal.
    Exec {
        container: ContainerId,
        exec: u64,
        process: Process,
    },
    SignalExec {
        exec: u64,
        signal: i32,
    },
    /// Descriptors: where output goes (stdout, stderr). Answered with where input goes, and the terminal if there is one.
    Attach {
        id: ContainerId,
    },
    /// An attach that held stdin has ended.
    StdinDone {
        id: ContainerId,
    },
    ReopenLog {
        id: ContainerId,
    },
}

/// A process to run in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: User,
    pub(crate) tty: bool,
    pub(crate) size: Option<TerminalSize>,
}

/// Helper to daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Push {
    Reply { seq: u64, result: Result<Reply, Refusal> },
    Exited { id: ContainerId, exit: Exit },
    ExecExited { exec: u64, exit: Exit },
}

/// A request that worked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Hello {
        version: u32,
        pid: i32,
    },
    /// `fds`: stdin if kept; the same descriptor is the terminal when `tty`.
    Attached {
        tty: bool,
        stdin: bool,
    },
}

/// A request that did not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NotFound,
    NotRunning,
    /// Something is just being started; ask again.
    Busy,
    Start {
        kind: StartFailure,
        message: String,
    },
    Os {
        step: String,
        message: String,
    },
    Malformed(String),
}

impl Refusal {
    pub(crate) fn os(step: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Os { step: step.into(), message: error.into().to_string() }
    }
}

/// Sends one message. `WouldBlock` means that nothing was sent.
pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut packet = Vec::with_capacity(body.len().min(INLINE_MAX) + 1);
    let mut spill = None;
    if body.len() > INLINE_MAX {
        let fd = nix::sys::memfd::memfd_create(c"pintle-message", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(&body)?;
        file.rewind()?;
        raw.insert(0, file.as_raw_fd());
        spill = Some(file);
        packet.push(b'F');
    } else {
        packet.push(b'J');
        packet.extend_from_slice(&body);
    }
    let control = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&packet)], control, MsgFlags::MSG_NOSIGNAL, None);
    drop(spill);
    sent?;
    Ok(())
}

/// Receives one message with its descriptors; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // The usual message is short; the buffer for a long one is kept.
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; INLINE_MAX + 1]);
    }
    BUFFER.with_borrow_mut(|buffer| receive_into(socket, buffer))
}

fn receive_into<T: DeserializeOwned>(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let (length, mut fds, whole) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just installed these descriptors for us; nobody else owns them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, fds, !message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC))
    };
    if length == 0 {
        return Ok(None);
    }
    if !whole {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message cut short"));
    }
    let message = match buffer[0] {
        b'J' => serde_json::from_slice(&buffer[1..length])?,
        b'F' if !fds.is_empty() => {
            let mut body = Vec::new();
            std::fs::File::from(fds.remove(0)).take(MESSAGE_BYTES_MAX).read_to_end(&mut body)?;
            serde_json::from_slice(&body)?
        }
        other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown packet kind {other}"))),
    };
    Ok(Some((message, fds)))
}

impl Refusal {
    /// This refusal as the crate's error, for the container (or sandbox) named.
    pub(crate) fn into_error(self, name: &str) -> Error {
        match self {
            Self::NotFound => Error::ContainerNotFound(name.to_owned()),
            Self::NotRunning => Error::WrongPhase { id: name.to_owned(), actual: "not running", needed: "running" },
            Self::Busy => Error::HelperUnavailable("it is busy starting a process".to_owned()),
            Self::Start { kind, message } => Error::Start { kind, message },
            Self::Os { step, message } => Error::Helper { step, message },
            Self::Malformed(message) => Error::Helper { step: "read request".to_owned(), message },
        }
    }
}
