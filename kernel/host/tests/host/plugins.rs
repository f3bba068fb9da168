//! Plugins of a scheduler, asked by its loop at each of their points.

use crate::world::{World, guest_path, node, pod, scheduler};
use serde_json::{Value, json};

fn plugin(name: &str, points: &[&str], config: Value) -> Value {
    json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name},
        "spec": {
            "type": "schedulerPlugin",
            "source": {"file": guest_path()},
            "config": config,
            "plugin": {"points": points},
            "permissions": [
                {"apiGroups": [""], "resources": ["nodes", "namespaces", "pods"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [""], "resources": ["configmaps", "pods/binding"], "verbs": ["create"]},
            ],
        },
    })
}

async fn with(plugins: Vec<Value>) -> World {
    let world = World::new().await;
    for module in plugins {
        let name = module["metadata"]["name"].as_str().expect("a name").to_owned();
        world.apply(module).await;
        world.until_state(&name, "Running").await;
    }
    world.apply(scheduler("scheduler", json!({}))).await;
    world.until_state("scheduler", "Running").await;
    for name in ["n1", "n2", "n3"] {
        world.create("", "nodes", node(name)).await.expect("a node");
    }
    world
}

fn node_of(world: &World, name: &str) -> Option<String> {
    let pod = world.get("", "pods", "default", name)?;
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(str::to_owned)
}

async fn make(world: &World, name: &str, label: Option<&str>) {
    let mut object = pod(name);
    if let Some(label) = label {
        object["metadata"]["labels"][label] = json!("true");
    }
    world.create("", "pods", object).await.expect("created");
}

/// Waits until the pod says why it is not scheduled.
async fn says(world: &World, name: &str, reason: &str, message: &str) {
    let what = format!("{name} says {message:?}");
    let said = || {
        let pod = world.get("", "pods", "default", name)?;
        let conditions = pod["status"]["conditions"].as_array()?;
        conditions.iter().find(|c| c["reason"] == reason && c["message"].as_str().is_some_and(|m| m.contains(message))).map(drop)
    };
    world.until(&what, said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_plugins_deny_and_prefer_decides_together() {
    let world =
        with(vec![plugin("denies", &["filter"], json!({"deny": "n1"})), plugin("prefers", &["score"], json!({"prefer": "n3"}))]).await;
    for n in 0..8 {
        make(&world, &format!("p-{n}"), None).await;
    }
    for n in 0..8 {
        assert_eq!(world.until("it is bound", || node_of(&world, &format!("p-{n}"))).await, "n3");
    }
    world.delete("pintle.dev", "modules", "", "prefers").await;
    world.until("its plugin is gone", || (!world.host.stats().modules.iter().any(|m| m.name == "prefers")).then_some(())).await;
    for n in 8..16 {
        make(&world, &format!("p-{n}"), None).await;
    }
    let mut used = Vec::new();
    for n in 8..16 {
        used.push(world.until("it is bound", || node_of(&world, &format!("p-{n}"))).await);
    }
    assert!(used.iter().any(|node| node == "n2") && !used.iter().any(|node| node == "n1"), "{used:?}");
    assert!(world.stats("denies").calls >= 16, "each pod crosses once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_admitted_to_the_queue_waits_until_it_changes() {
    let world = with(vec![plugin("gate", &["preEnqueue"], json!({}))]).await;
    make(&world, "held", Some("held")).await;
    says(&world, "held", "SchedulingGated", "it is held").await;
    assert_eq!(node_of(&world, "held"), None);
    world.merge("", "pods", "default", "held", "", json!({"metadata": {"labels": {"held": null}}})).await;
    world.until("it is bound", || node_of(&world, "held")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_when_it_is_reserved_permitted_and_prepared_for() {
    let world = with(vec![plugin("passage", &["reserve", "permit", "preBind"], json!({"permitMillis": 30}))]).await;
    make(&world, "welcome", None).await;
    let node = world.until("it is bound", || node_of(&world, "welcome")).await;
    let prepared = world.get("", "configmaps", "default", "bound-welcome").expect("written before the binding");
    assert_eq!(prepared["data"]["node"], node.as_str());
    make(&world, "unwanted", Some("unwanted")).await;
    says(&world, "unwanted", "Unschedulable", "it is not wanted there").await;
    make(&world, "late", Some("forbidden-at-last")).await;
    let told = || {
        let events = world.in_namespace("", "events", "default");
        events.iter().any(|e| e.value().expect("JSON")["message"].as_str().is_some_and(|m| m.contains("it has no permit"))).then_some(())
    };
    world.until("the event says why", told).await;
    assert_eq!((node_of(&world, "unwanted"), node_of(&world, "late")), (None, None));
    make(&world, "another", None).await;
    world.until("others go on", || node_of(&world, "another")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_fails_holds_its_pods_unless_it_is_to_be_ignored() {
    let mut ignored = plugin("ignored", &["filter"], json!({"mode": "trap"}));
    ignored["spec"]["plugin"]["failurePolicy"] = json!("Ignore");
    let world = with(vec![ignored]).await;
    make(&world, "one", None).await;
    world.until("it is bound without the plugin", || node_of(&world, "one")).await;
    world.until("its failure is counted", || (world.stats("ignored").traps > 0).then_some(())).await;
    world.apply(plugin("needed", &["filter"], json!({"mode": "trap"}))).await;
    world.until_state("needed", "Running").await;
    make(&world, "two", None).await;
    says(&world, "two", "Unschedulable", "scheduler plugin \"needed\" could not judge the pod").await;
    assert_eq!(node_of(&world, "two"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_sorts_the_queue_and_priorities_do_when_it_cannot() {
    for (has_turns, bound) in [(true, ["b", "d"]), (false, ["c", "d"])] {
        let world = World::new().await;
        world.apply(plugin("sorts", &["queueSort"], json!({}))).await;
        world.until_state("sorts", "Running").await;
        world.create("", "nodes", node("n1")).await.expect("a node");
        for (name, turn, priority) in [("a", "4", 1), ("b", "1", 0), ("c", "3", 3), ("d", "2", 2)] {
            let mut object = pod(name);
            object["spec"]["priority"] = json!(priority);
            if has_turns {
                object["metadata"]["labels"]["turn"] = json!(turn);
            }
            world.create("", "pods", object).await.expect("created");
        }
        // All of them wait when the scheduler comes, and there is room for two.
        world.apply(scheduler("scheduler", json!({"podsPerNode": 2}))).await;
        let all = ["a", "b", "c", "d"];
        for name in all.iter().filter(|name| !bound.contains(name)) {
            says(&world, name, "Unschedulable", "Too many pods").await;
        }
        for name in bound {
            assert_eq!(world.until("it is bound", || node_of(&world, name)).await, "n1");
        }
        assert_eq!(world.stats("sorts").errors > 0, !has_turns, "a pod without a turn is more than it can tell");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_binds_what_it_wants_to_and_hears_what_was_bound() {
    let world = with(vec![plugin("binder", &["preBind", "bind", "postBind"], json!({}))]).await;
    let make = async |name: &str, how: Option<&str>| {
        let mut object = pod(name);
        if let Some(how) = how {
            object["metadata"]["labels"]["bound-by"] = json!(how);
        }
        world.create("", "pods", object).await.expect("created");
    };
    for (name, how) in [("one", Some("write")), ("two", None), ("three", Some("write")), ("four", None)] {
        make(name, how).await;
        let node = world.until("it is bound", || node_of(&world, name)).await;
        assert_eq!(world.get("", "configmaps", "default", &format!("bound-{name}")).expect("prepared")["data"]["node"], node.as_str());
    }
    let heard = |name: &str| world.get("", "configmaps", "default", &format!("bound-{name}")).expect("prepared")["data"]["bound"].clone();
    assert!(["2", "3"].iter().any(|count| heard("four") == *count), "it has heard of those before: {}", heard("four"));
    let told = |words: &'static str| {
        let world = &world;
        async move {
            let events = || world.in_namespace("", "events", "default").into_iter().map(|e| e.value().expect("JSON"));
            world.until(words, || events().any(|e| e["message"].as_str().is_some_and(|m| m.contains(words))).then_some(())).await;
        }
    };
    make("five", Some("word")).await;
    told("scheduler plugin \"binder\" did not bind the pod").await;
    make("six", Some("nobody")).await;
    told("nobody may bind it").await;
    assert_eq!((node_of(&world, "five"), node_of(&world, "six")), (None, None));
}
