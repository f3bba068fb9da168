//! What a ReplicaSet says about itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::Pod;
use serde::{Deserialize, Serialize};

use crate::plan::ReplicaSet;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// `.status` of a ReplicaSet. Zeroes are written out where upstream writes them: clients compare `readyReplicas` with nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    replicas: usize,
    fully_labeled_replicas: usize,
    ready_replicas: usize,
    available_replicas: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminating_replicas: Option<usize>,
    observed_generation: i64,
    conditions: Vec<Condition>,
}

/// The status as it should be, and when time alone will change it.
pub fn observe(
    now: Time,
    set: &ReplicaSet<'_>,
    active: &[Pod],
    template_labels: &BTreeMap<String, String>,
    terminating: Option<usize>,
    failing: Option<&'static str>,
) -> (Status, Option<Duration>) {
    let ready: Vec<Time> = active.iter().filter_map(Pod::ready_since).collect();
    let (available, waiting): (Vec<Time>, Vec<Time>) = ready.iter().partition(|since| now.since(**since) >= set.spec.min_ready());
    let labeled = |pod: &&Pod| template_labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value));
    let status = Status {
        replicas: active.len(),
        fully_labeled_replicas: active.iter().filter(labeled).count(),
        ready_replicas: ready.len(),
        available_replicas: available.len(),
        terminating_replicas: terminating,
        observed_generation: set.metadata.generation.max(set.status.observed_generation),
        conditions: conditions(now, set, failing),
    };
    let wake = waiting.iter().map(|since| now.until(since.after(set.spec.min_ready()))).min();
    (status, wake)
}

fn conditions(now: Time, set: &ReplicaSet<'_>, failing: Option<&'static str>) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = set.status.conditions.iter().filter(|c| c.kind != REPLICA_FAILURE).cloned().collect();
    let known = set.status.conditions.iter().find(|c| c.kind == REPLICA_FAILURE);
    if let Some(reason) = failing {
        conditions.push(known.cloned().unwrap_or_else(|| Condition {
            kind: REPLICA_FAILURE.into(),
            status: Cow::Borrowed("True"),
            last_transition_time: Some(now),
            reason: Cow::Borrowed(reason),
            message: "pods cannot be created; the events say why".into(),
            ..Condition::default()
        }));
    }
    conditions
}

/// The merge patch between two statuses: whole, but for a list of conditions that was and stays empty.
pub fn patch(old: &Status, new: &Status) -> Value {
    let mut patch = json!(new);
    if new.conditions.is_empty() {
        patch["conditions"] = Value::Null;
    }
    if old.conditions.is_empty()
        && new.conditions.is_empty()
        && let Some(members) = patch.as_object_mut()
    {
        members.remove("conditions");
    }
    patch
}
