//! Events about objects, as `kubectl describe` shows them: the same event again counts up instead of piling up.
//! Shape: <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/> (core/v1).

use pintle_registry::{Body, Caller, Object, Patch, Registry, WriteOptions};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Different events remembered for counting.
const REMEMBERED_MAX: usize = 4096;
/// Events of one component in a second; the rest is dropped, as upstream drops it.
const EVENTS_PER_SECOND_MAX: u32 = 200;
/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Debug)]
pub struct About {
    kind: String,
    api_version: String,
    namespace: String,
    name: String,
    uid: String,
    revision: String,
}

impl About {
    /// The Module object of this name.
    pub fn module(name: &str, uid: &str) -> Self {
        Self {
            kind: "Module".into(),
            api_version: "pintle.dev/v1".into(),
            namespace: String::new(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            revision: String::new(),
        }
    }

    /// This object.
    pub fn of(object: &Object) -> Self {
        let (info, meta) = (object.resource(), object.meta());
        Self {
            kind: info.kind.to_string(),
            api_version: info.api_version().into_owned(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.to_string(),
            revision: object.revision().to_string(),
        }
    }
}

struct Recorded {
    namespace: String,
    name: String,
    count: u64,
}

/// Records events of one component.
pub struct EventRecorder {
    registry: Arc<Registry>,
    caller: Caller,
    component: String,
    seen: RefCell<HashMap<(String, String, String), Recorded>>,
    window: Cell<(Instant, u32)>,
    sequence: Cell<u64>,
}

impl EventRecorder {
    /// For the module `module`, shown to people as `component`.
    pub fn new(registry: Arc<Registry>, module: &str, component: &str) -> Self {
        Self {
            registry,
            caller: Caller::module(module),
            component: component.to_owned(),
            seen: RefCell::default(),
            window: Cell::new((Instant::now(), 0)),
            sequence: Cell::new(crate::now_millis()),
        }
    }

    /// Records one. Never fails its caller: an event that cannot be written is dropped.
    pub async fn record(&self, about: &About, warning: bool, reason: &str, message: &str) {
        if !self.within_rate() {
            return;
        }
        let message = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX.min(message.len()))];
        let same = (about.uid.clone(), reason.to_owned(), message.to_owned());
        let again = self.seen.borrow_mut().get_mut(&same).map(|recorded| {
            recorded.count += 1;
            (recorded.namespace.clone(), recorded.name.clone(), recorded.count)
        });
        let counted = match again {
            Some((namespace, name, count)) => self.count(&namespace, &name, count).await,
            None => false,
        };
        if !counted {
            self.create(about, warning, same).await;
        }
    }

    async fn count(&self, namespace: &str, name: &str, count: u64) -> bool {
        let patch = json!({"count": count, "lastTimestamp": crate::now_rfc3339()}).to_string();
        let Ok(target) = self.registry.resolve("", "v1", "events", "", namespace, name) else { return false };
        self.registry.patch(&self.caller, &target, Patch::Merge(patch.into()), &WriteOptions::default()).await.is_ok()
    }

    async fn create(&self, about: &About, warning: bool, same: (String, String, String)) {
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        self.sequence.set(self.sequence.get() + 1);
        let name = format!("{}.{:x}", about.name, self.sequence.get());
        let (now, (_, reason, message)) = (crate::now_rfc3339(), &same);
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {"kind": about.kind, "apiVersion": about.api_version, "namespace": about.namespace, "name": about.name, "uid": about.uid, "resourceVersion": about.revision},
            "reason": reason, "message": message, "type": if warning { "Warning" } else { "Normal" },
            "source": {"component": self.component}, "reportingComponent": self.component, "reportingInstance": "",
            "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        });
        let Ok(target) = self.registry.resolve("", "v1", "events", "", namespace, "") else { return };
        if let Err(error) = self.registry.create(&self.caller, &target, Body::Value(event), &WriteOptions::default()).await {
            tracing::debug!(%error, "event not recorded");
            return;
        }
        let mut seen = self.seen.borrow_mut();
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.insert(same, Recorded { namespace: namespace.to_owned(), name, count: 1 });
    }

    fn within_rate(&self) -> bool {
        let (start, count) = self.window.get();
        let (start, count) = if start.elapsed() > Duration::from_secs(1) { (Instant::now(), 0) } else { (start, count) };
        self.window.set((start, count + 1));
        count < EVENTS_PER_SECOND_MAX
    }
}
