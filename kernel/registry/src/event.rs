//! What happened to one object, as watchers and informers are told. Shared: one event, one encoding, any number of
//! receivers.

use std::sync::Arc;

use pintle_store::Revision;

use crate::object::Object;

/// One change of one object, as the store made it (before any selector).
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object now; of a deleted one its last state, at the revision of the delete.
    pub object: Arc<Object>,
    /// The object before; `None` if it did not exist.
    pub previous: Option<Arc<Object>>,
    /// The transaction's revision.
    pub revision: Revision,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It did not exist before.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// What a watch stream yields.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The object now matches and did not before.
    Added(Arc<Object>),
    /// The object matches, and did before.
    Modified(Arc<Object>),
    /// The object matched, and no longer does or is gone. The object's revision is that of the change.
    Deleted(Arc<Object>),
    /// Everything up to this revision was sent.
    Bookmark {
        /// resourceVersion of the bookmark.
        revision: Revision,
        /// It closes the initial events: annotate it `k8s.io/initial-events-end: "true"`.
        initial_events_end: bool,
    },
}
