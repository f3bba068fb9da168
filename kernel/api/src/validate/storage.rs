//! Rules about storage: volumes, claims, classes, drivers.

use serde_json::Value;

use super::{Failures, Object, amount, list};
use crate::path::Path;
use crate::status::FieldError;

/// A volume has a size, and nothing but a size.
pub(super) fn capacity(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(amounts) = spec.get("capacity").and_then(Value::as_object) else { return };
    let at = path.key("capacity");
    for (name, value) in amounts.iter().filter(|(_, value)| amount(value).is_some_and(|size| size.millis() <= 0)) {
        failures.push(FieldError::invalid(at.map_key(name), value.clone(), "must be greater than zero"));
    }
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        failures.push(FieldError::not_supported(at, Value::Object(amounts.clone()), &["storage"]));
    }
}

/// ReadWriteOncePod stands alone.
pub(super) fn alone(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let modes = list(spec, "accessModes");
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        failures.push(FieldError::forbidden(path.key("accessModes"), "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(super) fn parameters(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    if class.get("parameters").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        failures.push(FieldError::required(path.key("parameters"), "must contain at least one key/value pair"));
    }
}

pub(super) fn claim_request(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let asked = spec.get("resources").map_or(&Value::Null, |resources| &resources["requests"]["storage"]);
    let resources = path.key("resources");
    match amount(asked) {
        None => failures.push(FieldError::required(resources.map_key("storage"), "")),
        Some(size) if size.units() <= 0 => {
            failures.push(FieldError::invalid(resources.map_key("storage"), asked.clone(), "must be greater than zero"));
        }
        Some(_) => {}
    }
}

/// Without a group a claim is filled from a claim; the older field says what the newer one says.
pub(super) fn sources(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let [old, new] = ["dataSource", "dataSourceRef"].map(|key| spec.get(key));
    for (key, source) in [("dataSource", old), ("dataSourceRef", new)] {
        let Some(source) = source.filter(|source| source["apiGroup"].as_str().unwrap_or_default().is_empty()) else { continue };
        if source["kind"] != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            failures.push(FieldError::invalid(path.key(key), source["kind"].clone(), why));
        }
    }
    let (Some(old), Some(new)) = (old, new) else { return };
    if new["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty()) {
        failures.push(FieldError::invalid(path, "dataSource", "may not be specified when dataSourceRef.namespace is specified"));
    } else if ["apiGroup", "kind", "name"].iter().any(|key| old[*key] != new[*key]) {
        failures.push(FieldError::invalid(path, "dataSource", "must match dataSourceRef"));
    }
}
