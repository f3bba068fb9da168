//! The registry itself: what parties call.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use pintle_api::network::Network;
use pintle_api::{ApiError, Schema};
use pintle_store::{Revision, Store};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::admission::Admission;
use crate::allocate::Allocators;
use crate::audit::{self, Auditor};
use crate::cache::{Cache, Shard};
use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::convert::Converter;
use crate::definitions::{self, Definitions};
use crate::follower::{self, Fed, Reshape};
use crate::key;
use crate::kinds;
use crate::object::Object;
use crate::options::{Body, DeleteOptions, GetOptions, ListOptions, Patch, WatchOptions, WriteOptions};
use crate::selector::Selector;
use crate::subscription::{Subscribers, Subscription, SubscriptionFilter};
use crate::target::{ResourceInfo, ResourceKey, Target};
use crate::upkeep;
use crate::watch::WatchStream;

/// What a request is answered with: the value, or the `Status` that the client sees.
pub type Result<T> = std::result::Result<T, ApiError>;

/// Why a registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error("reading the store")]
    Store(#[from] pintle_store::Error),
    /// What the stored definitions of custom resources say could not be served.
    #[error("serving custom resources: {0}")]
    Definitions(ApiError),
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
    /// Addresses for Services: a network, or one of each family, the one that Services get by default first.
    pub service_cidr: Vec<Network>,
    /// Ports for Services of type NodePort and LoadBalancer, inclusive.
    pub node_ports: (u16, u16),
    /// How long core Events live, seconds.
    pub event_ttl_seconds: u64,
    /// How often the store's history is compacted, seconds.
    pub compaction_period_seconds: u64,
    /// History that compaction keeps, whatever its age, in revisions.
    pub history_revisions_min: u64,
    /// Recent changes kept in memory; watches that resume further back read the store's history.
    pub recent_events_max: usize,
    /// Undelivered events that one watch may have before it is ended.
    pub watch_buffer_events_max: usize,
    /// Undelivered events that one subscription may have before it is told to start again.
    pub subscription_buffer_events_max: usize,
    /// Seconds between bookmarks of a watch.
    pub bookmark_period_seconds: u64,
    /// Where the random part of generated names comes from; a simulation puts its own here.
    pub name_suffix: fn() -> String,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            service_cidr: "10.96.0.0/16".parse().into_iter().collect(),
            node_ports: (30_000, 32_767),
            event_ttl_seconds: 3600,
            compaction_period_seconds: 300,
            history_revisions_min: 5000,
            recent_events_max: 8192,
            watch_buffer_events_max: 4096,
            subscription_buffer_events_max: 65_536,
            bookmark_period_seconds: 60,
            name_suffix: kinds::random_suffix,
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

impl Written {
    /// The answer's code and object.
    fn shown(&self) -> (u16, Arc<Object>) {
        (if self.created { 201 } else { 200 }, Arc::clone(&self.object))
    }
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

/// The registry.
pub struct Registry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: RegistryConfig,
    pub(crate) fed: Arc<Fed>,
    pub(crate) catalog: RwLock<Arc<Catalog>>,
    pub(crate) admission: RwLock<Option<Arc<dyn Admission>>>,
    pub(crate) converter: RwLock<Option<Arc<dyn Converter>>>,
    pub(crate) definitions: Definitions,
    pub(crate) reshape: mpsc::Sender<Reshape>,
    pub(crate) auditor: OnceLock<Arc<Auditor>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Registry {
    /// Load everything from the store and follow it from there. Needs a tokio runtime. Background tasks, watches and
    /// subscriptions end when the registry is dropped.
    ///
    /// # Errors
    /// The store's, or damage in it.
    pub async fn open(store: Arc<dyn Store>, config: RegistryConfig) -> std::result::Result<Arc<Self>, OpenError> {
        let catalog = Catalog::new(Arc::new(Schema::builtin().clone()), Vec::new());
        let cache = Cache::new(Revision::FIRST, config.recent_events_max);
        catalog.stored().for_each(|resource| cache.add_resource(resource));
        let revision = follower::load(store.as_ref(), &cache).await?;
        cache.history.reset(revision);
        cache.advance(revision);
        let watch = store.watch(key::root(), revision).await?;
        let allocators = Allocators::new(&config.service_cidr, config.node_ports);
        let fed = Arc::new(Fed { cache, subscribers: Subscribers::default(), allocators });
        fed.load_allocations();
        let (reshape, reshapes) = mpsc::channel(1);
        let registry = Arc::new(Self {
            store: Arc::clone(&store),
            config,
            fed,
            catalog: RwLock::new(Arc::new(catalog)),
            admission: RwLock::new(None),
            converter: RwLock::new(None),
            definitions: Definitions::default(),
            reshape,
            auditor: OnceLock::new(),
            tasks: Mutex::default(),
        });
        let tasks = [
            tokio::spawn(follower::follow(store, Arc::downgrade(&registry.fed), watch, reshapes)),
            tokio::spawn(definitions::keep(Arc::downgrade(&registry))),
            tokio::spawn(upkeep::compact(Arc::downgrade(&registry))),
            tokio::spawn(upkeep::expire_events(Arc::downgrade(&registry))),
        ];
        *registry.tasks.lock() = tasks.iter().map(JoinHandle::abort_handle).collect();
        // Served before anybody can ask; the keeper goes on from here.
        registry.settle_definitions().await.map_err(OpenError::Definitions)?;
        Ok(registry)
    }

    /// Create what every cluster has (the system namespaces), if it is not there yet, through the ordinary path.
    ///
    /// # Errors
    /// Those of a create.
    pub async fn bootstrap(&self) -> Result<()> {
        self.create_system_objects().await
    }

    /// Who judges writes now.
    #[must_use]
    pub fn admission(&self) -> Option<Arc<dyn Admission>> {
        self.admission.read().clone()
    }

    /// Install who judges writes. Until then nothing is judged.
    pub fn set_admission(&self, admission: Arc<dyn Admission>) {
        *self.admission.write() = Some(admission);
    }

    /// Install who converts custom resources between versions that differ in more than their name. Until then a request that needs it
    /// fails.
    pub fn set_converter(&self, converter: Arc<dyn Converter>) {
        *self.converter.write() = Some(converter);
    }

    /// The schema in force: what clients are told of types.
    #[must_use]
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.catalog.read().schema)
    }

    /// Every resource that is served, in the schema's order.
    #[must_use]
    pub fn resources(&self) -> Vec<Arc<ResourceInfo>> {
        self.catalog.read().all().to_vec()
    }

    /// The resource served at group, version, plural. An empty version means the stored one.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<ResourceInfo>> {
        self.catalog.read().find(group, version, plural)
    }

    /// The resource whose objects say this apiVersion (`v1`, `apps/v1`) and kind.
    #[must_use]
    pub fn resource_for_kind(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceInfo>> {
        self.catalog.read().find_kind(api_version, kind)
    }

    /// Resolve the parts of a path. Empty `subresource`, `namespace` and `name` mean none. An empty `version` means the
    /// stored one.
    ///
    /// # Errors
    /// 404 for what is not served, 400 for a namespace or name that cannot be.
    pub fn resolve(&self, group: &str, version: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Result<Target> {
        let resource = self.resource(group, version, resource).ok_or_else(ApiError::no_route)?;
        if !subresource.is_empty() && resource.subresource(subresource).is_none() {
            return Err(ApiError::no_route());
        }
        if !namespace.is_empty() && !resource.namespaced() {
            return Err(ApiError::no_route());
        }
        for part in [namespace, name] {
            if !part.is_empty() && !key::is_segment(part) {
                return Err(ApiError::bad_request(format!("{part:?} cannot be the name of an object")));
            }
        }
        if !name.is_empty() && namespace.is_empty() && resource.namespaced() {
            return Err(ApiError::bad_request("an empty namespace may not be set when a resource name is provided"));
        }
        Ok(Target { resource, subresource: subresource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Create. On the `binding` and `eviction` subresources of a pod: carry that out; the pod is returned.
    ///
    /// # Errors
    /// The API's.
    pub async fn create(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        self.audited((caller, "create", target), self.create_any(caller, target, body, options), Written::shown).await
    }

    async fn create_any(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let (target, face) = self.unface(target)?;
        let target = &target;
        if let Some(face) = face {
            return self.create_through(&face, caller, target, &body, options).await;
        }
        match target.subresource.as_str() {
            "" if target.resource.group.is_empty() && target.resource.plural == "bindings" => {
                self.bind_by_body(caller, target, body, options).await
            }
            "" => self.create_object(caller, target, body, options).await,
            "binding" => self.bind(caller, target, body, options).await,
            "eviction" => self.evict(caller, target, body, options).await,
            other => Err(ApiError::method_not_allowed(&target.resource, &format!("create of subresource {other}"))),
        }
    }

    /// Replace an object, its status, scale or finalizers (subresources `status`, `scale`, `finalize`, ...).
    ///
    /// # Errors
    /// The API's; 409 when the body's resourceVersion is not the current one.
    pub async fn update(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        self.audited((caller, "update", target), self.update_any(caller, target, body, options), Written::shown).await
    }

    async fn update_any(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let (target, face) = self.unface(target)?;
        match face {
            _ if target.subresource == "scale" => self.update_scale(caller, &target, body, options).await,
            Some(face) => self.update_through(&face, caller, &target, &body, options).await,
            None => self.update_object(caller, &target, body, options).await,
        }
    }

    /// Patch an object or a subresource of it. Tried again on a conflict unless the patch itself names a
    /// resourceVersion.
    ///
    /// # Errors
    /// The API's; 409 with the fields in question when [`Patch::Apply`] wants what others own.
    pub async fn patch(&self, caller: &Caller, target: &Target, patch: Patch, options: &WriteOptions) -> Result<Written> {
        self.audited((caller, "patch", target), self.patch_any(caller, target, patch, options), Written::shown).await
    }

    async fn patch_any(&self, caller: &Caller, target: &Target, patch: Patch, options: &WriteOptions) -> Result<Written> {
        audit::request_patch(&patch);
        let (target, face) = self.unface(target)?;
        match face {
            _ if target.subresource == "scale" => self.patch_scale(caller, &target, &patch, options).await,
            Some(face) => self.patch_through(&face, caller, &target, &patch, options).await,
            None if matches!(patch, Patch::Apply(_)) => self.apply_object(caller, &target, &patch, options).await,
            None => self.patch_object(caller, &target, &patch, options).await,
        }
    }

    /// Delete: now, or mark it and let a grace period or finalizers take their course.
    ///
    /// # Errors
    /// The API's; 409 when a precondition fails.
    pub async fn delete(&self, caller: &Caller, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        let shown = |deleted: &Deleted| (200, deleted.object.clone());
        self.audited((caller, "delete", target), self.delete_any(caller, target, options), shown).await
    }

    async fn delete_any(&self, caller: &Caller, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        let (target, face) = self.unface(target)?;
        let deleted = self.delete_object(caller, &target, options).await?;
        face.map_or(Ok(deleted.clone()), |face| face.show_deleted(deleted))
    }

    /// Delete each object that the list options select.
    ///
    /// # Errors
    /// The first error of a delete, other than 404 for objects that others deleted in between.
    pub async fn delete_collection(
        &self,
        caller: &Caller,
        target: &Target,
        options: &DeleteOptions,
        list: &ListOptions,
    ) -> Result<ListPage> {
        let selector = self.selector(target, &list.label_selector, &list.field_selector)?;
        let (target, face) = self.unface(target)?;
        let page = self.delete_selected(caller, &target, options, list, &selector).await?;
        face.map_or(Ok(page.clone()), |face| face.show_page(page))
    }

    /// Get an object, or its `scale`.
    ///
    /// # Errors
    /// 404; 504 for a resourceVersion that is not there yet.
    pub async fn get(&self, target: &Target, options: &GetOptions) -> Result<Arc<Object>> {
        let object = self.read_object(target, options).await?;
        if target.subresource == "scale" {
            return self.scale_of(&object);
        }
        self.unface(target)?.1.map_or(Ok(Arc::clone(&object)), |face| face.show(&object))
    }

    /// List.
    ///
    /// # Errors
    /// 400 for bad selectors, versions and tokens; 410 for an expired token or version; 504 for one not there yet.
    pub async fn list(&self, target: &Target, options: &ListOptions) -> Result<ListPage> {
        let selector = self.selector(target, &options.label_selector, &options.field_selector)?;
        let (target, face) = self.unface(target)?;
        let page = self.read_list(&target, options, &selector).await?;
        face.map_or(Ok(page.clone()), |face| face.show_page(page))
    }

    /// Watch.
    ///
    /// # Errors
    /// As for list; an expired version is reported by the stream's first item.
    pub async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream> {
        self.start_watch(target, options).await
    }

    /// An object of the cache, by its storage key. Sees every acknowledged write.
    #[must_use]
    pub fn get_cached(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.fed.cache.shard(resource)?.get(&key::suffix(namespace, name))
    }

    /// Objects of the cache under one value of an index, in key order, and the revision this is true at.
    #[must_use]
    pub fn list_index(&self, resource: &ResourceKey, index: &Index, value: &str) -> (Vec<Arc<Object>>, Revision) {
        match self.fed.cache.shard(resource) {
            Some(shard) => shard.indexed(&self.fed.cache, index, value),
            None => (Vec::new(), self.revision()),
        }
    }

    /// Every object, of every kind, that names this uid as an owner.
    #[must_use]
    pub fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        self.fed.cache.dependents(uid)
    }

    /// How many objects of a resource there are.
    #[must_use]
    pub fn count(&self, resource: &ResourceKey) -> usize {
        self.fed.cache.shard(resource).map_or(0, |shard| shard.len())
    }

    /// Changes from now on. Subscribe first, then list; skip events not newer than the list's revision.
    #[must_use]
    pub fn subscribe(&self, filter: SubscriptionFilter) -> Subscription {
        self.fed.subscribers.subscribe(filter, self.config.subscription_buffer_events_max)
    }

    /// The revision that the cache shows: every read sees all writes up to it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.fed.cache.applied()
    }

    /// The shard of a resource (under any face), or 405 for a kind that is not stored.
    pub(crate) fn shard(&self, resource: &ResourceInfo) -> Result<Arc<Shard>> {
        self.fed.cache.shard(&resource.key).ok_or_else(|| ApiError::method_not_allowed(resource, "this"))
    }

    /// What a read asks of objects: the field names are those of the face that was asked for.
    pub(crate) fn selector(&self, target: &Target, labels: &str, fields: &str) -> Result<Selector> {
        Ok(Selector::parse(&target.resource, labels, fields)?.naming(&target.name).within(&target.namespace))
    }

    /// The object that a target names, or 404.
    pub(crate) fn current(&self, target: &Target) -> Result<Arc<Object>> {
        let found = self.shard(&target.resource)?.get(&key::suffix(&target.namespace, &target.name));
        found.ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
    }

    /// What a failure of the store is to a client.
    pub(crate) fn store_error(&self, resource: &ResourceInfo, name: &str, err: &pintle_store::Error) -> ApiError {
        use pintle_store::Error;
        match err {
            Error::Conflict(_) => ApiError::stale(resource, name),
            Error::Compacted { oldest } => {
                ApiError::expired(format!("The resourceVersion is too old; the oldest one available is {oldest}."))
            }
            Error::FutureRevision { requested, current } => ApiError::too_large_resource_version(requested.0, current.0),
            Error::TooLarge { max, .. } => ApiError::too_large(*max),
            Error::NoSpace => ApiError::from_code(507, "InsufficientStorage", "the disk of the store is full: nothing was stored"),
            Error::OutcomeUnknown(_) => {
                tracing::error!(error = %err, "a commit failed with its outcome unknown");
                ApiError::timeout("the disk of the store failed during the commit: it may or may not be stored")
            }
            other => {
                tracing::error!(error = %other, "the store failed");
                ApiError::service_unavailable("the store cannot answer just now")
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
        self.fed.cache.shards().iter().for_each(|shard| shard.end_watches());
        self.fed.subscribers.end();
    }
}
