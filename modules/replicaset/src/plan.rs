//! From a ReplicaSet and the pods around it to what should be written. Pure.
//!
//! Slow start needs no batches here: the kernel carries writes out in order and stops at the first failure, so that a namespace without
//! quota costs one refused create, not five hundred.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Value, value::RawValue};
use pintle_sdk::{Condition, Event, OwnerReference};
use serde::Deserialize;

use crate::names::Names;
use crate::status::{self, Status};

/// Pods created or deleted in one go at most.
const BURST_MAX: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Failed tries after which names are varied: the name must then be taken by something that is not in view.
const VARY_NAMES_ATTEMPT: u32 = 3;

/// `apps/v1` ReplicaSet, as far as it is read. The template stays text until a pod is made of it.
#[derive(Deserialize)]
pub struct ReplicaSet<'a> {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(borrow)]
    pub spec: Spec<'a>,
    /// What was last said.
    #[serde(default)]
    pub status: Status,
}

/// What a ReplicaSet asks for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec<'a> {
    replicas: Option<u32>,
    #[serde(default)]
    min_ready_seconds: u32,
    selector: Selector,
    #[serde(borrow)]
    template: Option<&'a RawValue>,
}

/// A pod, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    restart_count: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Template {
    metadata: TemplateMetadata,
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TemplateMetadata {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
}

impl Pod {
    fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_terminating()
    }

    /// When it last became ready, if it is.
    pub fn ready_since(&self) -> Option<Time> {
        let ready = self.status.conditions.iter().find(|c| c.kind == "Ready" && c.status == "True")?;
        Some(ready.last_transition_time.unwrap_or_default())
    }

    fn restarts(&self) -> u32 {
        self.status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0)
    }

    fn target(&self) -> ObjectRef {
        ObjectRef::of("", "pods", &self.metadata)
    }
}

impl Spec<'_> {
    /// Pods asked for.
    pub fn replicas(&self) -> usize {
        self.replicas.unwrap_or(1) as usize
    }

    /// How long a pod must be ready to be available.
    pub fn min_ready(&self) -> Duration {
        Duration::from_secs(self.min_ready_seconds.into())
    }

    fn template(&self) -> Result<Template> {
        let text = self.template.map_or("{}", RawValue::get);
        pintle_sdk::serde_json::from_str(text).map_err(|source| Error::Shape { what: "spec.template".into(), source })
    }
}

/// What to do about one ReplicaSet.
pub fn plan(now: Time, attempt: u32, set: &ReplicaSet<'_>, pods: Vec<Pod>) -> Result<Plan> {
    let seen: BTreeSet<String> = pods.iter().map(|pod| pod.metadata.name.clone()).collect();
    let terminating =
        pods.iter().filter(|p| p.metadata.is_controlled_by(&set.metadata.uid) && p.metadata.is_terminating() && !p.is_finished());
    let terminating = terminating.count();
    let template = set.spec.template()?;
    let (claims, active) = claim(set, pods);
    let missing = set.spec.replicas().saturating_sub(active.len());
    let failing = (attempt > 1 && missing > 0).then_some("FailedCreate");
    let labels = template.metadata.labels.clone().unwrap_or_default();
    let (next, wake) = status::observe(now, set, &active, &labels, terminating, failing);

    let mut plan = Plan::new();
    if next != set.status {
        plan = plan.patch_status(target(set), status::patch(&set.status, &next));
    }
    plan.writes.extend(claims);
    if let Some(wake) = wake {
        plan.wake_after(wake);
    }
    if set.metadata.is_terminating() {
        return Ok(plan);
    }
    let surplus = active.len().saturating_sub(set.spec.replicas());
    let change = if missing > 0 { create(attempt, set, template, seen, missing) } else { delete(active, surplus) };
    Ok(plan.then(change))
}

fn target(set: &ReplicaSet<'_>) -> ObjectRef {
    ObjectRef::of("apps", "replicasets", &set.metadata)
}

/// Sorts out whose the pods are: those that stopped matching are let go, orphans that match are taken in. Gives the writes for that and the
/// active pods that count.
fn claim(set: &ReplicaSet<'_>, pods: Vec<Pod>) -> (Vec<Write>, Vec<Pod>) {
    let (mut writes, mut ours) = (Vec::new(), Vec::new());
    let going = set.metadata.is_terminating();
    for pod in pods.into_iter().filter(Pod::is_active) {
        let matches = set.spec.selector.matches(&pod.metadata.labels);
        match (pod.metadata.controller(), matches) {
            (Some(owner), true) if owner.uid == set.metadata.uid => ours.push(pod),
            (Some(owner), false) if owner.uid == set.metadata.uid && !going => {
                let kept = pod.metadata.owner_references.iter().filter(|owner| owner.uid != set.metadata.uid).cloned().collect();
                writes.push(set_owners(&pod, kept));
            }
            (None, true) if !going && pod.metadata.namespace == set.metadata.namespace => {
                let mut owners = pod.metadata.owner_references.clone();
                owners.push(set.metadata.as_controller("apps/v1", "ReplicaSet"));
                writes.push(set_owners(&pod, owners));
                ours.push(pod);
            }
            _ => {}
        }
    }
    (writes, ours)
}

/// Holds only while the pod is as it was seen: another controller may be claiming it too.
fn set_owners(pod: &Pod, owners: Vec<OwnerReference>) -> Write {
    let mut body = pod.metadata.precondition();
    body["metadata"]["ownerReferences"] = json!(owners);
    Write::merge(pod.target(), body)
}

fn create(attempt: u32, set: &ReplicaSet<'_>, template: Template, seen: BTreeSet<String>, missing: usize) -> Plan {
    let meta = &set.metadata;
    let variation = if attempt >= VARY_NAMES_ATTEMPT { attempt.to_string() } else { String::new() };
    let facts: Vec<String> = seen.iter().cloned().collect();
    let facts = [meta.uid.as_str(), &meta.resource_version, &variation].into_iter().chain(facts.iter().map(String::as_str));
    let names = Names::new(&meta.name, facts, seen.clone());
    let mut plan = Plan::new();
    for name in names.take(missing.min(BURST_MAX)) {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": Metadata {
                name: name.clone(),
                generate_name: format!("{}-", meta.name),
                namespace: meta.namespace.clone(),
                labels: template.metadata.labels.clone().unwrap_or_default(),
                annotations: template.metadata.annotations.clone().unwrap_or_default(),
                finalizers: template.metadata.finalizers.clone().unwrap_or_default(),
                owner_references: vec![meta.as_controller("apps/v1", "ReplicaSet")],
                ..Metadata::default()
            },
            "spec": template.spec,
        });
        plan.events.push(told("SuccessfulCreate", format!("Created pod: {name}")));
        plan.push(Write {
            target: ObjectRef::named("", "pods", &meta.namespace, &name),
            subresource: String::new(),
            action: pintle_sdk::Action::Create(pod),
        });
    }
    plan
}

fn delete(mut active: Vec<Pod>, surplus: usize) -> Plan {
    let mut plan = Plan::new();
    if surplus == 0 {
        return plan;
    }
    let mut neighbours: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &active {
        *neighbours.entry(pod.spec.node_name.clone()).or_default() += 1;
    }
    active.sort_by_cached_key(|pod| cheapness(pod, neighbours.get(&pod.spec.node_name).copied().unwrap_or(0)));
    for pod in active.iter().take(surplus.min(BURST_MAX)) {
        plan.push(Write::delete(pod.target()));
        plan.events.push(told("SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name)));
    }
    plan
}

fn told(reason: &str, message: String) -> Event {
    Event { warning: false, reason: reason.into(), message }
}

/// What a pod's loss costs; the cheapest goes first. In this order: not on a node, not running, not ready, a lower deletion cost, on a
/// node with more of its siblings, ready for less long, restarted more often, younger; then by name.
type Cheapness =
    (bool, u8, bool, i64, std::cmp::Reverse<usize>, std::cmp::Reverse<Time>, std::cmp::Reverse<u32>, std::cmp::Reverse<Time>, String);

fn cheapness(pod: &Pod, neighbours: usize) -> Cheapness {
    use std::cmp::Reverse;
    let phase = match pod.status.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = pod.metadata.annotations.get(DELETION_COST).and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
    let ready = pod.ready_since();
    (
        !pod.spec.node_name.is_empty(),
        phase,
        ready.is_some(),
        cost.into(),
        Reverse(neighbours),
        Reverse(ready.unwrap_or_default()),
        Reverse(pod.restarts()),
        Reverse(pod.metadata.creation_timestamp.unwrap_or_default()),
        pod.metadata.name.clone(),
    )
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
