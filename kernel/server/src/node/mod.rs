//! The link to the machines.
//!
//! A machine opens one TLS connection with its node's certificate; both sides speak Cap'n Proto RPC on it. `threads` gives the RPC systems (which
//! cannot move between threads) a place to run; `link` is one connection; `session` is what the machine may do; `agent` is what it is asked to do;
//! `status` merges what machines say into stored objects. `Nodes`, here, is the directory: who is connected.
//!
//! Invariant: at most one session of a node is current; a newer one ends it, and calls go to the current one only.

mod agent;
mod link;
mod session;
mod status;
mod subscription;
mod threads;

use std::collections::HashMap;

use parking_lot::Mutex;
use pintle_api::ApiError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use agent::{LogOptions, Target};
pub(crate) use threads::{Link, Threads};

use bytes::Bytes;
use pintle_streams::process::{ProcessEnd, Wanted};

/// Calls to one machine that wait to be sent.
const CALLS_WAITING_MAX: usize = 64;

/// Something asked of a machine. The reply says whether it began; what follows goes through the pipes.
pub(crate) enum Call {
    /// `gone` is cancelled when the client is no longer there.
    Logs {
        target: Target,
        options: LogOptions,
        to: mpsc::Sender<Bytes>,
        gone: CancellationToken,
        reply: Reply,
    },
    Process {
        attach: bool,
        target: Target,
        command: Vec<String>,
        wanted: Wanted,
        end: ProcessEnd,
        reply: Reply,
    },
    PortForward {
        target: Target,
        port: u16,
        from_client: mpsc::Receiver<Bytes>,
        to_client: mpsc::Sender<Bytes>,
        reply: Reply,
    },
}

/// Where the answer to a call goes.
pub(crate) type Reply = oneshot::Sender<Result<(), ApiError>>;

struct Connected {
    generation: u64,
    calls: mpsc::Sender<Call>,
    ended: CancellationToken,
}

/// Who is connected.
#[derive(Default)]
pub(crate) struct Nodes {
    connected: Mutex<Directory>,
}

#[derive(Default)]
struct Directory {
    by_name: HashMap<String, Connected>,
    generation: u64,
}

impl Nodes {
    /// A new session of a node begins; the one before ends.
    fn begin(&self, node: &str, ended: &CancellationToken) -> (u64, mpsc::Receiver<Call>) {
        let (calls, receiver) = mpsc::channel(CALLS_WAITING_MAX);
        let mut directory = self.connected.lock();
        directory.generation += 1;
        let generation = directory.generation;
        let connected = Connected { generation, calls, ended: ended.clone() };
        if let Some(before) = directory.by_name.insert(node.to_owned(), connected) {
            tracing::info!(node, "a newer session replaces the current one");
            before.ended.cancel();
        }
        (generation, receiver)
    }

    /// A session has ended; a newer one stays.
    fn end(&self, node: &str, generation: u64) {
        let mut directory = self.connected.lock();
        if directory.by_name.get(node).is_some_and(|connected| connected.generation == generation) {
            directory.by_name.remove(node);
        }
    }

    /// How many machines are connected.
    pub(crate) fn count(&self) -> usize {
        self.connected.lock().by_name.len()
    }

    /// Ask a machine, and wait until it has begun.
    ///
    /// # Errors
    /// 503: the node is not connected, or was lost; else what the machine says.
    pub(crate) async fn ask(&self, node: &str, make: impl FnOnce(Reply) -> Call) -> Result<(), ApiError> {
        let calls = self.connected.lock().by_name.get(node).map(|connected| connected.calls.clone());
        let calls = calls.ok_or_else(|| ApiError::service_unavailable(format!("node {node:?} is not connected")))?;
        let (reply, answer) = oneshot::channel();
        let lost = || ApiError::service_unavailable(format!("the connection to node {node:?} was lost"));
        calls.send(make(reply)).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())?
    }
}
