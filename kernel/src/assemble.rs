//! Puts the rooms of the kernel together: store, registry, module host, server. The order is the order of who needs whom.

use pintle_api::network::Network;
use pintle_host::{ClusterFacts, Host, HostConfig, HostError, ModuleStats};
use pintle_pki::{Pki, PkiError};
use pintle_registry::audit::{Auditor, LogConfig, Policy};
use pintle_registry::{OpenError, Registry, RegistryConfig};
use pintle_server::{Check, ClusterSettings, Introspection, Metric, Server, ServerConfig};
use pintle_store::{Options as StoreOptions, RedbStore};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `pintle kernel`.
#[derive(Debug, clap::Args)]
pub struct KernelArgs {
    /// Where objects, keys and compiled modules are kept.
    #[arg(long, default_value = ".pintle/kernel")]
    data_dir: PathBuf,
    /// Address of the Kubernetes API and of the node link; may be repeated. The first one is in the kubeconfig.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: Vec<SocketAddr>,
    /// Where the administrator's kubeconfig is written; beside the data by default.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// More names for the server's certificate; may be repeated.
    #[arg(long)]
    name: Vec<String>,
    /// The modules that ship with the kernel; `modules/` beside the program by default.
    #[arg(long)]
    builtin_dir: Option<PathBuf>,
    /// A folder that `spec.source.file` of a Module may point into; may be repeated.
    #[arg(long)]
    module_dir: Vec<PathBuf>,
    /// Addresses of Services: a range, or one of each family with a comma between, the family that Services get by default first.
    #[arg(long, default_value = "10.96.0.0/16", value_parser = ranges)]
    service_cluster_ip_range: Ranges,
    /// Addresses of pods, in the same way.
    #[arg(long, default_value = "10.244.0.0/16", value_parser = ranges)]
    cluster_cidr: Ranges,
    /// Which requests are audited: a Policy of audit.k8s.io/v1. Without one nothing is.
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// Where audit events go, one JSON line each; `-` is the standard output.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// The audit log is turned over before it grows beyond so many megabytes; 0: 100.
    #[arg(long, default_value_t = 0)]
    audit_log_maxsize: u64,
    /// Old audit logs that are kept; 0: all.
    #[arg(long, default_value_t = 0)]
    audit_log_maxbackup: usize,
    /// How long old audit logs are kept, days; 0: for ever.
    #[arg(long, default_value_t = 0)]
    audit_log_maxage: u64,
}

/// One network, or one of each family.
#[derive(Debug, Clone)]
struct Ranges(Vec<Network>);

fn ranges(text: &str) -> Result<Ranges, String> {
    let all = Network::list(text)?;
    let small = all.iter().find(|network| network.last() - network.first() < 15);
    small.map_or(Ok(Ranges(all.clone())), |network| Err(format!("{network} has fewer than 16 addresses")))
}

/// Why the kernel could not start.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The data directory cannot be used.
    #[error("cannot use {path}")]
    Directory {
        /// Which one.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Services and pods would have the same addresses.
    #[error("--service-cluster-ip-range {services} and --cluster-cidr {pods} overlap")]
    Overlap {
        /// The range of Services.
        services: Network,
        /// The range of pods.
        pods: Network,
    },
    /// The store did not open.
    #[error("the store did not open")]
    Store(#[from] pintle_store::Error),
    /// The registry did not open.
    #[error("the objects could not be read")]
    Registry(#[from] OpenError),
    /// The first objects could not be made.
    #[error("the first objects could not be made: {0}")]
    Bootstrap(pintle_registry::ApiError),
    /// The cluster's keys could not be made or read.
    #[error("the cluster's keys")]
    Keys(#[from] PkiError),
    /// The module host did not start.
    #[error("the module host did not start")]
    Host(#[from] HostError),
    /// The server did not start.
    #[error("the server did not start")]
    Server(#[from] pintle_server::Error),
    /// The audit policy is none.
    #[error("--audit-policy-file {path}: {why}")]
    AuditPolicy {
        /// The file.
        path: String,
        /// What is wrong, with the field's name.
        why: String,
    },
    /// The audit log cannot be written.
    #[error("--audit-log-path")]
    AuditLog(#[source] std::io::Error),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the kernel until TERM or INT.
pub async fn run(args: KernelArgs) -> Result<(), KernelError> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    let mut terminate = signal(SignalKind::terminate()).map_err(KernelError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(KernelError::Signals)?;

    let pairs = args.service_cluster_ip_range.0.iter().flat_map(|services| args.cluster_cidr.0.iter().map(move |pods| (*services, *pods)));
    if let Some((services, pods)) = pairs.into_iter().find(|(services, pods)| services.overlaps(pods)) {
        return Err(KernelError::Overlap { services, pods });
    }
    let auditor = auditor(&args)?;
    let data = &args.data_dir;
    std::fs::create_dir_all(data).map_err(|source| KernelError::Directory { path: data.display().to_string(), source })?;
    let store = RedbStore::open(&data.join("store.redb"), StoreOptions::default())?;
    let registry = Registry::open(
        Arc::new(store),
        RegistryConfig { service_cidr: args.service_cluster_ip_range.0.clone(), ..RegistryConfig::default() },
    )
    .await?;
    auditor.iter().for_each(|auditor| registry.set_auditor(auditor.clone()));
    registry.bootstrap().await.map_err(KernelError::Bootstrap)?;

    let mut config = ServerConfig::new(args.listen, data);
    config.cluster = ClusterSettings::with_ranges(&args.service_cluster_ip_range.0, &args.cluster_cidr.0);
    config.names.extend(args.name);
    if let Some(path) = args.kubeconfig {
        config.kubeconfig = path;
    }
    let pki = Pki::open_or_create(&config.pki_dir)?;
    let beside = std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join("modules"))).filter(|d| d.is_dir());
    let host = Host::start(HostConfig {
        builtin_dir: args.builtin_dir.or(beside),
        source_dirs: args.module_dir,
        artifact_program: program_beside("pintle-artifact"),
        cache_dir: Some(data.join("cache")),
        record_dir: Some(data.join("records")),
        cluster: ClusterFacts {
            root_ca_pem: pki.ca_pem().into(),
            cluster_domain: config.cluster.domain.clone(),
            pod_cidr: config.cluster.pod_cidr.clone(),
            service_cidr: config.cluster.service_cidr.clone(),
        },
        ..HostConfig::new(registry.clone())
    })
    .await?;
    let host = Arc::new(host);
    let modules_ready = Arc::new(AtomicBool::new(false));
    config.introspection = Arc::new(Modules { host: host.clone(), registry: registry.clone(), ready: modules_ready.clone() });
    let cluster = config.cluster.clone();
    let server = Server::start(config, registry.clone()).await?;
    crate::services::ensure(&registry, &cluster, server.addresses()).await.map_err(KernelError::Bootstrap)?;
    host.ready().await;
    modules_ready.store(true, Ordering::Release);
    tracing::info!(addresses = ?server.addresses(), "the kernel is ready");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    server.shutdown().await;
    host.shutdown().await;
    if let Some(auditor) = auditor {
        auditor.flush().await;
    }
    Ok(())
}

/// Who audits, if there is both a policy and a place.
fn auditor(args: &KernelArgs) -> Result<Option<Arc<Auditor>>, KernelError> {
    let Some(file) = &args.audit_policy_file else { return Ok(None) };
    let bad = |why: String| KernelError::AuditPolicy { path: file.display().to_string(), why };
    let policy = Policy::parse(&std::fs::read(file).map_err(|error| bad(error.to_string()))?).map_err(bad)?;
    let Some(path) = args.audit_log_path.clone() else { return Ok(None) };
    let log =
        LogConfig { path, megabytes_max: args.audit_log_maxsize, files_max: args.audit_log_maxbackup, days_max: args.audit_log_maxage };
    Auditor::start(policy, log).map(Some).map_err(KernelError::AuditLog)
}

/// Shows the module host in `/readyz` and `/metrics`.
struct Modules {
    host: Arc<Host>,
    registry: Arc<Registry>,
    ready: Arc<AtomicBool>,
}

impl Introspection for Modules {
    fn ready(&self) -> Vec<Check> {
        let ready = self.ready.load(Ordering::Acquire);
        vec![Check { name: "modules".into(), failure: (!ready).then(|| "the built-in modules are being loaded".into()) }]
    }

    fn metrics(&self) -> Vec<Metric> {
        type Row = (&'static str, &'static str, &'static str, fn(&ModuleStats) -> f64);
        const SERIES: [Row; 12] = [
            ("pintle_module_calls_total", "counter", "Calls into the module.", |m| m.calls as f64),
            ("pintle_module_faults_total", "counter", "Traps, overrun deadlines and other faults.", |m| m.traps as f64),
            ("pintle_module_restarts_total", "counter", "Restarts after faults.", |m| m.restarts as f64),
            ("pintle_module_denied_total", "counter", "Uses of capabilities outside the grants.", |m| m.denied as f64),
            ("pintle_module_cpu_seconds_total", "counter", "Processor time of calls.", |m| m.cpu.as_secs_f64()),
            ("pintle_module_throttled_total", "counter", "Calls that its share of the processor held up.", |m| m.throttled as f64),
            ("pintle_module_memory_bytes", "gauge", "Linear memory.", |m| m.memory_bytes as f64),
            ("pintle_module_queue_length", "gauge", "Keys waiting.", |m| m.queue_length as f64),
            ("pintle_module_shadow_calls_total", "counter", "Calls that a shadow answered, too.", |m| m.shadow_calls as f64),
            ("pintle_module_shadow_skipped_total", "counter", "Calls that a shadow missed.", |m| m.shadow_skipped as f64),
            ("pintle_module_shadow_differences", "gauge", "Calls that the shadow answered otherwise.", |m| m.shadow_differences as f64),
            ("pintle_module_call_p99_seconds", "gauge", "99th percentile of recent calls.", |m| m.p99.as_secs_f64()),
        ];
        let modules = self.host.stats().modules;
        let of = |(name, kind, help, value): Row| {
            let metric = move |m: &ModuleStats| Metric { name, kind, help, labels: vec![("module", m.name.clone())], value: value(m) };
            modules.iter().map(metric).collect::<Vec<_>>()
        };
        let (written, lost) = self.registry.auditor().map_or((0, 0), |auditor| auditor.counts());
        let audit = [
            ("apiserver_audit_event_total", "Audit events written.", written),
            ("apiserver_audit_error_total", "Audit events lost because they could not be written.", lost),
        ];
        let audit = audit.map(|(name, help, value)| Metric { name, kind: "counter", help, labels: Vec::new(), value: value as f64 });
        SERIES.into_iter().flat_map(of).chain(audit).collect()
    }
}

fn program_beside(name: &str) -> Option<std::path::PathBuf> {
    std::env::current_exe().ok().map(|program| program.with_file_name(name)).filter(|program| program.is_file())
}
