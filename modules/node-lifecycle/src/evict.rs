//! Which pods a node in trouble loses, and when.

use pintle_sdk::DeleteOptions;
use pintle_sdk::prelude::*;

use crate::model::{Node, Pod, Taint};
use crate::plan::{NO_EXECUTE, OUT_OF_SERVICE};

/// Ends the pods that do not put up with the node's `NoExecute` taints, each when its patience has run out.
pub fn plan(now: Time, node: &Node, pods: &[Pod]) -> Plan {
    let taints: Vec<&Taint> = node.spec.taints.iter().filter(|taint| taint.effect == NO_EXECUTE).collect();
    let out_of_service = taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
    let mut plan = Plan::new();
    if taints.is_empty() {
        return plan;
    }
    for pod in pods {
        if pod.metadata.is_terminating() {
            // Someone has vouched that the machine is off: nobody is left to end the pod in good order.
            if out_of_service {
                plan.push(force(pod));
            }
            continue;
        }
        match patience(pod, &taints, now) {
            Patience::Endless => {}
            Patience::Until(end) if end > now => plan.wake_after(now.until(end)),
            Patience::Until(_) => plan.push(Write::delete(ObjectRef::of("", "pods", &pod.metadata))),
        }
    }
    plan
}

enum Patience {
    Endless,
    Until(Time),
}

/// A pod stays until the first of its tolerations runs out; a taint that none covers ends it at once.
fn patience(pod: &Pod, taints: &[&Taint], now: Time) -> Patience {
    let mut end: Option<Time> = None;
    for taint in taints {
        let covering: Vec<_> = pod.spec.tolerations.iter().filter(|toleration| toleration.tolerates(taint)).collect();
        if covering.is_empty() {
            return Patience::Until(now);
        }
        let since = taint.time_added.unwrap_or(now);
        let seconds = covering.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let until = since.after(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
            end = Some(end.map_or(until, |earlier| earlier.min(until)));
        }
    }
    end.map_or(Patience::Endless, Patience::Until)
}

/// Removes the pods of a node that is gone for good.
pub fn orphans(now: Time, end: Time, pods: &[Pod]) -> Plan {
    if now < end {
        return Plan::new().requeue_after(now.until(end));
    }
    pods.iter().map(force).collect()
}

fn force(pod: &Pod) -> Write {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    Write::delete_with(ObjectRef::of("", "pods", &pod.metadata), options)
}
