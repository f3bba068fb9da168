//! Rules about what a pod mounts.

use super::{Failures, Object, amount};
use serde_json::Value;

use crate::path::Path;
use crate::status::FieldError;

pub(super) fn size_limit(dir: &Object, path: &Path<'_>, failures: &mut Failures) {
    if let Some(limit) = dir.get("sizeLimit").filter(|limit| amount(limit).is_some_and(crate::quantity::Quantity::is_negative)) {
        failures
            .push(FieldError::forbidden(path.key("sizeLimit"), format!("SizeLimit field must be a valid resource quantity, not {limit}")));
    }
}

/// How long a pod's certificate may be valid.
pub(super) fn lifetime(map: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(seconds) = map.get("maxExpirationSeconds").and_then(Value::as_i64) else { return };
    let bound = match seconds {
        ..3_600 => ">= 3600",
        7_862_401.. => "<= 7862400",
        _ => return,
    };
    let why = format!("if provided, maxExpirationSeconds must be {bound}");
    failures.push(FieldError::invalid(path.key("maxExpirationSeconds"), seconds, why));
}
