//! Every object, in memory, once; by resource, sorted as the store sorts, with its indexes and its watches.
//!
//! One writer, the follower, applies the store's changes in their order; any number of readers. Each resource has its
//! own lock, held only to look up or swap handles: nobody encodes, parses or waits under it.
//!
//! Invariants:
//! 1. Under a resource's lock, `max(applied, last_change)` is a revision up to which everything about that resource is
//!    in, and nothing later.
//! 2. A change is in the history before its resource shows it, so a watch that registers at a revision finds every
//!    earlier change there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use pintle_store::Revision;
use tokio::sync::oneshot;

use crate::event::{Event, EventKind};
use crate::history::History;
use crate::index::Indexes;
use crate::key;
use crate::object::Object;
use crate::registry::Index;
use crate::selector::Selector;
use crate::target::{ResourceInfo, ResourceKey};
use crate::watchers::{Watcher, Watchers};

/// All objects.
pub(crate) struct Cache {
    shards: RwLock<HashMap<ResourceKey, Arc<Shard>>>,
    owners: Mutex<HashMap<Box<str>, BTreeSet<Dependent>>>,
    pub(crate) history: History,
    applied: AtomicU64,
    waiting: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
}

/// Names one dependent: its resource and suffix.
type Dependent = (ResourceKey, Arc<str>);

/// All objects of one resource.
pub(crate) struct Shard {
    pub(crate) resource: Arc<ResourceInfo>,
    state: RwLock<State>,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    last_change: Revision,
    namespaced: bool,
    indexes: Indexes,
    watchers: Watchers,
}

/// Objects as of one revision.
pub(crate) struct Snapshot {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: Revision,
    /// More objects follow in the range.
    pub(crate) more: bool,
    /// How many follow, whether or not they match the selector.
    pub(crate) remaining: u64,
}

/// Which part of a resource to read.
pub(crate) struct Scan<'a> {
    /// Empty: all namespaces.
    pub(crate) namespace: &'a str,
    /// Suffixes from here on; empty: from the beginning.
    pub(crate) start: &'a str,
    pub(crate) selector: &'a Selector,
    /// Most objects; 0 means all.
    pub(crate) limit: usize,
}

impl Cache {
    /// Empty, as of `revision`.
    pub(crate) fn new(revision: Revision, recent_events_max: usize) -> Self {
        Self {
            shards: RwLock::default(),
            owners: Mutex::default(),
            history: History::new(revision, recent_events_max),
            applied: AtomicU64::new(revision.0),
            waiting: Mutex::default(),
        }
    }

    /// Begin keeping a resource.
    pub(crate) fn add_resource(&self, resource: &Arc<ResourceInfo>) {
        let mut shards = self.shards.write();
        shards.entry(resource.key.clone()).or_insert_with(|| Arc::new(Shard::new(Arc::clone(resource))));
    }

    /// An empty shard that nobody sees yet.
    pub(crate) fn new_shard(resource: &Arc<ResourceInfo>) -> Shard {
        Shard::new(Arc::clone(resource))
    }

    /// Show a loaded shard; the watches of the one before it end.
    pub(crate) fn put_shard(&self, shard: Shard) {
        let before = self.shards.write().insert(shard.resource.key.clone(), Arc::new(shard));
        before.iter().for_each(|shard| shard.end_watches());
    }

    /// Keep a resource no longer.
    pub(crate) fn remove_shard(&self, resource: &ResourceKey) {
        let before = self.shards.write().remove(resource);
        before.iter().for_each(|shard| shard.end_watches());
    }

    /// The shard of a resource.
    pub(crate) fn shard(&self, resource: &ResourceKey) -> Option<Arc<Shard>> {
        self.shards.read().get(resource).cloned()
    }

    /// Every resource.
    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// Everything up to this revision is in.
    pub(crate) fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// Put an object in without telling anybody: loading.
    pub(crate) fn load(&self, shard: &Shard, suffix: &str, object: Arc<Object>) {
        self.change_owners(shard, suffix, None, Some(&object));
        let mut state = shard.state.write();
        let suffix: Arc<str> = suffix.into();
        state.indexes.change(&suffix, None, Some(&object));
        state.last_change = state.last_change.max(object.revision);
        state.objects.insert(suffix, object);
    }

    /// Show a change. The history must have it already.
    pub(crate) fn apply(&self, shard: &Shard, suffix: &str, event: &Event) {
        let after = (event.kind != EventKind::Deleted).then_some(&event.object);
        self.change_owners(shard, suffix, event.previous.as_deref(), after.map(AsRef::as_ref));
        shard.apply(suffix, event);
    }

    /// Everything up to `revision` is in: tell those who wait for it.
    pub(crate) fn advance(&self, revision: Revision) {
        self.applied.fetch_max(revision.0, Ordering::Release);
        let ready = {
            let mut waiting = self.waiting.lock();
            let later = waiting.split_off(&revision.next());
            std::mem::replace(&mut *waiting, later)
        };
        for waiter in ready.into_values().flatten() {
            // A waiter that gave up is not there to be told.
            let _ = waiter.send(());
        }
    }

    /// Wait until everything up to `revision` is in.
    pub(crate) async fn reached(&self, revision: Revision) {
        let told = {
            let mut waiting = self.waiting.lock();
            if self.applied() >= revision {
                return;
            }
            let (tell, told) = oneshot::channel();
            waiting.entry(revision).or_default().push(tell);
            told
        };
        // The sender is dropped only with the cache itself.
        let _ = told.await;
    }

    /// Every object that names `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        let named: Vec<Dependent> = self.owners.lock().get(uid).into_iter().flatten().cloned().collect();
        named.iter().filter_map(|(resource, suffix)| self.shard(resource)?.get(suffix)).collect()
    }

    fn change_owners(&self, shard: &Shard, suffix: &str, before: Option<&Object>, after: Option<&Object>) {
        let old = before.map_or(&[][..], |object| &object.meta.owners);
        let new = after.map_or(&[][..], |object| &object.meta.owners);
        if old == new {
            return;
        }
        let dependent: Dependent = (shard.resource.key.clone(), suffix.into());
        let mut owners = self.owners.lock();
        for owner in old {
            if let Some(dependents) = owners.get_mut(&owner.uid) {
                dependents.remove(&dependent);
                if dependents.is_empty() {
                    owners.remove(&owner.uid);
                }
            }
        }
        for owner in new {
            owners.entry(owner.uid.clone()).or_default().insert(dependent.clone());
        }
    }
}

impl Shard {
    fn new(resource: Arc<ResourceInfo>) -> Self {
        let slots = resource.selectable.len();
        let state = State {
            objects: BTreeMap::new(),
            last_change: Revision::FIRST,
            namespaced: resource.namespaced(),
            indexes: Indexes::new(slots),
            watchers: Watchers::new(slots),
        };
        Self { resource, state: RwLock::new(state) }
    }

    /// The object under a suffix.
    pub(crate) fn get(&self, suffix: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(suffix).cloned()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Every object, for whoever rebuilds something from them.
    pub(crate) fn all(&self) -> Vec<Arc<Object>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// Read a part, as of the revision that it is true at.
    pub(crate) fn scan(&self, cache: &Cache, scan: &Scan<'_>) -> Snapshot {
        let state = self.state.read();
        let revision = cache.applied().max(state.last_change);
        state.scan(scan, revision)
    }

    /// Read a part as of a revision, if nothing of the resource changed since.
    pub(crate) fn scan_at(&self, scan: &Scan<'_>, at: Revision) -> Option<Snapshot> {
        let state = self.state.read();
        (state.last_change <= at).then(|| state.scan(scan, at))
    }

    /// Read a part and register a watch that sees every later change.
    pub(crate) fn scan_and_watch(&self, cache: &Cache, scan: Option<&Scan<'_>>, watcher: Arc<Watcher>) -> Snapshot {
        let mut state = self.state.write();
        let revision = cache.applied().max(state.last_change);
        state.watchers.add(watcher);
        match scan {
            Some(scan) => state.scan(scan, revision),
            None => Snapshot { objects: Vec::new(), revision, more: false, remaining: 0 },
        }
    }

    /// No more changes will come.
    pub(crate) fn end_watches(&self) {
        self.state.read().watchers.end();
    }

    pub(crate) fn forget(&self, watcher: &Arc<Watcher>) {
        self.state.write().watchers.remove(watcher);
    }

    /// Objects under one value of an index, in key order.
    pub(crate) fn indexed(&self, cache: &Cache, index: &Index, value: &str) -> (Vec<Arc<Object>>, Revision) {
        let state = self.state.read();
        let revision = cache.applied().max(state.last_change);
        let pick = |suffixes: Option<&BTreeSet<Arc<str>>>| -> Vec<Arc<Object>> {
            suffixes.into_iter().flatten().filter_map(|suffix| state.objects.get(suffix).cloned()).collect()
        };
        let objects = match index {
            Index::Namespace => state.range(value, "").map(|(_, object)| Arc::clone(object)).collect(),
            Index::Label(key) => pick(state.indexes.label(key, value)),
            Index::Field(label) => match self.resource.selectable.iter().position(|field| field.label == *label) {
                Some(slot) => pick(state.indexes.field(slot, value)),
                None => state.objects.values().filter(|object| object.field(label) == Some(value)).cloned().collect(),
            },
            Index::Owner => {
                drop(state);
                let mut objects = cache.dependents(value);
                objects.retain(|object| object.resource.key == self.resource.key);
                return (objects, revision);
            }
        };
        (objects, revision)
    }

    fn apply(&self, suffix: &str, event: &Event) {
        let mut state = self.state.write();
        let known = state.objects.get_key_value(suffix).map(|(known, _)| Arc::clone(known));
        let suffix = known.unwrap_or_else(|| suffix.into());
        if event.kind == EventKind::Deleted {
            state.indexes.change(&suffix, event.previous.as_deref(), None);
            state.objects.remove(&suffix);
        } else {
            state.indexes.change(&suffix, event.previous.as_deref(), Some(&event.object));
            state.objects.insert(suffix, Arc::clone(&event.object));
        }
        state.last_change = event.revision;
        state.watchers.dispatch(event);
    }
}

impl State {
    /// Objects of a namespace (empty: all) from a suffix on, in order.
    fn range<'a>(&'a self, namespace: &str, start: &str) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> + use<'a> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let from = if start.is_empty() { prefix.as_str() } else { start };
        let within = self.objects.range::<str, _>((Bound::Included(from), Bound::Unbounded));
        within.take_while(move |(suffix, _)| suffix.starts_with(prefix.as_str()))
    }

    fn scan(&self, scan: &Scan<'_>, revision: Revision) -> Snapshot {
        if scan.start.is_empty()
            && let Some(found) = self.scan_name(scan, revision)
        {
            return found;
        }
        if scan.limit == 0
            && scan.start.is_empty()
            && let Some(candidates) = scan.selector.candidates(&self.indexes)
        {
            return self.scan_candidates(candidates, scan, revision);
        }
        let mut found = Snapshot { objects: Vec::new(), revision, more: false, remaining: 0 };
        let mut rest = self.range(scan.namespace, scan.start);
        for (_, object) in rest.by_ref() {
            if !scan.selector.matches(object) {
                continue;
            }
            if scan.limit > 0 && found.objects.len() == scan.limit {
                found.more = true;
                found.remaining = 1 + rest.count() as u64;
                return found;
            }
            found.objects.push(Arc::clone(object));
        }
        found
    }

    /// A selector that names one object of one namespace (or of none) is a look-up.
    fn scan_name(&self, scan: &Scan<'_>, revision: Revision) -> Option<Snapshot> {
        let name = scan.selector.name().filter(|_| !scan.namespace.is_empty() || !self.namespaced)?;
        let found = self.objects.get(&*key::suffix(scan.namespace, name)).filter(|object| scan.selector.matches(object));
        Some(Snapshot { objects: found.into_iter().cloned().collect(), revision, more: false, remaining: 0 })
    }

    fn scan_candidates(&self, candidates: &BTreeSet<Arc<str>>, scan: &Scan<'_>, revision: Revision) -> Snapshot {
        let objects = candidates
            .iter()
            .filter_map(|suffix| self.objects.get(suffix))
            .filter(|object| scan.namespace.is_empty() || *object.meta.namespace == *scan.namespace)
            .filter(|object| scan.selector.matches(object))
            .cloned()
            .collect();
        Snapshot { objects, revision, more: false, remaining: 0 }
    }
}

/// The suffix of an object.
pub(crate) fn suffix_of(object: &Object) -> Arc<str> {
    key::suffix(&object.meta.namespace, &object.meta.name)
}
