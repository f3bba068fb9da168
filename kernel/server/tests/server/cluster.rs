//! A server in this process, and connections to it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pintle_pki::Issued;
use pintle_registry::{Registry, RegistryConfig};
use pintle_server::{RunningServer, Server, ServerConfig};
use pintle_store::{Options, RedbStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A running server; its files go away with it.
pub struct Cluster {
    pub server: RunningServer,
    pub registry: Arc<Registry>,
    dir: Dir,
}

/// A directory that goes away with the value.
pub struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Asks until the answer is as wanted: what the server follows, it knows a moment later.
///
/// # Panics
/// It is not for half a minute; says what the last answer was.
pub async fn until<T, E: Display>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(other) => assert!(Instant::now() < deadline, "never happened: {what}: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Stop it as `pintle` does.
pub async fn stop(cluster: Cluster) {
    let Cluster { server, dir, .. } = cluster;
    server.shutdown().await;
    drop(dir);
}

/// Who connects.
pub enum As<'a> {
    Admin,
    Nobody,
    Certificate(&'a Issued),
}

impl Cluster {
    pub async fn start() -> Cluster {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("pintle-server-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        let store = RedbStore::open(&dir.join("store.redb"), Options::default()).unwrap();
        let registry = Registry::open(Arc::new(store), RegistryConfig::default()).await.unwrap();
        registry.bootstrap().await.unwrap();
        let config = ServerConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))], &dir);
        let server = Server::start(config, registry.clone()).await.unwrap();
        Cluster { server, registry, dir: Dir(dir) }
    }

    pub fn kubeconfig(&self) -> &Path {
        self.server.kubeconfig()
    }

    pub async fn tls(&self, who: As<'_>, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server.pki().ca_der()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let with = |issued: &Issued| {
            let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
            (chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap())
        };
        let mut config = match who {
            As::Nobody => builder.with_no_client_auth(),
            As::Admin => {
                let (chain, key) = with(&self.server.pki().admin().unwrap());
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            As::Certificate(issued) => {
                let (chain, key) = with(issued);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.server.addresses()[0]).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
    }

    pub async fn connect(&self, who: As<'_>) -> Client {
        let stream = self.tls(who, b"http/1.1").await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client { sender, headers: HeaderMap::new() }
    }

    /// A directory of this cluster's.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    pub async fn admin(&self) -> Client {
        self.connect(As::Admin).await
    }
}

/// One HTTP/1.1 connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    /// Sent with every request.
    pub headers: HeaderMap,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

impl Client {
    pub async fn open(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body.into())).unwrap();
        for (name, value) in &self.headers {
            if !request.headers().contains_key(name) {
                request.headers_mut().insert(name.clone(), value.clone());
            }
        }
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new()).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }
}
