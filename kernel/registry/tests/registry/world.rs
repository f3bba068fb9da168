//! A registry over a store in a directory of its own, and short words for what the cases do with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pintle_registry::{
    ApiError, Body, Bookmarks, Caller, DeleteOptions, Deleted, GetOptions, InitialEvents, ListOptions, ListPage, Object, Patch, Registry,
    RegistryConfig, Target, VersionMatch, WatchEvent, WatchOptions, WatchStream, WriteOptions, Written,
};
use pintle_store::{Options, RedbStore, Store};
use serde_json::{Value, json};

pub type Outcome<T> = Result<T, ApiError>;

/// A directory that goes when the test does.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pintle-registry-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory for the store");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct World {
    pub registry: Arc<Registry>,
    pub store: Arc<RedbStore>,
    pub caller: Caller,
    pub directory: Arc<Directory>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(RegistryConfig::default()).await
    }

    pub async fn with(config: RegistryConfig) -> Self {
        Self::open(Arc::new(Directory::new()), config).await
    }

    pub async fn open(directory: Arc<Directory>, config: RegistryConfig) -> Self {
        let path = directory.path().join("store.redb");
        let store = Arc::new(RedbStore::open(&path, Options::default()).expect("the store opens"));
        let registry = Registry::open(Arc::clone(&store) as Arc<dyn Store>, config).await.expect("the registry opens");
        Self { registry, store, caller: Caller::kernel(), directory }
    }

    /// Stop, and start again on the same directory.
    pub async fn restart(self, config: RegistryConfig) -> Self {
        let Self { registry, store, directory, .. } = self;
        drop(registry);
        // Background tasks hold the store for a moment longer.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&store) > 1 {
            assert!(std::time::Instant::now() < deadline, "the registry lets go of the store");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(store);
        Self::open(directory, config).await
    }

    pub fn target(&self, kind: &str, namespace: &str, name: &str) -> Target {
        let (version, kind) = kind.split_once('/').unwrap_or(("", kind));
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        self.registry.resolve(group, version, plural, "", namespace, name).expect("resolves")
    }

    pub async fn create(&self, kind: &str, object: Value) -> Outcome<Arc<Object>> {
        self.create_with(kind, object, &WriteOptions::default()).await.map(|written| written.object)
    }

    pub async fn create_with(&self, kind: &str, object: Value, options: &WriteOptions) -> Outcome<Written> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let body = Body::Json(object.to_string().into());
        self.registry.create(&self.caller, &self.target(kind, &namespace, ""), body, options).await
    }

    pub async fn update(&self, kind: &str, object: &Value) -> Outcome<Arc<Object>> {
        self.update_part(kind, "", object).await
    }

    pub async fn update_part(&self, kind: &str, subresource: &str, object: &Value) -> Outcome<Arc<Object>> {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let target = self.target(kind, &text("namespace"), &text("name")).subresource(subresource);
        let body = Body::Json(object.to_string().into());
        self.registry.update(&self.caller, &target, body, &WriteOptions::default()).await.map(|written| written.object)
    }

    pub async fn merge(&self, kind: &str, namespace: &str, name: &str, patch: Value) -> Outcome<Arc<Object>> {
        let patch = Patch::Merge(patch.to_string().into());
        let written = self.registry.patch(&self.caller, &self.target(kind, namespace, name), patch, &WriteOptions::default()).await?;
        Ok(written.object)
    }

    pub async fn delete(&self, kind: &str, namespace: &str, name: &str, options: &DeleteOptions) -> Outcome<Deleted> {
        self.registry.delete(&self.caller, &self.target(kind, namespace, name), options).await
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Outcome<Value> {
        let object = self.registry.get(&self.target(kind, namespace, name), &GetOptions::default()).await?;
        Ok(object.value().expect("an object is JSON"))
    }

    pub async fn list(&self, kind: &str, namespace: &str, options: &ListOptions) -> Outcome<ListPage> {
        self.registry.list(&self.target(kind, namespace, ""), options).await
    }

    pub async fn watch(&self, kind: &str, options: &WatchOptions) -> WatchStream {
        self.registry.watch(&self.target(kind, "", ""), options).await.expect("the watch starts")
    }

    /// A ConfigMap in `default`.
    pub async fn config(&self, name: &str, value: &str) -> Arc<Object> {
        self.create("configmaps", config_map(name, value)).await.expect("created")
    }
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"value": value}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/web:1"}]},
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "registry.example/web:1"}]}},
        },
    })
}

/// Watch from a revision, with bookmarks allowed.
pub fn from(revision: impl ToString) -> WatchOptions {
    WatchOptions { resource_version: revision.to_string(), bookmarks: Bookmarks::Yes, ..WatchOptions::default() }
}

/// Watch with initial events and the bookmark that ends them.
pub fn with_initial_events() -> WatchOptions {
    WatchOptions {
        initial_events: Some(InitialEvents::Send),
        version_match: Some(VersionMatch::NotOlderThan),
        bookmarks: Bookmarks::Yes,
        ..WatchOptions::default()
    }
}

/// The next event within ten seconds, as text: `ADDED name`.
pub async fn next(stream: &mut WatchStream) -> String {
    match tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event comes in time") {
        None => "END".to_owned(),
        Some(Err(err)) => format!("ERROR {}", err.code),
        Some(Ok(event)) => match event {
            WatchEvent::Added(object) => format!("ADDED {}", object.meta().name),
            WatchEvent::Modified(object) => format!("MODIFIED {}", object.meta().name),
            WatchEvent::Deleted(object) => format!("DELETED {}", object.meta().name),
            WatchEvent::Bookmark { initial_events_end: true, .. } => "BOOKMARK initial".to_owned(),
            WatchEvent::Bookmark { .. } => "BOOKMARK".to_owned(),
        },
    }
}

/// The names in a list.
pub fn names(page: &ListPage) -> Vec<String> {
    page.items.iter().map(|object| object.meta().name.to_string()).collect()
}

pub fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

/// The code of the error that came.
pub fn code<T: std::fmt::Debug>(outcome: Outcome<T>) -> u16 {
    outcome.expect_err("refused").code
}
