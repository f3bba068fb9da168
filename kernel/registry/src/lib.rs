//! The registry: the one write path and the one read path for every party. HTTP clients, modules and machines all come
//! through here; nobody above touches the store.
//!
//! A write meets each of these once, in this order: decode and field validation, metadata, defaults, field ownership, mutating
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
//! Reading order: `caller`, `target`, `options`, `object`, `event`, `admission`, `audit` (the vocabulary); `registry` (what parties
//! call); `pipeline`, `create`, `update`, `apply`, `delete`, `subresource`, `face`, `convert`, `definitions`, `kinds`, `allocate` (writes); `list`, `watch`,
//! `selector` (reads); `follower`, `cache`, `index`, `history`, `watchers`, `subscription`, `queue` (what reads stand on);
//! `key`, `encode`, `extract` (bytes); `bootstrap` and `upkeep`.

mod admission;
mod allocate;
mod apply;
pub mod audit;
mod bootstrap;
mod cache;
mod caller;
mod catalog;
mod convert;
mod create;
mod definitions;
mod delete;
mod encode;
mod event;
mod extract;
mod face;
mod follower;
#[doc(hidden)]
pub mod fuzz;
mod history;
mod index;
mod key;
mod kinds;
mod list;
mod matching;
mod object;
mod options;
mod pipeline;
mod queue;
mod registry;
mod revision;
mod selectable;
mod selector;
mod subresource;
mod subscription;
mod target;
mod update;
mod upkeep;
mod watch;
mod watchers;

pub use admission::{Admission, AdmissionRequest, Edit, EditOp, Failure, Operation, Phase, Verdict, edited};
pub use caller::Caller;
pub use convert::Converter;
pub use event::{Event, EventKind, WatchEvent};
pub use extract::project;
pub use matching::{AdmissionRule, Matching, Selectors, review_of};
pub use object::{Meta, Object, Owner};
pub use options::{
    Body, Bookmarks, DeleteOptions, DryRun, GetOptions, InitialEvents, ListOptions, Missing, Patch, Propagation, VersionMatch,
    WatchOptions, WriteOptions,
};
pub use pintle_api::apply::Force;
pub use pintle_api::decode::FieldValidation;
pub use pintle_api::{ApiError, Resource, Schema};
pub use pintle_policies::Conditions;
pub use pintle_store::Revision;
pub use registry::{Deleted, Index, ListPage, OpenError, Registry, RegistryConfig, Result, Written};
pub use subscription::{Feed, Subscription, SubscriptionFilter};
pub use target::{ResourceInfo, ResourceKey, SelectableField, Target};
pub use watch::WatchStream;
