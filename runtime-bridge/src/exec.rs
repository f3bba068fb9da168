//! Streams of an exec or an attach, at the daemon's side.
//!
//! The container's process holds the other ends itself: no byte of an exec passes through the helper.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;
use crate::spec::TerminalSize;
use crate::state::Exit;

/// Bytes towards a process.
pub type InputStream = Pin<Box<dyn AsyncWrite + Send>>;
/// Bytes from a process.
pub type OutputStream = Pin<Box<dyn AsyncRead + Send>>;

/// A running exec. Dropping the streams closes them; the process goes on until it ends or is killed.
pub struct ExecSession {
    /// Present when the spec asked for stdin; drop it to signal end of input.
    pub stdin: Option<InputStream>,
    /// Standard output (everything, on a terminal). Taken by the caller.
    pub stdout: Option<OutputStream>,
    /// Standard error; absent on a terminal.
    pub stderr: Option<OutputStream>,
    /// Present on a terminal.
    pub resizer: Option<TerminalResizer>,
    pub(crate) exit: tokio::sync::oneshot::Receiver<Exit>,
    pub(crate) killer: ExecKiller,
}

/// Streams of a running container.
pub struct AttachSession {
    /// Present when the container keeps stdin and the caller asked for it.
    pub stdin: Option<InputStream>,
    /// Output from now on.
    pub stdout: Option<OutputStream>,
    /// Error output from now on; absent on a terminal.
    pub stderr: Option<OutputStream>,
    /// Present on a terminal.
    pub resizer: Option<TerminalResizer>,
}

/// Changes the size of a terminal.
#[derive(Clone)]
pub struct TerminalResizer {}

#[derive(Clone)]
pub(crate) struct ExecKiller {}

impl ExecSession {
    /// Waits for the process to end. Output may still be in the streams: read them to their end.
    pub async fn wait(&mut self) -> Result<Exit> {
        let _ = (&mut self.exit, &self.killer);
        Err(crate::Error::Unsupported("exec"))
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        Err(crate::Error::Unsupported("exec"))
    }
}

impl TerminalResizer {
    /// Sets the size; the process gets SIGWINCH.
    pub fn resize(&self, _size: TerminalSize) -> Result<()> {
        Err(crate::Error::Unsupported("exec"))
    }
}
