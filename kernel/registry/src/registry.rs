//! The registry itself: what parties call.

use std::sync::Arc;

use pintle_api::ApiError;
use pintle_store::{Revision, Store};

use crate::admission::Admission;
use crate::caller::Caller;
use crate::event::{Event, WatchEvent};
use crate::object::Object;
use crate::options::{Body, DeleteOptions, GetOptions, ListOptions, Patch, WatchOptions, WriteOptions};
use crate::target::{ResourceInfo, ResourceKey, Target};

/// What a request is answered with: the value, or the `Status` that the client sees.
pub type Result<T> = std::result::Result<T, ApiError>;

/// Why a registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error("reading the store")]
    Store(#[from] pintle_store::Error),
    /// What is stored is not an object. Nothing was changed.
    #[error("stored object {key} cannot be read: {detail}")]
    Damaged {
        /// The key in the store.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// Settings.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Addresses for Services: network and prefix length.
    pub service_cidr: (std::net::Ipv4Addr, u8),
    /// Ports for Services of type NodePort and LoadBalancer, inclusive.
    pub node_ports: (u16, u16),
    /// How long core Events live, seconds.
    pub event_ttl_seconds: u64,
    /// How often the store's history is compacted, seconds.
    pub compaction_period_seconds: u64,
    /// History that compaction keeps, whatever its age, in revisions.
    pub history_revisions_min: u64,
    /// Undelivered events that one watch may have before it is ended.
    pub watch_buffer_events_max: usize,
    /// Undelivered events that one subscription may have before it is told to start again.
    pub subscription_buffer_events_max: usize,
    /// Seconds between bookmarks of a watch.
    pub bookmark_period_seconds: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            service_cidr: (std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: (30_000, 32_767),
            event_ttl_seconds: 3600,
            compaction_period_seconds: 300,
            history_revisions_min: 5000,
            watch_buffer_events_max: 4096,
            subscription_buffer_events_max: 65_536,
            bookmark_period_seconds: 60,
        }
    }
}

/// The answer to a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now (in a dry run: as it would be).
    pub object: Arc<Object>,
    /// Whether it exists only since this write: 201 instead of 200.
    pub created: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// The answer to a delete.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object: its last state if it is gone, else as it now waits.
    pub object: Arc<Object>,
    /// Whether it is gone; else finalizers or a grace period keep it.
    pub gone: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// One page of a list.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// The objects, in key order (namespace, then name).
    pub items: Vec<Arc<Object>>,
    /// resourceVersion of the list.
    pub revision: Revision,
    /// Token for the next page; empty on the last.
    pub continue_token: String,
    /// How many follow; `None` when unknown (selectors) or none.
    pub remaining: Option<u64>,
}

/// An index that the cache keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// By namespace.
    Namespace,
    /// By the uid of an owner.
    Owner,
    /// By the value of this label.
    Label(String),
    /// By the value of this selectable field, e.g. `spec.nodeName`.
    Field(String),
}

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

/// A running watch, made by [`Registry::watch`].
pub struct WatchStream {}

impl WatchStream {
    /// The next event. An error is the last thing a stream yields (410 Expired: the client lists again); `None` after
    /// that. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        None
    }

    /// A bookmark for right now, if everything up to it has been taken from the stream: sent before a watch is ended
    /// by its own timeout.
    pub fn bookmark(&mut self) -> Option<WatchEvent> {
        None
    }
}

/// A lossless feed of changes, made by [`Registry::subscribe`].
pub struct Subscription {}

impl Subscription {
    /// The next change; waits. `None` when the registry is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Feed> {
        None
    }

    /// The next change if there is one now.
    pub fn try_next(&mut self) -> Option<Feed> {
        None
    }
}

/// The registry.
pub struct Registry {
    store: Arc<dyn Store>,
    config: RegistryConfig,
}

#[allow(unused_variables, clippy::unused_async, reason = "signatures first")]
impl Registry {
    /// Load everything from the store and follow it from there. Needs a tokio runtime.
    ///
    /// # Errors
    /// The store's, or damage in it.
    pub async fn open(store: Arc<dyn Store>, config: RegistryConfig) -> std::result::Result<Arc<Self>, OpenError> {
        Ok(Arc::new(Self { store, config }))
    }

    /// Create what every cluster has (the system namespaces), if it is not there yet, through the ordinary path.
    ///
    /// # Errors
    /// Those of a create.
    pub async fn bootstrap(&self) -> Result<()> {
        not_yet()
    }

    /// Install who judges writes. Until then nothing is judged.
    pub fn set_admission(&self, admission: Arc<dyn Admission>) {}

    /// Every resource that is served, sorted by group, version, plural.
    #[must_use]
    pub fn resources(&self) -> Vec<Arc<ResourceInfo>> {
        Vec::new()
    }

    /// The resource served at group, version, plural.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<ResourceInfo>> {
        None
    }

    /// The resource whose objects say this apiVersion (`v1`, `apps/v1`) and kind.
    #[must_use]
    pub fn resource_for_kind(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceInfo>> {
        None
    }

    /// Resolve the parts of a path. Empty `subresource`, `namespace` and `name` mean none. An empty `version` means the
    /// stored one.
    ///
    /// # Errors
    /// 404 for what is not served, 400 for a namespace or name that cannot be.
    pub fn resolve(&self, group: &str, version: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Result<Target> {
        not_yet()
    }

    /// Create. On the `binding` and `eviction` subresources of a pod: carry that out; the pod is returned.
    ///
    /// # Errors
    /// The API's.
    pub async fn create(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        not_yet()
    }

    /// Replace an object, its status, scale or finalizers (subresources `status`, `scale`, `finalize`, ...).
    ///
    /// # Errors
    /// The API's; 409 when the body's resourceVersion is not the current one.
    pub async fn update(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        not_yet()
    }

    /// Patch an object or a subresource of it. Tried again on a conflict unless the patch itself names a
    /// resourceVersion.
    ///
    /// # Errors
    /// The API's. [`Patch::Apply`] is not there yet and says so (415).
    pub async fn patch(&self, caller: &Caller, target: &Target, patch: Patch, options: &WriteOptions) -> Result<Written> {
        not_yet()
    }

    /// Delete: now, or mark it and let a grace period or finalizers take their course.
    ///
    /// # Errors
    /// The API's; 409 when a precondition fails.
    pub async fn delete(&self, caller: &Caller, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        not_yet()
    }

    /// Delete each object that the list options select.
    ///
    /// # Errors
    /// The first error of a delete, other than 404 and 409 for objects that changed in between.
    pub async fn delete_collection(&self, caller: &Caller, target: &Target, options: &DeleteOptions, list: &ListOptions) -> Result<ListPage> {
        not_yet()
    }

    /// Get an object, or its `scale`.
    ///
    /// # Errors
    /// 404; 504 for a resourceVersion that is not there yet.
    pub async fn get(&self, target: &Target, options: &GetOptions) -> Result<Arc<Object>> {
        not_yet()
    }

    /// List.
    ///
    /// # Errors
    /// 400 for bad selectors, versions and tokens; 410 for an expired token or version; 504 for one not there yet.
    pub async fn list(&self, target: &Target, options: &ListOptions) -> Result<ListPage> {
        not_yet()
    }

    /// Watch.
    ///
    /// # Errors
    /// As for list; an expired version is reported by the stream's first item.
    pub async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream> {
        not_yet()
    }

    /// An object of the cache, by its storage key. Sees every acknowledged write.
    #[must_use]
    pub fn get_cached(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<Arc<Object>> {
        None
    }

    /// Objects of the cache under one value of an index, in key order, and the revision this is true at.
    #[must_use]
    pub fn list_index(&self, resource: &ResourceKey, index: &Index, value: &str) -> (Vec<Arc<Object>>, Revision) {
        (Vec::new(), Revision::FIRST)
    }

    /// Every object, of every kind, that names this uid as an owner.
    #[must_use]
    pub fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    /// Changes from now on. Subscribe first, then list; skip events not newer than the list's revision.
    #[must_use]
    pub fn subscribe(&self, filter: SubscriptionFilter) -> Subscription {
        Subscription {}
    }

    /// The revision that the cache shows: every read sees all writes up to it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.current()
    }
}

fn not_yet<T>() -> Result<T> {
    Err(ApiError::service_unavailable("the registry is being written"))
}
