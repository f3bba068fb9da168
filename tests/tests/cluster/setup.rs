//! The one cluster of these tests: started by the first test that asks, stopped at the end.

use pintle_tests::{Error, cluster::Cluster, has_program, image, kubectl::Kubectl, programs, registry::Registry};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The cluster, a kubectl for it, and the registry its nodes pull from.
pub struct Setup {
    pub cluster: Cluster,
    pub kubectl: Kubectl,
    /// Taken out at the end: nothing in a static is dropped.
    registry: Mutex<Option<Registry>>,
}

/// Nodes of the cluster.
pub const NODES: u8 = 3;
const API_PORT: u16 = 16443;
const REGISTRY_PORT: u16 = 5089;

static SETUP: OnceLock<Option<Setup>> = OnceLock::new();

/// What this machine lacks, if anything.
pub fn missing() -> Option<String> {
    let programs = ["kubectl", "ip", "docker-registry", "unshare", "nsenter"];
    let lacking = programs.iter().find(|p| !has_program(p)).map(|p| format!("the program {p}"));
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    lacking.or_else(|| (!root).then(|| "root".to_owned()))
}

fn data_dir() -> PathBuf {
    programs().with_file_name("test-cluster")
}

impl Setup {
    /// The running cluster. The first test that finds it does not start says why, in full.
    pub fn get() -> Result<&'static Self, &'static str> {
        let start = || Self::start().inspect_err(|e| eprintln!("the cluster did not start: {e}"));
        SETUP.get_or_init(|| start().ok()).as_ref().ok_or("the cluster did not start")
    }

    fn start() -> Result<Self, Error> {
        let cluster = Cluster::new(data_dir(), API_PORT);
        // Leftovers of a killed run; `down` copes with anything, or says why not.
        cluster.down(&["--delete-data"])?;
        up(&cluster, &[])?;
        let server = Registry::start(registry(&cluster)?, &programs().with_file_name("test-registry"))?;
        for tag in ["1", "2"] {
            server.push(&image::busybox(tag)?, "web", tag)?;
        }
        Ok(Self { kubectl: cluster.kubectl(), cluster, registry: Mutex::new(Some(server)) })
    }

    /// Starts whatever of the cluster does not run, as a user would: with the same command.
    pub fn repair(&self) -> Result<(), Error> {
        self.repair_with(&[])
    }

    /// The same, with more arguments for what is started.
    pub fn repair_with(&self, more: &[&str]) -> Result<(), Error> {
        up(&self.cluster, more)
    }
}

fn registry(cluster: &Cluster) -> Result<SocketAddr, Error> {
    Ok(SocketAddr::from((cluster.gateway()?, REGISTRY_PORT)))
}

fn up(cluster: &Cluster, more: &[&str]) -> Result<(), Error> {
    let mirror = format!("registry.pintle.test=http://{}", registry(cluster)?);
    let modules = format!("--kernel-arg=--module-dir={}", programs().join("example-modules").display());
    // Tests do not wait ten seconds for a first restart.
    let backoff = "--node-arg=--crash-backoff-ms=500";
    let dual_stack = crate::dual::is_there().then_some("--dual-stack");
    cluster
        .up(
            NODES,
            &["--registry-mirror", &mirror, &modules, backoff]
                .into_iter()
                .chain(dual_stack)
                .chain(more.iter().copied())
                .collect::<Vec<_>>(),
        )
        .map(drop)
}

/// Stops the registry, and the cluster if a test started it and the last test did not stop it, unless `PINTLE_KEEP` is set.
pub fn finish() {
    let Some(Some(setup)) = SETUP.get() else { return };
    if std::env::var_os("PINTLE_KEEP").is_some() {
        return;
    }
    drop(setup.registry.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Err(error) = setup.cluster.down(&[]) {
        eprintln!("the cluster could not be stopped: {error}");
    }
}
