//! From a ReplicaSet and the pods around it to what should be written. Pure.
//!
//! Slow start needs no batches here: the kernel carries writes out in order and stops at the first failure, so that a namespace without
//! quota costs one refused create, not five hundred.

use std::collections::BTreeSet;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::value::RawValue;
use pintle_sdk::workload::{Names, Owner, Pod, Template, cheapest_first, claim};
use serde::{Deserialize, Deserializer};

use crate::status::{self, Status};

/// Pods created or deleted in one go at most.
const BURST_MAX: usize = 500;
/// Failed tries after which names are varied: the name must then be taken by something that is not in view.
const VARY_NAMES_ATTEMPT: u32 = 3;

/// A kind that asks for a number of pods.
#[derive(Debug)]
pub struct Kind {
    /// The API group.
    pub group: &'static str,
    /// The plural.
    pub resource: &'static str,
    /// As owner references say it.
    pub api_version: &'static str,
    /// As owner references say it.
    pub kind: &'static str,
    /// Whether its status counts pods on their way out.
    pub counts_terminating: bool,
}

/// The kinds of this module. They differ in name, and a ReplicationController's selector is a plain map.
pub const KINDS: [Kind; 2] = [
    Kind { group: "apps", resource: "replicasets", api_version: "apps/v1", kind: "ReplicaSet", counts_terminating: true },
    Kind { group: "", resource: "replicationcontrollers", api_version: "v1", kind: "ReplicationController", counts_terminating: false },
];

/// `apps/v1` ReplicaSet or `v1` ReplicationController, as far as it is read. The template stays text until a pod is made of it.
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
    #[serde(deserialize_with = "either_selector")]
    selector: Selector,
    #[serde(borrow)]
    template: Option<&'a RawValue>,
}

/// A LabelSelector, or a plain map of labels.
fn either_selector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Selector, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Labels(std::collections::BTreeMap<String, String>),
        Selector(Selector),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Labels(match_labels) => Selector { match_labels, ..Selector::default() },
        Either::Selector(selector) => selector,
    })
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
}

/// What to do about one ReplicaSet.
pub fn plan(kind: &'static Kind, now: Time, attempt: u32, set: &ReplicaSet<'_>, pods: Vec<Pod>) -> Result<Plan> {
    let seen: BTreeSet<String> = pods.iter().map(|pod| pod.metadata.name.clone()).collect();
    let terminating = pods.iter().filter(|p| p.metadata.is_controlled_by(&set.metadata.uid) && p.is_stopping()).count();
    let template = Template::parse(set.spec.template)?;
    let owner =
        Owner { metadata: &set.metadata, api_version: kind.api_version, kind: kind.kind, selector: &set.spec.selector, finalizer: None };
    let claimed = claim(&owner, pods.into_iter().filter(Pod::is_active).collect());
    let active = claimed.ours;
    let missing = set.spec.replicas().saturating_sub(active.len());
    let failing = (attempt > 1 && missing > 0).then_some("FailedCreate");
    let labels = &template.metadata.labels;
    let (next, wake) = status::observe(now, set, &active, labels, kind.counts_terminating.then_some(terminating), failing);

    let mut plan = Plan::new();
    if next != set.status {
        plan = plan.patch_status(ObjectRef::of(kind.group, kind.resource, &set.metadata), status::patch(&set.status, &next));
    }
    plan.writes.extend(claimed.writes);
    if let Some(wake) = wake {
        plan.wake_after(wake);
    }
    if set.metadata.is_terminating() {
        return Ok(plan);
    }
    let surplus = active.len().saturating_sub(set.spec.replicas());
    let change = if missing > 0 { create(attempt, &owner, &template, seen, missing) } else { delete(active, surplus) };
    Ok(plan.then(change))
}

fn create(attempt: u32, owner: &Owner<'_>, template: &Template, seen: BTreeSet<String>, missing: usize) -> Plan {
    let meta = owner.metadata;
    let variation = if attempt >= VARY_NAMES_ATTEMPT { attempt.to_string() } else { String::new() };
    let facts: Vec<String> = seen.iter().cloned().collect();
    let facts = [meta.uid.as_str(), &meta.resource_version, &variation].into_iter().chain(facts.iter().map(String::as_str));
    let names = Names::new(&meta.name, facts, seen.clone());
    let mut plan = Plan::new();
    for name in names.take(missing.min(BURST_MAX)) {
        plan.push(template.create(&meta.namespace, &name, &format!("{}-", meta.name), owner.reference()));
        plan = plan.event("SuccessfulCreate", format!("Created pod: {name}"));
    }
    plan
}

fn delete(mut active: Vec<Pod>, surplus: usize) -> Plan {
    let mut plan = Plan::new();
    if surplus == 0 {
        return plan;
    }
    cheapest_first(&mut active);
    for pod in active.iter().take(surplus.min(BURST_MAX)) {
        plan.push(Write::delete(pod.target()));
        plan = plan.event("SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name));
    }
    plan
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
