use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

use crate::Workloads;

const MANIFEST: &str = include_str!("../../module.json");

/// A budget over three ready pods of a Deployment that asks for four.
fn start(spec: Value) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    let meta = |name: &str, owner: Value| json!({"name": name, "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": owner});
    let owner = |kind: &str, uid: &str| json!([{"kind": kind, "uid": uid, "controller": true}]);
    let top =
        kernel.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("web", json!([])), "spec": {"replicas": 4}}))?;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta("web-1", owner("Deployment", &top.uid)), "spec": {"replicas": 2}});
    let set = kernel.put(set)?;
    for name in ["a", "b", "c"] {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        kernel.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, owner("ReplicaSet", &set.uid)), "status": status}))?;
    }
    let mut budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        budget["spec"][key] = value.clone();
    }
    kernel.put(budget)?;
    Ok(kernel)
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("policy/poddisruptionbudgets", "shop", "web").map(|budget| budget["status"].clone()).unwrap_or_default()
}

/// `(expected, desired, healthy, allowed)`.
fn numbers(kernel: &FakeKernel) -> [i64; 4] {
    let status = status(kernel);
    ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"].map(|field| status[field].as_i64().unwrap_or(-1))
}

#[test]
fn budgets_count_by_pods_or_by_what_their_owners_ask_for() -> Result<()> {
    for (spec, expected) in [
        (json!({"minAvailable": 2}), [3, 2, 3, 1]),
        (json!({"minAvailable": "50%"}), [4, 2, 3, 1]),
        (json!({"maxUnavailable": 1}), [4, 3, 3, 0]),
        (json!({"maxUnavailable": "60%"}), [4, 1, 3, 2]),
    ] {
        let mut kernel = start(spec.clone())?;
        kernel.settle(&mut Workloads)?;
        assert_eq!(numbers(&kernel), expected, "{spec}");
        let holds = if expected[3] > 0 { "True" } else { "False" };
        assert_eq!((&status(&kernel)["conditions"][0]["status"], &status(&kernel)["observedGeneration"]), (&json!(holds), &json!(1)));
    }
    Ok(())
}

#[test]
fn an_eviction_counts_until_its_pod_goes_or_time_has_passed() -> Result<()> {
    let mut kernel = start(json!({"minAvailable": 2}))?;
    kernel.settle(&mut Workloads)?;
    let now = kernel.now();
    kernel.edit("policy/poddisruptionbudgets", "shop", "web", |budget| {
        budget["status"]["disruptionsAllowed"] = json!(0);
        budget["status"]["disruptedPods"] = json!({"a": now, "gone": now});
    });
    kernel.settle(&mut Workloads)?;
    assert_eq!((numbers(&kernel)[3], &status(&kernel)["disruptedPods"]), (0, &json!({"a": now})));
    kernel.pass(&mut Workloads, Duration::from_secs(130))?;
    assert_eq!((numbers(&kernel)[3], &status(&kernel)["disruptedPods"]), (1, &Value::Null));
    Ok(())
}

#[test]
fn a_budget_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = start(json!({"minAvailable": 2}))?;
        kernel.note_view();
        kernel.edit("/pods", "shop", "a", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(Workloads)).check()?;
    Ok(())
}
