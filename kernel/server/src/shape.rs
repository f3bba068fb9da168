//! What is made of objects for clients that do not want them whole: tables for people, metadata for caches.

use std::sync::Arc;

use bytes::Bytes;
use pintle_api::printer::{self, IncludeObject};
use pintle_api::{ApiError, Resource};
use pintle_registry::{ListPage, Object, ResourceInfo};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::body::ListBody;

/// What comes with each row of a table (`?includeObject=`).
///
/// # Errors
/// 400 for a word that is none of the three.
pub(crate) fn include(text: &str) -> Result<IncludeObject, ApiError> {
    match text {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        _ => Err(ApiError::bad_request(format!("Invalid value {text:?} for includeObject: must be None, Metadata or Object"))),
    }
}

/// `metadata` of a list.
pub(crate) fn list_metadata(page: &ListPage) -> Value {
    let mut metadata = json!({ "resourceVersion": page.revision.to_string() });
    if !page.continue_token.is_empty() {
        metadata["continue"] = json!(page.continue_token);
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    metadata
}

/// PartialObjectMetadata of an object; its metadata is copied as text.
pub(crate) fn metadata(object: &Object, version: &str) -> Result<Bytes, ApiError> {
    #[derive(Deserialize)]
    struct Only<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let only: Only<'_> = serde_json::from_slice(object.body()).map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
    Ok(format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{}}}", only.metadata).into())
}

/// An object as a value.
pub(crate) fn parse(object: &Object) -> Result<Value, ApiError> {
    object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))
}

/// A table of one object: for gets and watch events.
pub(crate) fn table_of_one(object: &Arc<Object>, version: &str, include: IncludeObject) -> Result<Value, ApiError> {
    let metadata = json!({ "resourceVersion": object.revision().to_string() });
    table(object.resource(), std::slice::from_ref(object), metadata, version, include)
}

/// A table of a list.
pub(crate) fn table_of_list(resource: &Resource, page: &ListPage, version: &str, include: IncludeObject) -> Result<Value, ApiError> {
    table(resource, &page.items, list_metadata(page), version, include)
}

/// The same, its rows made as they are sent.
pub(crate) fn long_table(resource: &Arc<ResourceInfo>, page: ListPage, version: &'static str, include: IncludeObject) -> ListBody {
    let (resource, now) = (resource.clone(), jiff::Timestamp::now());
    let empty = printer::table(&resource, [], list_metadata(&page), include, version, now).to_string();
    // The rows are its last member.
    let (head, tail) = empty.split_at(empty.len().saturating_sub("]}".len()));
    let (head, tail) = (Bytes::from(head.to_owned()), Bytes::from(tail.to_owned()));
    // The text of an object of the cache is JSON.
    let row =
        move |object: Arc<Object>| printer::row(&resource, &parse(&object).unwrap_or_default(), include, version, now).to_string().into();
    ListBody::made(head, page.items.into_iter().map(row), tail)
}

fn table(resource: &Resource, objects: &[Arc<Object>], metadata: Value, version: &str, include: IncludeObject) -> Result<Value, ApiError> {
    let values = objects.iter().map(|object| parse(object)).collect::<Result<Vec<_>, _>>()?;
    Ok(printer::table(resource, &values, metadata, include, version, jiff::Timestamp::now()))
}
