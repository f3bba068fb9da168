//! What is served: `/`, `/version`, `/api`, `/apis` and below.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Response, StatusCode};
use pintle_api::{ApiError, Resource, Schema};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::encode::{self, Answer};
use crate::negotiate::{Shape, Wanted};
use crate::pipeline::{Exchange, bare};
use crate::server::Shared;
use crate::shape::Include;

/// `/`: every path that is served.
pub(crate) fn index(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
        .map(str::to_owned)
        .to_vec();
    for (group, version) in versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.sort();
    paths.dedup();
    value(json!({ "paths": paths }), exchange.wanted(&[])?)
}

/// `/version`. `major` and `minor` are numbers only: clients compare them.
pub(crate) fn version(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let version = json!({
        "major": "1", "minor": "37", "gitVersion": concat!("v1.37.0+pintle.", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
    });
    value(version, exchange.wanted(&[])?)
}

/// `/api...` and `/apis...` without a resource.
pub(crate) fn serve(server: &Arc<Shared>, exchange: &Exchange, parts: &[&str]) -> Result<Response<Body>, ApiError> {
    let _ = server;
    let top = parts.len() == 1;
    let wanted = exchange.wanted(if top { &[Shape::Discovery] } else { &[] })?;
    let document = match parts {
        ["api"] if wanted.shape == Shape::Discovery => aggregated(|group| group.is_empty()),
        ["apis"] if wanted.shape == Shape::Discovery => aggregated(|group| !group.is_empty()),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": host(exchange) }],
        }),
        ["apis"] => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups().iter().map(|group| group_value(group)).collect::<Vec<_>>() }),
        ["apis", group] if groups().contains(group) => {
            let mut value = group_value(group);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            value
        }
        ["api", version] => resource_list("", version)?,
        ["apis", group, version] => resource_list(group, version)?,
        _ => return Err(ApiError::no_route()),
    };
    if top { tagged(&document, wanted, exchange) } else { value(document, wanted) }
}

fn host(exchange: &Exchange) -> &str {
    exchange.headers().get(http::header::HOST).and_then(|host| host.to_str().ok()).or(exchange.parts.uri.authority().map(|host| host.as_str())).unwrap_or_default()
}

fn value(value: Value, wanted: Wanted) -> Result<Response<Body>, ApiError> {
    encode::encode(Answer::value(StatusCode::OK, value), wanted, Include::default())
}

/// With an ETag, for clients that keep discovery on disk.
fn tagged(document: &Value, wanted: Wanted, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let text = document.to_string();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&text)));
    let known = exchange.headers().get(IF_NONE_MATCH).is_some_and(|have| have.as_bytes() == tag.as_bytes());
    let mut response = if known { bare(StatusCode::NOT_MODIFIED) } else { encode::json(Bytes::from(text), wanted) };
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

fn versions() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = Schema::builtin().resources().map(|resource| (resource.group.as_ref(), resource.version.as_ref())).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = versions().into_iter().map(|(group, _)| group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    groups
}

fn group_value(group: &str) -> Value {
    let versions: Vec<Value> = versions()
        .into_iter()
        .rev()
        .filter(|(have, _)| *have == group)
        .map(|(group, version)| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions[0] })
}

fn resource_list(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut rows = Vec::new();
    for resource in Schema::builtin().resources().filter(|resource| resource.group == group && resource.version == version) {
        rows.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced(), "kind": resource.kind,
            "verbs": verbs(resource.verbs), "shortNames": resource.short_names, "categories": resource.categories,
        }));
        for sub in &resource.subresources {
            rows.push(json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "", "namespaced": resource.namespaced(), "kind": sub.kind,
                "group": sub.group, "version": sub.version, "verbs": verbs(sub.verbs),
            }));
        }
    }
    if rows.is_empty() {
        return Err(ApiError::no_route());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows }))
}

fn verbs(verbs: pintle_api::Verbs) -> Vec<&'static str> {
    verbs.iter().map(pintle_api::Verb::as_str).collect()
}

fn aggregated(_wants: impl Fn(&str) -> bool) -> Value {
    let _: Option<&Resource> = None;
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [] })
}
