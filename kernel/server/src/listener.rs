//! Connections: accepted, shaken hands with, and handed to HTTP or to the node link.
//!
//! A connection costs nothing but its place until the handshake is through, and has a time limit for that.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::authn::Peer;
use crate::limits::{CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HTTP2_STREAMS_MAX, NODE_LINKS_MAX};
use crate::node::{Link, Threads};
use crate::pipeline;
use crate::server::Shared;
use crate::tls::Protocol;

/// An idle HTTP/1.1 connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// An HTTP/2 client is asked whether it is alive this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// When accepting fails (out of file descriptors), wait this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What accepting needs.
pub(crate) struct Doors {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
    tls: TlsAcceptor,
    connections: Arc<Semaphore>,
    links: Arc<Semaphore>,
}

impl Doors {
    pub(crate) fn new(shared: Arc<Shared>, threads: Arc<Threads>, tls: Arc<rustls::ServerConfig>) -> Doors {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Doors { shared, threads, tls: TlsAcceptor::from(tls), connections, links: Arc::new(Semaphore::new(NODE_LINKS_MAX)) }
    }
}

/// Accept until the server stops.
pub(crate) async fn accept(doors: Arc<Doors>, listener: TcpListener) {
    let mut stopping = doors.shared.stopping();
    loop {
        // A full house leaves newcomers in the system's queue.
        let Ok(permit) = doors.connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stopping.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let doors = doors.clone();
                let tasks = doors.shared.tasks.clone();
                tasks.spawn(async move {
                    doors.shared.open.fetch_add(1, Ordering::Relaxed);
                    serve(&doors, stream, address).await;
                    doors.shared.open.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve(doors: &Doors, stream: TcpStream, address: std::net::SocketAddr) {
    // Without it a small answer may wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, doors.tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let (_, session) = stream.get_ref();
    let protocol = Protocol::from_alpn(session.alpn_protocol());
    let peer = Arc::new(Peer::new(address, session.peer_certificates()));
    match protocol {
        Protocol::Node => link(doors, stream, &peer).await,
        Protocol::Http1 => http1(&doors.shared, stream, peer).await,
        Protocol::Http2 => http2(&doors.shared, stream, peer).await,
    }
}

/// Only a node's certificate opens a link.
async fn link(doors: &Doors, stream: TlsStream<TcpStream>, peer: &Peer) {
    let Some(node) = peer.node_name() else {
        return tracing::warn!(address = %peer.address, "a node link without a node's certificate");
    };
    match doors.links.clone().try_acquire_owned() {
        Ok(permit) => doors.threads.take(Link { node: node.to_owned(), stream, permit }).await,
        Err(_) => tracing::warn!(node, "too many node links"),
    }
}

async fn http1(shared: &Arc<Shared>, stream: TlsStream<TcpStream>, peer: Arc<Peer>) {
    let service = service_fn(|request| {
        let answer = pipeline::handle(shared.clone(), peer.clone(), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    drive(shared, connection, |connection| connection.graceful_shutdown(), &peer).await;
}

async fn http2(shared: &Arc<Shared>, stream: TlsStream<TcpStream>, peer: Arc<Peer>) {
    let (answering, from) = (shared.clone(), peer.clone());
    let service = service_fn(move |request| {
        let answer = pipeline::handle(answering.clone(), from.clone(), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    drive(shared, connection, |connection| connection.graceful_shutdown(), &peer).await;
}

/// Let a connection run until it ends, or until the server stops and it has finished what it had begun.
async fn drive<C>(shared: &Shared, connection: C, finish: fn(Pin<&mut C>), peer: &Peer)
where
    C: Future<Output = hyper::Result<()>>,
{
    tokio::pin!(connection);
    let mut stopping = shared.stopping();
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.wait() => {
            finish(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(address = %peer.address, %error, "HTTP connection");
    }
}
