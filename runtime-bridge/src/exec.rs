//! Streams of an exec or an attach, at the daemon's side.
//!
//! The container's process holds the other ends itself: no byte of an exec passes through the helper. An attach's output
//! does (it is logged as well), its input does not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::error::{Error, Result, Step};
use crate::helper::protocol::{Op, Reply};
use crate::link::Link;
use crate::spec::{ContainerId, TerminalSize};
use crate::state::Exit;
use crate::sys;

/// Bytes towards a process.
pub type InputStream = Pin<Box<dyn AsyncWrite + Send>>;
/// Bytes from a process.
pub type OutputStream = Pin<Box<dyn AsyncRead + Send>>;

/// A running exec. Dropping the streams closes them; the process goes on until it ends, is killed, or this daemon ends.
pub struct ExecSession {
    /// Present when the spec asked for stdin; drop it to signal end of input.
    pub stdin: Option<InputStream>,
    /// Standard output (everything, on a terminal). Taken by the caller.
    pub stdout: Option<OutputStream>,
    /// Standard error; absent on a terminal.
    pub stderr: Option<OutputStream>,
    /// Present on a terminal.
    pub resizer: Option<TerminalResizer>,
    pub(crate) exit: Ending,
    pub(crate) killer: Killer,
}

/// Streams of a running container.
pub struct AttachSession {
    /// Present when the container keeps stdin and the caller asked for it.
    pub stdin: Option<InputStream>,
    /// Output from now on; ends with the container.
    pub stdout: Option<OutputStream>,
    /// Error output from now on; absent on a terminal.
    pub stderr: Option<OutputStream>,
    /// Present on a terminal.
    pub resizer: Option<TerminalResizer>,
}

/// Changes the size of a terminal.
#[derive(Clone)]
pub struct TerminalResizer(pub(crate) Sizes);

/// Where a terminal's size goes.
#[derive(Clone)]
pub(crate) enum Sizes {
    Terminal(Terminal),
    Elsewhere(tokio::sync::mpsc::UnboundedSender<TerminalSize>),
}

/// Who ends an exec that nobody waits for any more.
pub(crate) enum Killer {
    Helper(ExecKiller),
    /// A task that holds the connection to another runtime.
    Task(tokio::task::AbortHandle),
}

#[derive(Clone)]
pub(crate) struct ExecKiller {
    pub(crate) link: Arc<Link>,
    pub(crate) exec: u64,
}

/// How an exec ended, or will.
pub(crate) enum Ending {
    Coming(tokio::sync::oneshot::Receiver<Exit>),
    Elsewhere(tokio::sync::oneshot::Receiver<Result<Exit>>),
    Known(Exit),
}

impl ExecSession {
    /// An exec of another runtime: its streams, how it ends, and the task that carries them.
    pub fn elsewhere(streams: AttachSession, exit: tokio::sync::oneshot::Receiver<Result<Exit>>, task: tokio::task::AbortHandle) -> Self {
        let AttachSession { stdin, stdout, stderr, resizer } = streams;
        Self { stdin, stdout, stderr, resizer, exit: Ending::Elsewhere(exit), killer: Killer::Task(task) }
    }

    /// Waits for the process to end. Output may still be in the streams: read them to their end.
    ///
    /// # Errors
    /// [`Error::HelperUnavailable`] when the helper was killed while the process ran.
    pub async fn wait(&mut self) -> Result<Exit> {
        let exit = match &mut self.exit {
            Ending::Known(exit) => return Ok(exit.clone()),
            Ending::Coming(receiver) => receiver.await.map_err(|_| Error::HelperUnavailable("it ended while an exec ran".to_owned()))?,
            Ending::Elsewhere(receiver) => receiver.await.map_err(|_| Error::remote("Exec", "the connection was closed"))??,
        };
        self.exit = Ending::Known(exit.clone());
        Ok(exit)
    }

    /// Kills the process with SIGKILL; one that has ended is not an error. Of another runtime's exec only the connection is ended.
    pub async fn kill(&self) -> Result<()> {
        let killer = match &self.killer {
            Killer::Helper(killer) => killer,
            Killer::Task(task) => {
                task.abort();
                return Ok(());
            }
        };
        let op = Op::SignalExec { exec: killer.exec, signal: nix::libc::SIGKILL };
        match killer.link.ask(op, &[]).await?.0 {
            Ok(_) | Err(crate::helper::protocol::Refusal::NotRunning) => Ok(()),
            Err(refusal) => Err(refusal.into_error("exec")),
        }
    }
}

impl TerminalResizer {
    /// A terminal of another runtime, whose sizes go to `sizes`.
    pub fn elsewhere(sizes: tokio::sync::mpsc::UnboundedSender<TerminalSize>) -> Self {
        Self(Sizes::Elsewhere(sizes))
    }

    /// Sets the size; the process gets SIGWINCH.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        match &self.0 {
            Sizes::Terminal(terminal) => {
                sys::set_terminal_size(terminal.0.get_ref().as_fd(), size.width, size.height).step(|| "resize terminal".to_owned())
            }
            // A process that has ended has no size.
            Sizes::Elsewhere(sizes) => Ok(sizes.send(size).unwrap_or(())),
        }
    }
}

/// A terminal's master side. Clones are one terminal.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR)).step(|| "set up terminal".to_owned())?;
        Ok(Self(Arc::new(
            sys::watched(master, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE).step(|| "set up terminal".to_owned())?,
        )))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), room)?)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // Nobody holds the other side any more: the end.
                Ok(Err(e)) if e.raw_os_error() == Some(Errno::EIO as i32) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A pipe to read from, and the end that a process writes to.
pub(crate) fn output_pipe() -> Result<(OutputStream, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "make pipe".to_owned())?;
    let reader = pipe::Receiver::from_owned_fd(reader).step(|| "make pipe".to_owned())?;
    Ok((Box::pin(reader), writer))
}

/// A pipe to write to, and the end that a process reads from.
pub(crate) fn input_pipe() -> Result<(InputStream, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "make pipe".to_owned())?;
    let writer = pipe::Sender::from_owned_fd(writer).step(|| "make pipe".to_owned())?;
    Ok((Box::pin(writer), reader))
}

/// A container's stdin fifo.
pub(crate) fn input_fifo(fifo: OwnedFd) -> Result<InputStream> {
    Ok(Box::pin(pipe::Sender::from_owned_fd(fifo).step(|| "open stdin".to_owned())?))
}

/// Input that tells the helper when it is dropped, so that a container with `stdin_once` sees the end of its input.
pub(crate) struct AttachedInput {
    pub(crate) inner: Option<InputStream>,
    pub(crate) link: Arc<Link>,
    pub(crate) id: ContainerId,
    /// Nothing is left to tell.
    pub(crate) told: bool,
}

impl AttachedInput {
    /// The bare stream, whose end nobody needs to hear of.
    pub(crate) fn into_inner(mut self) -> InputStream {
        let inner = self.inner.take();
        self.told = true;
        inner.unwrap_or_else(|| Box::pin(tokio::io::sink()))
    }

    fn inner(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Send + 'static)>> {
        self.inner.as_mut().map(Pin::as_mut).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for AttachedInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

impl Drop for AttachedInput {
    fn drop(&mut self) {
        self.inner = None;
        if self.told {
            return;
        }
        let (link, id) = (self.link.clone(), self.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _: Result<(std::result::Result<Reply, _>, _)> = link.ask(Op::StdinDone { id }, &[]).await;
            });
        }
    }
}
