//! The registry: the one write path and the one read path for every party. HTTP clients, modules and machines all come
//! through here; nobody above touches the store.
//!
//! A write meets each of these once, in this order: decode and field validation, metadata, defaults, mutating
//! admission, validation against the old object, validating admission, encoding, one transaction with a precondition,
//! and the cache. A read is answered from the cache, which holds each object's bytes once.
//!
//! Not here: HTTP, authentication, authorization, and every decision: what admission says is a module's business,
//! collecting dependents too.
//!
//! What holds:
//! 1. A write is acknowledged only when it is durable and the cache shows it: a read at "most recent" is the cache.
//! 2. All changes reach the cache, the watchers and the informers through the store's own watch, in its order.
//! 3. A watcher sees every change after its start, or is told that it cannot. Nothing is skipped silently.
//! 4. An object's bytes are encoded once, at the write, and shared by every get, list and watch.
//!
//! Reading order: `caller`, `target`, `options`, `object`, `event`, `admission` (the vocabulary), then `registry`.

mod admission;
mod caller;
mod event;
mod object;
mod options;
mod registry;
mod target;

pub use admission::{Admission, AdmissionRequest, Edit, EditOp, Failure, Operation, Phase, Verdict};
pub use caller::Caller;
pub use event::{Event, EventKind, WatchEvent};
pub use object::{Meta, Object, Owner};
pub use options::{
    Body, Bookmarks, DeleteOptions, DryRun, FieldValidation, GetOptions, InitialEvents, ListOptions, Patch, Propagation,
    VersionMatch, WatchOptions, WriteOptions,
};
pub use pintle_api::{ApiError, Resource};
pub use pintle_store::Revision;
pub use registry::{
    Deleted, Feed, Index, ListPage, OpenError, Registry, RegistryConfig, Result, Subscription, SubscriptionFilter,
    WatchStream, Written,
};
pub use target::{ResourceInfo, ResourceKey, SelectableField, Target};
