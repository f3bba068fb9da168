//! What a scheduler's guest does not know yet: changes since its last `sync`, as rows.
//!
//! Invariant: the guest's snapshot at generation g, plus the delta, is the cache plus the bindings that are under way.

use crate::{gather::all_of, project::Projection, spec::ModuleSpec};
use bytes::Bytes;
use capnp::{message, serialize};
use pintle_registry::{Event, EventKind, Object, Registry, ResourceKey};
use pintle_wit::scheduler_capnp::scheduler::sync_params;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const NODE_FIELDS: [&str; 8] = [
    "/metadata/name",
    "/metadata/labels",
    "/metadata/annotations",
    "/spec/taints",
    "/spec/unschedulable",
    "/status/allocatable",
    "/status/conditions",
    "/status/images",
];
const POD_FIELDS: [&str; 7] =
    ["/metadata/namespace", "/metadata/name", "/metadata/uid", "/metadata/labels", "/metadata/deletionTimestamp", "/spec", "/status/phase"];
const NAMESPACE_FIELDS: [&str; 2] = ["/metadata/name", "/metadata/labels"];

/// What decides about volumes: shown whole, to schedulers that may see it.
const OBJECTS: [(&str, &str); 4] =
    [("", "persistentvolumeclaims"), ("", "persistentvolumes"), ("storage.k8s.io", "storageclasses"), ("storage.k8s.io", "csinodes")];

/// The delta.
pub struct Snapshot {
    registry: Arc<Registry>,
    node: Projection,
    pod: Projection,
    namespace: Projection,
    /// The snapshot after the last delta that was handed out; guests whose generation it is not get everything.
    generation: u64,
    /// `None`: gone.
    nodes: BTreeMap<String, Option<Bytes>>,
    /// By uid.
    pods: BTreeMap<String, Option<Bytes>>,
    namespaces: BTreeMap<String, Bytes>,
    /// By `resource/namespace/name`.
    objects: BTreeMap<String, Option<Bytes>>,
    /// Those of [`OBJECTS`] that are shown.
    pub shown: Vec<ResourceKey>,
    /// The rows of nodes that were sent last: most changes of a node are heartbeats.
    sent_nodes: HashMap<String, Bytes>,
    /// Bindings under way, by uid.
    assumed: HashMap<String, Bytes>,
}

fn projection(fields: &[&str]) -> Projection {
    Projection::new(&fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
}

fn is_over(pod: &Object) -> bool {
    matches!(pod.field("status.phase"), Some("Succeeded" | "Failed"))
}

impl Snapshot {
    /// Of a registry, nothing known to any guest.
    pub fn new(registry: Arc<Registry>, spec: &ModuleSpec) -> Self {
        let shown = OBJECTS.into_iter().map(|(group, resource)| ResourceKey::new(group, resource));
        Self {
            shown: shown.filter(|key| crate::grants::could_show(&spec.permissions, Some(key))).collect(),
            objects: BTreeMap::new(),
            registry,
            node: projection(&NODE_FIELDS),
            pod: projection(&POD_FIELDS),
            namespace: projection(&NAMESPACE_FIELDS),
            generation: 0,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            sent_nodes: HashMap::new(),
            assumed: HashMap::new(),
        }
    }

    /// One of the same cluster, for a guest that has not been told of the bindings under way.
    pub fn another(&self, spec: &ModuleSpec) -> Self {
        Self { assumed: self.assumed.clone(), ..Self::new(self.registry.clone(), spec) }
    }

    /// Everybody gets everything next time.
    pub fn forget(&mut self) {
        self.generation += 1;
        self.clear();
    }

    fn clear(&mut self) {
        self.nodes.clear();
        self.pods.clear();
        self.namespaces.clear();
        self.objects.clear();
    }

    /// A node changed. Whether it could let a pod fit.
    pub fn node_changed(&mut self, event: &Event) -> bool {
        let name = event.object.meta().name.to_string();
        if event.kind == EventKind::Deleted {
            self.sent_nodes.remove(&name);
            self.nodes.insert(name, None);
            return false;
        }
        let row = self.node.row(&event.object);
        if self.sent_nodes.get(&name) == Some(&row) {
            return false;
        }
        self.sent_nodes.insert(name.clone(), row.clone());
        self.nodes.insert(name, Some(row));
        true
    }

    /// A pod that is not pending changed. Whether it frees room or could let another fit.
    pub fn pod_changed(&mut self, event: &Event) -> bool {
        let (pod, uid) = (&event.object, event.object.meta().uid.to_string());
        let assigned = |p: &Object| p.field("spec.nodeName").is_some_and(|n| !n.is_empty());
        let gone = event.kind == EventKind::Deleted || is_over(pod);
        if gone {
            let was_there = assigned(pod) || self.assumed.contains_key(&uid);
            self.assumed.remove(&uid);
            if was_there {
                self.pods.insert(uid, None);
            }
            return was_there;
        }
        if !assigned(pod) {
            return false;
        }
        self.assumed.remove(&uid);
        let same = |p: &Arc<Object>| {
            let (now, before) = (pod.meta(), p.meta());
            assigned(p)
                && now.labels == before.labels
                && now.deletion_timestamp == before.deletion_timestamp
                && now.generation == before.generation
        };
        if event.previous.as_ref().is_some_and(same) {
            return false;
        }
        self.pods.insert(uid, Some(self.pod.row(pod)));
        event.previous.as_ref().is_none_or(|p| p.meta().labels != pod.meta().labels)
    }

    /// A namespace changed.
    pub fn namespace_changed(&mut self, event: &Event) -> bool {
        if event.kind != EventKind::Deleted && event.previous.as_ref().is_none_or(|p| p.meta().labels != event.object.meta().labels) {
            self.namespaces.insert(event.object.meta().name.to_string(), self.namespace.row(&event.object));
        }
        false
    }

    /// A claim, a volume or a class changed.
    pub fn object_changed(&mut self, event: &Event) -> bool {
        self.objects.insert(name_of(&event.object), (event.kind != EventKind::Deleted).then(|| event.object.body().clone()));
        true
    }

    /// A binding is under way.
    pub fn assume(&mut self, pod: &Object, node: &str) {
        let Ok(mut value) = pod.value() else { return };
        value["spec"]["nodeName"] = node.into();
        let (uid, row) = (pod.meta().uid.to_string(), Bytes::from(value.to_string()));
        self.assumed.insert(uid.clone(), row.clone());
        self.pods.insert(uid, Some(row));
    }

    /// The guest that decided it counts it already.
    pub fn is_known(&mut self, pod: &Object) {
        self.pods.remove(&*pod.meta().uid);
    }

    /// A binding failed.
    pub fn take_back(&mut self, uid: &str) {
        if self.assumed.remove(uid).is_some() {
            self.pods.insert(uid.to_owned(), None);
        }
    }

    /// The `sync` parameters for a guest at `base` (0: it knows nothing), and the generation it has afterwards; `None`: it is up to date.
    fn delta(&mut self, base: u64) -> Option<(Vec<u8>, u64)> {
        let whole = base == 0 || base != self.generation;
        let nothing = self.nodes.is_empty() && self.pods.is_empty() && self.namespaces.is_empty() && self.objects.is_empty();
        if !whole && nothing {
            return None;
        }
        if whole {
            self.fill_whole();
        }
        self.generation += 1;
        let params = self.params(if whole { 0 } else { base });
        self.clear();
        Some((params, self.generation))
    }

    /// Has a guest at `base` told; the generation it has afterwards, or `None` when it calls the whole stale.
    ///
    /// # Errors
    /// Those of `sync`, which says whether the guest calls what it is given stale.
    pub fn tell<E>(&mut self, mut base: u64, mut sync: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<Option<u64>, E> {
        for _ in 0..2 {
            let Some((params, generation)) = self.delta(base) else { return Ok(Some(base)) };
            if !sync(&params)? {
                return Ok(Some(generation));
            }
            base = 0;
        }
        Ok(None)
    }

    fn fill_whole(&mut self) {
        self.clear();
        let all = |resource: &str| all_of(&self.registry, &ResourceKey::new("", resource));
        let nodes: BTreeMap<_, _> = all("nodes").iter().map(|n| (n.meta().name.to_string(), Some(self.node.row(n)))).collect();
        self.sent_nodes = nodes.iter().filter_map(|(name, row)| Some((name.clone(), row.clone()?))).collect();
        self.nodes = nodes;
        let assigned = |p: &Arc<Object>| p.field("spec.nodeName").is_some_and(|n| !n.is_empty()) && !is_over(p);
        self.pods = self.assumed.iter().map(|(uid, row)| (uid.clone(), Some(row.clone()))).collect();
        self.pods.extend(all("pods").iter().filter(|p| assigned(p)).map(|p| (p.meta().uid.to_string(), Some(self.pod.row(p)))));
        self.namespaces = all("namespaces").iter().map(|n| (n.meta().name.to_string(), self.namespace.row(n))).collect();
        let others = self.shown.iter().flat_map(|key| all_of(&self.registry, key));
        self.objects = others.map(|o| (name_of(&o), Some(o.body().clone()))).collect();
    }

    fn params(&self, base: u64) -> Vec<u8> {
        let (nodes, gone_nodes) = split(&self.nodes);
        let (pods, gone_pods) = split(&self.pods);
        let (objects, gone_objects) = split(&self.objects);
        let namespaces: Vec<&Bytes> = self.namespaces.values().collect();
        let weight: usize = nodes.iter().chain(&pods).chain(&namespaces).chain(&objects).map(|row| row.len() / 8 + 4).sum();
        let words = u32::try_from(weight + 8 * (gone_nodes.len() + gone_pods.len() + gone_objects.len()) + 128).unwrap_or(u32::MAX);
        let mut message = message::Builder::new(message::HeapAllocator::new().first_segment_words(words));
        let mut delta = message.init_root::<sync_params::Builder<'_>>().init_delta();
        delta.set_base_generation(base);
        delta.set_generation(self.generation);
        fill_data(delta.reborrow().init_nodes(length(nodes.len())), nodes);
        fill_data(delta.reborrow().init_pods(length(pods.len())), pods);
        fill_data(delta.reborrow().init_namespaces(length(namespaces.len())), namespaces);
        fill_text(delta.reborrow().init_gone_nodes(length(gone_nodes.len())), &gone_nodes);
        fill_text(delta.reborrow().init_gone_pods(length(gone_pods.len())), &gone_pods);
        fill_data(delta.reborrow().init_objects(length(objects.len())), objects);
        fill_text(delta.init_gone_objects(length(gone_objects.len())), &gone_objects);
        serialize::write_message_to_words(&message)
    }
}

fn name_of(object: &Object) -> String {
    format!("{}/{}/{}", object.resource().key().resource, object.meta().namespace, object.meta().name)
}

fn split(rows: &BTreeMap<String, Option<Bytes>>) -> (Vec<&Bytes>, Vec<&str>) {
    let present = rows.values().flatten().collect();
    let gone = rows.iter().filter(|(_, row)| row.is_none()).map(|(name, _)| name.as_str()).collect();
    (present, gone)
}

/// For the wire.
pub fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Fills a list of as many.
pub fn fill_data<'a>(mut list: capnp::data_list::Builder<'_>, rows: impl IntoIterator<Item = &'a Bytes>) {
    for (i, row) in (0..).zip(rows) {
        list.set(i, row);
    }
}

/// Fills a list of as many.
pub fn fill_text(mut list: capnp::text_list::Builder<'_>, texts: impl IntoIterator<Item = impl AsRef<str>>) {
    for (i, text) in (0..).zip(texts) {
        list.set(i, text.as_ref());
    }
}
