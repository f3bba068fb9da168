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

/// Bytes of JSON that one JSON patch may copy or move in all: the limit of a request's body, as upstream. Sixty copies of a list into
/// itself would fill any memory.
pub const JSON_PATCH_COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Levels of nesting that a JSON patch may build: what a body may have. A value that is copied into its own leaf doubles its depth each
/// time, and whatever walks it then overruns the stack.
pub const JSON_PATCH_DEPTH_MAX: usize = 128;

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
        PatchType::Json => {
            // Upstream's built-in kinds always show their status to a patch, also when there is nothing in it.
            let view = resource.type_id.filter(|id| id.is_builtin()).and_then(|id| schema.get(id));
            if current.get("status").is_some() || view.is_none_or(|view| view.field("status").is_none()) {
                return apply_json(patch, current.clone());
            }
            let mut with_status = current.clone();
            with_status["status"] = Value::Object(Map::new());
            let mut value = apply_json(patch, with_status)?;
            if let Some(map) = value.as_object_mut()
                && map.get("status").and_then(Value::as_object).is_some_and(Map::is_empty)
            {
                map.remove("status");
            }
            Ok(value)
        }
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

fn apply_json(patch: &[u8], mut value: Value) -> Result<Value, ApiError> {
    let raw: Vec<Value> = serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if raw.len() > JSON_PATCH_OPERATIONS_MAX {
        let mut error = ApiError::too_large(JSON_PATCH_OPERATIONS_MAX);
        error.message = format!("The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}", raw.len());
        return Err(error);
    }
    let patch: json_patch::Patch =
        serde_json::from_value(Value::Array(raw)).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let mut copied = 0;
    for operation in &patch.0 {
        check_growth(&value, operation, &mut copied)?;
        json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|e| unprocessable(e.to_string()))?;
    }
    Ok(value)
}

/// Refuses an operation that would make the value too large or too deep; `copied` is what the ones before it have copied or moved, in bytes.
fn check_growth(value: &Value, operation: &json_patch::PatchOperation, copied: &mut usize) -> Result<(), ApiError> {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    let (path, put) = match operation {
        Add(add) => (&add.path, Some(&add.value)),
        Replace(replace) => (&replace.path, Some(&replace.value)),
        Move(from) => (&from.path, value.pointer(from.from.as_str())),
        Copy(from) => (&from.path, value.pointer(from.from.as_str())),
        Remove(_) | Test(_) => return Ok(()),
    };
    // What is not there is the operation's own error to tell.
    let Some(put) = put else { return Ok(()) };
    if matches!(operation, Copy(_) | Move(_)) {
        *copied = copied.saturating_add(serde_json::to_vec(put).map_or(usize::MAX, |bytes| bytes.len()));
        if *copied > JSON_PATCH_COPIED_BYTES_MAX {
            return Err(unprocessable(format!("what the patch copies adds up to more than {JSON_PATCH_COPIED_BYTES_MAX} bytes")));
        }
    }
    if path.as_str().matches('/').count() + depth(put) > JSON_PATCH_DEPTH_MAX {
        return Err(unprocessable(format!("the patch nests deeper than {JSON_PATCH_DEPTH_MAX} levels")));
    }
    Ok(())
}

/// Levels of lists and maps in a value, which has no more than [`JSON_PATCH_DEPTH_MAX`].
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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
