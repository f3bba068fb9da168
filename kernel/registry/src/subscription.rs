//! Feeds of changes for the module host's informers: every change, of all resources or some, with an explicit word when
//! the receiver was too slow to be told all.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::event::Event;
use crate::queue::{Popped, Queue};
use crate::target::ResourceKey;

/// Which events a subscription is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionFilter {
    /// Every resource.
    All,
    /// These.
    Resources(Vec<ResourceKey>),
}

/// What a subscription yields.
#[derive(Debug, Clone)]
pub enum Feed {
    /// A change. Changes come in the store's order, none is left out between two that are not separated by `Lagged`.
    Event(Arc<Event>),
    /// The receiver was too slow and events were dropped. Everything after this is delivered again: list, then go on,
    /// ignoring events whose revision is not newer than the list's.
    Lagged,
}

/// A lossless feed of changes, made by [`crate::Registry::subscribe`]. Dropping it ends it.
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    all: Arc<RwLock<Vec<Arc<Subscriber>>>>,
}

impl Subscription {
    /// The next change; waits. `None` when the registry is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Feed> {
        feed(self.subscriber.queue.pop().await)
    }

    /// The next change if there is one now.
    pub fn try_next(&mut self) -> Option<Feed> {
        feed(self.subscriber.queue.try_pop()?)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.all.write().retain(|other| !Arc::ptr_eq(other, &self.subscriber));
    }
}

fn feed(popped: Popped<Arc<Event>>) -> Option<Feed> {
    match popped {
        Popped::Item(event) => Some(Feed::Event(event)),
        Popped::Overflowed => Some(Feed::Lagged),
        Popped::Closed => None,
    }
}

struct Subscriber {
    /// `None`: all.
    resources: Option<HashSet<ResourceKey>>,
    queue: Queue<Arc<Event>>,
}

/// All subscriptions.
#[derive(Default)]
pub(crate) struct Subscribers {
    all: Arc<RwLock<Vec<Arc<Subscriber>>>>,
}

impl Subscribers {
    pub(crate) fn subscribe(&self, filter: SubscriptionFilter, events_max: usize) -> Subscription {
        let resources = match filter {
            SubscriptionFilter::All => None,
            SubscriptionFilter::Resources(keys) => Some(keys.into_iter().collect()),
        };
        let subscriber = Arc::new(Subscriber { resources, queue: Queue::new(events_max) });
        self.all.write().push(Arc::clone(&subscriber));
        Subscription { subscriber, all: Arc::clone(&self.all) }
    }

    pub(crate) fn publish(&self, event: &Arc<Event>) {
        for subscriber in self.all.read().iter() {
            if subscriber.resources.as_ref().is_none_or(|keys| keys.contains(&event.object.resource.key)) {
                subscriber.queue.push(Arc::clone(event));
            }
        }
    }

    /// No more changes will come.
    pub(crate) fn end(&self) {
        self.all.read().iter().for_each(|subscriber| subscriber.queue.close());
    }
}
