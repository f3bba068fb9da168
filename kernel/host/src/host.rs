//! The front door's types.

use pintle_registry::Registry;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What modules are told about the cluster they run in.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// The cluster's root certificates, PEM.
    pub root_ca_pem: String,
    /// e.g. `cluster.local`.
    pub cluster_domain: String,
    /// e.g. `10.244.0.0/16`.
    pub pod_cidr: String,
    /// e.g. `10.96.0.0/16`.
    pub service_cidr: String,
}

/// Settings of the host.
#[derive(Clone)]
pub struct HostConfig {
    /// The one read and write path.
    pub registry: Arc<Registry>,
    /// Folder of `<name>.wasm` and `<name>.json` pairs that ship with the kernel; `None`: there are none.
    pub builtin_dir: Option<PathBuf>,
    /// Folders that `source.file` of a Module may point into.
    pub source_dirs: Vec<PathBuf>,
    /// Where compiled code is kept; `None`: only in memory.
    pub cache_dir: Option<PathBuf>,
    /// Worker threads for controllers and schedulers.
    pub shards: usize,
    /// Told to every module at its start.
    pub cluster: ClusterFacts,
}

impl HostConfig {
    /// The defaults around a registry: no built-ins, no files, no cache on disk, two shards.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, builtin_dir: None, source_dirs: Vec::new(), cache_dir: None, shards: 2, cluster: ClusterFacts::default() }
    }
}

/// One module in the host's metrics.
#[derive(Clone, Debug, Default)]
pub struct ModuleStats {
    /// Name of the Module object.
    pub name: String,
    /// `Loading`, `Running`, `Failed`, `BackOff` or `Stopped`.
    pub state: &'static str,
    /// Of the running instance.
    pub generation: u64,
    /// Calls into the module.
    pub calls: u64,
    /// Calls that ended in a domain error.
    pub errors: u64,
    /// Faults.
    pub traps: u64,
    /// Restarts after faults.
    pub restarts: u64,
    /// Capability uses and writes outside its grants or over its quota.
    pub denied: u64,
    /// Median call, recent.
    pub p50: Duration,
    /// 99th percentile of calls, recent.
    pub p99: Duration,
    /// Linear memory in bytes.
    pub memory_bytes: u64,
    /// Keys waiting in the work queue, or pods waiting to be scheduled.
    pub queue_length: u64,
}

/// The host in numbers, for `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct HostStats {
    /// By name.
    pub modules: Vec<ModuleStats>,
    /// Modules loaded from the code cache.
    pub cache_hits: u64,
    /// Modules compiled.
    pub compiled: u64,
}
