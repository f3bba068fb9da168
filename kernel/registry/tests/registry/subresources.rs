//! status, scale, binding, eviction.

use pintle_registry::{Body, GetOptions, Patch, WriteOptions};
use serde_json::{Value, json};

use crate::world::{Outcome, World, bytes, code, deployment, pod};

#[tokio::test]
async fn a_status_write_leaves_the_spec_and_a_spec_write_leaves_the_status() {
    let world = World::new().await;
    let mut value = world.create("deployments.apps", deployment("a")).await.expect("created").value().expect("JSON");
    value["status"] = json!({"replicas": 2});
    value["spec"]["replicas"] = json!(9);
    let after = world.update_part("deployments.apps", "status", &value).await.expect("status").value().expect("JSON");
    assert_eq!((&after["spec"]["replicas"], &after["status"]["replicas"]), (&json!(3), &json!(2)));
    let after = world
        .merge("deployments.apps", "default", "a", json!({"spec": {"replicas": 4}, "status": {"replicas": 7}}))
        .await
        .expect("patched");
    let after = after.value().expect("JSON");
    assert_eq!((&after["spec"]["replicas"], &after["status"]["replicas"]), (&json!(4), &json!(2)));
}

#[tokio::test]
async fn scale_is_read_updated_and_patched() {
    let world = World::new().await;
    world.create("deployments.apps", deployment("a")).await.expect("created");
    let target = world.target("deployments.apps", "default", "a").subresource("scale");
    let scale = world.registry.get(&target, &GetOptions::default()).await.expect("read");
    let mut value = scale.value().expect("JSON");
    assert_eq!((&value["kind"], &value["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&value["spec"]["replicas"], &value["status"]["selector"]), (&json!(3), &json!("app=a")));
    value["spec"]["replicas"] = json!(5);
    let options = WriteOptions::default();
    let written = world.registry.update(&world.caller, &target, Body::Value(value.clone()), &options).await.expect("updated");
    assert_eq!(written.object.value().expect("JSON")["spec"]["replicas"], 5);
    let stale = world.registry.update(&world.caller, &target, Body::Value(value), &options).await;
    assert_eq!(code(stale), 409);
    let patch = Patch::Merge(bytes(&json!({"spec": {"replicas": 1}})));
    world.registry.patch(&world.caller, &target, patch, &options).await.expect("patched");
    let after = world.get("deployments.apps", "default", "a").await.expect("there");
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(1), &json!(3)));
    let negative = Patch::Merge(bytes(&json!({"spec": {"replicas": -1}})));
    assert_eq!(code(world.registry.patch(&world.caller, &target, negative, &options).await), 422);
}

async fn post(world: &World, name: &str, subresource: &str, body: Value) -> Outcome<Value> {
    let target = world.target("pods", "default", name).subresource(subresource);
    let written = world.registry.create(&world.caller, &target, Body::Value(body), &WriteOptions::default()).await?;
    Ok(written.object.value().expect("JSON"))
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let world = World::new().await;
    world.create("pods", pod("a")).await.expect("created");
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = post(&world, "a", "binding", binding.clone()).await.expect("bound");
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["generation"]), (&json!("n1"), &json!(1)));
    assert_eq!(
        (&bound["status"]["conditions"][0]["type"], &bound["status"]["conditions"][0]["status"]),
        (&json!("PodScheduled"), &json!("True"))
    );
    let err = post(&world, "a", "binding", binding).await.expect_err("bound already");
    assert_eq!(err.code, 409);
    assert!(err.message.ends_with("pod a is already assigned to node \"n1\""), "{}", err.message);
    assert_eq!(code(post(&world, "gone", "binding", json!({"target": {"name": "n1"}})).await), 404);
    assert_eq!(code(post(&world, "a", "binding", json!({"target": {}})).await), 422);
}

#[tokio::test]
async fn an_eviction_deletes_unless_a_budget_has_nothing_left() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.create("pods", pod(name)).await.expect("created");
        let binding = json!({"target": {"kind": "Node", "name": "n1"}});
        post(&world, name, "binding", binding).await.expect("bound");
        let mut value = world.get("pods", "default", name).await.expect("there");
        value["status"]["phase"] = json!("Running");
        value["status"]["conditions"].as_array_mut().expect("conditions").push(json!({"type": "Ready", "status": "True"}));
        world.update_part("pods", "status", &value).await.expect("runs");
    }
    let eviction = json!({"metadata": {"name": "a"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    let evicted = post(&world, "a", "eviction", eviction).await.expect("evicted");
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions: Vec<_> = evicted["status"]["conditions"].as_array().into_iter().flatten().map(|c| c["type"].clone()).collect();
    assert_eq!(conditions, ["PodScheduled", "Ready", "DisruptionTarget"]);
    let budget = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let budget = world.create("poddisruptionbudgets.policy", budget).await.expect("created");
    let mut budget = budget.value().expect("an object is JSON");
    assert_eq!(code(post(&world, "b", "eviction", json!({})).await), 429, "the budget is not known yet");
    budget["status"] =
        json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2});
    world.update_part("poddisruptionbudgets.policy", "status", &budget).await.expect("said");
    post(&world, "b", "eviction", json!({})).await.expect("evicted");
    let budget = world.get("poddisruptionbudgets.policy", "default", "p").await.expect("there");
    assert_eq!(budget["status"]["disruptionsAllowed"], 0, "an eviction is taken off the budget");
    assert!(budget["status"]["disruptedPods"]["b"].is_string());
}
