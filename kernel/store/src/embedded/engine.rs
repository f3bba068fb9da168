//! What readers, watches and the writer share: the current snapshot and the hub.
//!
//! Readers work on the snapshot without locks. If the disk failed under them they ask the writer to open the file again, wait for
//! the snapshot of the new opening, and try once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::database::guarded;
use super::fault::Fault;
use super::hub::Hub;
use super::snapshot::{Replay, Snapshot};
use super::turn::Command;
use crate::error::{Error, Result};
use crate::store::{Entry, RangePage, RangeQuery, Revision};

pub(super) struct Engine {
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    /// The generation of the snapshot; changes when the file was opened again.
    generation: watch::Sender<u64>,
    /// Of the snapshot, for those who need no more of it.
    current: AtomicU64,
    compacted: AtomicU64,
    pub(super) hub: Hub,
    pub(super) commands: Sender<Command>,
}

/// How long a read waits for the file to be opened again (or shrunk).
const REOPEN_WAIT: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn new(snapshot: Snapshot, hub: Hub, commands: Sender<Command>) -> Self {
        let generation = watch::Sender::new(snapshot.generation);
        let current = AtomicU64::new(snapshot.state.revision.0);
        let compacted = AtomicU64::new(snapshot.state.compacted.0);
        let snapshot = RwLock::new(Some(Arc::new(snapshot)));
        Self { snapshot, generation, current, compacted, hub, commands }
    }

    pub(super) fn current(&self) -> Revision {
        Revision(self.current.load(Ordering::Acquire))
    }

    pub(super) fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.snapshot.read().clone().ok_or(Error::Closed)
    }

    /// Writer only: from now on readers see this.
    pub(super) fn install(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let generation = snapshot.generation;
        let snapshot = Arc::new(snapshot);
        // The old one is dropped outside the lock.
        let _old = self.snapshot.write().replace(snapshot.clone());
        self.current.store(snapshot.state.revision.0, Ordering::Release);
        self.compacted.store(snapshot.state.compacted.0, Ordering::Release);
        self.generation.send_if_modified(|current| {
            let reopened = *current != generation;
            *current = generation;
            reopened
        });
        snapshot
    }

    /// Writer only: end all reads and watches.
    pub(super) fn close(&self) {
        let _old = self.snapshot.write().take();
        self.hub.close(&Error::Closed);
    }

    pub(super) async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Entry>> {
        let read = |snapshot: &Snapshot| snapshot.get(key, at);
        let snapshot = self.snapshot()?;
        match guarded(|| read(&snapshot)) {
            Err(fault) if fault.wants_reopening() => {
                let snapshot = self.reopened(snapshot.generation, fault).await?;
                Ok(guarded(|| read(&snapshot))?)
            }
            other => Ok(other?),
        }
    }

    /// Runs on a thread that may block: a range may be long.
    pub(super) async fn range(&self, query: RangeQuery) -> Result<RangePage> {
        self.blocking(move |snapshot| snapshot.range(&query)).await
    }

    pub(super) async fn replay(&self, prefix: Bytes, after: Revision) -> Result<Replay> {
        self.blocking(move |snapshot| snapshot.replay(&prefix, after)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl Fn(&Snapshot) -> std::result::Result<T, Fault> + Clone + Send + 'static,
    ) -> Result<T> {
        let attempt = |snapshot: Arc<Snapshot>| {
            let read = read.clone();
            spawn_blocking(move || guarded(|| read(&snapshot)))
        };
        let snapshot = self.snapshot()?;
        let generation = snapshot.generation;
        match attempt(snapshot).await.map_err(|_| Error::Closed)? {
            Err(fault) if fault.wants_reopening() => {
                let snapshot = self.reopened(generation, fault).await?;
                Ok(attempt(snapshot).await.map_err(|_| Error::Closed)??)
            }
            other => Ok(other?),
        }
    }

    /// Wait for a snapshot of a later generation than the one that failed.
    async fn reopened(&self, failed: u64, fault: Fault) -> Result<Arc<Snapshot>> {
        self.commands.send(Command::Reopen { failed }).map_err(|_| Error::Closed)?;
        let mut generation = self.generation.subscribe();
        let later = generation.wait_for(|current| *current > failed);
        match tokio::time::timeout(REOPEN_WAIT, later).await {
            Ok(Ok(_)) => self.snapshot(),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(fault.into()),
        }
    }
}
