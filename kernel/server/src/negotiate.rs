//! What the client can read, and what it sent: `Accept`, `Content-Type`, and friends.
//!
//! Decided before anything is carried out, so that a write whose answer nobody could read does not happen. Clauses are tried in the client's
//! order (Kubernetes' clients list them by preference and rarely give weights; a weight of zero is honoured).

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use pintle_api::ApiError;

use crate::request::Query;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// Kubernetes' own; built-in kinds only.
    Protobuf,
}

/// What is made of objects before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Whole,
    /// `meta.k8s.io` Table.
    Table,
    /// `meta.k8s.io` PartialObjectMetadata.
    Metadata,
    /// `meta.k8s.io` PartialObjectMetadataList.
    MetadataList,
    /// `apidiscovery.k8s.io/v2` APIGroupDiscoveryList.
    Discovery,
}

/// What is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    /// `v1` or `v1beta1` of the shape's group.
    pub(crate) shape_version: &'static str,
    pub(crate) pretty: bool,
    pub(crate) gzip: bool,
}

impl Wanted {
    /// Plain JSON.
    pub(crate) const JSON: Wanted = Wanted { format: Format::Json, shape: Shape::Whole, shape_version: "v1", pretty: false, gzip: false };

    /// The content type of such an answer.
    pub(crate) fn content_type(self) -> &'static str {
        match (self.format, self.shape) {
            (Format::Json, Shape::Discovery) => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            (Format::Json, _) => "application/json",
            (Format::Yaml, _) => "application/yaml",
            (Format::Protobuf, _) => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// The media types that objects are served as, for the message of a 406.
const SERVED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Choose what to send among `shapes` (whole documents are always served).
///
/// # Errors
/// 406: nothing that the client reads is served.
pub(crate) fn wanted(headers: &HeaderMap, query: &Query, shapes: &[Shape]) -> Result<Wanted, ApiError> {
    let clauses = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let chosen = if headers.contains_key(ACCEPT) {
        let all = || clauses().filter_map(|clause| read_clause(clause, shapes));
        let first = all().next().ok_or_else(|| ApiError::not_acceptable(&SERVED))?;
        // Objects are kept as JSON: protobuf is made only for who reads nothing else.
        let as_json = |other: &Wanted| other.format == Format::Json && other.shape == first.shape;
        if first.format == Format::Protobuf { all().find(as_json).unwrap_or(first) } else { first }
    } else {
        Wanted::JSON
    };
    Ok(Wanted { pretty: pretty(headers, query), gzip: accepts_gzip(headers), ..chosen })
}

/// One clause of `Accept`; `None` when it cannot be met.
fn read_clause(clause: &str, shapes: &[Shape]) -> Option<Wanted> {
    let mut params = clause.split(';').map(str::trim);
    let format = match params.next()? {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        "application/vnd.kubernetes.protobuf" => Format::Protobuf,
        _ => return None,
    };
    let (mut kind, mut version, mut group) = ("", "", "");
    for param in params {
        match param.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))) {
            Some(("as", value)) => kind = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            Some(("q", "0" | "0.0" | "0.00" | "0.000")) => return None,
            _ => {}
        }
    }
    let plain = Wanted { format, ..Wanted::JSON };
    if kind.is_empty() {
        return Some(plain);
    }
    let shape = match (group, kind) {
        ("meta.k8s.io", "Table") if format != Format::Protobuf => Shape::Table,
        ("meta.k8s.io", "PartialObjectMetadata") => Shape::Metadata,
        ("meta.k8s.io", "PartialObjectMetadataList") => Shape::MetadataList,
        ("apidiscovery.k8s.io", "APIGroupDiscoveryList") => Shape::Discovery,
        _ => return None,
    };
    let shape_version = match (shape, version) {
        (Shape::Discovery, "v2") => "v2",
        (Shape::Table | Shape::Metadata | Shape::MetadataList, "v1") => "v1",
        (Shape::Table | Shape::Metadata | Shape::MetadataList, "v1beta1") => "v1beta1",
        _ => return None,
    };
    shapes.contains(&shape).then_some(Wanted { shape, shape_version, ..plain })
}

/// `?pretty=`, and by default people's own tools.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|person| agent.starts_with(person))
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    encodings.any(|encoding| {
        let mut params = encoding.split(';').map(str::trim);
        params.next() == Some("gzip") && params.all(|param| !matches!(param, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// The media type of the request's body, without parameters; empty when none is said.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests;
