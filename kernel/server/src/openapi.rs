//! `/openapi/v2` and `/openapi/v3`: documents made of the schema table, once, when somebody asks.
//!
//! A document is kept until the schema changes (a custom resource came or went). Making one takes a good part of a second's CPU, so it happens on a
//! thread for blocking work, and clients that ask for the same one meanwhile wait for it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use pintle_api::{ApiError, Schema, openapi};
use tokio::sync::Mutex;

use crate::body::Body;
use crate::encode;
use crate::negotiate::Wanted;
use crate::pipeline::{Exchange, bare};
use crate::server::Shared;

/// Older name of the protobuf form, which clients still send.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What clients are told the hashed documents live for.
const IMMUTABLE: &str = "public, immutable";

/// Which document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Document {
    V2Json,
    V2Protobuf,
    V3 { group: String, version: String },
}

/// Documents that were made.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<HashMap<Document, (Arc<Schema>, Bytes)>>,
}

impl Documents {
    /// The document, made if need be. `None`: there is no such group version.
    async fn get(&self, schema: Arc<Schema>, document: Document) -> Result<Option<Bytes>, ApiError> {
        let mut made = self.made.lock().await;
        if let Some((of, bytes)) = made.get(&document)
            && Arc::ptr_eq(of, &schema)
        {
            return Ok(Some(bytes.clone()));
        }
        let (wanted, from) = (document.clone(), schema.clone());
        let bytes = tokio::task::spawn_blocking(move || match wanted {
            Document::V2Json => Some(openapi::v2_json(&from)),
            Document::V2Protobuf => Some(openapi::v2_protobuf(&from)),
            Document::V3 { group, version } => openapi::v3(&from, &group, &version),
        });
        let Some(bytes) = bytes.await.map_err(|_| ApiError::internal("the document could not be made"))? else { return Ok(None) };
        let bytes = Bytes::from(bytes);
        made.insert(document, (schema, bytes.clone()));
        Ok(Some(bytes))
    }
}

/// `/openapi/v2`.
pub(crate) async fn v2(server: &Shared, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let schema = server.registry.schema();
    let tag = format!("\"{}\"", openapi::v2_hash(&schema));
    let accept = exchange.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let protobuf = accept.split(',').map(str::trim).next().is_some_and(|first| {
        let first = first.split(';').next().unwrap_or_default();
        first == openapi::V2_PROTOBUF_MEDIA_TYPE || first == V2_PROTOBUF_OLD
    });
    let gzip = if protobuf { crate::negotiate::accepts_gzip(exchange.headers()) } else { exchange.wanted(&[])?.gzip };
    if is_known(exchange.headers(), &tag) {
        return Ok(bare(StatusCode::NOT_MODIFIED));
    }
    let document = if protobuf { Document::V2Protobuf } else { Document::V2Json };
    let bytes = server.documents.get(schema, document).await?.ok_or_else(ApiError::no_route)?;
    let mut response = encode::json(bytes, Wanted { gzip, ..Wanted::JSON });
    let headers = response.headers_mut();
    if protobuf {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(openapi::V2_PROTOBUF_MEDIA_TYPE));
    }
    headers.insert(ETAG, HeaderValue::from_str(&tag).map_err(ApiError::internal)?);
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    Ok(response)
}

/// `/openapi/v3` and below: `api/v1`, `apis/{group}/{version}`.
pub(crate) async fn v3(server: &Shared, exchange: &Exchange, rest: &[&str]) -> Result<Response<Body>, ApiError> {
    let wanted = exchange.wanted(&[])?;
    let schema = server.registry.schema();
    let (group, version) = match rest {
        [] => return Ok(encode::json(openapi::v3_index(&schema).to_string().into(), wanted)),
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(ApiError::no_route()),
    };
    let hash = openapi::v3_hash(&schema, group, version);
    let asked = exchange.query.get("hash");
    let document = Document::V3 { group: group.to_owned(), version: version.to_owned() };
    let bytes = server.documents.get(schema, document).await?.ok_or_else(ApiError::no_route)?;
    if asked.is_some_and(|asked| asked != hash) {
        let mut response = bare(StatusCode::MOVED_PERMANENTLY);
        let address = format!("/openapi/v3/{}?hash={hash}", rest.join("/"));
        response.headers_mut().insert(LOCATION, HeaderValue::from_str(&address).map_err(ApiError::internal)?);
        return Ok(response);
    }
    let tag = format!("\"{hash}\"");
    let mut response = if is_known(exchange.headers(), &tag) { bare(StatusCode::NOT_MODIFIED) } else { encode::json(bytes, wanted) };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&tag).map_err(ApiError::internal)?);
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if asked.is_some() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 365);
        headers.insert(
            EXPIRES,
            HeaderValue::from_str(&expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).map_err(ApiError::internal)?,
        );
    }
    Ok(response)
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(IF_NONE_MATCH).is_some_and(|have| have.as_bytes() == tag.as_bytes())
}
