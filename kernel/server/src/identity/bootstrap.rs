//! The roles and bindings that every cluster has, put into the registry at first start through the ordinary write path. What is there already
//! stays as it is.

use futures::future::try_join_all;
use pintle_registry::{Body, Caller, Registry, ResourceKey, WriteOptions};
use serde_json::{Value, json};

use super::rbac;
use crate::error::{Error, Result};

/// How they are written is told in the file.
const ROWS: &str = include_str!("bootstrap.rows");

/// A role, and the groups that it is bound to.
struct Role {
    name: &'static str,
    rules: Vec<Value>,
    groups: Vec<&'static str>,
}

/// Create what is missing, all at once: the store commits them together.
pub(crate) async fn run(registry: &Registry) -> Result<()> {
    let mut objects = Vec::new();
    for Role { name, rules, groups } in roles() {
        let role =
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name), "rules": rules });
        objects.push(("clusterroles", name, role));
        if !groups.is_empty() {
            objects.push(("clusterrolebindings", name, binding(name, &groups)));
        }
    }
    try_join_all(objects.into_iter().map(|(resource, name, object)| ensure(registry, resource, name, object))).await?;
    Ok(())
}

async fn ensure(registry: &Registry, resource: &str, name: &str, object: Value) -> Result<()> {
    if registry.get_cached(&ResourceKey::new(rbac::GROUP, resource), "", name).is_some() {
        return Ok(());
    }
    let create = async {
        let target = registry.resolve(rbac::GROUP, "v1", resource, "", "", "")?;
        registry.create(&Caller::kernel(), &target, Body::Value(object), &WriteOptions::default()).await
    };
    match create.await {
        Ok(_) => Ok(()),
        Err(error) if error.code == 409 => Ok(()),
        Err(error) => Err(Error::Bootstrap { what: format!("{resource} {name}"), message: error.message }),
    }
}

fn roles() -> Vec<Role> {
    let words = |text: &'static str| -> Vec<&str> { text.split(',').map(|word| if word == "core" { "" } else { word }).collect() };
    let mut roles: Vec<Role> = Vec::new();
    for row in ROWS.lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&'static str> = row.split_whitespace().collect();
        match (&parts[..], roles.split_last_mut()) {
            (["role", name], _) => roles.push(Role { name, rules: Vec::new(), groups: Vec::new() }),
            (["with", other], Some((role, above))) => {
                role.rules.extend(above.iter().filter(|role| role.name == *other).flat_map(|role| role.rules.clone()));
            }
            (["for", groups @ ..], Some((role, _))) => role.groups.extend(groups),
            ([verbs, "paths", paths @ ..], Some((role, _))) => role.rules.push(json!({ "verbs": words(verbs), "nonResourceURLs": paths })),
            ([verbs, groups, resources @ ..], Some((role, _))) => {
                role.rules.push(json!({ "verbs": words(verbs), "apiGroups": words(groups), "resources": resources }));
            }
            _ => {}
        }
    }
    roles
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    })
}

fn binding(name: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups.iter().map(|group| json!({ "kind": "Group", "apiGroup": rbac::GROUP, "name": group })).collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": { "apiGroup": rbac::GROUP, "kind": "ClusterRole", "name": name }, "subjects": subjects,
    })
}
