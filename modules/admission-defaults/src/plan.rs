//! Verdicts on new pods and new nodes. Pure.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

use crate::pod::{Pod, Toleration};
use crate::{Config, limits, priority, runtime_class, service_account};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Accounts, priorities and tolerations of a new pod.
pub fn pod(config: &Config, review: &Review<'_>) -> Result<Verdict> {
    let Some(pod) = review.object::<Pod<'_>>()? else { return Ok(Verdict::allow()) };
    let mut verdict = Verdict::allow();
    for edits in [service_account::edits(review, &pod)?, priority::edits(review, &pod)?] {
        match edits {
            Ok(edits) => verdict.edits.extend(edits),
            Err(refusal) => return Ok(refusal),
        }
    }
    verdict.edits.extend(limits::edits(review)?);
    // After this edit there is a list, to which the runtime class adds.
    verdict.edits.extend(tolerations(config, pod.spec.tolerations.as_deref()));
    match runtime_class::edits(review)? {
        Ok(edits) => verdict.edits.extend(edits),
        Err(refusal) => return Ok(refusal),
    }
    Ok(verdict)
}

/// Tolerations of a pod that is changed: what it was given when it was new stays, though a client's whole list may not have it.
pub fn changed_pod(config: &Config, review: &Review<'_>) -> Result<Verdict> {
    let Some(pod) = review.object::<Pod<'_>>()? else { return Ok(Verdict::allow()) };
    let edits = tolerations(config, pod.spec.tolerations.as_deref());
    Ok(edits.into_iter().fold(Verdict::allow(), Verdict::edit))
}

/// DefaultTolerationSeconds: a pod stays a while on a machine in trouble, unless it says how long itself.
fn tolerations(config: &Config, own: Option<&[Toleration<'_>]>) -> Vec<Edit> {
    let covers = |key: &str| {
        own.iter().copied().flatten().any(|t| (t.key.is_empty() || t.key == key) && (t.effect.is_empty() || t.effect == "NoExecute"))
    };
    let defaults = [(NOT_READY, config.not_ready_toleration_seconds), (UNREACHABLE, config.unreachable_toleration_seconds)];
    let missing: Vec<Value> = defaults
        .into_iter()
        .filter(|(key, _)| !covers(key))
        .map(|(key, seconds)| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}))
        .collect();
    match own {
        Some(_) => missing.iter().map(|toleration| Edit::add("/spec/tolerations/-", toleration)).collect(),
        None if missing.is_empty() => Vec::new(),
        None => vec![Edit::add("/spec/tolerations", &missing)],
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node<'a> {
    #[serde(borrow)]
    spec: Option<NodeSpec<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec<'a> {
    #[serde(borrow)]
    taints: Option<Vec<Toleration<'a>>>,
}

/// TaintNodesByCondition: nothing is scheduled to a new node before it has said that it is ready.
pub fn node(review: &Review<'_>) -> Result<Verdict> {
    let Some(node) = review.object::<Node<'_>>()? else { return Ok(Verdict::allow()) };
    let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
    let Some(spec) = node.spec else {
        return Ok(Verdict::allow().edit(Edit::add("/spec", &json!({"taints": [taint]}))));
    };
    Ok(match spec.taints {
        Some(taints) if taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == "NoSchedule") => Verdict::allow(),
        Some(_) => Verdict::allow().edit(Edit::add("/spec/taints/-", &taint)),
        None => Verdict::allow().edit(Edit::add("/spec/taints", &json!([taint]))),
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
