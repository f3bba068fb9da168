//! From changes to keys: which keys of a controller's queue a changed object leads to.

use crate::{
    fault::HostError,
    gather::{all_of, reference_in, selector_of, stored},
    project::Projection,
    spec::{ControllerSpec, Mapping, Relation, ResourcePattern, WatchSpec},
    write::ObjectName,
};
use pintle_api::selector::LabelSelector;
use pintle_registry::{Event, EventKind, Index, Object, Registry, ResourceInfo, ResourceKey, SubscriptionFilter};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// One key of a work queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub resource: Arc<ResourceKey>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Set when the primary is `*/*`: there, an object that is gone and its successor of the same name are two keys.
    pub uid: Arc<str>,
}

/// The manifest's watches, ready for use.
pub struct Mapper {
    primary: Option<Primary>,
    selector: LabelSelector,
    watches: Vec<WatchSpec>,
    /// Resources whose orphans concern every primary around them.
    adopts: Vec<ResourceKey>,
    projection: Projection,
}

/// The one resource whose objects are the keys; `None` in its place means every resource.
struct Primary {
    key: Arc<ResourceKey>,
    /// Known once it is served: a definition may come later than the module.
    info: OnceLock<Arc<ResourceInfo>>,
}

impl Primary {
    fn info(&self, registry: &Registry) -> Option<&Arc<ResourceInfo>> {
        let served = || registry.resources().into_iter().find(|info| info.key() == &*self.key);
        self.info.get().or_else(|| served().map(|info| self.info.get_or_init(|| info)))
    }
}

impl Mapper {
    /// From the manifest.
    ///
    /// # Errors
    /// `BadSpec` when the selector is none.
    pub fn new(spec: &ControllerSpec) -> Result<Self, HostError> {
        let primary = match &spec.primary {
            ResourcePattern::Everything => None,
            ResourcePattern::One(key) => Some(Primary { key: Arc::new(key.clone()), info: OnceLock::new() }),
        };
        let adopts = spec.related.iter().filter(|r| r.by == Relation::OwnerOrSelector);
        let adopts = adopts.filter_map(|r| if let ResourcePattern::One(key) = &r.resource { Some(key.clone()) } else { None }).collect();
        let projection = if primary.is_none() { Projection::Metadata } else { Projection::Whole };
        let selector = LabelSelector::parse(&spec.selector)
            .map_err(|e| HostError::BadSpec { field: "spec.controller.selector".into(), problem: e.message })?;
        Ok(Self { primary, selector, watches: spec.watches.clone(), adopts, projection })
    }

    /// The primary resource, if it is not served yet: it is followed once it is.
    pub fn awaited(&self, registry: &Registry) -> Option<&ResourceKey> {
        self.primary.as_ref().filter(|primary| primary.info(registry).is_none()).map(|primary| &*primary.key)
    }

    /// What to subscribe to.
    pub fn filter(&self) -> SubscriptionFilter {
        let mut keys = Vec::new();
        let Some(primary) = &self.primary else { return SubscriptionFilter::All };
        keys.push((*primary.key).clone());
        for watch in &self.watches {
            match &watch.resource {
                ResourcePattern::Everything => return SubscriptionFilter::All,
                ResourcePattern::One(key) => keys.push(key.clone()),
            }
        }
        SubscriptionFilter::Resources(keys)
    }

    /// What a primary object travels as.
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Every key there is now.
    pub fn all(&self, registry: &Registry) -> Vec<Key> {
        let objects = match &self.primary {
            Some(primary) => all_of(registry, &primary.key),
            None => stored(registry).flat_map(|key| all_of(registry, &key)).collect(),
        };
        objects.iter().filter(|o| self.selects(o.meta())).map(|o| self.own(o)).collect()
    }

    /// The keys that a change leads to.
    pub fn keys(&self, registry: &Registry, event: &Event) -> Vec<Key> {
        let mut keys = Vec::new();
        let resource = event.object.resource().key();
        if self.is_primary(resource) && self.matters(event) {
            keys.push(self.own(&event.object));
        }
        for watch in self.watches.iter().filter(|w| w.resource.matches(resource)) {
            self.map(registry, watch, &event.object, &mut keys);
            if let Some(previous) = &event.previous {
                self.map(registry, watch, previous, &mut keys);
            }
        }
        if self.adopts.contains(resource) && orphan_changed(event) {
            keys.extend(self.around(registry, &event.object.meta().namespace));
        }
        keys
    }

    /// The object of a key, if it is there (and is that one).
    pub fn object(&self, registry: &Registry, key: &Key) -> Option<Arc<Object>> {
        let object = registry.get_cached(&key.resource, &key.namespace, &key.name)?;
        (key.uid.is_empty() || object.meta().uid == (&*key.uid).into()).then_some(object)
    }

    /// A key as `ObjectRef`, with the uid of its object.
    pub fn name(&self, key: &Key, object: Option<&Object>) -> ObjectName {
        key.to_name(object.map_or(&*key.uid, |o| &o.meta().uid))
    }

    fn is_primary(&self, resource: &ResourceKey) -> bool {
        self.primary.as_ref().is_none_or(|primary| *primary.key == *resource)
    }

    fn selects(&self, meta: &pintle_registry::Meta) -> bool {
        self.selector.matches_with(|label| meta.label(label))
    }

    /// Whether a change of a primary object concerns the controller.
    fn matters(&self, event: &Event) -> bool {
        let (now, before) = (event.object.meta(), event.previous.as_ref().map(|p| p.meta()));
        let selected = self.selects(now) || before.is_some_and(|b| self.selects(b));
        let metadata_only = self.primary.is_none() && event.kind == EventKind::Modified;
        let same = |b: &pintle_registry::Meta| {
            b.owners == now.owners
                && b.finalizers == now.finalizers
                && b.deletion_timestamp == now.deletion_timestamp
                && b.labels == now.labels
        };
        selected && !(metadata_only && before.is_some_and(same))
    }

    fn own(&self, object: &Object) -> Key {
        let meta = object.meta();
        match &self.primary {
            Some(primary) => key(&primary.key, &meta.namespace, &meta.name),
            None => Key { uid: (&*meta.uid).into(), ..key(&Arc::new(object.resource().key().clone()), &meta.namespace, &meta.name) },
        }
    }

    fn map(&self, registry: &Registry, watch: &WatchSpec, object: &Object, keys: &mut Vec<Key>) {
        let meta = object.meta();
        let Some(primary) = &self.primary else {
            // Everything is a key already: a mapping can only name the object itself.
            keys.extend((watch.map == Mapping::Own).then(|| self.own(object)));
            return;
        };
        let Some(info) = primary.info(registry) else { return };
        let is_namespaced = info.scope == pintle_api::Scope::Namespaced;
        let beside = if is_namespaced { &*meta.namespace } else { "" };
        match &watch.map {
            Mapping::Own | Mapping::Name => keys.push(key(&primary.key, beside, &meta.name)),
            Mapping::Namespace if is_namespaced && !meta.namespace.is_empty() => keys.extend(self.around(registry, beside)),
            Mapping::Namespace if !meta.namespace.is_empty() => keys.push(key(&primary.key, "", &meta.namespace)),
            Mapping::Namespace => {}
            Mapping::Selector => {
                let around = registry.list_index(&primary.key, &Index::Namespace, beside).0;
                let selecting = around.iter().filter(|o| selector_of(o).is_some_and(|selector| selector.matches_with(|l| meta.label(l))));
                keys.extend(selecting.map(|o| self.own(o)));
            }
            Mapping::Owner => {
                let owner = meta.controller().filter(|o| *o.kind == *info.kind && group_of(&o.api_version) == info.group);
                keys.extend(owner.map(|o| key(&primary.key, beside, &o.name)));
            }
            Mapping::Field(path) => {
                let names = object.field(path).map_or_else(|| fields_in(object, path), |name| vec![name.to_owned()]);
                keys.extend(names.iter().filter(|n| !n.is_empty()).map(|n| key(&primary.key, beside, n)));
            }
            Mapping::Reference(path) => {
                let named = object.value().ok().and_then(|body| reference_in(&body, path, beside));
                keys.extend(named.map(|(namespace, name)| key(&primary.key, &namespace, &name)));
            }
            Mapping::All => keys.extend(self.all(registry)),
        }
    }

    fn around(&self, registry: &Registry, namespace: &str) -> Vec<Key> {
        let Some(primary) = &self.primary else { return Vec::new() };
        registry.list_index(&primary.key, &Index::Namespace, namespace).0.iter().map(|o| self.own(o)).collect()
    }
}

/// An object without a controller appeared, or one's labels or owners changed: somebody may adopt or release it.
fn orphan_changed(event: &Event) -> bool {
    let now = event.object.meta();
    now.controller().is_none()
        && event.kind != EventKind::Deleted
        && event.previous.as_ref().is_none_or(|p| p.meta().labels != now.labels || p.meta().owners != now.owners)
}

fn key(resource: &Arc<ResourceKey>, namespace: &str, name: &str) -> Key {
    Key { resource: resource.clone(), namespace: namespace.into(), name: name.into(), uid: "".into() }
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The texts at a path that leads through members, and through all elements of lists. What does not name the last member is not parsed.
fn fields_in(object: &Object, path: &str) -> Vec<String> {
    let last = path.rsplit('.').next().unwrap_or(path).as_bytes();
    let Some(body) =
        object.body().windows(last.len()).any(|at| at.first() == last.first() && at == last).then(|| object.value().ok()).flatten()
    else {
        return Vec::new();
    };
    let step = |at: Vec<Value>, member: &str| {
        let one = |value: Value| if let Value::Array(elements) = value { elements } else { vec![value] };
        at.into_iter().flat_map(one).filter_map(|mut value| value.get_mut(member).map(Value::take)).collect()
    };
    path.split('.').fold(vec![body], step).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}
