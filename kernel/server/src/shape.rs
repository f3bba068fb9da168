//! What is made of objects for clients that do not want them whole: tables for people, metadata for caches.

use std::sync::Arc;

use bytes::Bytes;
use pintle_api::ApiError;
use pintle_registry::{ListPage, Object, ResourceInfo};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What comes with each row of a table (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// # Errors
    /// 400 for a word that is none of the three.
    pub(crate) fn parse(text: &str) -> Result<Include, ApiError> {
        match text {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            _ => Err(ApiError::bad_request(format!("Invalid value {text:?} for includeObject: must be None, Metadata or Object"))),
        }
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

/// A table of one object: for gets and watch events.
pub(crate) fn table_of_one(object: &Arc<Object>, version: &str, include: Include) -> Result<Value, ApiError> {
    table(object.resource(), std::slice::from_ref(object), json!({ "resourceVersion": object.revision().to_string() }), version, include)
}

/// A table of a list.
pub(crate) fn table_of_list(resource: &ResourceInfo, page: &ListPage, version: &str, include: Include) -> Result<Value, ApiError> {
    table(resource, &page.items, list_metadata(page), version, include)
}

fn table(_resource: &ResourceInfo, objects: &[Arc<Object>], metadata_of_list: Value, version: &str, include: Include) -> Result<Value, ApiError> {
    let mut rows = Vec::with_capacity(objects.len());
    for object in objects {
        let mut row = json!({ "cells": [object.meta().name, object.meta().creation_timestamp] });
        match include {
            Include::None => {}
            Include::Metadata => row["object"] = serde_json::from_slice(&metadata(object, version)?).map_err(ApiError::internal)?,
            Include::Object => row["object"] = object.value().map_err(ApiError::internal)?,
        }
        rows.push(row);
    }
    Ok(json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata_of_list,
        "columnDefinitions": [
            { "name": "Name", "type": "string", "format": "name", "description": "Name", "priority": 0 },
            { "name": "Created At", "type": "date", "format": "", "description": "Created", "priority": 0 },
        ],
        "rows": rows,
    }))
}
