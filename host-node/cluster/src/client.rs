//! A minimal HTTPS client for `up`: asks our own kernel, with the administrator's certificate, whether things are ready.

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why the kernel gave no answer. While it starts, that is normal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("no connection")]
    Io(#[from] std::io::Error),
    /// The certificates on disk are not usable.
    #[error("unusable certificate")]
    Tls(#[from] rustls::Error),
    /// A PEM file could not be read.
    #[error("unreadable PEM file")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The peer does not speak HTTP.
    #[error("bad HTTP")]
    Http(#[from] hyper::Error),
    /// The request could not be built.
    #[error("bad request")]
    Request(#[from] hyper::http::Error),
    /// The answer is not what we asked for.
    #[error("status {0}")]
    Status(u16),
    /// The answer is not JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
}

/// Where the kernel listens and who we are.
pub struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Client {
    /// Uses `ca.crt`, `admin.crt` and `admin.key` of a kernel's key directory.
    pub fn new(address: SocketAddr, pki: &Path) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
        let chain = CertificateDer::pem_file_iter(pki.join("admin.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// GETs a path; a status other than 200 is an error.
    pub async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.send("GET", path, Bytes::new()).await
    }

    /// Creates an object by POSTing it to its collection; one that is there already stays as it is.
    pub async fn create(&self, collection: &str, object: &serde_json::Value) -> Result<(), ClientError> {
        match self.send("POST", collection, object.to_string().into()).await {
            Ok(_) | Err(ClientError::Status(409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let tcp = TcpStream::connect(self.address).await?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("Host", "kubernetes").header("Accept", "application/json");
        let request = request.header("Content-Type", "application/json").body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        if matches!(status, 200 | 201) { Ok(body) } else { Err(ClientError::Status(status)) }
    }

    /// GETs a JSON document.
    pub async fn get_json(&self, path: &str) -> Result<serde_json::Value, ClientError> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }
}
