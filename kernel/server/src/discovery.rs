//! What is served: `/`, `/version`, `/api`, `/apis` and below.

use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Response, StatusCode};
use pintle_api::ApiError;
use pintle_api::discovery::{self, Root};
use pintle_api::printer::IncludeObject;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::encode::{self, Answer};
use crate::negotiate::{Format, Shape, Wanted};
use crate::pipeline::{Exchange, bare};
use crate::server::Shared;

/// Paths besides those that discovery knows.
const PATHS: [&str; 9] = [
    "/.well-known/openid-configuration",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

/// `/`: every path that is served.
pub(crate) fn index(server: &Shared, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let mut paths = discovery::paths(&server.registry.schema());
    paths.extend(PATHS.map(str::to_owned));
    paths.sort();
    value(json!({ "paths": paths }), exchange.wanted(&[])?)
}

/// `/version`. `major` and `minor` are numbers only: clients compare them.
pub(crate) fn version(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let version = json!({
        "major": "1", "minor": "37", "gitVersion": concat!("v1.37.0+pintle.", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
    });
    // No object of the API: JSON, whatever the client would rather read.
    value(version, Wanted { format: Format::Json, ..exchange.wanted(&[]).unwrap_or(Wanted::JSON) })
}

/// `/api...` and `/apis...` without a resource.
pub(crate) fn serve(server: &Shared, exchange: &Exchange, parts: &[&str]) -> Result<Response<Body>, ApiError> {
    let top = parts.len() == 1;
    let wanted = exchange.wanted(if top { &[Shape::Discovery] } else { &[] })?;
    let schema = server.registry.schema();
    let document = match parts {
        ["api"] if wanted.shape == Shape::Discovery => Some(discovery::aggregated(&schema, Root::Core)),
        ["apis"] if wanted.shape == Shape::Discovery => Some(discovery::aggregated(&schema, Root::Groups)),
        ["api"] => Some(discovery::api_versions(host(exchange))),
        ["apis"] => Some(discovery::group_list(&schema)),
        ["apis", group] => discovery::group(&schema, group),
        ["api", version] => discovery::resource_list(&schema, "", version),
        ["apis", group, version] => discovery::resource_list(&schema, group, version),
        _ => None,
    };
    let document = document.ok_or_else(ApiError::no_route)?;
    if top { tagged(&document, wanted, exchange) } else { value(document, wanted) }
}

fn host(exchange: &Exchange) -> &str {
    exchange
        .headers()
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok())
        .or(exchange.parts.uri.authority().map(|host| host.as_str()))
        .unwrap_or_default()
}

fn value(value: Value, wanted: Wanted) -> Result<Response<Body>, ApiError> {
    encode::encode(Answer::value(StatusCode::OK, value), wanted, IncludeObject::default())
}

/// With an ETag, for clients that keep discovery on disk.
fn tagged(document: &Value, wanted: Wanted, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let text = document.to_string();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&text)));
    let known = exchange.headers().get(IF_NONE_MATCH).is_some_and(|have| have.as_bytes() == tag.as_bytes());
    let mut response = if known { bare(StatusCode::NOT_MODIFIED) } else { encode::document(document, text, wanted)? };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&tag).map_err(ApiError::internal)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// Bytes as hexadecimal digits, upper case as upstream's tags.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
