//! The pipes of one exec or attach, between whoever speaks with the client and whoever speaks with the machine.
//!
//! Invariant: the end of a stream is its sender being dropped; a client that went away is its receivers being dropped. No other signal exists.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Chunks in flight in one direction of one stream; a chunk is at most [`CHUNK_BYTES_MAX`].
const CHUNKS_IN_FLIGHT: usize = 4;
/// Largest chunk that a machine is sent (`ByteSink.write`).
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// What the client writes.
    pub stdin: bool,
    /// Standard output; with a terminal, all output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// The process has a terminal.
    pub tty: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct TerminalSize {
    /// Across.
    #[serde(rename = "Width")]
    pub columns: u16,
    /// Down.
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// It could not be run or waited for.
    Failed(String),
}

/// The client's end.
pub struct ClientEnd {
    /// To the process.
    pub stdin: mpsc::Sender<Bytes>,
    /// New sizes of its terminal.
    pub resize: mpsc::Sender<TerminalSize>,
    /// From the process.
    pub stdout: mpsc::Receiver<Bytes>,
    /// From the process.
    pub stderr: mpsc::Receiver<Bytes>,
    /// How it ended.
    pub exit: oneshot::Receiver<Exit>,
}

/// The machine's end.
pub struct ProcessEnd {
    /// From the client.
    pub stdin: mpsc::Receiver<Bytes>,
    /// New sizes of the terminal.
    pub resize: mpsc::Receiver<TerminalSize>,
    /// To the client.
    pub stdout: mpsc::Sender<Bytes>,
    /// To the client.
    pub stderr: mpsc::Sender<Bytes>,
    /// How it ended.
    pub exit: oneshot::Sender<Exit>,
}

/// Both ends of a new set of pipes.
pub fn pipes() -> (ClientEnd, ProcessEnd) {
    let (stdin, process_stdin) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (resize, process_resize) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (process_stdout, stdout) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (process_stderr, stderr) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (process_exit, exit) = oneshot::channel();
    let client = ClientEnd { stdin, resize, stdout, stderr, exit };
    let process =
        ProcessEnd { stdin: process_stdin, resize: process_resize, stdout: process_stdout, stderr: process_stderr, exit: process_exit };
    (client, process)
}

/// What a process writes.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// A chunk of standard output.
    Stdout(Bytes),
    /// A chunk of standard error.
    Stderr(Bytes),
    /// The last one: both streams are at their end.
    Exit(Exit),
}

/// After the process has ended, output that a child of it still holds open is waited for this long.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The receiving side of [`ClientEnd`], merged in an order that never puts the exit before output.
pub struct Outputs {
    stdout: Option<mpsc::Receiver<Bytes>>,
    stderr: Option<mpsc::Receiver<Bytes>>,
    exit: Option<oneshot::Receiver<Exit>>,
    ended: Option<Exit>,
}

impl Outputs {
    /// Of a client's end.
    pub fn new(stdout: mpsc::Receiver<Bytes>, stderr: mpsc::Receiver<Bytes>, exit: oneshot::Receiver<Exit>) -> Outputs {
        Outputs { stdout: Some(stdout), stderr: Some(stderr), exit: Some(exit), ended: None }
    }

    /// The next output; `None` after the exit.
    pub async fn next(&mut self) -> Option<Output> {
        loop {
            if self.stdout.is_none() && self.stderr.is_none() {
                return self.finish().await;
            }
            let drained = self.ended.is_some();
            tokio::select! {
                biased;
                chunk = receive(&mut self.stdout) => match chunk {
                    Some(chunk) => return Some(Output::Stdout(chunk)),
                    None => self.stdout = None,
                },
                chunk = receive(&mut self.stderr) => match chunk {
                    Some(chunk) => return Some(Output::Stderr(chunk)),
                    None => self.stderr = None,
                },
                exit = exited(&mut self.exit) => self.ended = Some(exit),
                () = tokio::time::sleep(DRAIN), if drained => {
                    self.stdout = None;
                    self.stderr = None;
                }
            }
        }
    }

    async fn finish(&mut self) -> Option<Output> {
        if self.exit.is_some() {
            self.ended = Some(exited(&mut self.exit).await);
        }
        self.ended.take().map(Output::Exit)
    }
}

async fn receive(from: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match from {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for the exit once; afterwards forever.
async fn exited(from: &mut Option<oneshot::Receiver<Exit>>) -> Exit {
    let Some(receiver) = from else { return std::future::pending().await };
    let exit = receiver.await.unwrap_or_else(|_| Exit::Failed("the connection to the node was lost".to_owned()));
    *from = None;
    exit
}

impl Exit {
    /// What the error channel of protocol v4 and later says: a `Status`, `Success` included.
    pub fn status(&self) -> Value {
        match self {
            Exit::Code(0) => json!({ "metadata": {}, "status": "Success" }),
            Exit::Code(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": self.message(),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Exit::Failed(_) => {
                json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": self.message(), "code": 500 })
            }
        }
    }

    /// What the error channel says before v4: nothing on success.
    pub fn message(&self) -> String {
        match self {
            Exit::Code(0) => String::new(),
            Exit::Code(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Exit::Failed(why) => why.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
