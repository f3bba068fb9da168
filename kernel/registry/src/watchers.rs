//! The watches of one resource, and to which of them a change goes.
//!
//! A watch of one object, one namespace or one value of a selectable field (each machine watches the pods bound to it)
//! waits under that trigger, so a change costs what the watches it concerns cost, not what all watches cost.
//!
//! Invariant: a watch's trigger covers its selector: what the selector matches, before or after a change, fires it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::encode;
use crate::event::{Event, EventKind, WatchEvent};
use crate::object::Object;
use crate::queue::Queue;
use crate::selector::Selector;

/// What a watch waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trigger {
    /// Any change.
    Any,
    /// Changes in a namespace.
    Namespace(Box<str>),
    /// Changes of objects of this name.
    Name(Box<str>),
    /// Changes from or to this value of the selectable field at this slot.
    Field(usize, Box<str>),
}

/// One watch.
pub(crate) struct Watcher {
    pub(crate) selector: Selector,
    pub(crate) trigger: Trigger,
    /// Its client asked for another version: it converts changes before they are held against what it selects.
    pub(crate) converts: bool,
    pub(crate) queue: Queue<Seen>,
}

/// What a watch is handed.
pub(crate) enum Seen {
    /// What its client is told.
    As(WatchEvent),
    /// A change that is to be converted first.
    Raw(Event),
}

impl Watcher {
    /// What a change is to this watch; `None` if it is none of its business.
    pub(crate) fn sees(&self, event: &Event) -> Option<Seen> {
        let seen = seen_through(&self.selector, event)?;
        Some(if self.converts { Seen::Raw(event.clone()) } else { Seen::As(seen) })
    }
}

/// All watches of one resource.
#[derive(Default)]
pub(crate) struct Watchers {
    waiting: HashMap<Trigger, Vec<Arc<Watcher>>>,
    /// How many watches wait for each slot's field: slots nobody waits for are not looked up.
    by_slot: Vec<usize>,
}

impl Watchers {
    pub(crate) fn new(slots: usize) -> Self {
        Self { waiting: HashMap::new(), by_slot: vec![0; slots] }
    }

    pub(crate) fn add(&mut self, watcher: Arc<Watcher>) {
        if let Trigger::Field(slot, _) = watcher.trigger
            && let Some(count) = self.by_slot.get_mut(slot)
        {
            *count += 1;
        }
        self.waiting.entry(watcher.trigger.clone()).or_default().push(watcher);
    }

    pub(crate) fn remove(&mut self, watcher: &Arc<Watcher>) {
        let Some(waiting) = self.waiting.get_mut(&watcher.trigger) else { return };
        waiting.retain(|other| !Arc::ptr_eq(other, watcher));
        if waiting.is_empty() {
            self.waiting.remove(&watcher.trigger);
        }
        if let Trigger::Field(slot, _) = watcher.trigger
            && let Some(count) = self.by_slot.get_mut(slot)
        {
            *count -= 1;
        }
    }

    /// No more changes will come.
    pub(crate) fn end(&self) {
        self.waiting.values().flatten().for_each(|watcher| watcher.queue.close());
    }

    /// Hand a change to the watches that it concerns.
    pub(crate) fn dispatch(&self, event: &Event) {
        if self.waiting.is_empty() {
            return;
        }
        let meta = &event.object.meta;
        self.fire(&Trigger::Any, event);
        self.fire(&Trigger::Namespace(meta.namespace.clone()), event);
        self.fire(&Trigger::Name(meta.name.clone()), event);
        for (slot, _) in self.by_slot.iter().enumerate().filter(|(_, count)| **count > 0) {
            let now = meta.fields.get(slot);
            let before = event.previous.as_ref().and_then(|previous| previous.meta.fields.get(slot));
            for value in now.into_iter().chain(before.filter(|before| Some(*before) != now)) {
                self.fire(&Trigger::Field(slot, value.clone()), event);
            }
        }
    }

    fn fire(&self, trigger: &Trigger, event: &Event) {
        for watcher in self.waiting.get(trigger).into_iter().flatten() {
            if let Some(seen) = watcher.sees(event) {
                watcher.queue.push(seen);
            }
        }
    }
}

/// What a change looks like to a watch with this selector; `None` if it is none of its business.
pub(crate) fn seen_through(selector: &Selector, event: &Event) -> Option<WatchEvent> {
    let before = event.previous.as_ref().filter(|previous| selector.matches(previous));
    let after = (event.kind != EventKind::Deleted && selector.matches(&event.object)).then_some(&event.object);
    match (before, after) {
        (None, None) => None,
        (None, Some(object)) => Some(WatchEvent::Added(Arc::clone(object))),
        (Some(_), Some(object)) => Some(WatchEvent::Modified(Arc::clone(object))),
        (Some(_), None) if event.kind == EventKind::Deleted => Some(WatchEvent::Deleted(Arc::clone(&event.object))),
        (Some(previous), None) => Some(WatchEvent::Deleted(last_seen(previous, event))),
    }
}

/// An object that left a selector: its last matching state, at the revision of the change.
fn last_seen(previous: &Arc<Object>, event: &Event) -> Arc<Object> {
    Arc::new(encode::restamp(previous, event.revision))
}
