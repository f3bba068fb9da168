//! A port of a Service as the proxy uses it: who stands behind it now, and kept connections to them.
//!
//! Endpoints are set from the daemon's thread and read by the proxy's; a connection to an endpoint that is gone is never used again.
//! Invariant: a connection carries one request at a time (HTTP/1.1) and is kept only after its answer was read to the end.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What goes either way.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Longest wait for a connection to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A kept connection that is older than this is not used: endpoints hang up on idle ones, most after a minute or more.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Kept connections of one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// What endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.1, WebSocket among it.
    #[default]
    Http1,
    /// HTTP/2 without TLS: `appProtocol: kubernetes.io/h2c`.
    H2c,
}

/// Who stands behind a Service's port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Sorted.
    pub endpoints: Vec<SocketAddr>,
    /// What they speak.
    pub speech: Speech,
}

/// A port of a Service.
#[derive(Default)]
pub struct Service {
    behind: RwLock<Arc<Behind>>,
    turn: AtomicUsize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    http1: HashMap<SocketAddr, Vec<(http1::SendRequest<Body>, Instant)>>,
    http2: HashMap<SocketAddr, http2::SendRequest<Body>>,
}

/// Why an endpoint gave no answer.
pub enum Failure {
    /// No connection; the request was not sent.
    Connect(Box<Request<Body>>),
    /// The connection broke after the request had been sent, at least in part. Whether it was a kept one.
    Broken(bool),
}

/// A connection that is ready for one request.
enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Service {
    /// Who stands behind it from now on.
    pub fn set(&self, now: Behind) {
        let mut behind = self.behind.write().unwrap_or_else(PoisonError::into_inner);
        if **behind == now {
            return;
        }
        let mut kept = lock(&self.kept);
        let stays = |address: &SocketAddr| now.speech == behind.speech && now.endpoints.contains(address);
        kept.http1.retain(|address, _| stays(address));
        kept.http2.retain(|address, _| stays(address));
        drop(kept);
        *behind = Arc::new(now);
    }

    /// Who stands behind it.
    pub fn behind(&self) -> Arc<Behind> {
        self.behind.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next endpoint in turn that was not tried yet; with all tried, the next in turn.
    pub fn next(&self, tried: &BTreeSet<SocketAddr>) -> Option<SocketAddr> {
        let behind = self.behind();
        let count = behind.endpoints.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        let mut in_turn = (0..count).map(|step| behind.endpoints[(turn + step) % count]);
        in_turn.clone().find(|address| !tried.contains(address)).or_else(|| in_turn.next())
    }

    /// Sends a request to an endpoint; the answer when its head is there.
    pub async fn send(self: &Arc<Self>, to: SocketAddr, mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        loop {
            let (connection, kept) = match self.kept(to) {
                Some(connection) => (connection, true),
                None => match self.connect(to).await {
                    Some(connection) => (connection, false),
                    None => return Err(Failure::Connect(Box::new(request))),
                },
            };
            let sent = match connection {
                Connection::Http1(mut sender) => {
                    let sent = sender.try_send_request(request).await;
                    if sent.is_ok() {
                        self.keep(to, sender);
                    }
                    sent
                }
                Connection::Http2(mut sender) => sender.try_send_request(request).await,
            };
            match sent.map_err(|mut error| error.take_message()) {
                Ok(response) => return Ok(response),
                // A kept connection had been closed at its other end: nothing was sent, another will do.
                Err(Some(unsent)) if kept => request = unsent,
                Err(Some(unsent)) => return Err(Failure::Connect(Box::new(unsent))),
                Err(None) => return Err(Failure::Broken(kept)),
            }
        }
    }

    fn kept(&self, to: SocketAddr) -> Option<Connection> {
        let speech = self.behind().speech;
        let mut kept = lock(&self.kept);
        if speech == Speech::H2c {
            return kept.http2.get(&to).filter(|sender| !sender.is_closed()).cloned().map(Connection::Http2);
        }
        let connections = kept.http1.get_mut(&to)?;
        while let Some((sender, since)) = connections.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_MAX {
                return Some(Connection::Http1(sender));
            }
        }
        None
    }

    async fn connect(&self, to: SocketAddr) -> Option<Connection> {
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%to, %error, "an endpoint takes no connection");
                return None;
            }
            Err(_) => return None,
        };
        let _ = stream.set_nodelay(true);
        let speech = self.behind().speech;
        if speech == Speech::H2c {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            lock(&self.kept).http2.insert(to, sender.clone());
            return Some(Connection::Http2(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection.with_upgrades());
        Some(Connection::Http1(sender))
    }

    /// Keeps a connection for later, once its answer has been read to the end.
    fn keep(self: &Arc<Self>, to: SocketAddr, mut sender: http1::SendRequest<Body>) {
        let service = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let Some(service) = service.upgrade() else { return };
            // Looked at under the lock that `set` takes, so that no connection to an endpoint that is gone slips in.
            let mut kept = lock(&service.kept);
            if !service.behind.try_read().is_ok_and(|behind| behind.endpoints.contains(&to)) {
                return;
            }
            let connections = kept.http1.entry(to).or_default();
            connections.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_MAX);
            if connections.len() < IDLE_CONNECTIONS_MAX {
                connections.push((sender, Instant::now()));
            }
        });
    }
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
