//! One request: which rule it meets, what is done with it, whose answer comes back.
//!
//! Before any byte of a request was sent it may go to any endpoint; after that only requests without a body are sent again, and only where
//! doing a thing twice is harmless or the rule asks for it. Bodies flow through and are never held.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;

use super::backend::{Body, Failure, Service, Speech};
use super::headers;
use super::model::Redirect;
use super::path;
use super::table::{Action, Door, Entry, Programme, Seen, Share, spread};

/// Endpoints that are tried until one takes the connection.
const CONNECT_TRIES: usize = 4;
/// Longest pause before a request is sent again.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Counts requests, so that shares come out even.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// At which port.
    pub door: Door,
    /// From whom.
    pub client: IpAddr,
}

/// A request without its body, to be sent as often as need be.
struct Outgoing {
    method: Method,
    target: PathAndQuery,
    authority: HeaderValue,
    headers: HeaderMap,
}

/// Answers a request, whatever it is.
pub async fn answer(programme: Arc<Programme>, origin: Origin, request: Request<Incoming>) -> Response<Body> {
    let Some((said, name)) = headers::host(request.uri(), request.headers()) else {
        return refuse(StatusCode::BAD_REQUEST, "a request has one Host");
    };
    let Some(path) = path::normal(request.uri().path()) else { return refuse(StatusCode::BAD_REQUEST, "no path") };
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "no tunnels");
    }
    let query = request.uri().query().unwrap_or_default();
    let seen = Seen { host: &name, path: &path, query, method: request.method(), headers: request.headers() };
    let Some(entry) = programme.find(origin.door, &seen) else { return refuse(StatusCode::NOT_FOUND, "no route leads there") };
    let rule = entry.rule.clone();
    if let Some(redirect) = &rule.redirect {
        let mut response = redirected(redirect, entry, origin, &name, &path, request.uri().query());
        rule.response.apply(response.headers_mut());
        return response;
    }
    let Some(target) = rewritten(entry, &path, request.uri().query()) else { return refuse(StatusCode::BAD_REQUEST, "no path") };
    let authority = match rule.rewrite.as_ref().filter(|rewrite| !rewrite.hostname.is_empty()) {
        Some(rewrite) => HeaderValue::from_str(&rewrite.hostname).unwrap_or_else(|_| said.clone()),
        None => said.clone(),
    };
    let upgrade = headers::upgrade(request.version(), request.headers());
    let mut outgoing = Outgoing { method: request.method().clone(), target, authority, headers: request.headers().clone() };
    headers::strip(&mut outgoing.headers);
    headers::join_cookies(&mut outgoing.headers);
    headers::tell(&mut outgoing.headers, origin.client, origin.door.tls, &said, origin.door.port);
    rule.request.apply(&mut outgoing.headers);
    if let Some(protocol) = &upgrade {
        outgoing.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        outgoing.headers.insert(UPGRADE, protocol.clone());
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    if request.body().is_end_stream() && upgrade.is_none() {
        mirror(&rule, &outgoing, number);
    }
    let Some(share) = rule.share(number) else { return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the route has no backend") };
    let Some(service) = share.service.clone() else { return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the route's backend is invalid") };
    share.request.apply(&mut outgoing.headers);
    let response = within(rule.request_milliseconds, exchange(&rule, &service, outgoing, request)).await;
    finish(response.unwrap_or_else(|| refuse(StatusCode::GATEWAY_TIMEOUT, "the backend took too long")), &rule, share)
}

fn finish(mut response: Response<Body>, rule: &Action, share: &Share) -> Response<Body> {
    rule.response.apply(response.headers_mut());
    share.response.apply(response.headers_mut());
    response
}

/// The result, if it comes in time; 0: whenever it comes.
async fn within<T>(milliseconds: u64, work: impl Future<Output = T>) -> Option<T> {
    match milliseconds {
        0 => Some(work.await),
        limit => tokio::time::timeout(Duration::from_millis(limit), work).await.ok(),
    }
}

/// Sends the request until an endpoint answers it or there is no sense in going on.
async fn exchange(rule: &Action, service: &Arc<Service>, outgoing: Outgoing, mut request: Request<Incoming>) -> Response<Body> {
    let client = outgoing.headers.contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let body = request.into_body();
    let again = body.is_end_stream();
    let mut body = Some(if again { empty() } else { body.boxed_unsync() });
    let (mut tried, mut retries) = (BTreeSet::new(), 0);
    loop {
        let Some(to) = service.next(&tried) else { return refuse(StatusCode::SERVICE_UNAVAILABLE, "no endpoint is ready") };
        let Some(carried) = body.take().or_else(|| again.then(empty)) else {
            return refuse(StatusCode::BAD_GATEWAY, "the connection broke");
        };
        let attempt = service.send(to, outgoing.request(service.behind().speech, carried));
        let outcome = within(rule.backend_milliseconds, attempt).await;
        let left = again && retries < rule.retry.attempts;
        match outcome {
            Some(Ok(response)) if left && rule.retry.status_codes.contains(&response.status().as_u16()) => {}
            Some(Ok(response)) => return received(response, client),
            Some(Err(Failure::Connect(unsent))) => {
                body = Some(unsent.into_body());
                if tried.insert(to) && tried.len() < CONNECT_TRIES && tried.len() < service.behind().endpoints.len() {
                    continue;
                }
                if !left {
                    return refuse(StatusCode::BAD_GATEWAY, "no endpoint takes connections");
                }
            }
            // A kept connection that closes at the moment of a request: harmless requests are sent once more, as every client does.
            Some(Err(Failure::Broken(true))) if again && outgoing.method.is_idempotent() && tried.insert(to) => continue,
            Some(Err(Failure::Broken(_))) if !left => return refuse(StatusCode::BAD_GATEWAY, "the connection broke"),
            None if !left => return refuse(StatusCode::GATEWAY_TIMEOUT, "the backend took too long"),
            Some(Err(Failure::Broken(_))) | None => {}
        }
        tried.insert(to);
        retries += 1;
        tokio::time::sleep(Duration::from_millis(rule.retry.backoff_milliseconds).min(BACKOFF_MAX)).await;
    }
}

impl Outgoing {
    fn request(&self, speech: Speech, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let authority = self.authority.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.target.clone());
        match (speech, authority) {
            (Speech::H2c, Some(authority)) => {
                (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(authority));
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
                request.headers_mut().remove(CONNECTION);
            }
            _ => drop(request.headers_mut().insert(HOST, self.authority.clone())),
        }
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request
    }
}

/// The answer, without what was about its connection; a change of protocol joins both connections.
fn received(mut response: Response<Incoming>, client: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned().filter(|_| switched);
    headers::strip(response.headers_mut());
    *response.version_mut() = Version::default();
    match (protocol, client) {
        (Some(protocol), Some(client)) => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, protocol);
            let backend = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let Ok((client, backend)) = tokio::try_join!(client, backend) else { return };
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await;
            });
            response.map(|_| empty())
        }
        _ if switched => refuse(StatusCode::BAD_GATEWAY, "the backend changed a protocol that nobody asked to change"),
        _ => response.map(BodyExt::boxed_unsync),
    }
}

/// Sends copies; nobody waits for what comes of them.
fn mirror(rule: &Action, outgoing: &Outgoing, number: u64) {
    for (service, percent) in &rule.mirrors {
        if spread(number) % 100 >= u64::from(*percent) {
            continue;
        }
        let Some(to) = service.next(&BTreeSet::new()) else { continue };
        let (service, copy) = (service.clone(), outgoing.request(service.behind().speech, empty()));
        tokio::spawn(async move {
            if let Ok(response) = service.send(to, copy).await {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {}
            }
        });
    }
}

/// The target that is sent on.
fn rewritten(entry: &Entry, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let rewrite = entry.rule.rewrite.as_ref();
    let path = replaced(rewrite.map(|r| (r.path_type.as_str(), r.path.as_str())), entry, path);
    with_query(&path, query).parse().ok()
}

fn replaced(by: Option<(&str, &str)>, entry: &Entry, path: &str) -> String {
    match by {
        Some(("Full", whole)) if whole.starts_with('/') => whole.to_owned(),
        Some(("Full", whole)) => format!("/{whole}"),
        Some(("Prefix", by)) => path::replaced(path, entry.prefix(), by),
        _ => path.to_owned(),
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

fn redirected(to: &Redirect, entry: &Entry, origin: Origin, host: &str, path: &str, query: Option<&str>) -> Response<Body> {
    let came = if origin.door.tls { "https" } else { "http" };
    let scheme = if to.scheme.is_empty() { came } else { to.scheme.as_str() };
    let own = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let port = match to.port {
        0 if scheme == came => origin.door.port,
        0 => own(scheme),
        port => port,
    };
    let host = if to.hostname.is_empty() { host } else { &to.hostname };
    let port = if port == own(scheme) { String::new() } else { format!(":{port}") };
    let path = replaced(Some((to.path_type.as_str(), to.path.as_str())), entry, path);
    let location = format!("{scheme}://{host}{port}{}", with_query(&path, query));
    let status = StatusCode::from_u16(to.status_code).ok().filter(StatusCode::is_redirection).unwrap_or(StatusCode::FOUND);
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    match HeaderValue::from_str(&location) {
        Ok(location) => drop(response.headers_mut().insert(LOCATION, location)),
        Err(_) => return refuse(StatusCode::BAD_REQUEST, "no path"),
    }
    response
}

/// An answer of our own.
pub fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let text = format!("{} {}: {why}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// An address of the client's side.
pub fn origin(door: Door, peer: SocketAddr) -> Origin {
    Origin { door, client: peer.ip().to_canonical() }
}
