//! Health check ports: where balancers ask whether a node has endpoints of a Service whose outside traffic stays on the node.
//!
//! The answer is 200 while there are any and 503 while there are none, with the count in a header and in JSON as kube-proxy gives them.
//! Invariant: a port is open exactly while a Service names it; what is answered is the count at that moment.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::frontends::local_count;
use super::model::{Service, Slice};
use crate::follow::Key;

/// Wait before a port that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A connection that asks nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// The open ports.
#[derive(Default)]
pub struct HealthChecks {
    open: BTreeMap<Key, Check>,
}

/// One of them.
struct Check {
    port: u16,
    count: Rc<Cell<usize>>,
    listener: AbortHandle,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl HealthChecks {
    /// What a Service is now; `None`: gone.
    pub fn set(&mut self, key: &Key, service: Option<&Service>, slices: &[&Slice], node: &str) {
        let asks = |service: &&Service| service.spec.r#type == "LoadBalancer" && service.spec.external_traffic_policy == "Local";
        let port = service.filter(asks).map_or(0, |service| service.spec.health_check_node_port);
        if port == 0 {
            self.open.remove(key);
            return;
        }
        let count = local_count(slices, node);
        if let Some(check) = self.open.get(key).filter(|check| check.port == port) {
            return check.count.set(count);
        }
        self.open.remove(key);
        let count = Rc::new(Cell::new(count));
        let listener = tokio::task::spawn_local(listen(key.clone(), port, count.clone())).abort_handle();
        self.open.insert(key.clone(), Check { port, count, listener });
    }
}

/// A listener at every address of this machine, of both families where it has both.
///
/// # Errors
/// The port is taken.
pub async fn everywhere(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
        outcome => outcome,
    }
}

async fn listen(key: Key, port: u16, count: Rc<Cell<usize>>) {
    let listener = loop {
        match everywhere(port).await {
            Ok(listener) => break listener,
            Err(error) => tracing::warn!(port, service = key.1, %error, "a health check port cannot be opened"),
        }
        tokio::time::sleep(RETRY).await;
    };
    // Connections end with the port.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn_local(serve(stream, key.clone(), count.clone()))),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, key: Key, count: Rc<Cell<usize>>) {
    let service = service_fn(move |_| {
        let answer = answer(&key, count.get());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.timer(TokioTimer::new()).header_read_timeout(IDLE).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a health check's connection");
    }
}

fn answer((namespace, name): &Key, count: usize) -> Response<Full<Bytes>> {
    let said = json!({ "service": { "namespace": namespace, "name": name }, "localEndpoints": count, "serviceProxyHealthy": true });
    let mut response = Response::new(Full::from(said.to_string()));
    *response.status_mut() = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", http::HeaderValue::from(count));
    response
}
