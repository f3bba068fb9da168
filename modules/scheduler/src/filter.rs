//! Which nodes can take a pod, and why the others cannot, in upstream's order and words.

use std::borrow::Cow;

use crate::interpod::{self, Relations};
use crate::model::{Node, Pod, Resources, Taint};
use crate::snapshot::Snapshot;
use crate::spread::{self, Counted};
use crate::volumes::{self, Volumes};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Reasons why a node cannot take a pod.
pub struct Refusal {
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether fewer pods on the node could change it.
    pub curable: bool,
}

/// What is computed once a pod, for all nodes.
pub struct Cycle<'a> {
    pub pod: &'a Pod,
    spread: Vec<Counted<'a>>,
    pub relations: Relations<'a>,
    volumes: Volumes<'a>,
}

impl<'a> Cycle<'a> {
    pub fn new(snapshot: &'a Snapshot, pod: &'a Pod) -> Self {
        let volumes = Volumes::look(snapshot, pod).unwrap_or_default();
        Cycle { pod, spread: spread::count(snapshot, pod, true), relations: interpod::relate(snapshot, pod), volumes }
    }

    /// Whether the node at `at` can take the pod.
    pub fn check(&self, snapshot: &Snapshot, at: usize) -> Result<(), Refusal> {
        let place = &snapshot.places[at];
        let (pod, node) = (self.pod, &place.node);
        let hopeless = |reason: Cow<'static, str>| Err(Refusal { reasons: vec![reason], curable: false });
        let crowded = |reason: &'static str| Err(Refusal { reasons: vec![Cow::Borrowed(reason)], curable: true });
        if node.unschedulable && !tolerates_unschedulable(pod) {
            return hopeless("node(s) were unschedulable".into());
        }
        if !pod.node.is_empty() && pod.node != node.name {
            return hopeless("node(s) didn't match the requested node name".into());
        }
        if let Some(taint) = untolerated(pod, node) {
            return hopeless(format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value).into());
        }
        if !affinity_matches(pod, node) {
            return hopeless("node(s) didn't match Pod's node affinity/selector".into());
        }
        if pod.ports.iter().any(|port| place.port_is_taken(port)) {
            return crowded("node(s) didn't have free ports for the requested pod ports");
        }
        fits(snapshot, at, pod)?;
        match self.volumes.check(place) {
            Ok(()) => {}
            Err(volumes::Refused::Taken) => {
                return crowded("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode");
            }
            Err(volumes::Refused::Full) => return crowded("node(s) exceed max volume count"),
            Err(volumes::Refused::Unreachable) => return hopeless("node(s) didn't match PersistentVolume's node affinity".into()),
            Err(volumes::Refused::NoVolume) => return hopeless("node(s) didn't find available persistent volumes to bind".into()),
        }
        match spread::check(&self.spread, place) {
            Ok(()) => {}
            Err(spread::Refused::Skew) => return crowded("node(s) didn't match pod topology spread constraints"),
            Err(spread::Refused::NoLabel) => {
                return hopeless("node(s) didn't match pod topology spread constraints (missing required label)".into());
            }
        }
        match self.relations.check(pod, place) {
            Ok(()) => Ok(()),
            Err(interpod::Refused::Affinity) => hopeless("node(s) didn't match pod affinity rules".into()),
            Err(interpod::Refused::AntiAffinity) => crowded("node(s) didn't match pod anti-affinity rules"),
            Err(interpod::Refused::ByOthers) => crowded("node(s) didn't satisfy existing pods anti-affinity rules"),
        }
    }
}

/// The first taint that keeps the pod away.
pub fn untolerated<'a>(pod: &Pod, node: &'a Node) -> Option<&'a Taint> {
    let keeps_away = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    // `spec.unschedulable` has a filter and a message of its own.
    let own = |taint: &&Taint| !(node.unschedulable && taint.key == UNSCHEDULABLE_TAINT);
    node.taints.iter().filter(keeps_away).filter(own).find(|taint| !pod.tolerations.iter().any(|t| t.tolerates(taint)))
}

fn tolerates_unschedulable(pod: &Pod) -> bool {
    let taint = Taint { key: UNSCHEDULABLE_TAINT.into(), value: String::new(), effect: "NoSchedule".into(), ..Taint::default() };
    pod.tolerations.iter().any(|toleration| toleration.tolerates(&taint))
}

/// Whether the node is one of those that the pod asks for.
pub fn affinity_matches(pod: &Pod, node: &Node) -> bool {
    pod.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod.required_nodes.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

/// Whether there is room. Room that is being made for a pod of the same or higher priority is taken.
fn fits(snapshot: &Snapshot, at: usize, pod: &Pod) -> Result<(), Refusal> {
    let place = &snapshot.places[at];
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut reserved = Resources::default();
    let mut count = place.pods.len() as i64 + 1;
    for (other_at, other) in snapshot.nominated.values() {
        if *other_at == at && other.priority >= pod.priority && other.uid != pod.uid {
            reserved.add(&other.requests);
            count += 1;
        }
    }
    if count > place.node.pods_max {
        reasons.push("Too many pods".into());
    }
    let (have, used, want) = (&place.node.allocatable, &place.requested, &pod.requests);
    if want.cpu > 0 && want.cpu > have.cpu - used.cpu - reserved.cpu {
        reasons.push("Insufficient cpu".into());
    }
    if want.memory > 0 && want.memory > have.memory - used.memory - reserved.memory {
        reasons.push("Insufficient memory".into());
    }
    for (name, amount) in want.others.iter().filter(|(_, amount)| **amount > 0) {
        let of = |resources: &Resources| resources.others.get(name).copied().unwrap_or(0);
        if *amount > of(have) - of(used) - of(&reserved) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, curable: true }) }
}
