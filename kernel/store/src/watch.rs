//! What a watch gives. How it is fed is the engine's business (`WatchSource`).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::future::poll_fn;

use crate::error::Result;
use crate::store::Revision;

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was set.
    Put {
        /// The new value.
        value: Bytes,
        /// The value before; `None` if the key did not exist.
        prev: Option<Bytes>,
        /// Revision at which the key was created (the event's own for a new key).
        create_revision: Revision,
    },
    /// It was removed.
    Delete {
        /// The value before.
        prev: Bytes,
    },
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// What happened.
    pub change: Change,
    /// Revision before this one at which the key was written; `None` if it did not exist.
    pub prev_revision: Option<Revision>,
}

impl Event {
    /// The value before the change.
    #[must_use]
    pub fn prev(&self) -> Option<&Bytes> {
        match &self.change {
            Change::Put { prev, .. } => prev.as_ref(),
            Change::Delete { prev } => Some(prev),
        }
    }

    /// The value after the change.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match &self.change {
            Change::Put { value, .. } => Some(value),
            Change::Delete { .. } => None,
        }
    }
}

/// All changes that one transaction made under the watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The transaction's revision: that of every event in it.
    pub revision: Revision,
    /// The changes, in the transaction's order; never empty.
    pub events: Vec<Event>,
}

/// The engine's side of a watch.
pub trait WatchSource: Send {
    /// The next batch; `Pending` registers the task. After an error the watch is over.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Batch>>>;

    /// See [`Watch::progress`].
    fn progress(&self) -> Revision;
}

/// A running watch: batches in revision order, without end until it is dropped or fails.
///
/// A batch is shared between the watches that see the same events, hence the `Arc`.
pub struct Watch {
    source: Box<dyn WatchSource>,
    ended: bool,
}

impl Watch {
    /// For engines: wrap a source.
    #[must_use]
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self { source: Box::new(source), ended: false }
    }

    /// Wait for the next batch. `None` after an error was returned. Cancel safe: a batch is lost only by dropping the
    /// watch.
    pub async fn next(&mut self) -> Option<Result<Arc<Batch>>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The watch has returned every event up to and including this revision: safe to resume after, and to send as a
    /// bookmark.
    #[must_use]
    pub fn progress(&self) -> Revision {
        self.source.progress()
    }
}

impl Stream for Watch {
    type Item = Result<Arc<Batch>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.source.poll_batch(cx);
        if let Poll::Ready(Err(_)) = &polled {
            self.ended = true;
        }
        polled.map(Some)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress()).field("ended", &self.ended).finish()
    }
}
