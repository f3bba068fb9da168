//! TLS of probes and hooks: whoever answers is taken for who it says it is, as the kubelet does. The pod's own certificate is the pod's affair; nothing
//! secret is sent.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result, Step};

/// Wraps a connection to `host`.
pub async fn wrap(stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>> {
    let config = pintle_pki::anyone::client().map_err(|source| Error::Tls { step: "choosing TLS versions".into(), source })?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::invalid("probe", format!("{host:?} is no host")))?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.step(|| format!("TLS handshake with {host}"))
}
