//! Calls that the server makes: to pods and Services for clients (`proxy`), to webhooks on its own account.
//!
//! Pods are reached over their machine's own connection, so the kernel need not stand in the pod network; what is no pod is dialled. `service`
//! finds who serves a Service, `https` speaks to a webhook.

pub(crate) mod https;
pub(crate) mod service;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use pintle_api::ApiError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::PollSender;

use crate::connect::ask;
use crate::node::{Call, Target};
use crate::server::Shared;

/// Connecting may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Chunks in flight each way.
const CHUNKS_IN_FLIGHT: usize = 8;

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// A port of a pod, through its machine, or the machine's own HTTP.
    Machine {
        /// The machine.
        node: String,
        /// The pod, or the machine.
        target: Target,
        /// Of the pod's network namespace; a machine's is the kubelet's.
        port: u16,
    },
    /// `host:port`, from here.
    Address(String),
}

impl Route {
    /// A port of a host by its name or address; IPv6 addresses stand in brackets.
    pub(crate) fn address(host: &str, port: u16) -> Route {
        Route::Address(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }
}

/// A connection, whatever carries it.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The same connection, in TLS with whoever answers: the client's credentials are not sent along. It is known by address, so no name is said.
pub(crate) async fn encrypted(stream: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, std::io::Error> {
    let config = pintle_pki::anyone::client().map_err(std::io::Error::other)?;
    let name = rustls_pki_types::ServerName::from(std::net::IpAddr::from([0; 4]));
    Ok(Box::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Connect.
///
/// # Errors
/// 503 when nobody answers there in time; else what the machine says.
pub(crate) async fn dial(server: &Arc<Shared>, route: &Route) -> Result<Box<dyn Duplex>, ApiError> {
    match route {
        Route::Machine { node, target, port } => {
            let (to_pod, from_client) = mpsc::channel(CHUNKS_IN_FLIGHT);
            let (to_client, from_pod) = mpsc::channel(CHUNKS_IN_FLIGHT);
            let target = target.clone();
            ask(server, node, |reply| Call::PortForward { target, port: *port, from_client, to_client, reply }).await?;
            let read = StreamReader::new(Box::pin(stream::unfold(from_pod, |mut from_pod: mpsc::Receiver<Bytes>| async move {
                Some((Ok::<_, std::io::Error>(from_pod.recv().await?), from_pod))
            })));
            let closed = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            let write = SinkWriter::new(CopyToBytes::new(futures::SinkExt::sink_map_err(PollSender::new(to_pod), closed)));
            Ok(Box::new(tokio::io::join(read, write)))
        }
        Route::Address(address) => {
            let unreachable = |why: &dyn std::fmt::Display| ApiError::service_unavailable(format!("dial tcp {address}: {why}"));
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            let stream = stream.map_err(|_| unreachable(&"i/o timeout"))?.map_err(|error| unreachable(&error))?;
            // Requests are small; waiting for more would only delay them.
            stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
            Ok(Box::new(stream))
        }
    }
}
