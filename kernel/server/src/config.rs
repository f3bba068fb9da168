//! What the assembler tells the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use pintle_api::network::Network;

/// Settings of the server.
pub struct ServerConfig {
    /// Addresses to listen on: HTTPS and the node link share them (told apart by ALPN). Port 0 picks a free one.
    pub listen: Vec<SocketAddr>,
    /// Directory of the keys, made at first start.
    pub pki_dir: PathBuf,
    /// Where the administrator's kubeconfig is written; it names the first address.
    pub kubeconfig: PathBuf,
    /// DNS names and addresses for the server's certificate, besides those every cluster has and those listened on.
    pub names: Vec<String>,
    /// What machines and tokens are told about the cluster.
    pub cluster: ClusterSettings,
    /// What other rooms add to `/readyz` and `/metrics`.
    pub introspection: Arc<dyn Introspection>,
}

/// Facts of the cluster that machines are told.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// DNS domain of the cluster.
    pub domain: String,
    /// Address of the cluster DNS.
    pub dns: IpAddr,
    /// Services' addresses: a CIDR, or one of each family with a comma between, the cluster's own family first.
    pub service_cidr: String,
    /// Address of the `kubernetes` Service: in the server's certificate.
    pub kubernetes_service: IpAddr,
    /// Pods' addresses of the whole cluster, like those of Services.
    pub pod_cidr: String,
    /// A machine renews its lease this often, seconds.
    pub heartbeat_seconds: u32,
    /// A lease that is not renewed for this long has lapsed, seconds.
    pub lease_seconds: u32,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            domain: "cluster.local".to_owned(),
            dns: Ipv4Addr::new(10, 96, 0, 10).into(),
            service_cidr: "10.96.0.0/16".to_owned(),
            kubernetes_service: Ipv4Addr::new(10, 96, 0, 1).into(),
            pod_cidr: "10.244.0.0/16".to_owned(),
            heartbeat_seconds: 10,
            lease_seconds: 40,
        }
    }
}

impl ClusterSettings {
    /// With these ranges, one or one of each family: the first address of the Services' is `kubernetes`, the tenth the resolver's.
    #[must_use]
    pub fn with_ranges(services: &[Network], pods: &[Network]) -> Self {
        let text = |all: &[Network]| all.iter().map(Network::to_string).collect::<Vec<_>>().join(",");
        let default = Self { service_cidr: text(services), pod_cidr: text(pods), ..Self::default() };
        let Some(own) = services.first() else { return default };
        Self { dns: own.nth(10), kubernetes_service: own.nth(1), ..default }
    }
}

impl ServerConfig {
    /// On these addresses with its files under `data_dir`: `pki/` and `kubeconfig`.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, data_dir: &std::path::Path) -> ServerConfig {
        ServerConfig {
            listen,
            pki_dir: data_dir.join("pki"),
            kubeconfig: data_dir.join("kubeconfig"),
            names: Vec::new(),
            cluster: ClusterSettings::default(),
            introspection: Arc::new(Nothing),
        }
    }
}

/// One check of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, e.g. `modules`.
    pub name: String,
    /// `None`: it passes. Else why not (shown to the administrator, in the log and to `?verbose`).
    pub failure: Option<String>,
}

/// One sample of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Name with its unit last, e.g. `pintle_module_memory_bytes`.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// What other rooms add to the server's own health and metrics. Called for each scrape: cheap, and must not block.
pub trait Introspection: Send + Sync + 'static {
    /// Checks that must pass before the server calls itself ready.
    fn ready(&self) -> Vec<Check> {
        Vec::new()
    }

    /// Samples; those of one name must follow one another.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }
}

/// Adds nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Introspection for Nothing {}
