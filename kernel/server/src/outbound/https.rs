//! A JSON request to a webhook over HTTPS.
//!
//! Connections are kept for the next call, by where the name leads now: when a Service's pod is replaced, its connections are left to time out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::{Route, service};
use crate::server::Shared;

/// What a webhook may answer.
const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Idle connections kept to one place.
const IDLE_MAX: usize = 8;
/// Places to which idle connections are kept; beyond, all are dropped.
const PLACES_MAX: usize = 64;
/// Certificate authorities of the machine, for webhooks that name none (Debian's place).
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Whom to call: `clientConfig` of a webhook, compiled.
pub(crate) struct Callee {
    /// `https://host[:port]/path`, as errors show it.
    pub(crate) url: String,
    host: String,
    port: u16,
    path: String,
    /// Namespace and name; else the host is dialled.
    service: Option<(String, String)>,
    tls: Result<Arc<ClientConfig>, String>,
    /// Unlike any other's: connections are kept only for who made them.
    id: u64,
}

impl Callee {
    /// From a `clientConfig`; one that cannot be read is an error of every call.
    pub(crate) fn new(config: &Value) -> Callee {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let tls = client_config(&text("/caBundle"));
        if let Some(reference) = config.get("service").filter(|service| service.is_object()) {
            let (namespace, name, path) = (text("/service/namespace"), text("/service/name"), text("/service/path"));
            let port = reference["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
            let host = format!("{name}.{namespace}.svc");
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            let url = format!("https://{host}:{port}{path}");
            return Callee { url, host, port, path, service: Some((namespace, name)), tls, id };
        }
        let url = text("/url");
        let uri: Result<http::Uri, String> = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string());
        let (host, port, path) = match &uri {
            Ok(uri) => (
                uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
                uri.port_u16().unwrap_or(443),
                uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned(),
            ),
            Err(_) => (String::new(), 0, String::new()),
        };
        Callee { url, host, port, path, service: None, tls: uri.and(tls), id }
    }

    fn route(&self, server: &Shared) -> Result<Route, String> {
        match &self.service {
            Some((namespace, name)) => service::route(&server.registry, namespace, name, &self.port.to_string()).map_err(|e| e.message),
            None => Ok(Route::address(&self.host, self.port)),
        }
    }
}

/// Trusts the bundle (PEM in base64), or the machine's authorities when it is empty.
fn client_config(bundle: &str) -> Result<Arc<ClientConfig>, String> {
    let pem = match bundle {
        "" => std::fs::read(SYSTEM_ROOTS).unwrap_or_default(),
        bundle => base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|error| format!("caBundle: {error}"))?,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

type Sender = SendRequest<Full<Bytes>>;

/// Idle connections, by webhook and place.
#[derive(Default)]
pub(crate) struct Connections {
    idle: Mutex<HashMap<String, Vec<Sender>>>,
}

impl Connections {
    /// Post JSON, and read JSON.
    ///
    /// # Errors
    /// Text for people: what failed, with the URL as upstream writes it.
    pub(crate) async fn post(&self, server: &Arc<Shared>, callee: &Callee, body: &Value, timeout: Duration) -> Result<Value, String> {
        let url = format!("{}?timeout={}s", callee.url, timeout.as_secs());
        let failed = |why: &dyn std::fmt::Display| format!("Post {url:?}: {why}");
        match tokio::time::timeout(timeout, self.exchange(server, callee, body, timeout)).await {
            Ok(answer) => answer.map_err(|why| failed(&why)),
            Err(_) => Err(failed(&"context deadline exceeded")),
        }
    }

    async fn exchange(&self, server: &Arc<Shared>, callee: &Callee, body: &Value, timeout: Duration) -> Result<Value, String> {
        let tls = callee.tls.clone()?;
        let route = callee.route(server)?;
        let place = format!("{} {route:?}", callee.id);
        let separator = if callee.path.contains('?') { '&' } else { '?' };
        let text = Bytes::from(body.to_string());
        let request = || {
            Request::builder()
                .method(Method::POST)
                .uri(format!("{}{separator}timeout={}s", callee.path, timeout.as_secs()))
                .header(HOST, format!("{}:{}", callee.host, callee.port))
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, */*")
                .body(Full::new(text.clone()))
                .map_err(|error| error.to_string())
        };
        // A kept connection may have been closed at the other end: then a new one is made, once.
        let (mut sender, response) = match self.kept(&place) {
            Some(mut sender) => match sender.send_request(request()?).await {
                Ok(response) => (sender, response),
                Err(_) => fresh(server, callee, &route, tls, request()?).await?,
            },
            None => fresh(server, callee, &route, tls, request()?).await?,
        };
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?.to_bytes();
        if sender.ready().await.is_ok() {
            self.keep(place, sender);
        }
        if !status.is_success() {
            return Err(format!("the server answered {status}: {}", String::from_utf8_lossy(&read).chars().take(256).collect::<String>()));
        }
        serde_json::from_slice(&read).map_err(|error| format!("the answer is not JSON: {error}"))
    }

    fn kept(&self, place: &str) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let senders = idle.get_mut(place)?;
        std::iter::from_fn(|| senders.pop()).find(|sender| !sender.is_closed())
    }

    fn keep(&self, place: String, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() >= PLACES_MAX {
            idle.clear();
        }
        let senders = idle.entry(place).or_default();
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
    }
}

async fn fresh(
    server: &Arc<Shared>,
    callee: &Callee,
    route: &Route,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<(Sender, http::Response<hyper::body::Incoming>), String> {
    let name = ServerName::try_from(callee.host.clone()).map_err(|error| error.to_string())?;
    let stream = super::dial(server, route).await.map_err(|error| error.message)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok((sender, response))
}
