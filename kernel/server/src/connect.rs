//! Logs, exec, attach and port-forward: from a request to a container on some machine, over that machine's own connection.
//!
//! In order: which pod, which container, which machine; ask the machine; and only when it has begun is the client's connection turned into a stream.
//! So what fails is still an ordinary `Status`.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pintle_api::{ApiError, FieldError};
use pintle_streams::process::{self, Wanted};
use pintle_streams::spdy::Connection;
use pintle_streams::websocket::Channels;
use pintle_streams::{forward, spdy_process, websocket};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::limits::Permit;
use crate::node::{Call, LogOptions, Target};
use crate::objects;
use crate::pipeline::{Exchange, bare};
use crate::request::Query;
use crate::reviews;
use crate::server::Shared;

/// A machine must have begun within this time.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Chunks of a log in flight to one client.
const LOG_CHUNKS: usize = 8;

/// A pod and where it runs.
struct Place {
    pod: Value,
    name: String,
    namespace: String,
    uid: String,
    node: String,
}

impl Place {
    fn find(server: &Shared, exchange: &Exchange) -> Result<Place, ApiError> {
        let target = objects::target(&server.registry, &exchange.info)?;
        let object = reviews::object(&server.registry, "pods", &target.namespace, &target.name)?;
        let pod = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Place { name: target.name, namespace: target.namespace, uid: object.meta().uid.to_string(), node, pod })
    }

    fn names(&self, kind: &str) -> Vec<&str> {
        self.pod["spec"][kind].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
    }

    /// The container asked for, or the only one.
    fn container(&self, asked: &str) -> Result<String, ApiError> {
        let [plain, init, ephemeral] = ["containers", "initContainers", "ephemeralContainers"].map(|kind| self.names(kind));
        if asked.is_empty() {
            if let [only] = plain.as_slice() {
                return Ok((*only).to_owned());
            }
            let mut message = format!("a container name must be specified for pod {}, choose one of: [{}]", self.name, plain.join(" "));
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                message.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            return Err(ApiError::bad_request(message));
        }
        if plain.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked) {
            return Ok(asked.to_owned());
        }
        Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", self.name)))
    }

    fn target(&self, container: String) -> Target {
        Target { resource: "pods", namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone(), container }
    }

    fn host(&self) -> Result<&str, ApiError> {
        if self.node.is_empty() {
            Err(ApiError::bad_request(format!("pod {} does not have a host assigned", self.name)))
        } else {
            Ok(&self.node)
        }
    }
}

pub(crate) async fn ask(server: &Shared, node: &str, make: impl FnOnce(crate::node::Reply) -> Call) -> Result<(), ApiError> {
    match tokio::time::timeout(BEGIN_TIMEOUT, server.nodes.ask(node, make)).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::timeout(format!("node {node:?} did not answer"))),
    }
}

/// Admission of a connection: `options` is what the client wants of it.
pub(crate) async fn admit(server: &Shared, exchange: &Exchange, options: &Value) -> Result<(), ApiError> {
    let info = &exchange.info;
    let target = server.registry.resolve(&info.group, &info.version, &info.resource, &info.subresource, &info.namespace, &info.name)?;
    server.registry.admit_connect(&exchange.caller, &target, options).await
}

/// `GET .../pods/{name}/log`.
pub(crate) async fn log(server: &Arc<Shared>, exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    if exchange.info.verb != "get" {
        return Err(ApiError::method_not_allowed_path());
    }
    let place = Place::find(server, &exchange)?;
    let target = place.target(place.container(exchange.query.text("container"))?);
    let options = log_options(&exchange.query)?;
    let upgrade =
        if websocket::requested(exchange.headers()) { Some(Upgrade::websocket(exchange.parts, &websocket::BYTE_STREAMS)?) } else { None };

    let (to, mut chunks) = mpsc::channel(LOG_CHUNKS);
    let gone = CancellationToken::new();
    if place.node.is_empty() {
        // A pod that no machine has taken yet has an empty log.
        drop(to);
    } else {
        ask(server, &place.node, |reply| Call::Logs { target, options, to, gone: gone.clone(), reply }).await?;
    }
    let gone = gone.drop_guard();
    if let Some(upgrade) = upgrade {
        let protocol = upgrade.protocol;
        return Ok(upgrade.then(server, permit, move |upgraded| async move {
            let _gone = gone;
            let messages =
                futures::stream::poll_fn(move |cx| chunks.poll_recv(cx)).map(move |bytes| websocket::byte_message(protocol, bytes));
            websocket::serve_messages(websocket::socket(upgraded).await, messages).await;
        }));
    }
    let mut stopping = server.stopping();
    let stop = async move { stopping.wait().await };
    let held = (permit, gone);
    let stream = futures::stream::unfold((chunks, held), |(mut chunks, held)| async move { Some((chunks.recv().await?, (chunks, held))) });
    let mut response = Response::new(Body::stream(stream.take_until(Box::pin(stop))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn log_options(query: &Query) -> Result<LogOptions, ApiError> {
    let number = |name: &str, least: i64| -> Result<Option<i64>, ApiError> {
        let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let value: i64 = text.parse().map_err(|_| objects::bad_parameter(name, text))?;
        if value >= least {
            return Ok(Some(value));
        }
        Err(invalid_log(&FieldError::invalid(name, value, format!("must be greater than or equal to {least}"))))
    };
    let since_seconds = number("sinceSeconds", 1)?;
    let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
    let since_unix_nanos = match (since_seconds, since_time) {
        (Some(_), Some(_)) => {
            return Err(invalid_log(&FieldError::forbidden(
                "sinceSeconds",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            )));
        }
        (Some(seconds), None) => nanos(jiff::Timestamp::now()).saturating_sub(seconds.saturating_mul(1_000_000_000)),
        (None, Some(text)) => nanos(text.parse().map_err(|_| objects::bad_parameter("sinceTime", text))?),
        (None, None) => 0,
    };
    let stream = query.text("stream");
    if !matches!(stream, "" | "All" | "Stdout" | "Stderr") {
        return Err(invalid_log(&FieldError::invalid("stream", stream, "must be one of All, Stdout, Stderr")));
    }
    Ok(LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines", 0)?.unwrap_or(-1),
        limit_bytes: number("limitBytes", 1)?.unwrap_or(-1),
        since_unix_nanos,
        stream: stream.to_owned(),
    })
}

fn nanos(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn invalid_log(error: &FieldError) -> ApiError {
    ApiError::invalid_kind("", "PodLogOptions", "", std::slice::from_ref(error))
}

/// `GET` or `POST .../pods/{name}/exec` and `/attach`.
pub(crate) async fn process(server: &Arc<Shared>, exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    let attach = exchange.info.subresource == "attach";
    let place = Place::find(server, &exchange)?;
    let phase = place.pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let what = if attach { "attach to" } else { "exec into" };
        return Err(ApiError::bad_request(format!("cannot {what} a container in a completed pod; current phase is {phase}")));
    }
    let target = place.target(place.container(exchange.query.text("container"))?);
    let (wanted, command) = process_options(&exchange.query, attach)?;
    let options = json!({
        "kind": if attach { "PodAttachOptions" } else { "PodExecOptions" }, "apiVersion": "v1", "container": target.container, "command": command,
        "stdin": wanted.stdin, "stdout": wanted.stdout, "stderr": wanted.stderr, "tty": wanted.tty,
    });
    admit(server, &exchange, &options).await?;
    let node = place.host()?;
    let (transport, upgrade) = Transport::choose(exchange)?;

    let (client, end) = process::pipes();
    ask(server, node, |reply| Call::Process { attach, target, command, wanted, end, reply }).await?;
    Ok(upgrade.then(server, permit, move |upgraded| async move {
        match transport {
            Transport::WebSocket(channels) => websocket::serve_process(websocket::socket(upgraded).await, channels, wanted, client).await,
            Transport::Spdy(version) => {
                spdy_process::serve_process(Connection::serve(TokioIo::new(upgraded)), version, wanted, client).await;
            }
        }
    }))
}

fn process_options(query: &Query, attach: bool) -> Result<(Wanted, Vec<String>), ApiError> {
    let tty = query.flag("tty");
    // A terminal has one output.
    let wanted = Wanted { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") && !tty, tty };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if !attach && command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
    }
    Ok((wanted, command))
}

/// How the client of an exec or attach wants it carried.
enum Transport {
    WebSocket(Channels),
    Spdy(&'static str),
}

impl Transport {
    fn choose(exchange: Exchange) -> Result<(Transport, Upgrade), ApiError> {
        if websocket::requested(exchange.headers()) {
            let unknown = || ApiError::bad_request("none of the offered WebSocket subprotocols is served");
            let channels = Channels::choose(exchange.headers()).ok_or_else(unknown)?;
            return Ok((Transport::WebSocket(channels), Upgrade::websocket(exchange.parts, &[channels.name()])?));
        }
        let version = spdy_process::choose_version(exchange.headers());
        let version =
            version.ok_or_else(|| ApiError::from_code(403, "Forbidden", "none of the offered stream protocol versions is served"))?;
        Ok((Transport::Spdy(version), Upgrade::spdy(exchange.parts, version)?))
    }
}

/// `GET` or `POST .../pods/{name}/portforward`.
pub(crate) async fn port_forward(server: &Arc<Shared>, exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    let place = Place::find(server, &exchange)?;
    admit(server, &exchange, &json!({"kind": "PodPortForwardOptions", "apiVersion": "v1"})).await?;
    let node = place.host()?.to_owned();
    if place.pod.pointer("/status/phase").and_then(Value::as_str) != Some("Running") {
        return Err(ApiError::bad_request(format!("unable to forward port because pod is not running: {}", place.name)));
    }
    let target = place.target(String::new());
    let ports = exchange.query.all("ports").flat_map(|ports| ports.split(',')).map(str::parse);
    let ports: Vec<u16> = ports.collect::<Result<_, _>>().map_err(|_| objects::bad_parameter("ports", exchange.query.text("ports")))?;
    let upgrade = match websocket::requested(exchange.headers()) {
        true => Upgrade::websocket(exchange.parts, &forward::WEBSOCKETS)?,
        false => Upgrade::spdy(exchange.parts, forward::PROTOCOL)?,
    };
    let protocol = upgrade.protocol;
    if Channels::named(protocol).is_some() && !(1..=forward::PORTS_MAX).contains(&ports.len()) {
        return Err(ApiError::bad_request("query parameter \"ports\" must name 1 to 127 ports"));
    }
    let shared = server.clone();
    Ok(upgrade.then(server, permit, move |upgraded| async move {
        let dial = move |port, from_client, to_client| {
            let (shared, node, target) = (shared.clone(), node.clone(), target.clone());
            async move {
                ask(&shared, &node, |reply| Call::PortForward { target, port, from_client, to_client, reply }).await.map_err(|e| e.message)
            }
        };
        match (protocol, Channels::named(protocol)) {
            (forward::PROTOCOL, _) => forward::serve(Connection::serve(TokioIo::new(upgraded)), dial).await,
            (_, Some(channels)) => forward::serve_channels(websocket::socket(upgraded).await, channels, ports, dial).await,
            (_, None) => forward::serve(forward::tunnel(websocket::socket(upgraded).await), dial).await,
        }
    }))
}

/// A connection that is about to become something else.
pub(crate) struct Upgrade {
    on: OnUpgrade,
    headers: HeaderMap,
    protocol: &'static str,
}

impl Upgrade {
    pub(crate) fn websocket(mut parts: http::request::Parts, served: &[&'static str]) -> Result<Upgrade, ApiError> {
        let unknown = || ApiError::bad_request("the WebSocket handshake is not one that is served");
        let protocol = websocket::choose(&parts.headers, served).ok_or_else(unknown)?;
        let headers = websocket::accept(&parts.headers, protocol).ok_or_else(unknown)?;
        let on = parts.extensions.remove::<OnUpgrade>().ok_or_else(unknown)?;
        Ok(Upgrade { on, headers, protocol })
    }

    fn spdy(mut parts: http::request::Parts, version: &'static str) -> Result<Upgrade, ApiError> {
        let required = || ApiError::bad_request("Upgrade request required");
        let asked = parts.headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !asked.eq_ignore_ascii_case("SPDY/3.1") || !matches!(parts.method, Method::GET | Method::POST) {
            return Err(required());
        }
        let on = parts.extensions.remove::<OnUpgrade>().ok_or_else(required)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(spdy_process::VERSION_HEADER, HeaderValue::from_static(version));
        Ok(Upgrade { on, headers, protocol: version })
    }

    /// Answer 101, and run the session on the connection until it ends or the server stops.
    /// `held` is given back then.
    pub(crate) fn then<F, H>(self, server: &Arc<Shared>, held: H, session: impl FnOnce(Upgraded) -> F + Send + 'static) -> Response<Body>
    where
        F: Future<Output = ()> + Send + 'static,
        H: Send + 'static,
    {
        let mut stopping = server.stopping();
        let on = self.on;
        server.tasks.spawn(async move {
            let _held = held;
            let Ok(upgraded) = on.await else { return };
            tokio::select! {
                () = session(upgraded) => {}
                () = stopping.wait() => {}
            }
        });
        let mut response = bare(StatusCode::SWITCHING_PROTOCOLS);
        *response.headers_mut() = self.headers;
        response
    }
}
