//! Controllers: from a change to a write and back.

use crate::world::{World, controller, guest_path, parent};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_turns_objects_into_other_objects() {
    let world = World::new().await;
    world.create("", "configmaps", parent(0)).await.expect("before the module");
    world.apply(controller("maker", json!({}))).await;
    world.create("", "configmaps", parent(1)).await.expect("after it");
    for number in 0..2 {
        let child = world.until("the child is made", || world.get("", "configmaps", "default", &format!("child-{number}"))).await;
        assert_eq!(child["data"]["madeBy"], "1");
    }
    world.delete("", "configmaps", "default", "child-1").await;
    world.until("a deleted child is made again", || world.get("", "configmaps", "default", "child-1")).await;
    let event = world.until("an event tells about it", || {
        world
            .in_namespace("", "events", "default")
            .iter()
            .map(|e| e.value().expect("JSON"))
            .find(|e| e["reason"] == "ChildMade" && e["involvedObject"]["name"] == "parent-1")
    });
    assert_eq!(event.await["source"]["component"], "maker-controller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_outside_the_grants_is_refused_counted_and_shown() {
    let world = World::new().await;
    world.apply(controller("thief", json!({"childResource": "secrets"}))).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("the refusal is counted", || (world.stats("thief").denied > 0).then_some(())).await;
    world
        .until("and shown", || {
            world.status("thief")["message"].as_str().filter(|m| m.contains("not granted create of secrets")).map(|_| ())
        })
        .await;
    assert!(world.in_namespace("", "secrets", "default").is_empty());
    assert_eq!(world.stats("thief").state, "Running", "it is an error, not a fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_keys_are_worked_in_batches() {
    let world = World::new().await;
    world.apply(controller("maker", json!({}))).await;
    world.until_state("maker", "Running").await;
    for number in 0..200 {
        world.create("", "configmaps", parent(number)).await.expect("created");
    }
    world
        .until("every child is there", || {
            (0..200).all(|n| world.get("", "configmaps", "default", &format!("child-{n}")).is_some()).then_some(())
        })
        .await;
    let stats = world.stats("maker");
    assert_eq!((stats.traps, stats.errors), (0, 0), "{stats:?}");
    assert!(guest_path().exists());
}
