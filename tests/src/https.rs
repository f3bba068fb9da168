//! An HTTPS client for load: keep-alive connections with the administrator's certificate. kubectl is for behaviour, this is for numbers.

use crate::{Error, cluster::Cluster};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

fn broken(what: &str) -> impl FnOnce(&dyn std::fmt::Display) -> Error {
    let what = what.to_owned();
    move |reason| Error::Http { what, reason: reason.to_string() }
}

/// Where the kernel listens, and who we are.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    tls: TlsConnector,
    tls_h2: TlsConnector,
}

/// One connection; requests on it go one after the other.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
}

/// Status code and body.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Api {
    /// The API of a running cluster.
    pub fn new(cluster: &Cluster) -> Result<Self, Error> {
        let pki = cluster.data_dir().join("kernel/pki");
        let pem = |e: rustls::pki_types::pem::Error| broken("reading the administrator's certificate")(&e);
        let tls = |e: rustls::Error| broken("setting up TLS")(&e);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.crt")).map_err(pem)?).map_err(tls)?;
        let chain: Vec<_> = CertificateDer::pem_file_iter(pki.join("admin.crt")).and_then(Iterator::collect).map_err(pem)?;
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key")).map_err(pem)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(tls)?;
        let tls = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address: SocketAddr::from(([127, 0, 0, 1], cluster.port())), tls, tls_h2: TlsConnector::from(Arc::new(config)) })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection, Error> {
        let stream = self.open(&self.tls).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken("the HTTP handshake")(&e))?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// Opens a connection of HTTP/2 for many streams at once, as a client's watches share one.
    pub async fn multiplexed(&self) -> Result<Multiplexed, Error> {
        let stream = self.open(&self.tls_h2).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(4 << 20).initial_connection_window_size(64 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| broken("the HTTP/2 handshake")(&e))?;
        tokio::spawn(connection);
        Ok(Multiplexed { sender })
    }

    async fn open(&self, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, Error> {
        let tcp = TcpStream::connect(self.address).await.map_err(|e| broken("connecting")(&e))?;
        tcp.set_nodelay(true).map_err(|e| broken("connecting")(&e))?;
        tls.connect(ServerName::from(self.address.ip()), tcp).await.map_err(|e| broken("the TLS handshake")(&e))
    }
}

/// One connection of HTTP/2.
pub struct Multiplexed {
    sender: http2::SendRequest<Full<Bytes>>,
}

impl Multiplexed {
    /// A GET whose body is read as it comes (a watch); fails unless it is answered with 200.
    pub async fn stream(&mut self, path: &str) -> Result<Incoming, Error> {
        let uri = format!("https://kubernetes{path}");
        let request = Request::get(uri).header("Accept", "application/json").body(Full::default()).map_err(|e| broken(path)(&e))?;
        self.sender.ready().await.map_err(|e| broken(path)(&e))?;
        let response = self.sender.send_request(request).await.map_err(|e| broken(path)(&e))?;
        match response.status().as_u16() {
            200 => Ok(response.into_body()),
            status => Err(broken(path)(&status)),
        }
    }
}

impl Connection {
    /// One exchange.
    pub async fn request(&mut self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Answer, Error> {
        self.exchange(method, path, ["application/json", content_type], body).await
    }

    /// One exchange with the answer's and the body's content types.
    pub async fn exchange(&mut self, method: Method, path: &str, types: [&str; 2], body: Bytes) -> Result<Answer, Error> {
        let response = self.send(method, path, types, body).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| broken(path)(&e))?.to_bytes();
        Ok(Answer { status, body })
    }

    /// One GET.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Error> {
        self.request(Method::GET, path, "application/json", Bytes::new()).await
    }

    /// One POST of JSON.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.request(Method::POST, path, "application/json", body.into()).await
    }

    /// A GET whose body is read as it comes (a watch).
    pub async fn stream(&mut self, path: &str) -> Result<Incoming, Error> {
        let response = self.send(Method::GET, path, ["application/json"; 2], Bytes::new()).await?;
        Ok(response.into_body())
    }

    async fn send(&mut self, method: Method, path: &str, types: [&str; 2], body: Bytes) -> Result<hyper::Response<Incoming>, Error> {
        let [accept, content_type] = types;
        self.sender.ready().await.map_err(|e| broken(path)(&e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "kubernetes")
            .header("Accept", accept)
            .header("Content-Type", content_type)
            .body(Full::new(body))
            .map_err(|e| broken(path)(&e))?;
        self.sender.send_request(request).await.map_err(|e| broken(path)(&e))
    }
}
