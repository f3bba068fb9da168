//! What a module may do: seen, narrowed by policies, changed while it runs; and the bounds of its work and messages.

use crate::world::{World, controller, parent};
use serde_json::{Value, json};

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

fn permissions(namespaces: &[&str], verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs, "namespaces": namespaces}])
}

const ALL: &[&str] = &["get", "list", "watch", "create"];
const READ: &[&str] = &["get", "list", "watch"];

impl World {
    async fn child_in(&self, namespace: &str, number: usize) {
        let what = format!("child {number} in {namespace}");
        self.until(&what, || self.get("", "configmaps", namespace, &format!("child-{number}"))).await;
    }

    pub fn event_about(&self, module: &str, reason: &str, says: &str) -> Option<()> {
        let events = self.in_namespace("", "events", "default");
        events.iter().map(|e| e.value().expect("JSON")).find(|e| {
            e["involvedObject"]["kind"] == "Module"
                && e["involvedObject"]["name"] == module
                && e["reason"] == reason
                && e["message"].as_str().is_some_and(|m| m.contains(says))
        })?;
        Some(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_sees_what_it_is_granted_and_a_change_is_felt_without_a_restart() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.create("", "namespaces", json!({"metadata": {"name": name}})).await.expect("created");
    }
    let mut module = controller("maker", json!({}));
    module["spec"]["permissions"] = permissions(&["a"], ALL);
    world.apply(module).await;
    world.until_state("maker", "Running").await;
    for name in ["a", "b"] {
        world.create("", "configmaps", in_namespace(parent(1), name)).await.expect("created");
    }
    world.child_in("a", 1).await;
    let generation = world.stats("maker").generation;
    assert_eq!(
        (world.stats("maker").denied, world.in_namespace("", "configmaps", "b").len()),
        (0, 1),
        "what it may not see is not there for it"
    );

    let grant = async |list: Value| world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"permissions": list}})).await;
    grant(permissions(&["a", "b"], ALL)).await;
    world.child_in("b", 1).await;
    grant(permissions(&["a", "b"], READ)).await;
    world.until("the change is seen", || (world.status("maker")["observedGeneration"].as_i64() >= Some(3)).then_some(())).await;
    world.create("", "configmaps", in_namespace(parent(2), "a")).await.expect("created");
    world.until("a write is refused", || (world.stats("maker").denied > 0).then_some(())).await;
    world.until("and told", || world.event_about("maker", "Denied", "not granted create of configmaps")).await;
    assert!(world.get("", "configmaps", "a", "child-2").is_none());
    assert_eq!((world.stats("maker").generation, world.stats("maker").traps), (generation, 0), "it was never restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_narrows_stops_and_frees_a_module_at_once() {
    let world = World::new().await;
    let policy = |spec: Value| json!({"metadata": {"name": "bounds"}, "spec": spec});
    world.apply(controller("maker", json!({}))).await;
    world.create("", "configmaps", parent(1)).await.expect("created");
    world.child_in("default", 1).await;
    let generation = world.stats("maker").generation;

    world
        .create("pintle.dev", "modulepolicies", policy(json!({"modules": ["maker"], "permissions": permissions(&[], READ)})))
        .await
        .expect("created");
    // Whichever comes first after the policy is felt stays without a child.
    for number in 2.. {
        world.create("", "configmaps", parent(number)).await.expect("created");
        let child = format!("child-{number}");
        world
            .until("it is worked on", || {
                (world.stats("maker").denied > 0 || world.get("", "configmaps", "default", &child).is_some()).then_some(())
            })
            .await;
        if world.stats("maker").denied > 0 {
            break;
        }
    }
    assert_eq!(world.stats("maker").generation, generation, "narrowed as it runs");

    let change = async |spec: Value| world.merge("pintle.dev", "modulepolicies", "", "bounds", "", json!({"spec": spec})).await;
    change(json!({"sources": ["oci"]})).await;
    world.until_state("maker", "Denied").await;
    world
        .until("it is told", || {
            world.status("maker")["message"].as_str().filter(|m| m.contains("does not allow the source file")).map(|_| ())
        })
        .await;
    world.until("and on record", || world.event_about("maker", "Denied", "source file")).await;
    world.create("", "configmaps", parent(1000)).await.expect("created");

    world.delete("pintle.dev", "modulepolicies", "", "bounds").await;
    world.until_state("maker", "Running").await;
    world.child_in("default", 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_loses_nothing() {
    const PARENTS: usize = 40;
    let world = World::new().await;
    let mut module = controller("maker", json!({}));
    module["spec"]["limits"] = json!({"workers": 1});
    world.apply(module).await;
    world.until_state("maker", "Running").await;
    for number in 0..PARENTS {
        world.create("", "configmaps", parent(number)).await.expect("created");
    }
    for number in 0..PARENTS {
        world.child_in("default", number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_too_large_for_its_messages_is_named_and_others_go_on() {
    let world = World::new().await;
    let mut module = controller("maker", json!({}));
    module["spec"]["limits"] = json!({"messageBytes": 16384});
    world.apply(module).await;
    let mut large = parent(0);
    large["data"] = json!({"payload": "x".repeat(20_000)});
    world.create("", "configmaps", large).await.expect("created");
    world.create("", "configmaps", parent(1)).await.expect("created");
    world.child_in("default", 1).await;
    world
        .until("it is named", || {
            world.status("maker")["message"].as_str().filter(|m| m.contains("parent-0") && m.contains("messageBytes 16384")).map(|_| ())
        })
        .await;
    assert_eq!(world.stats("maker").traps, 0);
}
