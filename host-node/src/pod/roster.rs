//! All pods of this machine: rows from the kernel and events of the runtime find their worker here.
//!
//! Invariants: a pod that reaches a worker has been validated (its names are fit for paths); a full set from the kernel ends with `synced`,
//! and whoever was not in it is gone; at adoption, whatever the runtime holds that no record knows is removed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::{Rc, Weak};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pintle_runtime_bridge::{Event, Phase};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::admit;
use super::note::{Note, View};
use super::record::{Record, all_containers, ephemeral_containers, is_static, name, namespace, uid};
use super::steps::until_removed;
use super::worker::Worker;
use crate::engine::Engine;
use crate::error::{Error, Result, Step};
use crate::link::{Reference, Row};
use crate::manifest::parse::SOURCE;
use crate::node::Node;

/// All workers.
#[derive(Default)]
pub struct Roster {
    node: RefCell<Weak<Node>>,
    pods: RefCell<BTreeMap<String, Entry>>,
    owners: RefCell<BTreeMap<String, String>>,
    /// Uids seen since the last reset; `None`: the set is complete.
    seen: RefCell<Option<BTreeSet<String>>>,
}

struct Entry {
    view: Rc<View>,
    notes: UnboundedSender<Note>,
}

impl Roster {
    /// Binds the roster to its node; workers need both.
    pub fn bind(&self, node: &Rc<Node>) {
        *self.node.borrow_mut() = Rc::downgrade(node);
    }

    /// Notes which pod a container belongs to.
    pub fn own(&self, container_id: &str, uid: &str) {
        self.owners.borrow_mut().insert(container_id.to_owned(), uid.to_owned());
    }

    /// The container has ended.
    pub fn disown(&self, container_id: &str) {
        self.owners.borrow_mut().remove(container_id);
    }

    /// The pod has left this machine.
    pub fn forget(&self, uid: &str) {
        self.pods.borrow_mut().remove(uid);
        self.owners.borrow_mut().retain(|_, owner| owner != uid);
    }

    /// What is known of a pod.
    pub fn find(&self, reference: &Reference) -> Option<Rc<View>> {
        let pods = self.pods.borrow();
        if !reference.uid.is_empty() {
            let behind = self.node.borrow().upgrade().and_then(|node| node.statics.behind(&reference.uid));
            return pods.get(behind.as_ref().unwrap_or(&reference.uid)).map(|entry| entry.view.clone());
        }
        let same = |pod: &Pod| name(pod) == reference.name && namespace(pod) == reference.namespace;
        pods.values().find(|entry| same(&entry.view.pod.borrow())).map(|entry| entry.view.clone())
    }

    /// All pods.
    pub fn views(&self) -> Vec<Rc<View>> {
        self.pods.borrow().values().map(|entry| entry.view.clone()).collect()
    }

    /// Takes a row of the kernel's.
    pub fn on_row(&self, row: Row) {
        match row {
            Row::Put(bytes) => {
                match serde_json::from_slice::<Pod>(&bytes)
                    .map_err(|e| e.to_string())
                    .and_then(|pod| validate(&pod).map(|()| pod).map_err(|e| e.to_string()))
                {
                    Ok(mut pod) => {
                        // Where a pod comes from is not for it to say.
                        if let Some(source) = pod.metadata.annotations.as_mut().and_then(|all| all.get_mut(SOURCE)) {
                            "api".clone_into(source);
                        }
                        self.put(pod);
                    }
                    Err(error) => tracing::warn!(error, "a pod that cannot be run here"),
                }
            }
            Row::Delete(bytes) => {
                if let Ok(pod) = serde_json::from_slice::<Pod>(&bytes) {
                    self.note(uid(&pod), Note::Gone);
                }
            }
            Row::Reset => *self.seen.borrow_mut() = Some(BTreeSet::new()),
            Row::Synced => {
                let Some(seen) = self.seen.borrow_mut().take() else { return };
                for entry in self.pods.borrow().values() {
                    let pod = entry.view.pod.borrow();
                    if !seen.contains(uid(&pod)) && !is_static(&pod) {
                        let _ = entry.notes.send(Note::Gone);
                    }
                }
            }
        }
    }

    /// A new connection: a full set follows, and every status is sent again.
    pub fn on_connected(&self) {
        self.all(|| Note::Resend);
    }

    /// Has every pod looked at again.
    pub fn look_again(&self) {
        self.all(|| Note::Look);
    }

    fn all(&self, note: impl Fn() -> Note) {
        for entry in self.pods.borrow().values() {
            let _ = entry.notes.send(note());
        }
    }

    /// Tells a pod's worker something.
    pub fn tell(&self, uid: &str, note: Note) {
        self.note(uid, note);
    }

    fn note(&self, uid: &str, note: Note) {
        if let Some(entry) = self.pods.borrow().get(uid) {
            let _ = entry.notes.send(note);
        }
    }

    /// Takes a pod of this machine's own; whoever made it says as well when it is gone.
    pub fn put_static(&self, pod: Pod) {
        self.put(pod);
    }

    fn put(&self, mut pod: Pod) {
        pod.metadata.managed_fields = None; // large, and nothing here reads it
        if let Some(seen) = &mut *self.seen.borrow_mut() {
            seen.insert(uid(&pod).to_owned());
        }
        let pod = Rc::new(pod);
        if self.pods.borrow().contains_key(uid(&pod)) {
            return self.note(uid(&pod), Note::Desired(pod.clone()));
        }
        let mut record = Record::new(Timestamp::now());
        let views = self.views();
        let others: Vec<_> = views.iter().map(|view| (view.pod.borrow(), view.record.borrow())).collect();
        let of_node = self.node.borrow().upgrade().and_then(|node| {
            let pressed = || admit::pressed(&pod, &node.pressure.holding());
            let closing = node.closing.get().then(crate::shutdown::refusal);
            closing.or_else(pressed).or_else(|| admit::unconfined(&pod, node.machine.app_armor))
        });
        let refused = || admit::refusal(&pod, others.iter().map(|(pod, record)| (&***pod, &**record)));
        record.verdict = of_node.or_else(refused);
        drop(others);
        self.employ(pod, record, |_| {});
    }

    /// Starts a worker.
    fn employ(&self, pod: Rc<Pod>, record: Record, prepare: impl FnOnce(&mut Worker)) {
        let Some(node) = self.node.borrow().upgrade() else { return };
        let (notes, inbox) = unbounded_channel();
        let key = uid(&pod).to_owned();
        let view = Rc::new(View { pod: RefCell::new(pod), record: RefCell::new(record) });
        self.pods.borrow_mut().insert(key, Entry { view: view.clone(), notes: notes.clone() });
        let mut worker = Worker::new(node, view, notes);
        prepare(&mut worker);
        tokio::task::spawn_local(worker.run(inbox));
    }

    /// Takes an event of the runtime's.
    pub async fn on_event(&self, runtime: &Engine, event: Event) {
        match event {
            Event::Exited { id, exit } => {
                let owner = self.owners.borrow().get(id.as_str()).cloned();
                if let Some(uid) = owner {
                    self.note(&uid, Note::Exited { id: id.to_string(), exit });
                }
            }
            Event::HelperRestarted => self.reconcile(runtime).await,
        }
    }

    /// Events may have been missed: ask the runtime what has ended.
    pub async fn reconcile(&self, runtime: &Engine) {
        let states = match runtime.list().await {
            Ok(states) => states,
            Err(error) => return tracing::warn!(%error, "the runtime cannot list its containers"),
        };
        for state in states.into_iter().filter(|s| s.phase == Phase::Exited) {
            let owner = self.owners.borrow().get(state.id.as_str()).cloned();
            if let (Some(uid), Some(exit)) = (owner, state.exit) {
                self.note(&uid, Note::Exited { id: state.id.to_string(), exit });
            }
        }
    }

    /// Takes over what an earlier daemon left, and removes what no record knows.
    pub async fn adopt(&self, node: &Rc<Node>) -> Result<()> {
        let containers: BTreeMap<_, _> = node.runtime.list().await?.into_iter().map(|s| (s.id.to_string(), s)).collect();
        let sandboxes: BTreeMap<_, _> = node.runtime.sandboxes().await?.into_iter().map(|s| (s.id.to_string(), s)).collect();
        let records = records(&node.options.state_dir.join("pods"))?;
        let known: BTreeSet<String> = records
            .iter()
            .flat_map(|(_, record)| {
                // One whose end is in the record was about to be removed.
                let ids = record.containers.values().filter_map(|c| c.open()).map(|a| a.id.clone());
                ids.chain(record.sandbox.as_ref().map(|s| s.id.clone())).collect::<Vec<_>>()
            })
            .collect();
        if let Some(cni) = &node.cni {
            // While the namespaces are there that nobody knows.
            cni.sweep(&known).await;
        }
        for state in containers.values().filter(|s| !known.contains(s.id.as_str())) {
            tracing::info!(container = %state.id, "removing a container that no pod knows");
            let (runtime, id) = (node.runtime.clone(), state.id.clone());
            remove_or_insist(async move || runtime.remove(&id).await).await;
        }
        for state in sandboxes.values().filter(|s| !known.contains(s.id.as_str())) {
            tracing::info!(sandbox = %state.id, "removing a sandbox that no pod knows");
            let (runtime, id) = (node.runtime.clone(), state.id.clone());
            remove_or_insist(async move || runtime.remove_sandbox(&id).await).await;
        }
        for (pod, record) in records {
            let ready = record.sandbox.as_ref().is_none_or(|s| sandboxes.get(&s.id).is_some_and(|s| s.ready));
            tracing::info!(pod = name(&pod), namespace = namespace(&pod), "adopting");
            self.employ(Rc::new(pod), record, |worker| worker.adopt(&containers, ready));
        }
        Ok(())
    }
}

/// Removes what no pod knows; what resists goes on being removed while the node serves.
async fn remove_or_insist(remove: impl AsyncFn() -> pintle_runtime_bridge::Result<()> + 'static) {
    if let Err(error) = remove().await {
        tracing::warn!(%error, "it stays for now");
        tokio::task::spawn_local(async move { until_removed("what no pod knows", remove).await });
    }
}

/// Reads all records; a damaged one is told and skipped (its containers are then unknown, and removed).
fn records(directory: &Path) -> Result<Vec<(Pod, Record)>> {
    crate::file::make_dir(directory, 0o700)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).step(|| format!("reading {}", directory.display()))?.flatten() {
        let path = entry.path().join("record.json");
        let Ok(bytes) = std::fs::read(&path) else { continue };
        match parse(&bytes) {
            Ok(both) => found.push(both),
            Err(error) => tracing::error!(path = %path.display(), error = Error::chain(&error), "a damaged record"),
        }
    }
    Ok(found)
}

/// A record file: the record on the first line, the pod on the second.
fn parse(bytes: &[u8]) -> Result<(Pod, Record)> {
    let malformed = |source| Error::Malformed { what: "a pod's record".into(), source };
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| Error::invalid("record", "cut short"))?;
    let record = serde_json::from_slice(&bytes[..end]).map_err(malformed)?;
    let pod: Pod = serde_json::from_slice(&bytes[end + 1..]).map_err(malformed)?;
    validate(&pod)?;
    Ok((pod, record))
}

/// Refuses names that may not reach a path: the kernel validates objects, but a node trusts nobody with its file system.
pub fn validate(pod: &Pod) -> Result<()> {
    let fine = |text: &str, max: usize| {
        (1..=max).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
            && text.as_bytes()[0].is_ascii_alphanumeric()
    };
    let names = [("uid", uid(pod), 64), ("namespace", namespace(pod), 63), ("name", name(pod), 253)];
    for (what, text, max) in names {
        if !fine(text, max) || text.contains("..") {
            return Err(Error::invalid(format!("metadata.{what}"), format!("{text:?}")));
        }
    }
    let mut seen = BTreeSet::new();
    let ephemeral = ephemeral_containers(pod);
    for container in all_containers(pod).chain(&ephemeral) {
        if !fine(&container.name, 63) || container.name.contains('.') || !seen.insert(&container.name) {
            return Err(Error::invalid("a container's name", format!("{:?}", container.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_whose_names_could_leave_a_directory_are_refused() {
        let check = |meta: serde_json::Value, containers: &[&str], fine: bool| {
            let containers: Vec<_> = containers.iter().map(|name| json!({ "name": name })).collect();
            let pod = serde_json::from_value(json!({ "metadata": meta, "spec": { "containers": containers } })).expect("a pod");
            assert_eq!(validate(&pod).is_ok(), fine, "{meta} {containers:?}");
        };
        let meta = |uid: &str, namespace: &str, name: &str| json!({ "uid": uid, "namespace": namespace, "name": name });
        check(meta("0a-1", "default", "web-1.x"), &["a", "b"], true);
        check(meta("../x", "default", "web"), &["a"], false);
        check(meta("u", "a/b", "web"), &["a"], false);
        check(meta("u", "default", ".."), &["a"], false);
        check(meta("u", "default", ""), &["a"], false);
        check(meta("u", "default", "web"), &["../a"], false);
        check(meta("u", "default", "web"), &["a", "a"], false);
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written_and_damage_is_told() {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": { "uid": "u", "namespace": "n", "name": "p" }, "spec": { "containers": [] } }))
                .expect("a pod");
        let record = Record::new(Timestamp::now());
        let bytes = [serde_json::to_vec(&record).expect("json"), b"\n".to_vec(), serde_json::to_vec(&pod).expect("json")].concat();
        let (read_pod, read_record) = parse(&bytes).expect("read back");
        assert_eq!((read_pod, read_record), (pod, record));
        for cut in [0, 5, bytes.len() - 3] {
            assert!(parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
