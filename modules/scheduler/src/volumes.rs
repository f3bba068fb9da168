//! A pod's claims: where its volumes can be reached, and what must be done about claims that wait for their pod.
//!
//! Invariant: a volume or a node that was chosen for a claim counts at once, so that two pods never choose one volume.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::PROVISIONED_FINALIZER;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{self, Value};
use pintle_sdk::storage::{BOUND_BY_CONTROLLER, Claim, ClaimRef, SELECTED_NODE, StorageClass, Volume, best};

use serde::Deserialize;

use crate::model::{ClaimName, Node, Pod};
use crate::snapshot::{Place, Snapshot};

/// Claims, volumes, classes and nodes' drivers, as the kernel tells of them.
#[derive(Debug, Default)]
pub struct Storage {
    /// By namespace and name.
    claims: BTreeMap<(String, String), Claim>,
    volumes: BTreeMap<String, Volume>,
    classes: BTreeMap<String, StorageClass>,
    /// By node and driver: how many volumes it can have.
    limits: BTreeMap<String, BTreeMap<String, usize>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CsiNode {
    metadata: Metadata,
    spec: CsiNodeSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CsiNodeSpec {
    drivers: Vec<Driver>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Driver {
    name: String,
    allocatable: Allocatable,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Allocatable {
    count: Option<usize>,
}

impl Storage {
    /// Takes a row.
    pub fn put(&mut self, row: &[u8]) -> Result<()> {
        let value: Value =
            serde_json::from_slice(row).map_err(|source| Error::Shape { what: "a claim, a volume or a class".into(), source })?;
        let shape = |source| Error::Shape { what: "a claim, a volume or a class".into(), source };
        match value["kind"].as_str().unwrap_or_default() {
            "PersistentVolumeClaim" => {
                let claim: Claim = serde_json::from_value(value).map_err(shape)?;
                self.claims.insert((claim.metadata.namespace.clone(), claim.metadata.name.clone()), claim);
            }
            "PersistentVolume" => {
                let volume: Volume = serde_json::from_value(value).map_err(shape)?;
                self.volumes.insert(volume.metadata.name.clone(), volume);
            }
            "CSINode" => {
                let node: CsiNode = serde_json::from_value(value).map_err(shape)?;
                let limits = node.spec.drivers.into_iter().filter_map(|driver| Some((driver.name, driver.allocatable.count?)));
                self.limits.insert(node.metadata.name, limits.collect());
            }
            _ => {
                let class: StorageClass = serde_json::from_value(value).map_err(shape)?;
                self.classes.insert(class.metadata.name.clone(), class);
            }
        }
        Ok(())
    }

    /// Forgets what is gone: `resource/namespace/name`.
    pub fn remove(&mut self, gone: &str) {
        let mut parts = gone.splitn(3, '/').map(str::to_owned);
        let (Some(resource), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else { return };
        match resource.as_str() {
            "persistentvolumeclaims" => drop(self.claims.remove(&(namespace, name))),
            "persistentvolumes" => drop(self.volumes.remove(&name)),
            "csinodes" => drop(self.limits.remove(&name)),
            _ => drop(self.classes.remove(&name)),
        }
    }

    /// The driver that has, or would have, a claim's volume, and what tells the volume from others.
    fn of_driver(&self, namespace: &str, claim: &str) -> Option<(&str, String)> {
        let claim = self.claims.get(&(namespace.to_owned(), claim.to_owned()))?;
        match self.volumes.get(&claim.spec.volume_name) {
            Some(volume) => volume.spec.csi.as_ref().map(|csi| (csi.driver.as_str(), csi.volume_handle.clone())),
            None => {
                let class = self.classes.get(&claim.spec.storage_class_name)?;
                Some((&class.provisioner, format!("{namespace}/{}", claim.metadata.name)))
            }
        }
    }
}

/// A pod's claims, sorted out once for all nodes.
#[derive(Default)]
pub struct Volumes<'a> {
    /// Of claims that are bound.
    bound: Vec<&'a Volume>,
    /// Claims that wait for the pod to have a node.
    waiting: Vec<(&'a Claim, &'a StorageClass)>,
    /// Another pod has a claim that only one may have.
    taken: bool,
    /// What drivers have, or would have, of it.
    of_drivers: BTreeMap<&'a str, BTreeSet<String>>,
    storage: Option<&'a Storage>,
}

/// Why a node will not do.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// A volume cannot be reached from it.
    Unreachable,
    /// There is no volume for a claim, and none can be made.
    NoVolume,
    /// A pod has a claim that only one may have.
    Taken,
    /// A driver can have no more volumes there.
    Full,
}

impl<'a> Volumes<'a> {
    /// The pod's claims; the error is why no node will do, in upstream's words.
    pub fn look(snapshot: &'a Snapshot, pod: &'a Pod) -> Result<Self, String> {
        let storage = &snapshot.storage;
        let mut volumes = Volumes { storage: Some(storage), ..Volumes::default() };
        for wanted in &pod.claims {
            volumes.sort(snapshot, pod, wanted)?;
            if let Some((driver, handle)) = storage.of_driver(&pod.namespace, &wanted.name) {
                volumes.of_drivers.entry(driver).or_default().insert(handle);
            }
        }
        Ok(volumes)
    }

    fn sort(&mut self, snapshot: &'a Snapshot, pod: &Pod, wanted: &ClaimName) -> Result<(), String> {
        let (storage, name) = (&snapshot.storage, wanted.name.as_str());
        let Some(claim) = storage.claims.get(&(pod.namespace.clone(), name.to_owned())) else {
            return Err(match wanted.is_ephemeral {
                true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
                false => format!("persistentvolumeclaim {name:?} not found"),
            });
        };
        if wanted.is_ephemeral && !claim.metadata.is_controlled_by(&pod.uid) {
            return Err(format!("PVC {}/{name} was not created for pod {}/{} (pod is not owner)", pod.namespace, pod.namespace, pod.name));
        }
        if claim.metadata.is_terminating() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if claim.status.phase == "Lost" {
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}", claim.spec.volume_name));
        }
        if claim.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            let others = snapshot.pods_of(&pod.namespace).filter(|(_, other)| other.uid != pod.uid);
            self.taken |= others.into_iter().any(|(_, other)| other.claims.iter().any(|has| has.name == name));
        }
        if claim.is_bound() {
            let missing =
                || format!("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s): {:?}", claim.spec.volume_name);
            self.bound.push(storage.volumes.get(&claim.spec.volume_name).ok_or_else(missing)?);
            return Ok(());
        }
        match storage.classes.get(&claim.spec.storage_class_name).filter(|class| class.waits() && claim.spec.volume_name.is_empty()) {
            Some(class) => self.waiting.push((claim, class)),
            None => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
        }
        Ok(())
    }

    /// Whether the pod's volumes are, or can be, where the node is.
    pub fn check(&self, place: &Place) -> Result<(), Refused> {
        let node = &place.node;
        if self.taken {
            return Err(Refused::Taken);
        }
        if self.is_full(place) {
            return Err(Refused::Full);
        }
        if !self.bound.iter().all(|volume| volume.is_reachable(&node.name, &node.labels)) {
            return Err(Refused::Unreachable);
        }
        self.choose(node).map(drop)
    }

    /// Whether some driver would have more volumes on the node than it can.
    fn is_full(&self, place: &Place) -> bool {
        let Some((storage, limits)) = self.storage.and_then(|storage| Some((storage, storage.limits.get(&place.node.name)?))) else {
            return false;
        };
        self.of_drivers.iter().any(|(driver, wanted)| {
            let Some(limit) = limits.get(*driver) else { return false };
            let claims = place.pods.values().flat_map(|pod| pod.claims.iter().map(move |claim| (&pod.namespace, &claim.name)));
            let there = claims.filter_map(|(namespace, claim)| storage.of_driver(namespace, claim)).filter(|(of, _)| of == driver);
            let mut all: BTreeSet<String> = there.map(|(_, handle)| handle).collect();
            all.extend(wanted.iter().cloned());
            all.len() > *limit
        })
    }

    /// Whether what a claim's volume is to begin with can be reached there. Drivers say themselves where they copy to; for modules' provisioners it is
    /// where the original is.
    fn can_copy(&self, claim: &Claim, node: &Node) -> bool {
        if claim.source().is_none() {
            return true;
        }
        let all = self.storage.into_iter().flat_map(|storage| storage.volumes.values());
        let of_module = |volume: &&Volume| volume.metadata.finalizers.iter().any(|f| f == PROVISIONED_FINALIZER);
        let mut sources = all.filter(|volume| volume.is_source_of(claim)).filter(of_module);
        sources.all(|volume| volume.is_reachable(&node.name, &node.labels))
    }

    /// For each claim that waits the volume it gets on this node; `None`: one is made.
    fn choose(&self, node: &Node) -> Result<Vec<(&'a Claim, Option<&'a Volume>)>, Refused> {
        let mut chosen: Vec<(&Claim, Option<&Volume>)> = Vec::new();
        for (claim, class) in &self.waiting {
            let selected = claim.annotation(SELECTED_NODE);
            if !selected.is_empty() {
                if selected != node.name {
                    return Err(Refused::NoVolume);
                }
                chosen.push((claim, None));
                continue;
            }
            let free = |volume: &&Volume| chosen.iter().all(|(_, taken)| taken.is_none_or(|t| t.metadata.name != volume.metadata.name));
            let all = self.storage.into_iter().flat_map(|storage| storage.volumes.values());
            match best(claim, all.filter(free).filter(|volume| volume.is_reachable(&node.name, &node.labels))) {
                Some(volume) => chosen.push((claim, Some(volume))),
                None if class.provisions() && class.allows(&node.labels) && self.can_copy(claim, node) => chosen.push((claim, None)),
                None => return Err(Refused::NoVolume),
            }
        }
        Ok(chosen)
    }
}

/// What must be written before a pod can be bound to the node, which then counts at once; `None`: it can be bound.
pub fn prepare(snapshot: &mut Snapshot, pod: &Pod, node: &Node) -> Option<Vec<Write>> {
    let mut writes = Vec::new();
    let mut counted: Vec<(Claim, Option<String>)> = Vec::new();
    {
        let volumes = Volumes::look(snapshot, pod).ok()?;
        if volumes.waiting.is_empty() {
            return None;
        }
        for (claim, volume) in volumes.choose(node).ok()? {
            match volume {
                // Whoever binds is at it.
                Some(volume) if volume.is_for(claim) => {}
                Some(volume) => {
                    writes.push(reserve(claim, volume));
                    counted.push((claim.clone(), Some(volume.metadata.name.clone())));
                }
                None if claim.annotation(SELECTED_NODE).is_empty() => {
                    let mut body = claim.metadata.precondition();
                    body["metadata"]["annotations"] = json!({SELECTED_NODE: node.name});
                    writes.push(Write::merge(claim.target(), body));
                    counted.push((claim.clone(), None));
                }
                None => {}
            }
        }
    }
    for (claim, volume) in counted {
        let Metadata { namespace, name, uid, .. } = claim.metadata;
        match volume.and_then(|volume| snapshot.storage.volumes.get_mut(&volume)) {
            Some(volume) => volume.spec.claim_ref = Some(ClaimRef { namespace, name, uid, ..ClaimRef::default() }),
            None => {
                if let Some(claim) = snapshot.storage.claims.get_mut(&(namespace, name)) {
                    claim.metadata.annotations.insert(SELECTED_NODE.into(), node.name.clone());
                }
            }
        }
    }
    Some(writes)
}

/// Names the claim in a free volume.
fn reserve(claim: &Claim, volume: &Volume) -> Write {
    let mut body = volume.metadata.precondition();
    body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    body["spec"] = json!({"claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace, "name": claim.metadata.name,
        "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
    }});
    Write::merge(volume.target(), body)
}
