//! What holds for every object: its name, labels, annotations, finalizers and owners.

use serde_json::{Map, Value};

use super::{Failures, names};
use crate::path::Path;
use crate::resource::Resource;
use crate::status::FieldError;

/// Bytes of all annotations of one object together.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// A cron job leaves room for the jobs that it names.
pub(crate) fn cron_job_name(text: &str) -> Option<String> {
    names::dns_subdomain(text).or_else(|| (text.len() > 52).then(|| "must be no more than 52 characters".to_owned()))
}

/// `signer:with:colons:name`, or a plain name.
pub(crate) fn trust_bundle_name(text: &str) -> Option<String> {
    text.split(':').find_map(names::dns_subdomain)
}

/// Checks the metadata of an object of `resource`.
pub(super) fn check(resource: &Resource, object: &Value, failures: &mut Failures) {
    let path = Path::Root.key("metadata");
    let empty = Map::new();
    let metadata = object["metadata"].as_object().unwrap_or(&empty);
    check_name(resource, metadata, &path, failures);
    check_labels(metadata.get("labels"), &path.key("labels"), failures);
    check_annotations(metadata.get("annotations"), &path.key("annotations"), failures);
    for (index, finalizer) in strings(metadata.get("finalizers")) {
        if let Some(why) = names::finalizer(finalizer) {
            failures.push(FieldError::invalid(path.key("finalizers").index(index), finalizer, why));
        }
    }
    check_owners(metadata.get("ownerReferences"), &path.key("ownerReferences"), failures);
}

/// Checks what an update does to metadata.
pub(super) fn check_update(new: &Value, old: &Value, failures: &mut Failures) {
    let path = Path::Root.key("metadata");
    let was: Vec<&str> = strings(old["metadata"].get("finalizers")).map(|(_, f)| f).collect();
    if !old["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let added: Vec<String> =
        strings(new["metadata"].get("finalizers")).map(|(_, f)| f).filter(|f| !was.contains(f)).map(|f| format!("{f:?}")).collect();
    if !added.is_empty() {
        let why =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", added.join(", "));
        failures.push(FieldError::forbidden(path.key("finalizers"), why));
    }
}

/// Checks a map of labels.
pub(super) fn check_labels(labels: Option<&Value>, path: &Path<'_>, failures: &mut Failures) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        for why in names::qualified_name(key) {
            failures.push(FieldError::invalid(path, key.as_str(), why));
        }
        if let Some(why) = value.as_str().and_then(names::label_value) {
            failures.push(FieldError::invalid(path, value.clone(), why));
        }
    }
}

fn check_name(resource: &Resource, metadata: &Map<String, Value>, path: &Path<'_>, failures: &mut Failures) {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let format = resource.facts().named;
    let (name, prefix) = (text("name"), text("generateName"));
    // A prefix may end in a dash, which the suffix then follows.
    if let Some(why) = Some(prefix.trim_end_matches('-')).filter(|prefix| !prefix.is_empty()).and_then(format) {
        failures.push(FieldError::invalid(path.key("generateName"), prefix, why));
    }
    if name.is_empty() {
        failures.push(FieldError::required(path.key("name"), "name or generateName is required"));
    } else if let Some(why) = format(name) {
        failures.push(FieldError::invalid(path.key("name"), name, why));
    }
    let namespace = text("namespace");
    if resource.namespaced() {
        if namespace.is_empty() {
            failures.push(FieldError::required(path.key("namespace"), ""));
        } else if let Some(why) = names::dns_label(namespace) {
            failures.push(FieldError::invalid(path.key("namespace"), namespace, why));
        }
    }
}

pub(super) fn check_annotations(annotations: Option<&Value>, path: &Path<'_>, failures: &mut Failures) {
    let mut bytes = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        // Upstream folds annotation keys to lower case before it looks at them.
        for why in names::qualified_name(&key.to_lowercase()) {
            failures.push(FieldError::invalid(path, key.as_str(), why));
        }
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        failures.push(FieldError::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

fn check_owners(owners: Option<&Value>, path: &Path<'_>, failures: &mut Failures) {
    let mut controllers = 0;
    for (index, owner) in owners.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let at = path.index(index);
        for (key, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                failures.push(FieldError::invalid(at.key(key), "", why));
            }
        }
        controllers += usize::from(owner["controller"] == Value::Bool(true));
    }
    if controllers > 1 {
        let shown = owners.cloned().unwrap_or(Value::Null);
        failures.push(FieldError::invalid(path, shown, "Only one reference can have Controller set to true"));
    }
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = (usize, &str)> {
    list.and_then(Value::as_array).into_iter().flatten().enumerate().filter_map(|(i, item)| Some((i, item.as_str()?)))
}
