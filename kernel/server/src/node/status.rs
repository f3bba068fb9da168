//! What machines say about nodes and pods, merged into stored objects.
//!
//! A machine owns what it reports, not the whole of a status: conditions of other types, extended resources, and fields that it never
//! names were put there by others and stay. Pure merges below; around them, read, merge, write, and again when somebody else wrote in between.

use pintle_api::ApiError;
use pintle_registry::{Body, Caller, Object, Patch, Registry, ResourceKey, Target, WriteOptions};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::server::Shared;

/// Tries of one merge before its conflict is given back.
const TRIES_MAX: usize = 8;

/// Create the Node, or bring its labels up to date, and its status.
pub(super) async fn register(shared: &Shared, caller: &Caller, name: &str, hello: &[u8]) -> Result<(), ApiError> {
    let hello: Value = serde_json::from_slice(hello).map_err(|error| ApiError::bad_request(format!("the Node to register: {error}")))?;
    let said = hello.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(name);
    if said != name {
        return Err(ApiError::bad_request(format!("the Node to register is {said:?}, the certificate is for {name:?}")));
    }
    let registry = &shared.registry;
    let target = registry.resolve("", "v1", "nodes", "", "", name)?;
    let labels = hello.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let node = registry.get_cached(&ResourceKey::new("", "nodes"), "", name);
    match node {
        None => {
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": name, "labels": labels, "annotations": hello.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})) },
                "spec": { "taints": hello.pointer("/spec/taints").cloned().unwrap_or(Value::Null), "providerID": hello.pointer("/spec/providerID").cloned().unwrap_or(Value::Null) },
            });
            let collection = registry.resolve("", "v1", "nodes", "", "", "")?;
            let created = registry.create(caller, &collection, Body::Value(without_nulls(node)), &WriteOptions::default()).await;
            created.map(drop).or_else(|error| if error.code == 409 { Ok(()) } else { Err(error) })?;
        }
        Some(node) if !has_labels(&node, &labels) => {
            let patch = json!({ "metadata": { "labels": labels } }).to_string();
            registry.patch(caller, &target, Patch::Merge(patch.into()), &WriteOptions::default()).await?;
        }
        Some(_) => {}
    }
    if let Some(status) = hello.get("status").filter(|status| status.is_object()) {
        update_node(registry, caller, name, status).await?;
    }
    Ok(())
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|_, value| !value.is_null());
    }
    value
}

fn has_labels(node: &Object, labels: &Value) -> bool {
    let mut labels = labels.as_object().into_iter().flatten();
    labels.all(|(key, value)| node.meta().label(key) == value.as_str())
}

/// Merge into the Node's status.
pub(super) async fn update_node(registry: &Registry, caller: &Caller, name: &str, status: &Value) -> Result<Arc<Object>, ApiError> {
    let target = registry.resolve("", "v1", "nodes", "status", "", name)?;
    merge(registry, caller, &target, "", |stored| merge_node_status(stored, status)).await
}

/// Merge into a pod's status; `uid` must be the pod's.
pub(super) async fn update_pod(
    registry: &Registry,
    caller: &Caller,
    namespace: &str,
    name: &str,
    uid: &str,
    status: &Value,
) -> Result<Arc<Object>, ApiError> {
    let target = registry.resolve("", "v1", "pods", "status", namespace, name)?;
    merge(registry, caller, &target, uid, |stored| merge_pod_status(stored, status)).await
}

/// Read, merge, write; again when the object was changed in between. Nothing is written when nothing changes.
async fn merge(
    registry: &Registry,
    caller: &Caller,
    target: &Target,
    uid: &str,
    apply: impl Fn(&mut Value),
) -> Result<Arc<Object>, ApiError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let stored = registry.get_cached(target.resource.key(), &target.namespace, &target.name);
        let stored = stored.filter(|object| uid.is_empty() || *object.meta().uid == *uid);
        let stored = stored.ok_or_else(|| super::session::not_found(&target.resource.plural, &target.name))?;
        let mut object = stored.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        let before = object["status"].clone();
        let mut status = before.clone();
        if !status.is_object() {
            status = json!({});
        }
        apply(&mut status);
        if status == before {
            return Ok(stored);
        }
        object["status"] = status;
        match registry.update(caller, target, Body::Value(object), &WriteOptions::default()).await {
            Ok(written) => return Ok(written.object),
            Err(error) if error.code == 409 && tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Fields replace fields; conditions merge by type; capacity and allocatable by resource.
fn merge_node_status(stored: &mut Value, said: &Value) {
    let Some(said) = said.as_object() else { return };
    for (key, value) in said {
        match key.as_str() {
            "conditions" => merge_conditions(&mut stored["conditions"], value),
            "capacity" | "allocatable" => {
                let mut merged = stored[key].as_object().cloned().unwrap_or_default();
                merged.extend(value.as_object().cloned().unwrap_or_default());
                stored[key] = Value::Object(merged);
            }
            _ => stored[key] = value.clone(),
        }
    }
}

/// What others write into a pod's status; kept when the machine does not name it.
const KEPT_OF_PODS: [&str; 4] = ["nominatedNodeName", "qosClass", "resourceClaimStatuses", "observedGeneration"];

fn merge_pod_status(stored: &mut Value, said: &Value) {
    let Some(said) = said.as_object() else { return };
    let before = stored.as_object().cloned().unwrap_or_default();
    let mut status: Map<String, Value> = said.clone();
    for key in KEPT_OF_PODS {
        if let (Some(value), false) = (before.get(key), status.contains_key(key)) {
            status.insert(key.to_owned(), value.clone());
        }
    }
    let mut conditions = before.get("conditions").cloned().unwrap_or(Value::Null);
    // A resize is the machine's alone to speak of: what it says no more is over.
    let resize = |c: &Value| matches!(c["type"].as_str(), Some("PodResizePending" | "PodResizeInProgress"));
    conditions.as_array_mut().into_iter().for_each(|list| list.retain(|c| !resize(c)));
    merge_conditions(&mut conditions, said.get("conditions").unwrap_or(&Value::Null));
    if !conditions.is_null() {
        status.insert("conditions".to_owned(), conditions);
    }
    *stored = Value::Object(status);
}

/// Those said replace those of the same type, in place; new ones follow.
fn merge_conditions(stored: &mut Value, said: &Value) {
    let Some(said) = said.as_array() else { return };
    let mut merged = stored.as_array().cloned().unwrap_or_default();
    for condition in said {
        match merged.iter_mut().find(|have| have["type"] == condition["type"]) {
            Some(have) => *have = condition.clone(),
            None => merged.push(condition.clone()),
        }
    }
    *stored = Value::Array(merged);
}

#[cfg(test)]
mod tests;
