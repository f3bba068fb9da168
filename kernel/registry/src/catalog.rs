//! What is served: the schema's resource rows, looked up by path and by kind.

use std::collections::HashMap;
use std::sync::Arc;

use pintle_api::{Resource, Schema, Verb};

use crate::target::{ResourceInfo, ResourceKey};

/// Every resource that is served at one moment.
pub(crate) struct Catalog {
    pub(crate) schema: Arc<Schema>,
    all: Vec<Arc<ResourceInfo>>,
    by_path: HashMap<(String, String, String), Arc<ResourceInfo>>,
    /// The face of each set of objects in which it is stored.
    stored: HashMap<ResourceKey, Arc<ResourceInfo>>,
}

impl Catalog {
    /// `custom` are the rows of all versions of custom resources, served or not.
    pub(crate) fn new(schema: Arc<Schema>, custom: Vec<Resource>) -> Self {
        let all: Vec<Arc<ResourceInfo>> = schema.resources().map(|row| Arc::new(ResourceInfo::new(row.clone()))).collect();
        let path = |info: &ResourceInfo| (info.group.to_string(), info.version.to_string(), info.plural.to_string());
        let by_path = all.iter().map(|info| (path(info), Arc::clone(info))).collect();
        let faces = all.iter().filter(|info| info.is_stored_face() && is_stored(info));
        let mut stored: HashMap<ResourceKey, Arc<ResourceInfo>> = faces.map(|info| (info.key.clone(), Arc::clone(info))).collect();
        let custom: Vec<Arc<ResourceInfo>> = custom.into_iter().map(|row| Arc::new(ResourceInfo::new(row))).collect();
        for info in custom.iter().filter(|info| info.is_stored_face()) {
            let others = custom.iter().filter(|other| info.is_converted() && other.key == info.key && other.version != info.version);
            let info = ResourceInfo::new((***info).clone()).beside(others.cloned().collect());
            stored.insert(info.key.clone(), Arc::new(info));
        }
        Self { schema, all, by_path, stored }
    }

    pub(crate) fn all(&self) -> &[Arc<ResourceInfo>] {
        &self.all
    }

    /// An empty version means the one that is stored.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<ResourceInfo>> {
        if version.is_empty() {
            return self.all.iter().find(|info| info.plural == plural && info.group == group && info.is_stored_face()).cloned();
        }
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceInfo>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.all.iter().find(|info| info.kind == kind && info.group == group && info.version == version).cloned()
    }

    /// The face in which a resource's objects are stored.
    pub(crate) fn stored_face(&self, key: &ResourceKey) -> Option<Arc<ResourceInfo>> {
        self.stored.get(key).cloned()
    }

    pub(crate) fn stored(&self) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        self.stored.values()
    }
}

/// Reviews and the like are answered, not stored.
fn is_stored(info: &ResourceInfo) -> bool {
    info.custom.is_some() || (info.verbs.contains(Verb::Create) && info.verbs.contains(Verb::List))
}
