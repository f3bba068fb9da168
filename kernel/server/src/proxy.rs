//! The `proxy` subresource of pods, Services and nodes: an HTTP request passed on, answer and all, also one that becomes another protocol.
//!
//! The name says where: `[scheme:]name[:port]`. Facts: <https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/>.

mod links;

use std::sync::Arc;

use futures::StreamExt as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pintle_api::ApiError;
use serde_json::json;

use crate::body::Body;
use crate::connect::admit;
use crate::limits::Permit;
use crate::node::Target;
use crate::outbound::{self, Route, service};
use crate::pipeline::{Exchange, bare};
use crate::reviews;
use crate::server::Shared;

/// Headers that are of one connection, not of the request (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"];
/// Pages up to this length, if they say it, have their links rewritten.
const HTML_BYTES_MAX: u64 = 1 << 20;
/// Where a kubelet listens; a machine of ours answers for that port over its link.
const KUBELET_PORT: u16 = 10250;

/// Any method on `.../pods/{name}/proxy[/{path}]`, on Services and on nodes.
pub(crate) async fn serve(server: &Arc<Shared>, mut exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    let asked = exchange.info.name.clone();
    let (scheme, name, port) = split(&asked).ok_or_else(|| ApiError::bad_request("invalid proxy request"))?;
    let rest = exchange.info.rest.clone();
    let uri = exchange.parts.uri.clone();
    // Of the path up to and with `proxy`: `/api/v1/namespaces/{namespace}/pods/{name}/proxy`.
    let parts = if exchange.info.namespace.is_empty() { 6 } else { 8 };
    let (kind, route) = match exchange.info.resource.as_str() {
        "pods" => ("PodProxyOptions", pod(server, &exchange.info.namespace, name, port)?),
        "nodes" => ("NodeProxyOptions", node(server, name, port)?),
        _ => ("ServiceProxyOptions", service::route(&server.registry, &exchange.info.namespace, name, port)?),
    };
    // A machine's link is encrypted as it is.
    let encrypt = scheme == "https" && !matches!(&route, Route::Machine { target, .. } if target.resource == "nodes");
    let host = if port.is_empty() { name.to_owned() } else { format!("{name}:{port}") };
    exchange.info.name = name.to_owned();
    admit(server, &exchange, &json!({"kind": kind, "apiVersion": "v1", "path": rest})).await?;

    let raw = uri.path().splitn(parts + 1, '/').nth(parts);
    let reading = matches!(exchange.parts.method, Method::GET | Method::HEAD);
    let upgrade = exchange.parts.headers.get(UPGRADE).cloned();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if raw.is_none() && reading && upgrade.is_none() {
        // So that relative links in what comes lead back here.
        let mut response = bare(StatusCode::MOVED_PERMANENTLY);
        let location = HeaderValue::from_str(&format!("{}/{query}", uri.path())).map_err(ApiError::internal)?;
        response.headers_mut().insert(LOCATION, location);
        return Ok(response);
    }
    let mut request = Request::new(exchange.body);
    *request.method_mut() = exchange.parts.method.clone();
    *request.uri_mut() =
        format!("/{}{query}", raw.unwrap_or_default()).parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    *request.headers_mut() = forwarded(&exchange.parts.headers, &host, uri.path())?;
    let client: Option<OnUpgrade> = exchange.parts.extensions.remove();
    if let Some(protocol) = &upgrade {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(UPGRADE, protocol.clone());
    }

    let unanswered = |why: &dyn std::fmt::Display| ApiError::service_unavailable(format!("error trying to reach service: {why}"));
    let stream = outbound::dial(server, &route).await.map_err(|error| unanswered(&error.message))?;
    let stream = if encrypt { outbound::encrypted(stream).await.map_err(|error| unanswered(&error))? } else { stream };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unanswered(&error))?;
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(request).await.map_err(|error| unanswered(&error))?;

    let mut response = bare(answer.status());
    *response.headers_mut() = answer.headers().clone();
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let pod = hyper::upgrade::on(&mut answer);
        let mut stopping = server.stopping();
        server.tasks.spawn(async move {
            let _permit = permit;
            let Some(client) = client else { return };
            let (Ok(client), Ok(pod)) = (client.await, pod.await) else { return };
            let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut pod) => {}
                () = stopping.wait() => {}
            }
        });
        return Ok(response);
    }
    HOP_BY_HOP.iter().for_each(|header| drop(response.headers_mut().remove(*header)));
    let base = uri.path().splitn(parts + 1, '/').take(parts).collect::<Vec<_>>().join("/");
    if let Some(location) = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()).filter(|l| l.starts_with('/')) {
        response.headers_mut().insert(LOCATION, HeaderValue::from_str(&format!("{base}{location}")).map_err(ApiError::internal)?);
    }
    let is_html = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_html && !answer.headers().contains_key(CONTENT_ENCODING) && answer.body().size_hint().exact().is_some_and(|n| n <= HTML_BYTES_MAX)
    {
        let page = answer.into_body().collect().await.map_err(|error| unanswered(&error))?.to_bytes();
        response.headers_mut().remove(CONTENT_LENGTH);
        let page = std::str::from_utf8(&page).map_or_else(|_| page.clone(), |text| links::rewritten(text, &base).into());
        *response.body_mut() = Body::Full(Some(page));
        return Ok(response);
    }
    let mut stopping = server.stopping();
    let data = answer.into_body().into_data_stream().take_while(|chunk| std::future::ready(chunk.is_ok())).filter_map(|c| async { c.ok() });
    let data = data.map(move |chunk| {
        // Held for as long as the answer comes.
        let _ = (&permit, &sender);
        chunk
    });
    *response.body_mut() = Body::stream(data.take_until(Box::pin(async move { stopping.wait().await })));
    Ok(response)
}

/// `[scheme:]name[:port]`; the scheme is `http` when it is not said.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match *parts.as_slice() {
        [name] => Some(("http", name, "")),
        [scheme @ ("http" | "https"), name] if name.parse::<u16>().is_err() => Some((scheme, name, "")),
        [name, port] => Some(("http", name, port)),
        ["", name, port] => Some(("http", name, port)),
        [scheme @ ("http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

/// A pod's port: as asked, else the first that it declares, else 80.
fn pod(server: &Shared, namespace: &str, name: &str, port: &str) -> Result<Route, ApiError> {
    let object = reviews::object(&server.registry, "pods", namespace, name)?;
    let value = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
    let declared = || {
        let ports = value["spec"]["containers"].as_array().into_iter().flatten().flat_map(|c| c["ports"].as_array().into_iter().flatten());
        ports.filter_map(|port| port["containerPort"].as_u64()).find_map(|port| u16::try_from(port).ok())
    };
    let number = match port {
        "" => declared().unwrap_or(80),
        port => port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?}")))?,
    };
    let unassigned = || ApiError::bad_request(format!("pod {name} does not have a host assigned"));
    service::pod(&server.registry, namespace, name, number).ok_or_else(unassigned)
}

/// A machine's own HTTP, or another port at its address.
fn node(server: &Shared, name: &str, port: &str) -> Result<Route, ApiError> {
    let object = reviews::object(&server.registry, "nodes", "", name)?;
    let number =
        if port.is_empty() { KUBELET_PORT } else { port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?}")))? };
    if number == KUBELET_PORT {
        let target =
            Target { resource: "nodes", namespace: String::new(), name: name.into(), uid: String::new(), container: String::new() };
        return Ok(Route::Machine { node: name.into(), target, port: number });
    }
    let value = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
    let address = value["status"]["addresses"].as_array().into_iter().flatten().find(|a| a["type"] == "InternalIP");
    let address = address
        .and_then(|a| a["address"].as_str())
        .ok_or_else(|| ApiError::service_unavailable(format!("node {name:?} has no address")))?;
    Ok(Route::address(address, number))
}

/// The client's headers, without those that are for us.
fn forwarded(from: &HeaderMap, host: &str, path: &str) -> Result<HeaderMap, ApiError> {
    let mut headers = from.clone();
    HOP_BY_HOP.iter().for_each(|header| drop(headers.remove(*header)));
    headers.remove(AUTHORIZATION);
    let text = |text: &str| HeaderValue::from_str(text).map_err(|_| ApiError::bad_request("invalid proxy request"));
    if let Some(own) = headers.insert(HOST, text(host)?) {
        headers.insert(HeaderName::from_static("x-forwarded-host"), own);
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
    headers.insert(HeaderName::from_static("x-forwarded-uri"), text(path)?);
    Ok(headers)
}

#[cfg(test)]
mod tests;
