//! Answers, written as the client wants them.
//!
//! The usual case copies nothing: an object's body is the registry's own bytes. Only what asks for it (YAML, pretty, tables, metadata only) is parsed
//! and written anew.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use pintle_api::printer::IncludeObject;
use pintle_api::{ApiError, Schema, decode, proto};
use pintle_registry::{ListPage, Object, ResourceInfo, audit};
use serde_json::{Value, json};

use crate::body::{Body, ListBody};
use crate::negotiate::{Format, Shape, Wanted};
use crate::shape;

/// Bodies smaller than this are not compressed.
const GZIP_BYTES_MIN: u64 = 128 * 1024;
/// Tables with more rows are made while they are sent: neither their memory nor a thread is taken for long.
const ROWS_AT_ONCE_MAX: usize = 100;
/// All warnings of one answer together.
const WARNINGS_BYTES_MAX: usize = 4096;

/// What a handler answers.
pub(crate) enum Answer {
    Object { code: StatusCode, object: Arc<Object>, warnings: Vec<String> },
    Value { code: StatusCode, value: Value, warnings: Vec<String> },
    List { resource: Arc<ResourceInfo>, page: ListPage },
}

impl Answer {
    pub(crate) fn value(code: StatusCode, value: Value) -> Answer {
        Answer::Value { code, value, warnings: Vec::new() }
    }

    /// What it shows, for the audit log.
    fn shown(&self) -> Option<Value> {
        match self {
            Answer::Object { object, .. } => object.value().ok(),
            Answer::Value { value, .. } => Some(value.clone()),
            Answer::List { resource, page } => {
                let items: Vec<Value> = page.items.iter().filter_map(|object| object.value().ok()).collect();
                Some(
                    json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": shape::list_metadata(page), "items": items}),
                )
            }
        }
    }
}

/// Write an answer.
///
/// # Errors
/// 406 for a shape that the kind has not; 500 for stored text that is no JSON.
pub(crate) fn encode(answer: Answer, wanted: Wanted, include: IncludeObject) -> Result<Response<Body>, ApiError> {
    audit::response(|| answer.shown());
    let (code, body, warnings) = match answer {
        Answer::Object { code, object, warnings } => (code, object_body(&object, wanted, include)?, warnings),
        Answer::Value { code, value, warnings } => (code, value_body(&value, wanted)?, warnings),
        Answer::List { resource, page } => (StatusCode::OK, list_body(&resource, page, wanted, include)?, Vec::new()),
    };
    let mut response = respond(code, body, wanted);
    add_warnings(response.headers_mut(), &warnings);
    Ok(response)
}

/// A `Status`, in the client's format.
pub(crate) fn failure(error: &ApiError, wanted: Wanted) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = error.to_status();
    let mut response = match value_body(&status, wanted) {
        Ok(body) => respond(code, body, wanted),
        Err(_) => respond(code, Bytes::from(status.to_string()).into(), Wanted::JSON),
    };
    if let Some(seconds) = error.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    add_warnings(response.headers_mut(), error.warnings.as_deref().unwrap_or_default());
    response
}

/// A document that is JSON already.
pub(crate) fn json(bytes: Bytes, wanted: Wanted) -> Response<Body> {
    respond(StatusCode::OK, bytes.into(), wanted)
}

/// A document of which the JSON text is there already.
pub(crate) fn document(value: &Value, text: String, wanted: Wanted) -> Result<Response<Body>, ApiError> {
    let plain = wanted.format == Format::Json && !wanted.pretty;
    let body = if plain { Bytes::from(text).into() } else { value_body(value, wanted)? };
    Ok(respond(StatusCode::OK, body, wanted))
}

/// Put the usual headers on, and compress what is worth it.
fn respond(code: StatusCode, mut body: Body, wanted: Wanted) -> Response<Body> {
    let zip = wanted.gzip && body.known_length().is_none_or(|length| length > GZIP_BYTES_MIN);
    if zip {
        body = body.gzipped();
    }
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wanted.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if zip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn object_body(object: &Arc<Object>, wanted: Wanted, include: IncludeObject) -> Result<Body, ApiError> {
    match (wanted.shape, wanted.format) {
        (Shape::Table, _) => value_body(&shape::table_of_one(object, wanted.shape_version, include)?, wanted),
        (Shape::Metadata, Format::Protobuf) => {
            Ok(Bytes::from(proto::encode_metadata(&shape::parse(object)?["metadata"], wanted.shape_version)).into())
        }
        (Shape::Metadata, _) => json_body(&shape::metadata(object, wanted.shape_version)?, wanted),
        _ => json_body(object.body(), wanted),
    }
}

fn list_body(resource: &Arc<ResourceInfo>, page: ListPage, wanted: Wanted, include: IncludeObject) -> Result<Body, ApiError> {
    if wanted.shape == Shape::Table {
        if page.items.len() > ROWS_AT_ONCE_MAX && wanted.format == Format::Json && !wanted.pretty {
            return Ok(Body::List(shape::long_table(resource, page, wanted.shape_version, include)));
        }
        return value_body(&shape::table_of_list(resource, &page, wanted.shape_version, include)?, wanted);
    }
    if wanted.format == Format::Protobuf {
        let (schema, metadata) = (Schema::builtin(), shape::list_metadata(&page));
        if wanted.shape == Shape::MetadataList {
            let items =
                page.items.iter().map(|object| Ok(shape::parse(object)?["metadata"].take())).collect::<Result<Vec<_>, ApiError>>()?;
            return Ok(Bytes::from(proto::encode_metadata_list(schema, &metadata, &items, wanted.shape_version)).into());
        }
        let items = page.items.iter().map(|object| object.protobuf()).collect::<Result<Vec<_>, _>>()?;
        return Ok(Bytes::from(proto::join_list(schema, resource, &metadata, &items)).into());
    }
    let (kind, api_version, items, opening) = match wanted.shape {
        Shape::MetadataList => {
            let items = page.items.iter().map(|object| shape::metadata(object, wanted.shape_version)).collect::<Result<_, _>>()?;
            ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{}", wanted.shape_version), items, &b""[..])
        }
        _ => {
            let items = page.items.iter().map(|object| object.body_without_type()).collect();
            (resource.list_kind.to_string(), resource.api_version().into_owned(), items, &b"{"[..])
        }
    };
    let metadata = shape::list_metadata(&page);
    let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[");
    let list = ListBody::new(head.into(), items, opening, Bytes::from_static(b"]}"));
    if wanted.format == Format::Json && !wanted.pretty { Ok(Body::List(list)) } else { json_body(&list.whole(), wanted) }
}

/// A document of the API as protobuf, its type found by what it says of itself.
fn protobuf(value: &Value) -> Result<Bytes, ApiError> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let view = pintle_api::resource::kind_type(group, version, text("kind")).and_then(|id| Schema::builtin().get(id));
    let meta = |kind| Schema::builtin().type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
    let view = view.or_else(|| meta(text("kind")).filter(|_| version == "v1"));
    let view = view.ok_or_else(|| ApiError::not_acceptable(&["application/json", "application/yaml"]))?;
    Ok(proto::encode_kind(view, value).into())
}

/// JSON text, as it is or in another format.
fn json_body(text: &Bytes, wanted: Wanted) -> Result<Body, ApiError> {
    if wanted.format == Format::Json && !wanted.pretty {
        return Ok(text.clone().into());
    }
    let value: Value = serde_json::from_slice(text).map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
    value_body(&value, wanted)
}

pub(crate) fn value_body(value: &Value, wanted: Wanted) -> Result<Body, ApiError> {
    let text = match (wanted.format, wanted.pretty) {
        (Format::Json, false) => serde_json::to_vec(value).map_err(ApiError::internal)?,
        (Format::Json, true) => {
            let mut text = serde_json::to_vec_pretty(value).map_err(ApiError::internal)?;
            text.push(b'\n');
            text
        }
        (Format::Protobuf, _) => return Ok(protobuf(value)?.into()),
        (Format::Yaml, _) => decode::to_yaml(value)?.into_bytes(),
    };
    Ok(Bytes::from(text).into())
}

/// `Warning: 299 - "text"`, one each, without repetition, within a limit.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    let mut left = WARNINGS_BYTES_MAX;
    for (index, warning) in warnings.iter().enumerate() {
        let text: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) else { continue };
        if value.len() > left {
            return;
        }
        if !warnings[..index].contains(warning) {
            left -= value.len();
            headers.append(WARNING, value);
        }
    }
}

/// `{"kind":"Status","status":"Success"}` of a carried-out subresource.
pub(crate) fn success(code: u16) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code })
}

#[cfg(test)]
mod tests;
