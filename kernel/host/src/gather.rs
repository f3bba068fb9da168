//! What travels with a request: the related objects that a manifest names, looked up in the cache's indexes. Never waits, never asks the
//! store, never shows what the grants do not cover.

use crate::{
    grants::{Grants, Use},
    project::Projection,
    spec::{RelatedSpec, Relation, ResourcePattern, When},
};
use bytes::Bytes;
use pintle_api::selector::LabelSelector;
use pintle_registry::{Index, Object, Registry, ResourceInfo, ResourceKey};
use pintle_wit::controller_capnp::related;
use serde_json::Value;
use std::sync::Arc;

/// Outdated objects that travel at once: there will be fewer the next time.
const OUTDATED_MAX: usize = 500;
/// More siblings than this do not travel: the entry is left out.
const SIBLINGS_MAX: usize = 1_000;

/// One `related` entry, ready for use.
pub struct Gatherer {
    spec: RelatedSpec,
    projection: Projection,
}

/// Rows of one entry.
pub struct Gathered<'a> {
    /// As the manifest calls them.
    pub name: &'a str,
    /// What there is.
    pub rows: Vec<Row>,
}

/// One related object.
pub struct Row {
    /// JSON, whole or projected.
    pub json: Bytes,
    /// What it belongs to: custom kinds are not named by a rule.
    resource: Arc<ResourceInfo>,
}

/// Writes rows into their place.
pub fn fill_rows(rows: &[Row], mut entry: related::Builder<'_>) {
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let mut objects = entry.reborrow().init_objects(count);
    for (i, row) in (0..).zip(rows) {
        objects.set(i, &row.json);
    }
    let mut resources = entry.init_resources(count);
    for (i, row) in (0..).zip(rows) {
        resources.set(i, &*row.resource.plural);
    }
}

/// The object that related ones are looked up for.
#[derive(Clone, Copy)]
pub struct Centre<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    /// `None` when it is gone.
    pub object: Option<&'a Arc<Object>>,
    /// Its JSON when it is not (yet) an object of the cache.
    pub body: &'a [u8],
    /// How a `field:` relation is meant.
    pub field_names: FieldNames,
    /// What it is, where siblings may be asked for.
    pub resource: Option<&'a ResourceKey>,
}

/// The two readings of `field:PATH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldNames {
    /// The related objects' field holds the centre's name (a node and its pods): controllers.
    TheCentre,
    /// The centre's field holds the related object's name (a pod and its service account): admission.
    TheRelated,
}

impl Gatherer {
    /// From the manifest.
    pub fn new(spec: &RelatedSpec) -> Self {
        let everything = spec.resource == ResourcePattern::Everything && !matches!(spec.by, Relation::NamespaceObject | Relation::Siblings);
        let projection = if everything && spec.fields.is_empty() { Projection::Metadata } else { Projection::new(&spec.fields) };
        Self { spec: spec.clone(), projection }
    }

    /// The rows of all entries for one object.
    pub fn gather_all<'a>(gatherers: &'a [Gatherer], registry: &Registry, grants: &Grants, centre: Centre<'_>) -> Vec<Gathered<'a>> {
        let mut found: Vec<Gathered<'a>> = Vec::with_capacity(gatherers.len());
        for gatherer in gatherers {
            found.extend(gatherer.gather(registry, grants, centre, &found));
        }
        found
    }

    /// The rows for one object; `before` are those of the entries above.
    pub fn gather(&self, registry: &Registry, grants: &Grants, centre: Centre<'_>, before: &[Gathered<'_>]) -> Option<Gathered<'_>> {
        if self.spec.by == Relation::Outdated {
            resource_named(registry, centre)?;
        }
        let due = match &self.spec.when {
            When::Always => true,
            When::Present => centre.object.is_some(),
            When::Deleting => centre.object.is_some_and(|o| o.meta().deletion_timestamp.is_some()),
            When::Found(name) => before.iter().any(|entry| entry.name == name && !entry.rows.is_empty()),
        };
        let objects = if due { self.find(registry, centre) } else { Vec::new() };
        if self.spec.by == Relation::Siblings && objects.len() > SIBLINGS_MAX {
            return None;
        }
        let row = |o: &Arc<Object>| Row { json: self.projection.row(o), resource: Arc::clone(o.resource()) };
        let rows = objects.iter().filter(|o| self.wanted(grants, o)).map(row).collect();
        Some(Gathered { name: &self.spec.name, rows })
    }

    fn wanted(&self, grants: &Grants, object: &Object) -> bool {
        let (key, meta) = (object.resource().key(), object.meta());
        let seen = |verb| {
            grants.allow(&Use {
                verb,
                group: &key.group,
                resource: &key.resource,
                subresource: "",
                namespace: &meta.namespace,
                name: &meta.name,
            })
        };
        (self.spec.namespace.is_empty() || *self.spec.namespace == *meta.namespace) && (seen("list") || seen("get"))
    }

    fn find(&self, registry: &Registry, centre: Centre<'_>) -> Vec<Arc<Object>> {
        let namespace = if centre.namespace.is_empty() { centre.name } else { centre.namespace };
        let of = |index: Index, value: &str| self.indexed(registry, &index, value);
        match &self.spec.by {
            Relation::Dependents => self.matching(registry.dependents(centre.uid)),
            Relation::Owner if self.spec.resource == ResourcePattern::Everything => registry.dependents(centre.uid),
            Relation::Owner => of(Index::Owner, centre.uid),
            Relation::OwnerOrSelector => self.owned_or_selected(registry, centre),
            Relation::Selector => self.selected(registry, centre),
            Relation::Owners => self.matching(owners(registry, centre)),
            Relation::Namespace => of(Index::Namespace, namespace),
            Relation::Siblings => {
                centre.resource.map(|key| registry.list_index(key, &Index::Namespace, centre.namespace).0).unwrap_or_default()
            }
            Relation::NamespaceObject => registry.get_cached(&ResourceKey::new("", "namespaces"), "", namespace).into_iter().collect(),
            Relation::Name if !self.spec.namespace.is_empty() => self.named(registry, &self.spec.namespace, centre.name),
            Relation::Name => self.named(registry, centre.namespace, centre.name),
            Relation::All => self.all(registry),
            Relation::Reference(path) => match centre.object.and_then(|o| reference_in(&o.value().ok()?, path, centre.namespace)) {
                Some((namespace, name)) => self.named(registry, &namespace, &name),
                None => Vec::new(),
            },
            Relation::Outdated => resource_named(registry, centre).map_or(Vec::new(), |key| outdated(registry, &key)),
            Relation::Field(path) => match centre.field_names {
                FieldNames::TheCentre => of(Index::Field(path.clone()), centre.name),
                FieldNames::TheRelated => match field_of(centre, path) {
                    Some(name) => self.named(registry, centre.namespace, &name),
                    None => Vec::new(),
                },
            },
        }
    }

    /// Objects of the wanted resource, or of every resource, under one value of an index.
    fn indexed(&self, registry: &Registry, index: &Index, value: &str) -> Vec<Arc<Object>> {
        match &self.spec.resource {
            ResourcePattern::One(key) => registry.list_index(key, index, value).0,
            ResourcePattern::Everything => stored(registry).flat_map(|key| registry.list_index(&key, index, value).0).collect(),
        }
    }

    fn named(&self, registry: &Registry, namespace: &str, name: &str) -> Vec<Arc<Object>> {
        let ResourcePattern::One(key) = &self.spec.resource else { return Vec::new() };
        registry.get_cached(key, namespace, name).or_else(|| registry.get_cached(key, "", name)).into_iter().collect()
    }

    fn all(&self, registry: &Registry) -> Vec<Arc<Object>> {
        self.indexed(registry, &Index::Namespace, &self.spec.namespace)
    }

    fn matching(&self, mut objects: Vec<Arc<Object>>) -> Vec<Arc<Object>> {
        objects.retain(|o| self.spec.resource.matches(o.resource().key()));
        objects
    }

    /// What the centre owns, and what its `spec.selector` matches and nobody controls.
    fn owned_or_selected(&self, registry: &Registry, centre: Centre<'_>) -> Vec<Arc<Object>> {
        let mut found = self.indexed(registry, &Index::Owner, centre.uid);
        let already = |o: &Object| o.meta().owners.iter().any(|owner| *owner.uid == *centre.uid);
        let selected = self.selected(registry, centre).into_iter();
        found.extend(selected.filter(|o| o.meta().controller().is_none() && !already(o)));
        found
    }

    /// What its `spec.selector` matches in its namespace, whoever owns it.
    fn selected(&self, registry: &Registry, centre: Centre<'_>) -> Vec<Arc<Object>> {
        let Some(selector) = centre.object.and_then(|o| selector_of(o)) else { return Vec::new() };
        let mut around = self.indexed(registry, &Index::Namespace, centre.namespace);
        around.retain(|o| selector.matches_with(|l| o.meta().label(l)));
        around
    }
}

/// An object's `spec.selector`: a LabelSelector, or a plain map as ReplicationControllers and Services have. `None`: it selects nothing.
pub fn selector_of(object: &Object) -> Option<LabelSelector> {
    selector_in(object.value().ok()?.pointer("/spec/selector")?)
}

fn selector_in(selector: &Value) -> Option<LabelSelector> {
    let map = selector.as_object().filter(|s| !s.is_empty())?;
    let plain = !map.contains_key("matchLabels") && !map.contains_key("matchExpressions");
    if plain { Some(LabelSelector::from_map(selector)) } else { LabelSelector::from_object(selector).ok() }
}

/// Every resource that is stored under its own name.
pub fn stored(registry: &Registry) -> impl Iterator<Item = ResourceKey> {
    let mut keys: Vec<ResourceKey> = registry.resources().iter().map(|info| info.key().clone()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
}

/// Every cached object of a resource.
pub fn all_of(registry: &Registry, key: &ResourceKey) -> Vec<Arc<Object>> {
    registry.list_index(key, &Index::Namespace, "").0
}

/// The resource that a centre's `spec.resource` names, if it is served.
fn resource_named(registry: &Registry, centre: Centre<'_>) -> Option<ResourceKey> {
    let [group, resource] = ["spec.resource.group", "spec.resource.resource"].map(|path| field_of(centre, path).unwrap_or_default());
    registry.resource(&group, "", &resource).map(|info| info.key().clone())
}

fn outdated(registry: &Registry, key: &ResourceKey) -> Vec<Arc<Object>> {
    all_of(registry, key).into_iter().filter(|object| object.is_outdated()).take(OUTDATED_MAX).collect()
}

fn owners(registry: &Registry, centre: Centre<'_>) -> Vec<Arc<Object>> {
    let Some(object) = centre.object else { return Vec::new() };
    let find = |owner: &pintle_registry::Owner| {
        let info = registry.resource_for_kind(&owner.api_version, &owner.kind)?;
        let namespaced = info.scope == pintle_api::Scope::Namespaced;
        registry.get_cached(info.key(), if namespaced { centre.namespace } else { "" }, &owner.name)
    };
    object.meta().owners.iter().filter_map(find).collect()
}

/// Namespace and name of what the object reference at `path` names, or a bare name in `beside`.
pub fn reference_in(object: &Value, path: &str, beside: &str) -> Option<(String, String)> {
    let at = path.split('.').try_fold(object, |at, member| at.get(member))?;
    let name = at.as_str().or_else(|| at["name"].as_str()).filter(|name| !name.is_empty())?;
    Some((at["namespace"].as_str().unwrap_or(beside).to_owned(), name.to_owned()))
}

fn field_of(centre: Centre<'_>, path: &str) -> Option<String> {
    if let Some(value) = centre.object.and_then(|o| o.field(path)) {
        return Some(value.to_owned()).filter(|v| !v.is_empty());
    }
    let body: Value = serde_json::from_slice(centre.object.map_or(centre.body, |o| o.body())).ok()?;
    let value = path.split('.').try_fold(&body, |at, member| at.get(member))?;
    value.as_str().filter(|v| !v.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
