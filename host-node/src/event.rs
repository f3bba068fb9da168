//! Events about pods: what `kubectl describe` shows.
//!
//! The same thing said again is one event with a higher count. Invariants: recording never blocks and never fails a pod; while
//! the kernel is away the newest [`QUEUE_MAX`] events wait.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::error::Error;
use crate::link::Kernel;
use crate::machine::second;
use crate::pod::record::{name, namespace, uid};

/// Events that wait for the kernel at most.
pub const QUEUE_MAX: usize = 512;
const REMEMBERED_MAX: usize = 1024;
const MESSAGE_MAX: usize = 1024;

/// Whether an event is news or trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All is well.
    Normal,
    /// Something is wrong.
    Warning,
}

/// Takes events and sends them on. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Recorder {
    inner: Rc<Inner>,
}

struct Inner {
    node: String,
    seen: RefCell<BTreeMap<String, Seen>>,
    queue: RefCell<VecDeque<String>>,
    wake: Notify,
}

struct Seen {
    event: Value,
    count: u32,
    at: Timestamp,
}

impl Recorder {
    /// A recorder for this node.
    pub fn new(node: &str) -> Self {
        let inner = Inner { node: node.to_owned(), seen: RefCell::default(), queue: RefCell::default(), wake: Notify::new() };
        Self { inner: Rc::new(inner) }
    }

    /// Says something about a pod, or about one of its containers.
    pub fn record(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &str, message: &str) {
        let now = Timestamp::now();
        let mut end = message.len().min(MESSAGE_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = &message[..end];
        let key = format!("{}/{}/{reason}/{message}", uid(pod), container.unwrap_or_default());
        let mut seen = self.inner.seen.borrow_mut();
        if seen.len() >= REMEMBERED_MAX && !seen.contains_key(&key) {
            let oldest = seen.iter().min_by_key(|(_, s)| s.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| seen.remove(&key));
        }
        let entry = seen.entry(key.clone()).or_insert_with(|| Seen {
            event: event(&self.inner.node, pod, container, kind, reason, message, now),
            count: 0,
            at: now,
        });
        entry.count += 1;
        entry.at = now;
        entry.event["count"] = json!(entry.count);
        entry.event["lastTimestamp"] = json!(second(now));
        let mut queue = self.inner.queue.borrow_mut();
        if !queue.contains(&key) {
            if queue.len() >= QUEUE_MAX {
                queue.pop_front();
            }
            queue.push_back(key);
        }
        self.inner.wake.notify_one();
    }

    /// Sends what is recorded, for ever.
    pub async fn send(self, kernel: Kernel) {
        let mut connections = kernel.connections();
        loop {
            let Some(key) = self.inner.queue.borrow_mut().pop_front() else {
                self.inner.wake.notified().await;
                continue;
            };
            let Some(bytes) = self.inner.seen.borrow().get(&key).map(|seen| seen.event.to_string()) else { continue };
            connections.mark_unchanged();
            match kernel.record_event(bytes.as_bytes()).await {
                Ok(()) => {}
                Err(Error::Refused { reason, message, .. }) => tracing::debug!(reason, message, "an event was refused"),
                Err(_) => {
                    self.inner.queue.borrow_mut().push_front(key);
                    let _ = connections.changed().await;
                }
            }
        }
    }
}

fn event(node: &str, pod: &Pod, container: Option<&str>, kind: Kind, reason: &str, message: &str, now: Timestamp) -> Value {
    let init = crate::pod::record::init_containers(pod).iter().any(|c| Some(c.name.as_str()) == container);
    let field = container.map(|name| format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" }));
    let mut about = json!({
        "apiVersion": "v1", "kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod),
        "resourceVersion": pod.metadata.resource_version,
    });
    if let Some(field) = field {
        about["fieldPath"] = json!(field);
    }
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": format!("{}.{:x}", name(pod), now.as_nanosecond()), "namespace": namespace(pod) },
        "involvedObject": about, "reason": reason, "message": message,
        "type": if kind == Kind::Normal { "Normal" } else { "Warning" },
        "source": { "component": "kubelet", "host": node },
        "reportingComponent": "kubelet", "reportingInstance": node,
        "firstTimestamp": second(now), "lastTimestamp": second(now), "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_said_again_is_one_event_with_a_count() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": { "containers": [{ "name": "c" }], "initContainers": [{ "name": "i" }] } }))
        .expect("a pod");
        let recorder = Recorder::new("n1");
        for _ in 0..3 {
            recorder.record(&pod, Some("c"), Kind::Warning, "BackOff", "Back-off");
        }
        recorder.record(&pod, Some("i"), Kind::Normal, "Started", "Started");
        let seen = recorder.inner.seen.borrow();
        let counts: Vec<_> = seen.values().map(|s| (s.event["involvedObject"]["fieldPath"].as_str().unwrap_or(""), s.count)).collect();
        assert_eq!(counts, [("spec.containers{c}", 3), ("spec.initContainers{i}", 1)]);
        assert_eq!(recorder.inner.queue.borrow().len(), 2);
    }

    #[test]
    fn what_waits_is_bounded() {
        let pod = Pod::default();
        let recorder = Recorder::new("n1");
        for n in 0..3000 {
            recorder.record(&pod, None, Kind::Normal, "R", &format!("message {n}"));
        }
        assert_eq!(recorder.inner.queue.borrow().len(), QUEUE_MAX);
        assert_eq!(recorder.inner.seen.borrow().len(), REMEMBERED_MAX);
    }
}
