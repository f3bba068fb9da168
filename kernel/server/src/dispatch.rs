//! Where a request goes. No work here: one table of paths, one of verbs.

use std::sync::Arc;

use http::{Method, Response};
use pintle_api::ApiError;

use crate::body::Body;
use crate::limits::Permit;
use crate::pipeline::Exchange;
use crate::server::Shared;
use crate::{connect, discovery, health, objects, openapi, proxy, reviews, watching};

/// Carry out a request. The permit is held for as long as the answer is being made; by a watch or stream, for as long as that lasts.
pub(crate) async fn dispatch(server: &Arc<Shared>, exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    if !exchange.info.is_resource {
        return path(server, &exchange).await;
    }
    let info = &exchange.info;
    if let Some(review) = reviews::Review::find(&info.group, &info.version, &info.resource) {
        return reviews::serve(server, review, exchange).await;
    }
    match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
        ("", "pods", "log") => connect::log(server, exchange, permit).await,
        ("", "pods", "exec" | "attach") => connect::process(server, exchange, permit).await,
        ("", "pods", "portforward") => connect::port_forward(server, exchange, permit).await,
        ("", "pods" | "services" | "nodes", "proxy") => proxy::serve(server, exchange, permit).await,
        ("", "serviceaccounts", "token") => reviews::token_request(server, exchange).await,
        _ if info.verb == "watch" => watching::serve(server, exchange, permit).await,
        _ => objects::serve(server, exchange).await,
    }
}

/// What is not a resource.
async fn path(server: &Arc<Shared>, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    if !matches!(exchange.parts.method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed_path());
    }
    let path = exchange.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => discovery::index(server, exchange),
        ["api" | "apis", ..] => discovery::serve(server, exchange, &parts),
        ["version"] => discovery::version(exchange),
        ["openapi", "v2"] => openapi::v2(server, exchange).await,
        ["openapi", "v3", rest @ ..] => openapi::v3(server, exchange, rest).await,
        ["livez" | "readyz" | "healthz", ..] => health::serve(server, exchange, &parts),
        ["metrics"] => health::metrics(server),
        [".well-known", "openid-configuration"] => reviews::openid_configuration(exchange),
        ["openid", "v1", "jwks"] => reviews::jwks(server),
        _ => Err(ApiError::no_route()),
    }
}
