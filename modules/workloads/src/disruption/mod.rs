//! Says how many pods of a budget may be evicted now. The kernel takes evictions off that number and notes them in `disruptedPods`.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{Pod, Rounding, amount};
use serde::{Deserialize, Serialize};

use crate::status_change;

/// How long an eviction counts although its pod has not begun to go.
const DISRUPTION_MAX: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

#[derive(Deserialize)]
struct Budget {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disrupted_pods: Option<BTreeMap<String, Time>>,
    disruptions_allowed: i64,
    current_healthy: i64,
    desired_healthy: i64,
    expected_pods: i64,
    conditions: Option<Vec<Value>>,
}

/// Something with a scale.
#[derive(Deserialize)]
struct Scaled {
    metadata: Metadata,
    #[serde(default)]
    spec: Scale,
}

#[derive(Default, Deserialize)]
struct Scale {
    replicas: Option<i64>,
}

/// Decides about one PodDisruptionBudget.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(budget) = request.object::<Budget>()? else { return Ok(Plan::new()) };
    if budget.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    let pods: Vec<Pod> = request.related("pods")?;
    let mut scales = Vec::new();
    for list in ["deployments", "replicasets", "statefulsets", "replicationcontrollers"] {
        scales.extend(request.related::<Scaled>(list)?);
    }
    Ok(plan(now, &budget, &pods, &scales))
}

fn plan(now: Time, budget: &Budget, pods: &[Pod], scales: &[Scaled]) -> Plan {
    let mut next = Status { observed_generation: budget.metadata.generation, ..budget.status.clone() };
    let mut plan = Plan::new();
    // An eviction counts until its pod shows it, or has had long enough to.
    let pending = budget.status.disrupted_pods.iter().flatten().filter(|(name, at)| {
        let there = pods.iter().any(|pod| pod.metadata.name == **name && !pod.metadata.is_terminating());
        there && at.after(DISRUPTION_MAX) > now
    });
    let pending: BTreeMap<String, Time> = pending.map(|(name, at)| (name.clone(), *at)).collect();
    if let Some(first) = pending.values().min() {
        plan.wake_after(now.until(first.after(DISRUPTION_MAX)));
    }
    let healthy = |pod: &&Pod| pod.is_active() && pod.is_ready() && !pending.contains_key(&pod.metadata.name);
    next.current_healthy = count(pods.iter().filter(healthy).count());
    (next.expected_pods, next.desired_healthy) = expectations(budget, pods, scales);
    next.disrupted_pods = Some(pending).filter(|pending| !pending.is_empty());
    next.disruptions_allowed = if next.expected_pods == 0 { 0 } else { (next.current_healthy - next.desired_healthy).max(0) };
    set_condition(now, &mut next);
    if let Some(mut body) = status_change(&budget.status, &next) {
        // Holds only while no eviction has come between.
        body["metadata"] = budget.metadata.precondition()["metadata"].take();
        plan.push(Write::merge(ObjectRef::of("policy", "poddisruptionbudgets", &budget.metadata), body).to("status"));
    }
    plan
}

/// `(expected, desired)`: how many pods there should be, and how many must be healthy.
fn expectations(budget: &Budget, pods: &[Pod], scales: &[Scaled]) -> (i64, i64) {
    if let Some(most) = &budget.spec.max_unavailable {
        let expected = scale(pods, scales);
        return (expected, (expected - amount(Some(most), expected, Rounding::Up).unwrap_or(0)).max(0));
    }
    match &budget.spec.min_available {
        Some(Value::Number(least)) => (count(pods.len()), least.as_i64().unwrap_or(0)),
        Some(percent) => {
            let expected = scale(pods, scales);
            (expected, amount(Some(percent), expected, Rounding::Up).unwrap_or(0))
        }
        None => (count(pods.len()), 0),
    }
}

/// What the owners of the pods ask for, each owner once; a ReplicaSet of a Deployment stands for that.
fn scale(pods: &[Pod], scales: &[Scaled]) -> i64 {
    let by_uid = |uid: &str| scales.iter().find(|owner| owner.metadata.uid == uid);
    let owners: BTreeSet<&str> = pods.iter().filter_map(|pod| Some(pod.metadata.controller()?.uid.as_str())).collect();
    let tops: BTreeSet<&str> = owners
        .into_iter()
        .map(|uid| by_uid(uid).and_then(|owner| owner.metadata.controller()).map_or(uid, |top| top.uid.as_str()))
        .collect();
    tops.into_iter().filter_map(by_uid).map(|owner| owner.spec.replicas.unwrap_or(1)).sum()
}

fn set_condition(now: Time, status: &mut Status) {
    let allowed = status.disruptions_allowed > 0;
    let (holds, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = status.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|c| c["type"] == ALLOWED).map(|at| conditions.remove(at)).unwrap_or_default();
    let since = if known["status"] == holds { known["lastTransitionTime"].clone() } else { json!(now) };
    conditions.push(json!({
        "type": ALLOWED, "status": holds, "reason": reason, "message": "",
        "observedGeneration": status.observed_generation, "lastTransitionTime": since,
    }));
    status.conditions = Some(conditions);
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
