//! The cluster as the scheduler knows it: nodes, the pods on them, and what each node has left.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pintle_sdk::prelude::*;
use pintle_sdk::{Delta, Freshness};

use crate::model::{self, HostPort, Labels, Node, Pod, Resources};
use crate::volumes::Storage;

/// How long a decision counts without the kernel confirming it.
const ASSUMED_FOR: Duration = Duration::from_secs(30);

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub node: Node,
    /// False while pods are known to be on a node that is not.
    pub exists: bool,
    pub requested: Resources,
    /// `(cpu, memory)` with the usual amounts for pods that ask for nothing.
    pub usual: (i64, i64),
    pub pods: BTreeMap<String, Rc<Pod>>,
    ports: Vec<(HostPort, String)>,
    /// Pods that belong together, counted.
    kin: BTreeMap<String, u32>,
}

/// All of it, at a generation.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub generation: u64,
    pub places: Vec<Place>,
    pub namespaces: BTreeMap<String, Labels>,
    pub storage: Storage,
    /// Where the next search begins, so that not all pods land on the first nodes of a large cluster.
    pub next_start: usize,
    index: BTreeMap<String, usize>,
    pods: BTreeMap<String, usize>,
    by_namespace: BTreeMap<String, BTreeSet<String>>,
    /// Pods whose own rules bear on others, by uid.
    pub with_terms: BTreeSet<String>,
    assumed: BTreeMap<String, Time>,
    /// Pods that room is being made for, and where.
    pub nominated: BTreeMap<String, (usize, Rc<Pod>)>,
}

impl Place {
    pub fn port_is_taken(&self, port: &HostPort) -> bool {
        self.ports.iter().any(|(taken, _)| taken.clashes(port))
    }

    /// Pods here that belong together.
    pub fn siblings(&self, kin: &str) -> u32 {
        self.kin.get(kin).copied().unwrap_or(0)
    }

    fn put(&mut self, pod: Rc<Pod>) {
        self.requested.add(&pod.requests);
        self.usual = (self.usual.0 + pod.usual.0, self.usual.1 + pod.usual.1);
        self.ports.extend(pod.ports.iter().map(|port| (port.clone(), pod.uid.clone())));
        if !pod.kin.is_empty() {
            *self.kin.entry(pod.kin.clone()).or_default() += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn take(&mut self, uid: &str) -> Option<Rc<Pod>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.usual = (self.usual.0 - pod.usual.0, self.usual.1 - pod.usual.1);
        self.ports.retain(|(_, owner)| owner != uid);
        if let Some(count) = self.kin.get_mut(&pod.kin) {
            *count -= 1;
            if *count == 0 {
                self.kin.remove(&pod.kin);
            }
        }
        Some(pod)
    }
}

impl Snapshot {
    /// Applies a change, or says that one is missing in between.
    pub fn apply(&mut self, delta: &Delta<'_>) -> Result<Freshness> {
        if delta.base_generation == 0 {
            *self = Snapshot { next_start: self.next_start, ..Snapshot::default() };
        } else if delta.base_generation != self.generation {
            return Ok(Freshness::Stale);
        }
        for row in &delta.namespaces {
            let namespace: Partial =
                pintle_sdk::serde_json::from_slice(row).map_err(|source| Error::Shape { what: "a namespace".into(), source })?;
            self.namespaces.insert(namespace.metadata.name, namespace.metadata.labels);
        }
        delta.gone_objects.iter().for_each(|gone| self.storage.remove(gone));
        for row in &delta.objects {
            readable(self.storage.put(row));
        }
        for name in &delta.gone_nodes {
            if let Some(place) = self.index.get(*name).and_then(|at| self.places.get_mut(*at)) {
                (place.exists, place.node) = (false, Node { name: (*name).into(), ..Node::default() });
            }
        }
        for row in &delta.nodes {
            let Some(node) = readable(model::node(row)) else { continue };
            let at = self.place(&node.name);
            (self.places[at].exists, self.places[at].node) = (true, node);
        }
        for uid in &delta.gone_pods {
            self.remove(uid);
            self.nominated.remove(*uid);
        }
        for row in &delta.pods {
            let Some(pod) = readable(model::pod(row)).map(Rc::new) else { continue };
            self.nominated.remove(&pod.uid);
            if pod.finished {
                self.remove(&pod.uid);
                continue;
            }
            let at = self.place(&pod.node);
            self.put(at, pod);
        }
        self.generation = delta.generation;
        Ok(Freshness::Fresh)
    }

    /// Places of the nodes that exist, in the order of their names.
    pub fn by_name(&self) -> impl Iterator<Item = usize> + '_ {
        self.index.values().copied().filter(|at| self.places[*at].exists)
    }

    /// Nodes that exist.
    pub fn node_count(&self) -> usize {
        self.places.iter().filter(|place| place.exists).count()
    }

    /// Pods of a namespace, each with the place it is at.
    pub fn pods_of<'a>(&'a self, namespace: &str) -> impl Iterator<Item = (usize, &'a Rc<Pod>)> + 'a {
        self.by_namespace.get(namespace).into_iter().flatten().filter_map(|uid| self.pod(uid))
    }

    /// Pods of all namespaces.
    pub fn all_pods(&self) -> impl Iterator<Item = (usize, &Rc<Pod>)> {
        self.pods.keys().filter_map(|uid| self.pod(uid))
    }

    /// A pod that has a place.
    pub fn pod(&self, uid: &str) -> Option<(usize, &Rc<Pod>)> {
        let at = *self.pods.get(uid)?;
        Some((at, self.places.get(at)?.pods.get(uid)?))
    }

    /// Lets a pod count as placed until the kernel confirms it or time runs out.
    pub fn assume(&mut self, at: usize, pod: Rc<Pod>, now: Time) {
        self.assumed.insert(pod.uid.clone(), now.after(ASSUMED_FOR));
        self.nominated.remove(&pod.uid);
        self.put(at, pod);
        self.assumed.retain(|uid, _| self.pods.contains_key(uid));
    }

    /// Drops decisions that were not confirmed: those about this pod, which is pending again, or those that are too old.
    pub fn forget_assumed(&mut self, uid: &str, now: Time) {
        let overdue: Vec<String> =
            self.assumed.iter().filter(|(key, end)| *key == uid || **end < now).map(|(key, _)| key.clone()).collect();
        for uid in overdue {
            self.remove(&uid);
        }
    }

    /// Puts a pod on a place, moving it there if it was elsewhere. It is no longer merely assumed.
    pub fn put(&mut self, at: usize, pod: Rc<Pod>) {
        let assumed = self.assumed.get(&pod.uid).copied().filter(|_| !self.pods.contains_key(&pod.uid));
        self.remove(&pod.uid);
        if let Some(end) = assumed {
            self.assumed.insert(pod.uid.clone(), end);
        }
        if !pod.affinity.required.is_empty() || !pod.anti_affinity.required.is_empty() {
            self.with_terms.insert(pod.uid.clone());
        }
        self.by_namespace.entry(pod.namespace.clone()).or_default().insert(pod.uid.clone());
        self.pods.insert(pod.uid.clone(), at);
        self.places[at].put(pod);
    }

    /// Takes a pod off its place.
    pub fn remove(&mut self, uid: &str) -> Option<(usize, Rc<Pod>)> {
        self.assumed.remove(uid);
        let at = self.pods.remove(uid)?;
        let pod = self.places.get_mut(at)?.take(uid)?;
        self.with_terms.remove(uid);
        if let Some(uids) = self.by_namespace.get_mut(&pod.namespace) {
            uids.remove(uid);
        }
        Some((at, pod))
    }

    fn place(&mut self, name: &str) -> usize {
        if let Some(at) = self.index.get(name) {
            return *at;
        }
        let at = self.places.len();
        self.places.push(Place { node: Node { name: name.into(), ..Node::default() }, ..Place::default() });
        self.index.insert(name.into(), at);
        at
    }
}

/// One malformed row must not keep the scheduler from all others.
fn readable<T>(row: Result<T>) -> Option<T> {
    row.inspect_err(|error| pintle_sdk::warning!("a row is left out of the snapshot: {error}")).ok()
}
