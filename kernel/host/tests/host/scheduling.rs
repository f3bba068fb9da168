//! The loop around a scheduler module.

use crate::world::{World, node, pod, scheduler};
use serde_json::json;
use std::{collections::BTreeMap, time::Instant};

fn nodes_of(world: &World) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in world.in_namespace("", "pods", "default") {
        *counts.entry(pod.field("spec.nodeName").unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_are_bound_evenly_to_three_nodes() {
    let world = World::new().await;
    world.apply(scheduler("scheduler", json!({}))).await;
    world.until_state("scheduler", "Running").await;
    for name in ["n1", "n2", "n3"] {
        world.create("", "nodes", node(name)).await.expect("a node");
    }
    let started = Instant::now();
    let creates = (0..100).map(|n| world.create("", "pods", pod(&format!("p-{n}"))));
    for made in futures::future::join_all(creates).await {
        made.expect("created");
    }
    world.until("all are bound", || (!nodes_of(&world).contains_key("")).then_some(())).await;
    let took = started.elapsed();
    let counts: Vec<usize> = nodes_of(&world).into_values().collect();
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (3, 100));
    assert!(counts.iter().all(|c| (30..=36).contains(c)), "{counts:?}");
    println!("100 pods from created to bound: {took:?}");
    let bound = world.get("", "pods", "default", "p-7").expect("there");
    let condition =
        bound["status"]["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "PodScheduled")).cloned().unwrap_or_default();
    assert_eq!(condition["status"], "True", "{bound}");
    world
        .until("users are told", || {
            world.in_namespace("", "events", "default").iter().any(|e| e.value().expect("JSON")["reason"] == "Scheduled").then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_does_not_fit_says_why_and_is_bound_when_room_comes() {
    let world = World::new().await;
    world.apply(scheduler("scheduler", json!({"podsPerNode": 1}))).await;
    world.create("", "nodes", node("n1")).await.expect("a node");
    world.create("", "pods", pod("first")).await.expect("created");
    world.until("the first is bound", || (nodes_of(&world).get("n1") == Some(&1)).then_some(())).await;
    world.create("", "pods", pod("second")).await.expect("created");
    let condition = world.until("the second says why not", || {
        let pod = world.get("", "pods", "default", "second")?;
        pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "PodScheduled").cloned()
    });
    let condition = condition.await;
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
    assert_eq!(condition["message"], "0/1 nodes are available: 1 Too many pods.");
    let started = Instant::now();
    world.create("", "nodes", node("n2")).await.expect("room");
    world.until("the second is bound", || (nodes_of(&world).get("n2") == Some(&1)).then_some(())).await;
    assert!(started.elapsed().as_secs() < 10);
    world.create("", "pods", pod("third")).await.expect("created");
    world.merge("", "pods", "default", "first", "status", json!({"status": {"phase": "Succeeded"}})).await;
    world.until("a finished pod makes room", || (nodes_of(&world).get("n1") == Some(&2)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_scheduler_gets_its_snapshot_anew() {
    let world = World::new().await;
    world.apply(scheduler("scheduler", json!({"podsPerNode": 2}))).await;
    world.create("", "nodes", node("n1")).await.expect("a node");
    for name in ["a", "b"] {
        world.create("", "pods", pod(name)).await.expect("created");
    }
    world.until("both are bound", || (nodes_of(&world).get("n1") == Some(&2)).then_some(())).await;
    let before = world.stats("scheduler").generation;
    world.merge("pintle.dev", "modules", "", "scheduler", "", json!({"spec": {"config": {"podsPerNode": 2, "again": true}}})).await;
    world.until("another incarnation runs", || (world.stats("scheduler").generation > before).then_some(())).await;
    world.create("", "pods", pod("c")).await.expect("created");
    world
        .until("the third does not fit", || {
            let pod = world.get("", "pods", "default", "c")?;
            pod["status"]["conditions"].as_array()?.iter().find(|c| c["reason"] == "Unschedulable").map(|_| ())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_another_scheduler_are_left_alone() {
    let world = World::new().await;
    world.apply(scheduler("scheduler", json!({}))).await;
    world.create("", "nodes", node("n1")).await.expect("a node");
    let mut other = pod("other");
    other["spec"]["schedulerName"] = json!("somebody-else");
    world.create("", "pods", other).await.expect("created");
    world.create("", "pods", pod("ours")).await.expect("created");
    world.until("ours is bound", || (nodes_of(&world).get("n1") == Some(&1)).then_some(())).await;
    assert_eq!(nodes_of(&world).get(""), Some(&1));
}
