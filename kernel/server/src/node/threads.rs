//! Threads for RPC systems, which stay where they began. A connection is accepted and shaken hands with elsewhere, then lives on one of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::link;
use crate::error::{Error, Result};
use crate::server::Shared;

/// More threads than this do not help: a link is mostly idle.
const THREADS_MAX: usize = 4;
/// Connections that wait for a thread to take them.
const LINKS_WAITING_MAX: usize = 64;

/// A connection that has passed the handshake.
pub(crate) struct Link {
    pub(crate) node: String,
    pub(crate) stream: TlsStream<TcpStream>,
    /// Whatever counts the connection; given back when it ends.
    pub(crate) permit: tokio::sync::OwnedSemaphorePermit,
}

/// The threads. Dropping this stops them.
pub(crate) struct Threads {
    queues: Vec<mpsc::Sender<Link>>,
    next: AtomicUsize,
    stop: CancellationToken,
}

impl Threads {
    /// Start one thread a processor, up to a limit.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Threads> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, THREADS_MAX);
        let stop = CancellationToken::new();
        let queues = (0..count).map(|index| start_thread(index, shared.clone(), stop.clone())).collect::<Result<_>>()?;
        Ok(Threads { queues, next: AtomicUsize::new(0), stop })
    }

    /// Hand a connection over.
    pub(crate) async fn take(&self, link: Link) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        // A thread that is gone has stopped because the server has.
        let _ = self.queues[index].send(link).await;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start_thread(index: usize, shared: Arc<Shared>, stop: CancellationToken) -> Result<mpsc::Sender<Link>> {
    let (sender, mut links) = mpsc::channel::<Link>(LINKS_WAITING_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let run = move || {
        let local = LocalSet::new();
        let serve = local.run_until(async {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    link = links.recv() => match link {
                        Some(link) => drop(tokio::task::spawn_local(link::serve(shared.clone(), link))),
                        None => return,
                    },
                }
            }
        });
        runtime.block_on(serve);
    };
    std::thread::Builder::new().name(format!("node-link-{index}")).spawn(run).map_err(Error::Thread)?;
    Ok(sender)
}
