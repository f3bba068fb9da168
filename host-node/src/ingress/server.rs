//! Where clients connect: ports, TLS, connections; on threads of its own, so that the daemon's work and the traffic do not wait for each other.
//!
//! Ports are opened and closed as the programme asks. A connection reads the programme anew with each request. Limits: connections at once (by
//! the file descriptors that there are), the time until a connection's first request, the size of a head.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::forward;
use super::model::Certificate;
use super::table::{Door, Programme};
use crate::error::{Error, Result, Step};
use crate::service::health::everywhere;

/// Longest wait for a connection's first request, its TLS handshake included.
pub const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Longest head of a request, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 250;
/// Connections at once, if there are file descriptors for so many.
const CONNECTIONS_MAX: u64 = 16_384;
/// Descriptors that are left to the rest of the daemon.
const DESCRIPTORS_KEPT: u64 = 1024;
/// Wait before a port is tried again that somebody else has.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// What the proxy does now.
#[derive(Clone, Default)]
pub struct State {
    /// Where requests go.
    pub programme: Arc<Programme>,
    /// The certificates that could be read.
    pub certificates: Arc<HashMap<Certificate, Arc<CertifiedKey>>>,
    /// Ports that are opened under another number; 0: not at all.
    pub ports: Arc<BTreeMap<u16, u16>>,
}

/// The proxy's threads, begun when the first port is wanted.
pub struct Server {
    state: watch::Sender<State>,
    begun: OnceLock<()>,
}

impl Default for Server {
    fn default() -> Self {
        Self { state: watch::channel(State::default()).0, begun: OnceLock::new() }
    }
}

impl Server {
    /// What it does from now on.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn set(&self, state: State) -> Result<()> {
        let wanted = !state.programme.doors.is_empty();
        self.state.send_replace(state);
        if wanted && self.begun.get().is_none() {
            let states = self.state.subscribe();
            let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .thread_name("ingress")
                .enable_all()
                .build()
                .step(|| "starting the ingress threads".into())?;
            let thread = std::thread::Builder::new().name("ingress".into());
            thread.spawn(move || runtime.block_on(keep_ports(states))).step(|| "starting the ingress threads".into())?;
            let _ = self.begun.set(());
        }
        Ok(())
    }
}

/// Opens and closes ports as the programme says, until the daemon ends.
async fn keep_ports(mut states: watch::Receiver<State>) {
    let room = Arc::new(Semaphore::new(room()));
    let mut open: BTreeMap<Door, CancellationToken> = BTreeMap::new();
    loop {
        let state = states.borrow_and_update().clone();
        open.retain(|door, token| {
            let stays = state.programme.doors.contains_key(door);
            if !stays {
                token.cancel();
            }
            stays
        });
        for door in state.programme.doors.keys().filter(|door| !open.contains_key(door)).copied().collect::<Vec<_>>() {
            let port = state.ports.get(&door.port).copied().unwrap_or(door.port);
            if port == 0 {
                continue;
            }
            let token = CancellationToken::new();
            tokio::spawn(listen(door, port, states.clone(), room.clone(), token.clone()));
            open.insert(door, token);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// How many connections there is room for: each needs a descriptor, and one more to its backend.
fn room() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let wanted = (2 * CONNECTIONS_MAX + DESCRIPTORS_KEPT).min(hard);
    let limit = if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    let room = (limit.saturating_sub(DESCRIPTORS_KEPT.min(limit / 2)) / 2).clamp(64, CONNECTIONS_MAX);
    usize::try_from(room).unwrap_or(64)
}

async fn listen(door: Door, port: u16, states: watch::Receiver<State>, room: Arc<Semaphore>, closing: CancellationToken) {
    let accept = async {
        let listener = loop {
            match everywhere(port).await {
                Ok(listener) => break listener,
                Err(error) => tracing::warn!(port, %error, "a port of the ingress cannot be opened"),
            }
            tokio::time::sleep(BIND_RETRY).await;
        };
        tracing::info!(port, tls = door.tls, "the ingress listens");
        let tls = tls_config(door, states.clone()).map(tokio_rustls::TlsAcceptor::from).ok();
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (states, tls, closing) = (states.clone(), tls.clone(), closing.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                // Who came by version 4 to a socket of both is known by that.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                connection(door, stream, peer, tls, states, closing).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = closing.cancelled() => tracing::info!(port, "the ingress listens no more"),
    }
}

async fn connection(
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
    states: watch::Receiver<State>,
    closing: CancellationToken,
) {
    if !door.tls {
        return serve(Builder::new(TokioExecutor::new()), door, stream, peer, states, closing).await;
    }
    let Some(acceptor) = tls else { return };
    match tokio::time::timeout(FIRST_REQUEST, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let builder = Builder::new(TokioExecutor::new());
            let builder = if second { builder.http2_only() } else { builder.http1_only() };
            serve(builder, door, stream, peer, states, closing).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => {}
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut builder: Builder<TokioExecutor>,
    door: Door,
    stream: S,
    peer: SocketAddr,
    states: watch::Receiver<State>,
    closing: CancellationToken,
) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(FIRST_REQUEST).max_buf_size(HEAD_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX as u32);
    let asked = Arc::new(AtomicBool::new(false));
    let flag = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        flag.store(true, Ordering::Relaxed);
        let programme = states.borrow().programme.clone();
        async move { Ok::<_, Infallible>(forward::answer(programme, forward::origin(door, peer), request).await) }
    });
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(served);
    let (mut closed, mut waited) = (false, false);
    let patience = tokio::time::sleep(FIRST_REQUEST);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                return;
            }
            () = closing.cancelled(), if !closed => {
                closed = true;
                served.as_mut().graceful_shutdown();
            }
            () = &mut patience, if !waited => {
                waited = true;
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

fn tls_config(door: Door, states: watch::Receiver<State>) -> Result<Arc<rustls::ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { step: "choosing TLS versions".into(), source })?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName { door, states }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Chooses a certificate by the name that the client asks for. Without one for it the handshake fails.
struct ByName {
    door: Door,
    states: watch::Receiver<State>,
}

impl std::fmt::Debug for ByName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByName").field("door", &self.door).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let state = self.states.borrow();
        let mut wanted = state.programme.doors.get(&self.door)?.certificates_for(&name);
        wanted.find_map(|certificate| state.certificates.get(certificate).cloned())
    }
}
