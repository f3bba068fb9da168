//! `/openapi/v2` and `/openapi/v3`.

use std::sync::Arc;

use http::Response;
use pintle_api::ApiError;

use crate::body::Body;
use crate::pipeline::Exchange;
use crate::server::Shared;

/// Documents that were made once.
#[derive(Default)]
pub(crate) struct Documents {}

/// `/openapi/v2`.
pub(crate) fn v2(_server: &Arc<Shared>, _exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_route())
}

/// `/openapi/v3` and below.
pub(crate) fn v3(_server: &Arc<Shared>, _exchange: &Exchange, _rest: &[&str]) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_route())
}
