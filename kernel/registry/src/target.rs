//! What a request is about: a served resource, and where in it.
//!
//! Invariant: a [`Target`] exists only for a resource that is served, with a namespace exactly when the resource has
//! one (or when all namespaces are meant), and with names that can stand in a storage key.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use pintle_api::Resource;

use crate::selectable;

/// One resource that is served: the API's row (through `Deref`: `group`, `version`, `plural`, `kind`, ...), and what the
/// registry adds to it.
#[derive(Debug)]
pub struct ResourceInfo {
    row: Resource,
    pub(crate) key: ResourceKey,
    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: Vec<SelectableField>,
    /// `{"kind":K,"apiVersion":V,`: how every stored object begins.
    pub(crate) type_prefix: String,
    /// Of the face in which a custom resource is stored, while a webhook converts it: its other versions, in which objects may
    /// have been stored.
    others: Vec<Arc<ResourceInfo>>,
}

/// A field that field selectors, and the cache's indexes, know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableField {
    /// As clients write it: `spec.nodeName`.
    pub label: String,
    /// Path of member names in the object.
    pub path: Vec<String>,
    /// Value of an object that does not have it; `@LABEL`: the value of that field.
    pub absent: Box<str>,
}

impl ResourceInfo {
    pub(crate) fn new(row: Resource) -> Self {
        let selectable = selectable::of(&row);
        let key = ResourceKey::new(row.storage_group.as_ref(), row.plural.as_ref());
        let type_prefix = format!(r#"{{"kind":"{}","apiVersion":"{}","#, row.kind, row.api_version());
        Self { row, key, selectable, type_prefix, others: Vec::new() }
    }

    /// The same, with its other versions.
    pub(crate) fn beside(self, others: Vec<Arc<ResourceInfo>>) -> Self {
        Self { others, ..self }
    }

    /// The version that a stored text is written in.
    pub(crate) fn written_as<'a>(self: &'a Arc<Self>, stored: &[u8]) -> &'a Arc<Self> {
        self.others.iter().find(|other| stored.starts_with(other.type_prefix.as_bytes())).unwrap_or(self)
    }

    /// Whether objects may be kept in other words than those of this version.
    pub(crate) fn is_converted(&self) -> bool {
        self.custom.as_ref().is_some_and(|version| !self.is_stored_face() || !version.converts_by_name())
    }

    /// Under what its objects are stored and cached: the same for every version and face of them.
    #[must_use]
    pub fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// Whether its objects are stored as this group and version say them.
    #[must_use]
    pub fn is_stored_face(&self) -> bool {
        self.row.group == self.row.storage_group && self.row.version == self.row.storage_version
    }

    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`.
    #[must_use]
    pub fn selectable(&self) -> &[SelectableField] {
        &self.selectable
    }
}

impl Deref for ResourceInfo {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        &self.row
    }
}

/// Identifies a resource without its version: what is stored and cached is the same for all versions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// API group; the core group is "".
    pub group: String,
    /// Lower-case plural.
    pub resource: String,
}

impl ResourceKey {
    /// Of a group and a plural.
    #[must_use]
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// A resource, and what in it: made by `Registry::resolve`.
#[derive(Debug, Clone)]
pub struct Target {
    /// The resource.
    pub resource: Arc<ResourceInfo>,
    /// Subresource; empty for the object itself.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped resources and for reads across all namespaces.
    pub namespace: String,
    /// Name; empty for collections and for creates.
    pub name: String,
}

impl Target {
    /// The same resource, another object.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> Self {
        Self {
            resource: Arc::clone(&self.resource),
            subresource: self.subresource.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The same object, another subresource.
    #[must_use]
    pub fn subresource(&self, subresource: &str) -> Self {
        Self { subresource: subresource.to_owned(), ..self.clone() }
    }
}
