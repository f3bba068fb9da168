//! The request pipeline: what every HTTP request meets, once, in this order.
//!
//! ```text
//!   connection ── TLS, client certificate (listener.rs)
//!      │
//!   [1] panic guard      a bug ends one request with 500, never the server
//!   [2] request info     method and path, taken apart by upstream's grammar          request.rs
//!   [3] authentication   certificate, token, impersonation; nobody: 401             identity/authn.rs
//!       audit            an entry, if the policy wants one; kept until the end      kernel/registry/src/audit.rs
//!   [4] authorization    masters, machines, roles; not allowed: 403                 identity/authz.rs
//!   [5] limits           requests in flight; 429 rather than a queue without end    limits.rs
//!   [6] dispatch         within 60 s, watches and streams aside                     dispatch.rs
//!   [7] encode           what the client can read; 406 before anything is done      negotiate.rs, encode.rs
//! ```
//!
//! Every failure, wherever it comes from, leaves here as a `metav1.Status`. Every answer carries an Audit-ID, is counted and timed. Order matters:
//! nobody learns whether an object exists before [4], and nothing is read from the body before [5].

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use pintle_api::ApiError;
use pintle_registry::Caller;
use pintle_registry::audit::{self, Entry, Stage};
use serde_json::json;

use crate::body::Body;
use crate::identity::authn::{self, Peer};
use crate::identity::rbac::Action;
use crate::negotiate::{self, Shape, Wanted};
use crate::request::{Query, RequestInfo};
use crate::server::Shared;
use crate::{dispatch, encode};

/// A request that is not a watch or a stream is answered within this time.
const TIMEOUT: Duration = Duration::from_secs(60);

static AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// A request that has passed authentication and authorization.
pub(crate) struct Exchange {
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) caller: Arc<Caller>,
    pub(crate) parts: Parts,
    pub(crate) body: Incoming,
}

impl Exchange {
    /// What to send; asked before anything is done.
    pub(crate) fn wanted(&self, shapes: &[Shape]) -> Result<Wanted, ApiError> {
        negotiate::wanted(&self.parts.headers, &self.query, shapes)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }
}

/// Answer one request.
pub(crate) async fn handle(server: Arc<Shared>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let audit_id = audit_id(request.headers());
    let (parts, body) = request.into_parts();
    let mut seen = Seen { verb: "", resource: String::new(), long_running: false, wanted: Wanted::JSON, entry: None };

    let stages = AssertUnwindSafe(stages(&server, &peer, parts, body, &audit_id, &mut seen)).catch_unwind(); // [1]
    let outcome = stages.await;
    let stage = match &outcome {
        Err(_) => Stage::Panic,
        Ok(_) if seen.long_running => Stage::ResponseStarted,
        Ok(_) => Stage::ResponseComplete,
    };
    let answer = outcome.unwrap_or_else(|_| {
        tracing::error!(audit_id = ?audit_id, "a request panicked");
        Err(ApiError::internal("this request caused the server to panic; its log says more"))
    });
    if let Some(entry) = &seen.entry {
        let code = answer.as_ref().map_or_else(|error| error.code, |response| response.status().as_u16());
        entry.0.answered(code, answer.as_ref().err().map(ApiError::to_status));
        entry.0.write(stage).await;
    }
    let mut response = answer.unwrap_or_else(|error| encode::failure(&error, seen.wanted));

    tracing::debug!(audit_id = ?audit_id, peer = %peer.address, verb = seen.verb, resource = seen.resource, code = response.status().as_u16(), "request");
    server.metrics.observe(seen.verb, &seen.resource, response.status().as_u16(), (!seen.long_running).then(|| begun.elapsed()));
    response.headers_mut().insert(AUDIT_ID.clone(), audit_id);
    response
}

/// What metrics, logs and failures say about a request, as far as it came.
struct Seen {
    verb: &'static str,
    resource: String,
    long_running: bool,
    /// How a failure is written.
    wanted: Wanted,
    entry: Option<Arc<Audited>>,
}

/// An entry of the audit log, and what is written when nobody holds it any more: the end of a watch or stream.
pub(crate) struct Audited(Arc<Entry>, Option<Stage>);

impl Drop for Audited {
    fn drop(&mut self) {
        self.1.into_iter().for_each(|stage| self.0.write_later(stage));
    }
}

async fn stages(
    server: &Arc<Shared>,
    peer: &Peer,
    parts: Parts,
    body: Incoming,
    audit_id: &HeaderValue,
    seen: &mut Seen,
) -> Result<Response<Body>, ApiError> {
    // [2] request info
    let bad = || ApiError::bad_request("the request line is not well-formed");
    let query = Query::parse(parts.uri.query()).ok_or_else(bad)?;
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query).ok_or_else(bad)?;
    let long_running = is_long_running(&info, &query);
    let wanted = negotiate::wanted(&parts.headers, &query, &[]).unwrap_or(Wanted::JSON);
    *seen = Seen { verb: info.verb, resource: String::new(), long_running, wanted, entry: None };

    // [3] authentication
    let path = if parts.method == Method::GET || parts.method == Method::HEAD { info.path.as_str() } else { "" };
    let caller = match authn::authenticate(&server.registry, &server.tokens, peer, &parts.headers, path) {
        Ok(caller) => caller,
        Err(refused) => {
            if let Some(entry) = begin(server, &Caller::default(), &info, peer, &parts, audit_id) {
                let attempted = if parts.headers.contains_key(AUTHORIZATION) { "attempted: bearer" } else { "no credentials provided" };
                entry.answered(refused.code, Some(json!({"metadata": {}, "message": format!("Authentication failed, {attempted}")})));
                entry.write(Stage::ResponseStarted).await;
            }
            return Err(refused);
        }
    };
    let entry = begin(server, &caller, &info, peer, &parts, audit_id);
    if let Some(entry) = &entry {
        entry.write(Stage::RequestReceived).await;
    }
    seen.entry = entry.clone().map(|entry| Arc::new(Audited(entry, long_running.then_some(Stage::ResponseComplete))));
    let exchange = Exchange { info, query, caller, parts, body };
    audit::scope(entry, allowed(server, exchange, seen)).await
}

/// Begins an entry of the audit log, if there is one and it wants to know.
fn begin(server: &Shared, caller: &Caller, info: &RequestInfo, peer: &Peer, parts: &Parts, id: &HeaderValue) -> Option<Arc<Entry>> {
    let auditor = server.registry.auditor()?;
    let about = audit::About {
        caller,
        verb: info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
    };
    let entry = auditor.begin(&about, id.to_str().unwrap_or_default(), parts.uri.path_and_query().map_or("", |uri| uri.as_str()))?;
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let forwarded = text("x-forwarded-for").into_iter().flat_map(|list| list.split(',')).chain(text("x-real-ip"));
    let mut addresses: Vec<String> = forwarded.filter_map(|address| Some(address.trim().parse::<IpAddr>().ok()?.to_string())).collect();
    addresses.push(peer.address.ip().to_canonical().to_string());
    addresses.dedup();
    entry.set("sourceIPs", addresses.into());
    entry.set("userAgent", text("user-agent").unwrap_or_default().into());
    Some(entry)
}

/// What is done for a caller who is known.
async fn allowed(server: &Arc<Shared>, mut exchange: Exchange, seen: &mut Seen) -> Result<Response<Body>, ApiError> {
    if let Some(other) = authn::impersonated(&exchange.parts.headers)? {
        check_impersonation(server, &exchange.caller, &other)?;
        seen.entry.iter().for_each(|entry| entry.0.set("impersonatedUser", other.info()));
        exchange.caller = Arc::new(other);
    }

    // [4] authorization
    let Exchange { info, caller, .. } = &exchange;
    if seen.entry.is_some() {
        let why = server.authorizer.why(caller, &action(info));
        audit::annotate("authorization.k8s.io/decision", if why.is_some() { "allow" } else { "forbid" });
        audit::annotate("authorization.k8s.io/reason", &why.unwrap_or_default());
    }
    server.authorizer.check(caller, &action(info))?;
    if info.is_resource && server.registry.resource(&info.group, &info.version, &info.resource).is_some() {
        // Only names that are served become labels of metrics: a client cannot invent new series.
        seen.resource.clone_from(&info.resource);
    }

    // [5] limits
    let mut permit = server.limits.admit(info, seen.long_running).await?;
    permit.audited.clone_from(&seen.entry);

    // [6] dispatch, [7] encode
    let answer = dispatch::dispatch(server, exchange, permit);
    if seen.long_running {
        return answer.await;
    }
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout")),
    }
}

/// What is authorized. Opening a stream into a container is a `create`, whatever the method: a WebSocket can only be a GET.
fn action(info: &RequestInfo) -> Action<'_> {
    let mut action = Action::of(info);
    if info.is_resource
        && info.resource == "pods"
        && matches!(action.subresource, "exec" | "attach" | "portforward")
        && action.verb == "get"
    {
        action.verb = "create";
    }
    action
}

/// Watches and streams have no deadline of the pipeline's.
fn is_long_running(info: &RequestInfo, query: &Query) -> bool {
    info.is_resource
        && (info.verb == "watch"
            || matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
            || info.subresource == "log" && query.flag("follow"))
}

/// Each part of the identity that the caller wants to take on is authorized by itself.
fn check_impersonation(server: &Shared, caller: &Caller, other: &Caller) -> Result<(), ApiError> {
    let mut wanted: Vec<(&str, &str, &str)> = Vec::new();
    match other.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => wanted.push(("serviceaccounts", namespace, name)),
        None => wanted.push(("users", "", &other.user)),
    }
    let implied = |group: &str| {
        group == "system:authenticated" || other.user.starts_with("system:serviceaccount:") && group.starts_with("system:serviceaccounts")
    };
    wanted.extend(other.groups.iter().filter(|group| !implied(group)).map(|group| ("groups", "", group.as_str())));
    if !other.uid.is_empty() {
        wanted.push(("uids", "", &other.uid));
    }
    wanted.extend(other.extra.values().flatten().map(|value| ("userextras", "", value.as_str())));
    wanted.into_iter().try_for_each(|(resource, namespace, name)| {
        let group = if matches!(resource, "uids" | "userextras") { "authentication.k8s.io" } else { "" };
        server
            .authorizer
            .check(caller, &Action { verb: "impersonate", is_resource: true, group, resource, namespace, name, ..Action::default() })
    })
}

/// The client's, if it sent a sane one; else a new one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    const AUDIT_ID_BYTES_MAX: usize = 64;
    if let Some(given) = headers.get(&AUDIT_ID)
        && given.len() <= AUDIT_ID_BYTES_MAX
        && !given.is_empty()
    {
        return given.clone();
    }
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// A response with only a status.
pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
