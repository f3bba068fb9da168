//! The embedded engine: a redb file on the local disk, group commit, two-phase commit with quick repair.
//!
//! One thread writes (`writer`), all others read frozen snapshots (`snapshot`), watches are fed from memory and fall back to
//! disk (`hub`, `watch`). The format is in FORMAT.md and in `layout`; `disk` is what redb runs on.

mod database;
mod disk;
mod engine;
mod fault;
mod group;
mod hub;
mod layout;
mod snapshot;
mod turn;
mod watch;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

pub use self::disk::{Disk, Spending};
use self::disk::{FileDisk, MemoryDisk};
use self::engine::Engine;
use self::hub::Hub;
use self::turn::{Command, Commit, Compaction};
use self::writer::{OpenFile, Writer};
use crate::error::{Error, Result};
use crate::limits;
use crate::store::{Entry, RangePage, RangeQuery, Revision, Store, Txn};
use crate::watch::Watch;

/// Sizes that an installation may tune. In bytes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Page cache of the database.
    pub cache_bytes: usize,
    /// Space set aside on the disk, so that deleting and compacting work when it is full.
    pub reserve_bytes: u64,
    /// Recent events kept in memory for watches that resume.
    pub window_bytes: usize,
    /// Undelivered events a watch may hold in memory before it reads from disk instead.
    pub watch_buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: limits::CACHE_BYTES_DEFAULT,
            reserve_bytes: limits::RESERVE_BYTES_DEFAULT,
            window_bytes: limits::WINDOW_BYTES_DEFAULT,
            watch_buffer_bytes: limits::WATCH_BUFFER_BYTES_DEFAULT,
        }
    }
}

/// A store in one local file. Dropping it finishes what is queued, closes the file and ends all watches.
pub struct RedbStore {
    engine: Arc<Engine>,
    queue: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl RedbStore {
    /// Open the store in the file at `path`; make a new one if there is no such file (its directory must exist).
    ///
    /// # Errors
    /// `Locked` if it is open elsewhere; `FormatVersion`; `Corrupt` if the file is damaged or not a store; disk errors.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let cache_bytes = options.cache_bytes;
        let disk = FileDisk::open(path, options.reserve_bytes, |fresh| {
            database::open(fresh.backend()?, cache_bytes)?;
            Ok(())
        })?;
        Self::open_on(disk, options)
    }

    /// A store in memory, gone when dropped: for tests of what is built on a store.
    ///
    /// # Errors
    /// None that a test could cause.
    pub fn in_memory(options: Options) -> Result<Self> {
        Self::open_on(MemoryDisk::new(), options)
    }

    /// Open the store on a disk of the caller's making: for tests that make disks fail.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_on(disk: impl Disk, options: Options) -> Result<Self> {
        let db = database::open(disk.backend()?, options.cache_bytes)?;
        let snapshot = database::snapshot(&db, 0)?;
        let hub = Hub::new(snapshot.state.revision, options.window_bytes, options.watch_buffer_bytes);
        let (commands, received) = mpsc::channel();
        let engine = Arc::new(Engine::new(snapshot, hub, commands));
        let file = OpenFile { disk: Arc::new(disk), cache_bytes: options.cache_bytes, db };
        let writer = Writer::new(engine.clone(), file, received);
        let writer = thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run())?;
        let queue = Arc::new(Semaphore::new(permits(limits::QUEUE_BYTES_MAX)));
        Ok(Self { engine, queue, writer: Some(writer) })
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        let weight = u32::try_from(permits(txn.bytes()).max(1)).unwrap_or(u32::MAX);
        let permit = self.queue.clone().acquire_many_owned(weight).await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Commit(Commit { txn, reply, permit }))?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn send(&self, command: Command) -> Result<()> {
        self.engine.commands.send(command).map_err(|_| Error::Closed)
    }
}

/// The queue counts in units, so that the smallest transaction still counts for something.
fn permits(bytes: usize) -> usize {
    bytes / limits::QUEUE_TXN_BYTES_MIN
}

impl Store for RedbStore {
    fn get<'a>(&'a self, key: &'a [u8], at: Option<Revision>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.engine.get(key, at).boxed()
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<RangePage>> {
        self.engine.range(query).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision>> {
        self.commit(txn).boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<Watch>> {
        let open = move || {
            let state = self.engine.snapshot()?.state;
            if after > state.revision {
                return Err(Error::FutureRevision { requested: after, current: state.revision });
            }
            if after < state.compacted {
                return Err(Error::Compacted { oldest: state.compacted });
            }
            Ok(Watch::new(watch::EngineWatch::new(self.engine.clone(), prefix, after)))
        };
        futures::future::ready(open()).boxed()
    }

    fn compact(&self, to: Revision) -> BoxFuture<'_, Result<()>> {
        async move {
            let (reply, answer) = oneshot::channel();
            self.send(Command::Compact(Compaction { to, reply }))?;
            answer.await.map_err(|_| Error::Closed)?
        }
        .boxed()
    }

    fn current(&self) -> Revision {
        self.engine.current()
    }

    fn compacted(&self) -> Revision {
        self.engine.compacted()
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // Fails only if the writer has ended already.
        let _ = self.send(Command::Close);
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer ended by a panic");
        }
    }
}
