//! Starting, running and stopping the server: what all requests share, and the order in which it comes and goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pintle_registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ClusterSettings, Introspection, ServerConfig};
use crate::error::{Error, Result};
use crate::identity::authz::Authorizer;
use crate::identity::bootstrap;
use crate::identity::token::Tokens;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::node::{Nodes, Threads};
use crate::{listener, tls, webhook};
use pintle_pki::Pki;

/// Requests that are under way may take this long when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The front door: [`Server::start`].
#[derive(Debug)]
pub struct Server;

/// A server that runs. Dropping it does not stop it; [`RunningServer::shutdown`] does.
pub struct RunningServer {
    addresses: Vec<SocketAddr>,
    kubeconfig: PathBuf,
    pki: Arc<Pki>,
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

/// What every request can reach.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tokens: Tokens,
    pub(crate) authorizer: Authorizer,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) nodes: Nodes,
    pub(crate) cluster: ClusterSettings,
    pub(crate) introspection: Arc<dyn Introspection>,
    pub(crate) documents: crate::openapi::Documents,
    /// Connections and sessions.
    pub(crate) tasks: TaskTracker,
    pub(crate) open: AtomicUsize,
    stop: CancellationToken,
}

impl Shared {
    /// Resolves when the server stops.
    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.stop.clone())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Waits for the server to stop.
pub(crate) struct Stopping(CancellationToken);

impl Stopping {
    pub(crate) async fn wait(&mut self) {
        self.0.cancelled().await;
    }
}

/// Names that the server's certificate always carries.
const NAMES: [&str; 6] = ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];

impl Server {
    /// Make or read keys, write the kubeconfig, put the bootstrap roles into the registry, and listen. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Keys, TLS, an address in use, a registry that refuses the bootstrap objects.
    pub async fn start(config: ServerConfig, registry: Arc<Registry>) -> Result<RunningServer> {
        let pki = Arc::new(Pki::open_or_create(&config.pki_dir)?);
        pki.admin()?;
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(TcpListener::bind(address).await.map_err(|source| Error::Listen { address: *address, source })?);
        }
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let tls = tls::server_config(&pki, &names(&config, &addresses))?;
        bootstrap::run(&registry).await?;
        let shared = Arc::new(Shared {
            tokens: Tokens::new(&pki)?,
            authorizer: Authorizer::start(registry.clone()).await?,
            registry,
            limits: Limits::new(),
            metrics: Metrics::default(),
            nodes: Nodes::default(),
            cluster: config.cluster,
            introspection: config.introspection,
            documents: crate::openapi::Documents::default(),
            tasks: TaskTracker::new(),
            open: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        });
        crate::policies::Policies::install(&shared);
        webhook::Webhooks::install(&shared);
        let threads = Arc::new(Threads::start(&shared)?);
        let doors = Arc::new(listener::Doors::new(shared.clone(), threads.clone(), tls));
        for listener in listeners {
            shared.tasks.spawn(listener::accept(doors.clone(), listener));
        }
        if let Some(first) = addresses.first() {
            pki.write_kubeconfig(&config.kubeconfig, &format!("https://{}", reachable(*first)))?;
            tracing::info!(address = %first, kubeconfig = %config.kubeconfig.display(), "the API is served");
        }
        Ok(RunningServer { addresses, kubeconfig: config.kubeconfig, pki, shared, threads })
    }
}

/// Every name and address by which clients may reach the server.
fn names(config: &ServerConfig, addresses: &[SocketAddr]) -> Vec<String> {
    let mut names: Vec<String> = NAMES.map(str::to_owned).to_vec();
    names.push(format!("kubernetes.default.svc.{}", config.cluster.domain));
    names.push(config.cluster.kubernetes_service.to_string());
    names.extend(addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(config.names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// An address that a client can dial: loopback for one that means all.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
        other => other,
    }
}

impl RunningServer {
    /// Where it listens: as configured, with free ports filled in.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The cluster's keys: to issue certificates.
    #[must_use]
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// Stop accepting, let requests end (watches and sessions are closed at once), and return when they have, or after ten seconds.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.shared.connections(), "connections are cut off");
        }
        drop(self.threads);
    }
}
