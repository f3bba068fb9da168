//! The most recent changes, in memory: a watch that resumes a little behind reads them here instead of from disk.
//!
//! Invariant: every change with a revision greater than `floor` is present, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use pintle_store::Revision;

use crate::event::Event;
use crate::target::ResourceKey;

/// Most bytes of superseded objects that the kept changes hold alive.
const BYTES_MAX: usize = 12 * 1024 * 1024;

/// Recent changes of all resources.
pub(crate) struct History {
    state: Mutex<State>,
    events_max: usize,
}

struct State {
    events: VecDeque<Arc<Event>>,
    floor: Revision,
    bytes: usize,
}

impl History {
    /// Empty, complete after `floor`; keeps at most `events_max` changes.
    pub(crate) fn new(floor: Revision, events_max: usize) -> Self {
        Self { state: Mutex::new(State { events: VecDeque::new(), floor, bytes: 0 }), events_max }
    }

    /// Add a change; revisions never fall.
    pub(crate) fn push(&self, event: Arc<Event>) {
        let mut state = self.state.lock();
        state.bytes += superseded_bytes(&event);
        state.events.push_back(event);
        while state.events.len() > self.events_max || state.bytes > BYTES_MAX {
            let Some(dropped) = state.events.pop_front() else { break };
            state.bytes -= superseded_bytes(&dropped);
            state.floor = dropped.revision;
        }
    }

    /// Forget everything: complete only after `floor`.
    pub(crate) fn reset(&self, floor: Revision) {
        *self.state.lock() = State { events: VecDeque::new(), floor, bytes: 0 };
    }

    /// Changes of a resource in `(after, until]`; `None` if they are not all here.
    pub(crate) fn between(&self, resource: &ResourceKey, after: Revision, until: Revision) -> Option<Vec<Arc<Event>>> {
        let state = self.state.lock();
        if after < state.floor {
            return None;
        }
        let first = state.events.partition_point(|event| event.revision <= after);
        let wanted = state.events.range(first..).take_while(|event| event.revision <= until);
        Some(wanted.filter(|event| event.object.resource.key == *resource).cloned().collect())
    }
}

fn superseded_bytes(event: &Event) -> usize {
    event.previous.as_ref().map_or(64, |previous| previous.body.len() + 64)
}
