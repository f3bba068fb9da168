//! Live watches: hands each committed transaction to the watches whose prefix it touches.
//!
//! The writer must never wait for a watcher, and a watcher must never miss an event. So each subscriber has a queue with a
//! bound; one that overflows stops being fed, remembers where, and reads the rest from history (`watch.rs`). Once it is near
//! enough to find its place in the window of recent batches, it is fed again. Idle subscribers cost nothing: a batch is
//! matched against the set of watched prefixes, not against each watch.
//!
//! Invariant: under the hub's lock, a fed subscriber's queue holds exactly the published batches of its prefix that it
//! has not taken yet. Lock order: hub, then subscriber.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::snapshot::event_bytes;
use crate::error::Error;
use crate::limits;
use crate::store::Revision;
use crate::watch::{Batch, Event};

pub(super) struct Hub {
    window_bytes_max: usize,
    buffer_bytes_max: usize,
    /// A copy of `Inner::published` that is read without the lock.
    published: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    published: Revision,
    window: Window,
    /// Subscribers by prefix.
    topics: HashMap<Bytes, Vec<Arc<Subscriber>>>,
    /// Lengths of the prefixes in `topics`, with the number of topics of each.
    lengths: BTreeMap<usize, usize>,
    closed: Option<Error>,
}

/// The newest batches, whole, as far back as their bytes allow.
struct Window {
    batches: VecDeque<(Arc<Batch>, usize)>,
    bytes: usize,
    /// All batches after this revision are here.
    after: Revision,
}

/// One watch, as the hub sees it.
pub(super) struct Subscriber {
    prefix: Bytes,
    queue: Mutex<Queue>,
}

struct Queue {
    batches: VecDeque<(Arc<Batch>, usize)>,
    bytes: usize,
    feed: Feed,
    /// Batches up to and including this revision are not wanted: they were seen before the queue was attached.
    seen: Revision,
    waker: Option<Waker>,
}

/// Whether new batches reach the queue.
#[derive(Debug, Clone)]
enum Feed {
    Live,
    /// Not fed: batches after this revision (that is, after all that is queued) must be read from history.
    Behind(Revision),
    /// The store closed.
    Ended(Error),
}

/// What a subscriber finds when it looks.
pub(super) enum Next {
    Batch(Arc<Batch>),
    /// Nothing yet; the waker is registered.
    Wait,
    /// Read history after this revision, then attach again.
    Behind(Revision),
    Ended(Error),
}

/// Result of trying to attach.
pub(super) enum Attached {
    Live,
    /// The window begins later: read history first.
    TooFarBehind,
}

impl Hub {
    pub(super) fn new(published: Revision, window_bytes_max: usize, buffer_bytes_max: usize) -> Self {
        let window = Window { batches: VecDeque::new(), bytes: 0, after: published };
        let inner = Inner { published, window, topics: HashMap::new(), lengths: BTreeMap::new(), closed: None };
        let published = AtomicU64::new(published.0);
        Self { window_bytes_max, buffer_bytes_max, published, inner: Mutex::new(inner) }
    }

    /// A subscriber that is behind at `after`; it gets nothing until it attaches.
    pub(super) fn subscribe(&self, prefix: Bytes, after: Revision) -> Arc<Subscriber> {
        let mut inner = self.inner.lock();
        let feed = match &inner.closed {
            Some(error) => Feed::Ended(error.clone()),
            None => Feed::Behind(after),
        };
        let queue = Queue { batches: VecDeque::new(), bytes: 0, feed, seen: after, waker: None };
        let subscriber = Arc::new(Subscriber { prefix: prefix.clone(), queue: Mutex::new(queue) });
        let inner = &mut *inner;
        let topic = inner.topics.entry(prefix.clone()).or_insert_with(|| {
            *inner.lengths.entry(prefix.len()).or_default() += 1;
            Vec::new()
        });
        topic.push(subscriber.clone());
        subscriber
    }

    pub(super) fn unsubscribe(&self, subscriber: &Arc<Subscriber>) {
        let mut inner = self.inner.lock();
        let Some(topic) = inner.topics.get_mut(&subscriber.prefix) else { return };
        topic.retain(|other| !Arc::ptr_eq(other, subscriber));
        if topic.is_empty() {
            inner.topics.remove(&subscriber.prefix);
            let length = subscriber.prefix.len();
            if let Some(topics) = inner.lengths.get_mut(&length) {
                *topics -= 1;
                if *topics == 0 {
                    inner.lengths.remove(&length);
                }
            }
        }
    }

    /// Start feeding a subscriber that has seen everything up to `after`, if the window reaches back that far.
    pub(super) fn attach(&self, subscriber: &Subscriber, after: Revision) -> Attached {
        let inner = self.inner.lock();
        if after < inner.window.after {
            return Attached::TooFarBehind;
        }
        let mut queue = subscriber.queue.lock();
        if let Feed::Ended(_) = queue.feed {
            return Attached::Live;
        }
        let from = inner.window.batches.partition_point(|(batch, _)| batch.revision <= after);
        for (batch, bytes) in inner.window.batches.range(from..) {
            if let Some(batch) = narrow(batch, &subscriber.prefix) {
                queue.push(batch, *bytes);
            }
        }
        queue.feed = Feed::Live;
        queue.seen = after;
        Attached::Live
    }

    /// Everything at or before this revision that the subscriber wants has been taken by it.
    pub(super) fn progress(&self, subscriber: &Subscriber) -> Revision {
        let inner = self.inner.lock();
        let queue = subscriber.queue.lock();
        match (queue.batches.front(), &queue.feed) {
            (Some((batch, _)), _) => Revision(batch.revision.0 - 1),
            (None, Feed::Behind(after)) => *after,
            (None, Feed::Live | Feed::Ended(_)) => inner.published.max(queue.seen),
        }
    }

    pub(super) fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    /// Hand out what was committed: batches in revision order, all revisions up to `revision`.
    pub(super) fn publish(&self, batches: Vec<Arc<Batch>>, revision: Revision) {
        let mut wakers = Vec::new();
        {
            let mut inner = self.inner.lock();
            for batch in batches {
                inner.deliver(&batch, self.buffer_bytes_max, &mut wakers);
                inner.window.push(batch, self.window_bytes_max);
            }
            inner.published = revision;
            self.published.store(revision.0, Ordering::Release);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// End all watches.
    pub(super) fn close(&self, error: &Error) {
        let mut inner = self.inner.lock();
        inner.closed = Some(error.clone());
        for subscriber in inner.topics.values().flatten() {
            let mut queue = subscriber.queue.lock();
            queue.feed = Feed::Ended(error.clone());
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Inner {
    fn deliver(&self, batch: &Arc<Batch>, buffer_bytes_max: usize, wakers: &mut Vec<Waker>) {
        for (prefix, topic) in self.touched(batch) {
            let Some(part) = narrow(batch, prefix) else { continue };
            let bytes = batch_bytes(&part);
            for subscriber in topic {
                wakers.extend(subscriber.queue.lock().feed(&part, bytes, buffer_bytes_max));
            }
        }
    }

    /// Topics that have at least one event in the batch, each once.
    fn touched<'a>(&'a self, batch: &Batch) -> Vec<(&'a Bytes, &'a Vec<Arc<Subscriber>>)> {
        let mut touched: Vec<(&Bytes, &Vec<Arc<Subscriber>>)> = Vec::new();
        for event in &batch.events {
            for length in self.lengths.range(..=event.key.len()).map(|(length, _)| *length) {
                if let Some((prefix, topic)) = self.topics.get_key_value(&event.key[..length])
                    && !touched.iter().any(|(other, _)| *other == prefix)
                {
                    touched.push((prefix, topic));
                }
            }
        }
        touched
    }
}

impl Window {
    fn push(&mut self, batch: Arc<Batch>, bytes_max: usize) {
        let bytes = batch_bytes(&batch);
        self.bytes += bytes;
        self.batches.push_back((batch, bytes));
        while self.bytes > bytes_max {
            let Some((oldest, bytes)) = self.batches.pop_front() else { break };
            self.bytes -= bytes;
            self.after = oldest.revision;
        }
    }
}

impl Subscriber {
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Next {
        let mut queue = self.queue.lock();
        if let Some((batch, bytes)) = queue.batches.pop_front() {
            queue.bytes -= bytes;
            return Next::Batch(batch);
        }
        match &queue.feed {
            Feed::Behind(after) => Next::Behind(*after),
            Feed::Ended(error) => Next::Ended(error.clone()),
            Feed::Live => {
                queue.waker = Some(cx.waker().clone());
                Next::Wait
            }
        }
    }

    /// History was read up to here, without attaching yet.
    pub(super) fn advance(&self, scanned: Revision) {
        let mut queue = self.queue.lock();
        if let Feed::Behind(after) = &mut queue.feed {
            *after = scanned;
        }
    }
}

impl Queue {
    fn push(&mut self, batch: Arc<Batch>, bytes: usize) {
        self.bytes += bytes;
        self.batches.push_back((batch, bytes));
    }

    fn feed(&mut self, batch: &Arc<Batch>, bytes: usize, bytes_max: usize) -> Option<Waker> {
        if !matches!(self.feed, Feed::Live) || batch.revision <= self.seen {
            return None;
        }
        let full = self.batches.len() >= limits::WATCH_BUFFER_BATCHES_MAX || self.bytes + bytes > bytes_max;
        // An empty queue takes any batch, however large.
        if full && let Some((last, _)) = self.batches.back() {
            self.feed = Feed::Behind(last.revision);
            return None;
        }
        self.push(batch.clone(), bytes);
        self.waker.take()
    }
}

/// The part of a batch under the prefix; `None` if there is none. Shared, not copied, when all of it is.
fn narrow(batch: &Arc<Batch>, prefix: &[u8]) -> Option<Arc<Batch>> {
    let inside = |event: &&Event| event.key.starts_with(prefix);
    match batch.events.iter().filter(inside).count() {
        0 => None,
        all if all == batch.events.len() => Some(batch.clone()),
        _ => {
            let events = batch.events.iter().filter(inside).cloned().collect();
            Some(Arc::new(Batch { revision: batch.revision, events }))
        }
    }
}

fn batch_bytes(batch: &Batch) -> usize {
    batch.events.iter().map(event_bytes).sum()
}

#[cfg(test)]
mod tests;
