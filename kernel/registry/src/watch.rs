//! One client's watch, from where it starts to where it ends.
//!
//! A watch is three stretches, each of which ends exactly where the next begins:
//! 1. what the client lacks at the start: the objects that exist (initial events), or recent changes from memory;
//! 2. for a start older than memory, changes from the store's own history, read as the client takes them;
//! 3. live changes, through a bounded queue that began to fill when the watch registered, at revision `until`.
//!
//! Registration and the end of the first stretch are one step under the resource's lock, so nothing falls between. If the
//! queue overflows, the stream ends with 410 Expired: a client then lists again, and knows that it must.
//!
//! A bookmark promises that everything up to its revision was sent. So the revision is read first, then the queue is
//! drained, and only then the bookmark is yielded.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use pintle_api::ApiError;
use pintle_store::{Change, Revision};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::cache::{Scan, Shard};
use crate::convert::View;
use crate::encode;
use crate::event::{Event, EventKind, WatchEvent};
use crate::face::Face;
use crate::follower::Fed;
use crate::key;
use crate::object::Object;
use crate::options::{Bookmarks, InitialEvents, WatchOptions};
use crate::queue::{Popped, Queue};
use crate::registry::{Registry, Result};
use crate::revision::{self, Asked};
use crate::target::Target;
use crate::watchers::{Seen, Watcher};

/// How often a replay from history looks again whether it has caught up, when no change comes.
const REPLAY_POLL_MILLIS: u64 = 5;

/// A running watch, made by [`Registry::watch`].
pub struct WatchStream {
    fed: Arc<Fed>,
    /// The face that the client asked for, if it is not the stored one.
    face: Option<Face>,
    /// The version of a custom resource that it asked for.
    view: Option<View>,
    /// A change that is being converted.
    held: Option<Event>,
    shard: Arc<Shard>,
    watcher: Arc<Watcher>,
    backlog: VecDeque<Seen>,
    replay: Option<Replay>,
    failed: Option<ApiError>,
    ended: bool,
    /// Everything up to here was yielded or is none of this watch's business.
    seen: Revision,
    bookmarks: Option<Interval>,
}

/// The second stretch.
struct Replay {
    watch: pintle_store::Watch,
    until: Revision,
    namespace: String,
}

impl Registry {
    pub(crate) async fn start_watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream> {
        revision::check_watch(options)?;
        let asked = revision::parse(&options.resource_version)?;
        let selector = self.selector(target, &options.label_selector, &options.field_selector)?;
        let (target, face) = self.unface(target)?;
        let target = &target;
        let shard = self.shard(&target.resource)?;
        if let (Asked::At(at), Some(InitialEvents::Send)) = (asked, options.initial_events) {
            self.wait_not_older(at).await?;
        }
        let initial = match (options.initial_events, asked) {
            (Some(InitialEvents::Send), _) | (None, Asked::Latest | Asked::Any) => true,
            (Some(InitialEvents::Skip), _) | (None, Asked::At(_)) => false,
        };
        let converts = target.resource.is_converted();
        let view = converts.then(|| self.view(&target.resource, selector.clone()));
        let selector = if converts { selector.without_content() } else { selector };
        let trigger = selector.trigger(&target.resource, &target.namespace);
        let watcher = Arc::new(Watcher { selector, trigger, converts, queue: Queue::new(self.config.watch_buffer_events_max) });
        let scan = Scan { namespace: &target.namespace, start: "", selector: &watcher.selector, limit: 0 };
        let snapshot = shard.scan_and_watch(&self.fed.cache, initial.then_some(&scan), Arc::clone(&watcher));
        let mut stream = WatchStream {
            fed: Arc::clone(&self.fed),
            face,
            view,
            held: None,
            shard,
            watcher,
            backlog: VecDeque::new(),
            replay: None,
            failed: None,
            ended: false,
            seen: snapshot.revision,
            bookmarks: (options.bookmarks == Bookmarks::Yes).then(|| ticks(self.config.bookmark_period_seconds)),
        };
        let mut objects = self.shown(&target.resource, snapshot.objects).await?;
        objects.retain(|object| stream.view.as_ref().is_none_or(|view| view.selects(object)));
        stream.backlog.extend(objects.into_iter().map(|object| Seen::As(WatchEvent::Added(object))));
        if options.initial_events == Some(InitialEvents::Send) {
            stream.backlog.push_back(Seen::As(WatchEvent::Bookmark { revision: snapshot.revision, initial_events_end: true }));
        } else if let (false, Asked::At(after)) = (initial, asked) {
            self.catch_up(&mut stream, target, after, snapshot.revision).await;
        }
        Ok(stream)
    }

    /// Give the stream what happened in `(after, until]`.
    async fn catch_up(&self, stream: &mut WatchStream, target: &Target, after: Revision, until: Revision) {
        if after > until {
            // A client of a newer cluster, or of none: it waits for what is to come, and is told when that is impossible.
            stream.failed = self.wait_not_older(after).await.err();
            stream.seen = after;
            return;
        }
        stream.seen = after;
        if let Some(events) = self.fed.cache.history.between(target.resource.key(), after, until) {
            stream.backlog = events.iter().filter_map(|event| stream.watcher.sees(event)).collect();
            stream.seen = until;
            return;
        }
        let mut prefix = key::prefix(target.resource.key());
        if !target.namespace.is_empty() {
            prefix.push_str(&target.namespace);
            prefix.push('/');
        }
        match self.store.watch(prefix.into(), after).await {
            Ok(watch) => stream.replay = Some(Replay { watch, until, namespace: target.namespace.clone() }),
            Err(err) => stream.failed = Some(self.store_error(&target.resource, "", &err)),
        }
    }
}

impl WatchStream {
    /// The next event. An error is the last thing a stream yields (410 Expired: the client lists again); `None` after
    /// that. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        loop {
            let seen = match self.held.take() {
                Some(event) => Seen::Raw(event),
                None => match self.next_stored().await? {
                    Ok(seen) => seen,
                    Err(err) => return Some(Err(err)),
                },
            };
            let (event, view) = match (seen, &self.view) {
                (Seen::As(event), _) => return Some(self.shown(event)),
                (Seen::Raw(event), Some(view)) => (event, view),
                (Seen::Raw(_), None) => continue,
            };
            // Whoever waits for this may stop: then it is converted again.
            let told = view.show(self.held.insert(event)).await;
            self.held = None;
            self.ended |= told.is_err();
            if let Some(told) = told.transpose() {
                return Some(told);
            }
        }
    }

    /// An event that is ready now, without waiting: for writers that gather several into one frame.
    pub fn try_next(&mut self) -> Option<Result<WatchEvent>> {
        match self.try_next_stored()? {
            Ok(Seen::As(event)) => Some(self.shown(event)),
            Ok(Seen::Raw(event)) => {
                self.held = Some(event);
                None
            }
            Err(err) => Some(Err(err)),
        }
    }

    fn shown(&self, event: WatchEvent) -> Result<WatchEvent> {
        match &self.face {
            Some(face) => face.show_event(event),
            None => Ok(event),
        }
    }

    async fn next_stored(&mut self) -> Option<Result<Seen>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(err) = self.failed.take() {
                self.ended = true;
                return Some(Err(err));
            }
            if let Some(event) = self.backlog.pop_front() {
                self.note(&event);
                return Some(Ok(event));
            }
            if self.replay.is_some() {
                self.replay_step().await;
                continue;
            }
            if let Some(result) = self.live().await {
                return Some(result);
            }
        }
    }

    fn try_next_stored(&mut self) -> Option<Result<Seen>> {
        if self.ended || self.failed.is_some() || self.replay.is_some() || self.held.is_some() {
            return None;
        }
        if let Some(event) = self.backlog.pop_front() {
            self.note(&event);
            return Some(Ok(event));
        }
        let popped = self.watcher.queue.try_pop()?;
        self.take(popped)
    }

    /// A bookmark for right now, if everything up to it has been taken from the stream: sent before a watch is ended
    /// by its own timeout.
    pub fn bookmark(&mut self) -> Option<WatchEvent> {
        if self.ended || self.failed.is_some() || self.replay.is_some() || self.held.is_some() || !self.backlog.is_empty() {
            return None;
        }
        let applied = self.fed.cache.applied();
        while let Some(popped) = self.watcher.queue.try_pop() {
            match popped {
                Popped::Item(event) => self.backlog.push_back(event),
                Popped::Overflowed => self.failed = Some(overflowed()),
                Popped::Closed => self.ended = true,
            }
        }
        if !self.backlog.is_empty() || self.failed.is_some() {
            return None;
        }
        self.seen = self.seen.max(applied);
        Some(WatchEvent::Bookmark { revision: self.seen, initial_events_end: false })
    }

    async fn live(&mut self) -> Option<Result<Seen>> {
        let Some(bookmarks) = &mut self.bookmarks else {
            let popped = self.watcher.queue.pop().await;
            return self.take(popped);
        };
        tokio::select! {
            biased;
            popped = self.watcher.queue.pop() => self.take(popped),
            _ = bookmarks.tick() => self.bookmark().map(|bookmark| Ok(Seen::As(bookmark))),
        }
    }

    fn take(&mut self, popped: Popped<Seen>) -> Option<Result<Seen>> {
        match popped {
            Popped::Item(event) => {
                self.note(&event);
                Some(Ok(event))
            }
            Popped::Overflowed => {
                self.ended = true;
                Some(Err(overflowed()))
            }
            Popped::Closed => {
                self.ended = true;
                None
            }
        }
    }

    fn note(&mut self, seen: &Seen) {
        let at = match seen {
            Seen::As(WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object)) => object.revision,
            Seen::As(WatchEvent::Bookmark { revision, .. }) => *revision,
            Seen::Raw(event) => event.revision,
        };
        self.seen = self.seen.max(at);
    }

    /// Take one transaction from the store's history, or find that the replay has caught up.
    async fn replay_step(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let until = replay.until;
        let next = poll_fn(|cx| match Pin::new(&mut replay.watch).poll_next(cx) {
            Poll::Pending if replay.watch.progress() >= until => Poll::Ready(None),
            other => other.map(Some),
        });
        let batch = match tokio::time::timeout(Duration::from_millis(REPLAY_POLL_MILLIS), next).await {
            Err(_) if replay.watch.progress() < until => return,
            Err(_) | Ok(None | Some(None)) => return self.caught_up(),
            Ok(Some(Some(Ok(batch)))) => batch,
            Ok(Some(Some(Err(err)))) => {
                let asked = self.seen;
                self.replay = None;
                self.failed = Some(match err {
                    pintle_store::Error::Compacted { oldest } => ApiError::too_old_resource_version(asked.0, oldest.0),
                    other => ApiError::internal(other),
                });
                return;
            }
        };
        if batch.revision > until {
            return self.caught_up();
        }
        let Some(replay) = &self.replay else { return };
        for change in &batch.events {
            match replayed(&self.shard, &replay.namespace, change, batch.revision) {
                Ok(Some(event)) => self.backlog.extend(self.watcher.sees(&event)),
                Ok(None) => {}
                Err(err) => self.failed = Some(ApiError::internal(err)),
            }
        }
        if batch.revision == until {
            self.caught_up();
        }
    }

    fn caught_up(&mut self) {
        if let Some(replay) = self.replay.take()
            && self.backlog.is_empty()
        {
            self.seen = self.seen.max(replay.until);
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.shard.forget(&self.watcher);
    }
}

/// A change of the store's history as the cache would have shown it.
fn replayed(
    shard: &Shard,
    namespace: &str,
    change: &pintle_store::Event,
    revision: Revision,
) -> std::result::Result<Option<Event>, encode::Unreadable> {
    let publish = |value: &[u8], at: Revision| encode::publish(&shard.resource, value, at).map(Arc::new);
    let previous: Option<Arc<Object>> = match (change.prev(), change.prev_revision) {
        (Some(value), Some(at)) => Some(publish(value, at)?),
        _ => None,
    };
    let (kind, object) = match (&change.change, &previous) {
        (Change::Put { value, .. }, None) => (EventKind::Added, publish(value, revision)?),
        (Change::Put { value, .. }, Some(_)) => (EventKind::Modified, publish(value, revision)?),
        (Change::Delete { .. }, Some(previous)) => (EventKind::Deleted, Arc::new(encode::restamp(previous, revision))),
        (Change::Delete { .. }, None) => return Ok(None),
    };
    if !namespace.is_empty() && *object.meta.namespace != *namespace {
        return Ok(None);
    }
    Ok(Some(Event { kind, object, previous, revision }))
}

fn overflowed() -> ApiError {
    ApiError::expired("The watch was too slow and lost events; list again.")
}

fn ticks(seconds: u64) -> Interval {
    let period = Duration::from_secs(seconds.max(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
