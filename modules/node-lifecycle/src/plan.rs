//! From a node, its heartbeat and its pods to what should be written. Pure.
//!
//! One kind of write a plan: what a node says of itself first, then its taints, then its pods; each write makes the next look. So every
//! write can hold only while the node is as it was seen, and a heartbeat that comes in between wins.

use std::borrow::Cow;

use pintle_sdk::prelude::*;
use pintle_sdk::{Action, Condition, PatchKind};

use crate::evict;
use crate::model::{Lease, Node, Pod, Taint};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
pub const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";

/// Conditions that a lost node no longer knows.
const HEARD_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new pods away while they hold.
const TROUBLES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// When the node was last heard of: its lease, else its creation.
pub fn heartbeat(node: &Node, lease: Option<&Lease>) -> Time {
    let renewed = lease.and_then(|lease| lease.spec.renew_time);
    renewed.unwrap_or(Time(0)).max(node.metadata.creation_timestamp.unwrap_or(Time(0)))
}

/// Whether the plan will depend on the node's pods.
pub fn concerns_pods(now: Time, grace: Duration, heartbeat: Time, node: &Node) -> bool {
    now.since(heartbeat) > grace || node.spec.taints.iter().any(|taint| taint.effect == NO_EXECUTE)
}

/// What to do about one node.
pub fn plan(now: Time, grace: Duration, heartbeat: Time, node: &Node, pods: &[Pod]) -> Plan {
    let lost = now.since(heartbeat) > grace;
    let unknown = if lost { unknown_conditions(now, node) } else { Vec::new() };
    let mut plan = Plan::new();
    if !lost {
        // A millisecond more: then it is older than the grace period.
        plan.wake_after(now.until(heartbeat.after(grace)) + Duration::from_millis(1));
    }
    if !unknown.is_empty() {
        let was_ready = node.condition("Ready").is_none_or(|c| c.status != "Unknown");
        let plan = plan.write(set_conditions(node, &unknown)).then(pods_not_ready(now, pods));
        let message = format!("Node {} status is now: NodeNotReady", node.metadata.name);
        return if was_ready { plan.event("NodeNotReady", message) } else { plan };
    }
    if let Some(taints) = changed_taints(now, node) {
        let mut body = node.metadata.precondition();
        body["spec"] = json!({"taints": taints});
        return plan.patch(ObjectRef::of("", "nodes", &node.metadata), body);
    }
    let plan = if lost { plan.then(pods_not_ready(now, pods)) } else { plan };
    plan.then(evict::plan(now, node, pods))
}

fn unknown_conditions(now: Time, node: &Node) -> Vec<Condition> {
    let unknown = |kind: &&str| {
        let known = node.condition(kind);
        if known.is_some_and(|c| c.status == "Unknown") {
            return None;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(Condition {
            kind: (*kind).into(),
            status: Cow::Borrowed("Unknown"),
            last_heartbeat_time: known.map_or(node.metadata.creation_timestamp, |c| c.last_heartbeat_time),
            last_transition_time: Some(now),
            reason: Cow::Borrowed(reason),
            message: message.into(),
            ..Condition::default()
        })
    };
    HEARD_CONDITIONS.iter().filter_map(unknown).collect()
}

/// Only these conditions, and only while the node is as it was seen: a heartbeat's own news win.
fn set_conditions(node: &Node, conditions: &[Condition]) -> Write {
    let mut body = node.metadata.precondition();
    body["status"] = json!({"conditions": conditions});
    let target = ObjectRef::of("", "nodes", &node.metadata);
    Write { target, subresource: "status".into(), action: Action::Patch(PatchKind::Strategic, body) }
}

/// Pods on a lost node are not ready, so that nobody sends them anything. The node itself will say better when it returns.
fn pods_not_ready(now: Time, pods: &[Pod]) -> Plan {
    let ready = |pod: &&Pod| pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
    let not_ready = |pod: &Pod| {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now});
        let mut body = pod.metadata.precondition();
        body["status"] = json!({"conditions": [condition]});
        let target = ObjectRef::of("", "pods", &pod.metadata);
        Write { target, subresource: "status".into(), action: Action::Patch(PatchKind::Strategic, body) }
    };
    pods.iter().filter(ready).map(not_ready).collect()
}

/// The taints as they should be, if they are not.
fn changed_taints(now: Time, node: &Node) -> Option<Vec<Taint>> {
    let ready = node.condition("Ready").map_or("Unknown", |c| c.status.as_ref());
    // A node that has only just been made has not been heard of: it is not ready rather than lost.
    let lost = ready == "Unknown" && node.condition("Ready").is_some();
    let holds = |kind: &str| node.condition(kind).is_some_and(|c| c.status == "True");
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match (ready, lost) {
        ("True", _) => {}
        (_, true) => wanted.extend([(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]),
        ("False", _) => wanted.extend([(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]),
        _ => wanted.push((NOT_READY, NO_SCHEDULE)),
    }
    wanted.extend(TROUBLES.iter().filter(|(kind, _)| holds(kind)).map(|(_, key)| (*key, NO_SCHEDULE)));
    if node.spec.unschedulable {
        wanted.push((CORDONED, NO_SCHEDULE));
    }
    let ours = |taint: &Taint| {
        [NOT_READY, UNREACHABLE, CORDONED].contains(&taint.key.as_str()) || TROUBLES.iter().any(|(_, key)| *key == taint.key)
    };
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut taints: Vec<Taint> =
        node.spec.taints.iter().filter(|taint| !ours(taint) || wanted.iter().any(|w| is(taint, *w))).cloned().collect();
    for want in wanted {
        if !taints.iter().any(|taint| is(taint, want)) {
            let time_added = Some(Time(now.0 / 1_000 * 1_000));
            taints.push(Taint { key: want.0.into(), effect: want.1.into(), time_added, ..Taint::default() });
        }
    }
    (taints != node.spec.taints).then_some(taints)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
