//! What the server does to an object between decoding and validation: which parts of a write count.
//!
//! A write to the object keeps the stored status, a write to a subresource keeps everything else; fields that belong to
//! the server are the server's; the generation grows when the wanted state changed. No kind has code here: what differs is
//! a row of a table.

use serde_json::{Map, Value, json};

use crate::resource::{Is, Resource};
use crate::status::ApiError;

/// What the server gives to a new object. Passed in, because nothing here has a clock or a die.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// A fresh UUID.
    pub uid: &'a str,
    /// Now, RFC 3339 with seconds.
    pub now: &'a str,
    /// Random lower-case letters and digits; five are used after `generateName`.
    pub suffix: &'a str,
}

/// The longest prefix of `generateName` that leaves room for the suffix.
const GENERATE_NAME_MAX: usize = 58;

/// Makes a decoded object new: name, uid, time, generation 1, first status. `namespace` is the request's, "" for none.
pub fn prepare_create(resource: &Resource, object: &mut Value, namespace: &str, stamp: Stamp<'_>) -> Result<(), ApiError> {
    let metadata = metadata(object)?;
    if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty() && v != "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    settle_namespace(resource, metadata, namespace)?;
    for key in ["resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(key);
    }
    let unnamed = text(metadata, "name").is_empty();
    let prefix = text(metadata, "generateName").to_owned();
    if unnamed && !prefix.is_empty() {
        let prefix: String = prefix.chars().take(GENERATE_NAME_MAX).collect();
        let suffix: String = stamp.suffix.chars().take(5).collect();
        metadata.insert("name".into(), json!(format!("{prefix}{suffix}")));
    }
    metadata.insert("uid".into(), json!(stamp.uid));
    metadata.insert("creationTimestamp".into(), json!(stamp.now));
    if tracks_generation(resource) {
        metadata.insert("generation".into(), json!(1));
    }
    first_status(resource, object);
    if resource.plural == "jobs" && resource.group == "batch" {
        select_own_pods(object, stamp.uid);
    }
    Ok(())
}

/// A job that does not choose its selector selects the pods that carry its uid.
fn select_own_pods(job: &mut Value, uid: &str) {
    let name = job["metadata"]["name"].clone();
    let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("manualSelector") == Some(&json!(true)) {
        return;
    }
    spec.insert("selector".into(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let Some(template) = spec.entry("template").or_insert_with(|| json!({})).as_object_mut() else { return };
    let Some(metadata) = template.entry("metadata").or_insert_with(|| json!({})).as_object_mut() else { return };
    let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut() else { return };
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.insert(format!("{prefix}controller-uid"), json!(uid));
        labels.insert(format!("{prefix}job-name"), name.clone());
    }
}

/// Makes a decoded object the successor of `old`, as a write to `subresource` (or to the object itself) may change it.
pub fn prepare_update(resource: &Resource, subresource: Option<&str>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    check_identity(resource, new, old, name)?;
    match subresource {
        None => keep_from_old(resource, new, old),
        Some(part) => *new = with_fields(resource, part, new, old)?,
    }
    let metadata = metadata(new)?;
    let stored = &old["metadata"];
    metadata.remove("selfLink");
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match stored.get(key) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.remove(key),
        };
    }
    if tracks_generation(resource) && subresource != Some("status") && wanted_state_changed(resource, new, old) {
        let generation = stored["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = json!(generation);
    }
    Ok(())
}

/// Whether a write would change nothing but the revision: then the stored object is the answer, and nobody is told.
pub fn is_noop(new: &Value, old: &Value) -> bool {
    let differs = |key: &str| key != "resourceVersion" && key != "managedFields" && new["metadata"].get(key) != old["metadata"].get(key);
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let top = keys(new).into_iter().chain(keys(old)).filter(|key| key != "metadata");
    let meta = keys(&new["metadata"]).into_iter().chain(keys(&old["metadata"]));
    top.into_iter().all(|key| new.get(&key) == old.get(&key)) && !meta.into_iter().any(|key| differs(&key))
}

/// Whether objects of the resource count changes of their wanted state in `metadata.generation`.
pub fn tracks_generation(resource: &Resource) -> bool {
    !resource.facts().is(Is::NoGeneration)
}

/// Whether an update of an object that is not there creates it.
pub fn created_by_update(resource: &Resource) -> bool {
    resource.facts().is(Is::CreatedByUpdate)
}

/// Whether an update must name the resourceVersion that it replaces.
pub fn needs_version(resource: &Resource) -> bool {
    let custom = resource.type_id.is_none_or(|id| !id.is_builtin());
    custom || resource.facts().is(Is::NeedsVersion)
}

fn settle_namespace(resource: &Resource, metadata: &mut Map<String, Value>, namespace: &str) -> Result<(), ApiError> {
    let found = text(metadata, "namespace");
    if resource.namespaced() && (found.is_empty() || found == namespace) {
        metadata.insert("namespace".into(), json!(namespace));
        return Ok(());
    }
    if !resource.namespaced() && found.is_empty() {
        metadata.remove("namespace");
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn first_status(resource: &Resource, object: &mut Value) {
    let (facts, Some(map)) = (resource.facts(), object.as_object_mut()) else { return };
    if !resource.has_status() || facts.is(Is::StatusOnCreate) {
        return;
    }
    map.remove("status");
    if let Ok(status) = serde_json::from_str::<Value>(facts.status) {
        map.insert("status".into(), status);
    }
    if resource.group.is_empty() && resource.plural == "pods" {
        let class = crate::pod::qos_class(&object["spec"]);
        object["status"]["qosClass"] = json!(class);
    }
}

/// Refuses an object of another name than `name`, which the request names.
pub fn check_name(object: &Value, name: &str) -> Result<(), ApiError> {
    let asked = object["metadata"]["name"].as_str().unwrap_or_default();
    if asked == name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("the name of the object ({asked}) does not match the name on the URL ({name})")))
}

fn check_identity(resource: &Resource, new: &Value, old: &Value, name: &str) -> Result<(), ApiError> {
    if !new["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        check_name(new, name)?;
    }
    let namespace = |object: &Value| object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if !namespace(new).is_empty() && namespace(new) != namespace(old) {
        return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    let (asked, stored) = (new["metadata"]["uid"].as_str().unwrap_or_default(), old["metadata"]["uid"].as_str().unwrap_or_default());
    if !asked.is_empty() && asked != stored {
        return Err(ApiError::conflict(
            resource,
            name,
            &format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {stored}"),
        ));
    }
    Ok(())
}

fn keep_from_old(resource: &Resource, new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    if resource.has_status() {
        match old.get("status") {
            Some(status) => map.insert("status".into(), status.clone()),
            None => map.remove("status"),
        };
    }
}

/// The fields that a write to a subresource may change, as JSON pointers one or two members deep; `None`: it is not known, or it is
/// a write to the object itself.
pub(crate) fn writable(resource: &Resource, subresource: &str) -> Option<Vec<&'static str>> {
    if subresource == "status" {
        let mut fields = vec!["/status"];
        fields.extend(Some("/metadata/annotations").filter(|_| resource.custom.is_none()));
        fields.extend(Some("/metadata/labels").filter(|_| resource.group.is_empty()));
        return Some(fields);
    }
    resource.facts().part(subresource).map(|part| part.writes.to_vec()).filter(|writes| !writes.is_empty())
}

fn with_fields(resource: &Resource, subresource: &str, new: &Value, old: &Value) -> Result<Value, ApiError> {
    let fields = writable(resource, subresource).ok_or_else(|| ApiError::method_not_allowed(resource, subresource))?;
    let mut result = old.clone();
    fields.into_iter().chain(["/metadata/resourceVersion"]).for_each(|field| copy(new, &mut result, field));
    Ok(result)
}

/// Copies what is at `pointer` (one or two keys deep), or its absence.
fn copy(from: &Value, to: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    let found = from.pointer(pointer).cloned();
    if to.pointer(parent).is_none() {
        if found.is_none() {
            return;
        }
        to[parent.trim_start_matches('/')] = json!({});
    }
    let Some(map) = to.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
    match found {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}

/// Whether anything but metadata and status differs. A pod's deletion or a job's suspension shows in its own fields.
fn wanted_state_changed(resource: &Resource, new: &Value, old: &Value) -> bool {
    let ignored = |key: &str| key == "metadata" || key == "apiVersion" || key == "kind" || (key == "status" && resource.has_status());
    let keys =
        |value: &Value| value.as_object().map(|map| map.keys().filter(|k| !ignored(k)).cloned().collect::<Vec<_>>()).unwrap_or_default();
    keys(new).into_iter().chain(keys(old)).any(|key| new.get(&key) != old.get(&key))
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let map = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the body is not an object"))?;
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    metadata.as_object_mut().ok_or_else(|| ApiError::bad_request("metadata is not an object"))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}
