//! Rules about storage: volumes, claims, classes, drivers.

use serde_json::Value;

use super::{Failures, Object, list, text};
use crate::path::Path;
use crate::status::FieldError;

/// A volume has a size, and nothing but a size.
pub(super) fn capacity(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(amounts) = spec.get("capacity").and_then(Value::as_object) else { return };
    let at = path.key("capacity");
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

pub(super) fn lifecycle_modes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    const MODES: &[&str] = &["Ephemeral", "Persistent"];
    for mode in list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).filter(|mode| !MODES.contains(mode)) {
        failures.push(FieldError::not_supported(path.key("volumeLifecycleModes"), mode, MODES));
    }
    if text(spec, "fsGroupPolicy").is_empty() && spec.contains_key("fsGroupPolicy") {
        failures.push(FieldError::required(path.key("fsGroupPolicy"), ""));
    }
}
