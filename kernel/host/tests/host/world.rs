//! The scene: a registry in memory, a host on it, and the test guest built once for WebAssembly.

use bytes::Bytes;
use pintle_host::{Host, HostConfig};
use pintle_registry::{Body, Caller, DeleteOptions, Index, Object, Patch, Registry, RegistryConfig, ResourceKey, WriteOptions};
use pintle_store::{Options, RedbStore};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The test guest, built with the same cargo for `wasm32-wasip2`.
static GUEST: LazyLock<PathBuf> = LazyLock::new(|| {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2", "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the test guest builds");
    target.join("wasm32-wasip2/release/host_test_guest.wasm")
});

pub fn guest_path() -> &'static Path {
    &GUEST
}

pub fn guest() -> Bytes {
    std::fs::read(guest_path()).expect("the test guest is there").into()
}

/// The same guest with other bytes: a custom section at the end of a component changes its digest and nothing else.
pub fn guest_variant(tag: &str) -> Bytes {
    let mut wasm = guest().to_vec();
    let name = b"variant";
    let mut payload = vec![u8::try_from(name.len()).expect("short")];
    payload.extend_from_slice(name);
    payload.extend_from_slice(tag.as_bytes());
    wasm.push(0);
    wasm.push(u8::try_from(payload.len()).expect("short tag"));
    wasm.extend(payload);
    wasm.into()
}

/// The guest with a mark in its bytes overwritten.
pub fn guest_with(mark: &[u8], other: &[u8]) -> Vec<u8> {
    let mut wasm = guest().to_vec();
    let places: Vec<usize> = wasm.windows(mark.len()).enumerate().filter(|(_, w)| *w == mark).map(|(i, _)| i).collect();
    assert!(!places.is_empty() && mark.len() == other.len(), "the mark is in the guest");
    for at in places {
        wasm[at..at + other.len()].copy_from_slice(other);
    }
    wasm
}

/// Compiled code is shared by all tests of all runs: that is what a cache is for.
pub fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("host-code-cache")
}

pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    dir
}

pub struct World {
    pub registry: Arc<Registry>,
    pub host: Host,
}

pub async fn registry() -> Arc<Registry> {
    let store = RedbStore::in_memory(Options::default()).expect("a store in memory");
    let registry = Registry::open(Arc::new(store), RegistryConfig::default()).await.expect("the registry opens");
    registry.bootstrap().await.expect("the system namespaces");
    registry
}

pub fn config(registry: &Arc<Registry>) -> HostConfig {
    let folder = guest_path().parent().expect("a folder").to_owned();
    HostConfig {
        cache_dir: Some(cache_dir()),
        record_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-records-{}", std::process::id()))),
        status_interval: Duration::from_millis(100),
        source_dirs: vec![folder, env!("CARGO_TARGET_TMPDIR").into()],
        ..HostConfig::new(registry.clone())
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|config| config).await
    }

    /// With a host of other settings.
    pub async fn with(change: impl FnOnce(HostConfig) -> HostConfig) -> Self {
        let registry = registry().await;
        let host = Host::start(change(config(&registry))).await.expect("the host starts");
        host.ready().await;
        Self { registry, host }
    }

    pub async fn create(&self, group: &str, resource: &str, body: Value) -> Result<Arc<Object>, pintle_registry::ApiError> {
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or_default();
        let target = self.registry.resolve(group, "", resource, "", namespace, "")?;
        self.registry.create(&Caller::kernel(), &target, Body::Value(body), &WriteOptions::default()).await.map(|w| w.object)
    }

    pub async fn merge(&self, group: &str, resource: &str, namespace: &str, name: &str, subresource: &str, patch: Value) {
        let target = self.registry.resolve(group, "", resource, subresource, namespace, name).expect("served");
        let patch = Patch::Merge(patch.to_string().into());
        self.registry.patch(&Caller::kernel(), &target, patch, &WriteOptions::default()).await.expect("patched");
    }

    pub async fn delete(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let target = self.registry.resolve(group, "", resource, "", namespace, name).expect("served");
        self.registry.delete(&Caller::kernel(), &target, &DeleteOptions::default()).await.expect("deleted");
    }

    /// Creates or replaces a Module object.
    pub async fn apply(&self, module: Value) {
        let name = module["metadata"]["name"].as_str().expect("a name").to_owned();
        if self.get("pintle.dev", "modules", "", &name).is_some() {
            self.merge("pintle.dev", "modules", "", &name, "", json!({"spec": null})).await;
        }
        match self.create("pintle.dev", "modules", module.clone()).await {
            Ok(_) => {}
            Err(error) if error.code == 409 => self.merge("pintle.dev", "modules", "", &name, "", json!({"spec": module["spec"]})).await,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.registry.get_cached(&ResourceKey::new(group, resource), namespace, name).map(|o| o.value().expect("JSON"))
    }

    pub fn in_namespace(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.registry.list_index(&ResourceKey::new(group, resource), &Index::Namespace, namespace).0
    }

    pub fn status(&self, module: &str) -> Value {
        self.get("pintle.dev", "modules", "", module).map(|m| m["status"].clone()).unwrap_or_default()
    }

    /// Waits for a condition; the error says which never came true.
    pub async fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition() {
                return found;
            }
            if Instant::now() > deadline {
                let modules: Vec<Value> = self
                    .in_namespace("pintle.dev", "modules", "")
                    .iter()
                    .map(|m| m.value().expect("JSON"))
                    .map(|m| json!({"name": m["metadata"]["name"], "status": m["status"]}))
                    .collect();
                panic!("not within {PATIENCE:?}: {what}; stats: {:?}; modules: {modules:?}", self.host.stats());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn until_state(&self, module: &str, state: &str) {
        let what = format!("module {module} is {state}");
        self.until(&what, || (self.host.stats().modules.iter().any(|m| m.name == module && m.state == state)).then_some(())).await;
    }

    pub fn stats(&self, module: &str) -> pintle_host::ModuleStats {
        self.host.stats().modules.into_iter().find(|m| m.name == module).unwrap_or_default()
    }
}

/// A controller that makes one child ConfigMap for each ConfigMap called `parent-...`.
pub fn controller(name: &str, config: Value) -> Value {
    json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name},
        "spec": {
            "type": "controller",
            "source": {"file": guest_path()},
            "config": config,
            "permissions": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create"]}],
            "controller": {
                "primary": "/configmaps",
                "watches": [{"resource": "/configmaps", "map": "owner"}],
                "related": [{"name": "children", "resource": "/configmaps", "by": "owner", "fields": ["/metadata"]}],
            },
        },
    })
}

pub fn admission(name: &str, config: Value) -> Value {
    json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name},
        "spec": {
            "type": "admission",
            "source": {"file": guest_path()},
            "config": config,
            "admission": {
                "phases": ["mutating", "validating"],
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            },
        },
    })
}

pub fn scheduler(name: &str, config: Value) -> Value {
    json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name},
        "spec": {
            "type": "scheduler",
            "source": {"file": guest_path()},
            "config": config,
            "permissions": [
                {"apiGroups": [""], "resources": ["nodes", "namespaces", "pods"], "verbs": ["get", "list", "watch", "delete"]},
                {"apiGroups": [""], "resources": ["pods/binding"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
            ],
        },
    })
}

pub fn parent(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("parent-{number}"), "namespace": "default"}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "test"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
    })
}

pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}
