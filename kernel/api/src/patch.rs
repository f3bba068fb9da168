//! The patch languages: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.
//!
//! A patch makes a new value out of the current one and says nothing about whether that value is an object: the caller
//! conforms, defaults and validates it like any other write. Server-side apply is in [`crate::apply`].

mod strategic;

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::status::{ApiError, Reason};
use crate::table::Schema;

/// Operations in one JSON patch.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Which language a patch is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// A list of operations.
    Json,
    /// A partial object; null removes.
    Merge,
    /// A partial object; lists merge by the schema table's keys.
    Strategic,
    /// The fields that a manager wants: carried out by [`crate::apply`].
    Apply,
}

impl PatchType {
    /// The media type of server-side apply.
    pub const APPLY: &'static str = "application/apply-patch+yaml";

    /// The languages as media types, in the order that messages list them.
    pub const MEDIA_TYPES: [&'static str; 4] =
        ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", PatchType::APPLY];

    /// The language of a `Content-Type`, parameters ignored.
    pub fn from_content_type(text: &str) -> Result<PatchType, ApiError> {
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchType::Json),
            "application/merge-patch+json" => Ok(PatchType::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
            PatchType::APPLY => Ok(PatchType::Apply),
            _ => Err(ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES)),
        }
    }
}

/// The value that `patch` makes of `current`, an object of `resource`.
pub fn apply(schema: &Schema, resource: &Resource, kind: PatchType, patch: &[u8], current: &Value) -> Result<Value, ApiError> {
    match kind {
        PatchType::Json => apply_json(patch, current),
        PatchType::Merge => {
            let patch = read_object(patch)?;
            let mut value = current.clone();
            merge(&mut value, Value::Object(patch));
            Ok(value)
        }
        PatchType::Strategic => {
            // Only types made at compile time carry merge keys; upstream refuses others the same way.
            let view = resource.type_id.filter(|id| id.is_builtin()).and_then(|id| schema.get(id));
            let view = view.ok_or_else(|| ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES[..2]))?;
            strategic::apply(view, read_object(patch)?, current)
        }
        PatchType::Apply => Err(ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES[..3])),
    }
}

/// RFC 7386: objects merge key by key, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, item) in patch {
        if item.is_null() {
            map.remove(&key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), item);
        }
    }
}

fn apply_json(patch: &[u8], current: &Value) -> Result<Value, ApiError> {
    let raw: Vec<Value> = serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if raw.len() > JSON_PATCH_OPERATIONS_MAX {
        let mut error = ApiError::too_large(JSON_PATCH_OPERATIONS_MAX);
        error.message = format!("The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}", raw.len());
        return Err(error);
    }
    let patch: json_patch::Patch =
        serde_json::from_value(Value::Array(raw)).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let mut value = current.clone();
    json_patch::patch(&mut value, &patch).map_err(|e| unprocessable(e.to_string()))?;
    Ok(value)
}

fn read_object(patch: &[u8]) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
}

fn unprocessable(why: String) -> ApiError {
    let mut error = ApiError::from_code(422, Reason::Invalid.as_str(), "the server rejected our request due to an error in our request");
    let cause = crate::status::Cause { message: why, ..Default::default() };
    error.details = Some(Box::new(crate::status::Details { causes: vec![cause], ..Default::default() }));
    error
}
