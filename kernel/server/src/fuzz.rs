//! What `tests/fuzz` reaches of this crate: decoders of bytes from clients. For tests only.

use http::{HeaderMap, HeaderValue, Method, header::ACCEPT};
use pintle_api::ApiError;
use pintle_registry::ListOptions;

use crate::negotiate::{self, Shape};
use crate::request::{Query, RequestInfo};

/// Reads a request's target and `Accept`: its verb, its resource, and what a list may ask.
///
/// # Errors
/// As the server would answer them; 400 for a target that is not well-formed.
pub fn request(method: &Method, path: &str, query: &str, accept: &[u8]) -> Result<(&'static str, String, ListOptions), ApiError> {
    let malformed = || ApiError::bad_request("not well-formed");
    let query = Query::parse(Some(query)).ok_or_else(malformed)?;
    let info = RequestInfo::parse(method, path, &query).ok_or_else(malformed)?;
    let accept = HeaderValue::from_bytes(accept).map_err(|_| malformed())?;
    let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
    negotiate::wanted(&headers, &query, &[Shape::Table, Shape::Metadata, Shape::MetadataList])?;
    Ok((info.verb, info.resource, crate::objects::list_options(&query)?))
}
