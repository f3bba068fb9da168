//! Discovery documents: which groups, versions and resources there are, as clients ask before anything else.
//!
//! Pure documents out of the schema; ETags, headers and negotiation are the server's.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use base64::Engine as _;

use crate::resource::{GROUP_ORDER, Resource, Scope, Verbs};
use crate::table::Schema;

/// Which root an aggregated document is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/api`: the core group.
    Core,
    /// `/apis`: every other group.
    Groups,
}

/// The groups with their versions, the preferred version of each first. The core group, "", comes first.
pub fn group_versions(schema: &Schema) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in schema.resources() {
        let (group, version) = (resource.group.as_ref(), resource.version.as_ref());
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    let place =
        |group: &str| if group.is_empty() { 0 } else { 1 + GROUP_ORDER.iter().position(|g| *g == group).unwrap_or(GROUP_ORDER.len()) };
    groups.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
    }
    groups
}

/// `GET /api` for clients that do not ask for the aggregated form. `address` is where the server is reached.
pub fn api_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `GET /apis`.
pub fn group_list(schema: &Schema) -> Value {
    let groups: Vec<Value> = group_versions(schema)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`; `None` where there is no such group.
pub fn group(schema: &Schema, name: &str) -> Option<Value> {
    let (_, versions) = group_versions(schema).into_iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut entry = group_entry(name, &versions);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`; `None` where there is no such group version.
pub fn resource_list(schema: &Schema, group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for resource in members(schema, group, version) {
        resources.push(resource_entry(resource));
        resources.extend(resource.subresources.iter().map(|sub| {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "", "namespaced": resource.namespaced(), "kind": sub.kind, "verbs": verbs(sub.verbs),
            });
            if (sub.group.as_ref(), sub.version.as_ref()) != (group, version) {
                set_text(&mut entry, "group", &sub.group);
                set_text(&mut entry, "version", &sub.version);
            }
            entry
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty())
        .then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

/// `GET /api` and `GET /apis` as APIGroupDiscoveryList of `apidiscovery.k8s.io/v2`: everything in one answer.
pub fn aggregated(schema: &Schema, root: Root) -> Value {
    let wanted = |group: &str| group.is_empty() == (root == Root::Core);
    let items: Vec<Value> = group_versions(schema)
        .iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = members(schema, group, version).map(discovery_entry).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata =
                if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The hash by which clients notice that a resource is stored under another version.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Every path below the roots that discovery knows, for `GET /`.
pub fn paths(schema: &Schema) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for (group, versions) in group_versions(schema) {
        if group.is_empty() {
            paths.extend(versions.iter().map(|version| format!("/api/{version}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    paths
}

/// The resources of one group version, in the order of their names.
pub(crate) fn members<'a>(schema: &'a Schema, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    schema.resources().filter(move |resource| resource.group == group && resource.version == version)
}

/// Stable before beta before alpha, newer before older: `v2`, `v1`, `v2beta1`, `v1alpha1`. Words that are no version come last.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, tail) = rest.split_at(end);
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    let minor = |word: &str| tail.strip_prefix(word).and_then(|n| n.parse().ok());
    match (tail, minor("beta"), minor("alpha")) {
        ("", _, _) => (3, major, 0),
        (_, Some(minor), _) => (2, major, minor),
        (_, _, Some(minor)) => (1, major, minor),
        _ => (0, 0, 0),
    }
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": versions.iter().map(entry).collect::<Vec<_>>(), "preferredVersion": versions.first().map(entry)})
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced(), "kind": resource.kind, "verbs": verbs(resource.verbs),
    });
    set_list(&mut entry, "shortNames", &resource.short_names);
    set_list(&mut entry, "categories", &resource.categories);
    if resource.verbs.contains(crate::resource::Verb::List) {
        entry["storageVersionHash"] = json!(storage_version_hash(&resource.storage_group, &resource.storage_version, &resource.kind));
    }
    entry
}

fn discovery_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource.verbs),
    });
    set_list(&mut entry, "shortNames", &resource.short_names);
    set_list(&mut entry, "categories", &resource.categories);
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            let kind = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
            json!({"subresource": sub.name, "responseKind": kind, "verbs": verbs(sub.verbs)})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}

fn verbs(verbs: Verbs) -> Vec<&'static str> {
    verbs.iter().map(crate::resource::Verb::as_str).collect()
}

fn set_list(entry: &mut Value, key: &str, list: &[std::borrow::Cow<'static, str>]) {
    if !list.is_empty() {
        entry[key] = json!(list);
    }
}

fn set_text(entry: &mut Value, key: &str, text: &str) {
    if let Some(map) = entry.as_object_mut().filter(|_| !text.is_empty()) {
        let map: &mut Map<String, Value> = map;
        map.insert(key.to_owned(), json!(text));
    }
}
