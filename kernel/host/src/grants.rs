//! What a module was granted, in RBAC's words, and the question whether one use of it is inside.
//!
//! Grants are one shared value a module: every capability, queue and judge of it asks the same one at each use, so what is taken away is gone
//! at once, without a restart.

use parking_lot::RwLock;
use pintle_registry::ResourceKey;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// One entry of `spec.permissions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Permission {
    /// `""` is the core group, `*` all.
    pub api_groups: Vec<String>,
    /// Plurals, `pods/status` for a subresource, `*` for all.
    pub resources: Vec<String>,
    /// get, list, watch, create, update, patch, delete, deletecollection or `*`.
    pub verbs: Vec<String>,
    /// Empty: all.
    pub namespaces: Vec<String>,
    /// Empty: all.
    pub resource_names: Vec<String>,
}

/// One use of an object.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty: cluster-scoped, or all namespaces.
    pub namespace: &'a str,
    /// Empty: unknown, or all.
    pub name: &'a str,
}

const READ_VERBS: [&str; 3] = ["get", "list", "watch"];

impl Permission {
    fn reads(&self) -> bool {
        self.verbs.iter().any(|v| v == "*" || READ_VERBS.contains(&v.as_str()))
    }

    fn allows(&self, asked: &Use<'_>) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|entry| entry == "*" || entry == word);
        let resource = self.resources.iter().any(|entry| match entry.split_once('/') {
            _ if entry == "*" => true,
            Some((resource, subresource)) => {
                (resource == "*" || resource == asked.resource)
                    && (subresource == "*" || subresource == asked.subresource)
                    && !asked.subresource.is_empty()
            }
            None => asked.subresource.is_empty() && entry == asked.resource,
        });
        let groups_match = if self.api_groups.is_empty() { asked.group.is_empty() } else { has(&self.api_groups, asked.group) };
        resource
            && groups_match
            && has(&self.verbs, asked.verb)
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == asked.namespace))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == asked.name))
    }
}

/// All grants of one module: what its manifest asks for, within what policies allow. Clones share.
#[derive(Clone, Debug, Default)]
pub struct Grants(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    now: RwLock<Granted>,
    version: AtomicU64,
}

#[derive(Debug, Default, PartialEq)]
struct Granted {
    asked: Vec<Permission>,
    /// Each must cover a use as well.
    bounds: Vec<Vec<Permission>>,
}

impl Grants {
    /// The grants that a manifest asks for, bounded by nothing.
    #[cfg(test)]
    pub fn new(permissions: Vec<Permission>) -> Self {
        let grants = Self::default();
        grants.set(permissions, Vec::new());
        grants
    }

    /// What is granted from now on: what is asked for, as far as every bound covers it.
    pub fn set(&self, asked: Vec<Permission>, bounds: Vec<Vec<Permission>>) {
        let (mut now, next) = (self.0.now.write(), Granted { asked, bounds });
        if *now != next {
            *now = next;
            self.0.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// Whether this use is covered.
    pub fn allow(&self, asked: &Use<'_>) -> bool {
        let now = self.0.now.read();
        let covered = |list: &Vec<Permission>| list.iter().any(|permission| permission.allows(asked));
        covered(&now.asked) && now.bounds.iter().all(|bound| covered(bound))
    }

    /// Whether an object may be seen at all: by get, list or watch.
    pub fn show(&self, resource: &ResourceKey, namespace: &str, name: &str) -> bool {
        let asked = |verb| Use { verb, group: &resource.group, resource: &resource.resource, subresource: "", namespace, name };
        READ_VERBS.iter().any(|verb| self.allow(&asked(verb)))
    }

    /// The resources that capabilities are made for: (reader, writer) of each `group/plural`, `*/*` for wildcards.
    pub fn exports(&self) -> Vec<GrantedResource> {
        exports(&self.0.now.read().asked)
    }
}

/// Whether some object of `resource` could be seen with these permissions; `None` stands for every resource.
pub fn could_show(permissions: &[Permission], resource: Option<&ResourceKey>) -> bool {
    permissions.iter().filter(|p| p.reads()).any(|p| match resource {
        None => p.api_groups.iter().any(|g| g == "*") && p.resources.iter().any(|r| r == "*"),
        Some(key) => {
            let group =
                if p.api_groups.is_empty() { key.group.is_empty() } else { p.api_groups.iter().any(|g| g == "*" || *g == key.group) };
            group && p.resources.iter().any(|r| r == "*" || *r == key.resource)
        }
    })
}

/// The resources that capabilities are made for with these permissions.
pub fn exports(permissions: &[Permission]) -> Vec<GrantedResource> {
    let (mut readers, mut writers) = (BTreeSet::new(), BTreeSet::new());
    for permission in permissions {
        let reads = permission.reads();
        let writes = permission.verbs.iter().any(|v| v == "*" || !READ_VERBS.contains(&v.as_str()));
        let core = [String::new()];
        let groups: &[String] = if permission.api_groups.is_empty() { &core } else { &permission.api_groups };
        for group in groups {
            for resource in &permission.resources {
                let plural = resource.split('/').next().unwrap_or(resource);
                let key = if group == "*" || plural == "*" { ResourceKey::new("*", "*") } else { ResourceKey::new(group.as_str(), plural) };
                if reads {
                    readers.insert(key.clone());
                }
                if writes {
                    writers.insert(key);
                }
            }
        }
    }
    let reader = |resource| GrantedResource { resource, access: Access::Read };
    let writer = |resource| GrantedResource { resource, access: Access::Write };
    readers.into_iter().map(reader).chain(writers.into_iter().map(writer)).collect()
}

/// A capability that a module gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedResource {
    pub resource: ResourceKey,
    pub access: Access,
}

/// Which of the two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

#[cfg(test)]
mod tests;
