//! A watch of the embedded engine: fed by the hub while it keeps up, reading history from disk while it does not.
//!
//! It never skips: what the hub did not queue is after the revision that the hub remembers for it, and that is where reading
//! starts. If compaction has overtaken it, it ends with `Compacted`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::engine::Engine;
use super::hub::{Attached, Next, Subscriber};
use super::snapshot::Replay;
use crate::error::Result;
use crate::store::Revision;
use crate::watch::{Batch, WatchSource};

pub(super) struct EngineWatch {
    engine: Arc<Engine>,
    subscriber: Arc<Subscriber>,
    prefix: Bytes,
    /// Read from history, not returned yet; all older than what is queued at the subscriber.
    replayed: VecDeque<Arc<Batch>>,
    reading: Option<BoxFuture<'static, Result<Replay>>>,
}

impl EngineWatch {
    pub(super) fn new(engine: Arc<Engine>, prefix: Bytes, after: Revision) -> Self {
        let subscriber = engine.hub.subscribe(prefix.clone(), after);
        Self { engine, subscriber, prefix, replayed: VecDeque::new(), reading: None }
    }
}

impl WatchSource for EngineWatch {
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Batch>>> {
        loop {
            if let Some(batch) = self.replayed.pop_front() {
                return Poll::Ready(Ok(batch));
            }
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(replay) = reading.poll_unpin(cx) else { return Poll::Pending };
                self.reading = None;
                let replay = replay?;
                self.subscriber.advance(replay.scanned);
                self.replayed.extend(replay.batches);
                continue;
            }
            match self.subscriber.poll(cx) {
                Next::Batch(batch) => return Poll::Ready(Ok(batch)),
                Next::Wait => return Poll::Pending,
                Next::Ended(error) => return Poll::Ready(Err(error)),
                Next::Behind(after) => match self.engine.hub.attach(&self.subscriber, after) {
                    Attached::Live => {}
                    Attached::TooFarBehind => {
                        let (engine, prefix) = (self.engine.clone(), self.prefix.clone());
                        let replay = async move { engine.replay(prefix, after).await };
                        self.reading = Some(replay.boxed());
                    }
                },
            }
        }
    }

    fn progress(&self) -> Revision {
        match self.replayed.front() {
            Some(batch) => Revision(batch.revision.0 - 1),
            None => self.engine.hub.progress(&self.subscriber),
        }
    }
}

impl Drop for EngineWatch {
    fn drop(&mut self) {
        self.engine.hub.unsubscribe(&self.subscriber);
    }
}
