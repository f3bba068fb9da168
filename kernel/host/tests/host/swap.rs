//! Replacing a module while it works: nothing lost, nothing doubled; and stepping back from a version that fails.

use crate::world::{World, cache_dir, controller, guest, guest_variant, guest_with, parent, scratch};
use pintle_host::engine::{Engine, digest_of};
use serde_json::json;
use std::{collections::BTreeSet, fs};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_while_a_queue_is_worked_on_loses_and_doubles_nothing() {
    const PARENTS: usize = 300;
    let world = World::new().await;
    let dir = scratch("swap");
    let engine = Engine::new(Some(cache_dir())).expect("an engine");
    for version in 0..3 {
        let wasm = guest_variant(&format!("swap{version}"));
        engine.load(wasm.clone()).await.expect("compiled before it is needed");
        fs::write(dir.join(format!("{version}.wasm")), wasm).expect("written");
    }
    let version = |n: usize| {
        let mut module = controller("maker", json!({"version": n.to_string()}));
        module["spec"]["source"]["file"] = json!(dir.join(format!("{n}.wasm")));
        module["spec"]["controller"]["batch"] = json!(4);
        module
    };
    world.apply(version(0)).await;
    world.until_state("maker", "Running").await;
    let made = async {
        for number in 0..PARENTS {
            world.create("", "configmaps", parent(number)).await.expect("created");
        }
    };
    let swaps = async {
        for n in 1..3 {
            world.until("some are done", || (world.in_namespace("", "configmaps", "default").len() > n * 120).then_some(())).await;
            let before = world.stats("maker").generation;
            world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": version(n)["spec"]})).await;
            world.until("the next runs", || (world.stats("maker").generation > before).then_some(())).await;
        }
    };
    tokio::join!(made, swaps);
    world
        .until("every child is there", || {
            (0..PARENTS).all(|n| world.get("", "configmaps", "default", &format!("child-{n}")).is_some()).then_some(())
        })
        .await;
    let makers: BTreeSet<String> = (0..PARENTS)
        .filter_map(|n| world.get("", "configmaps", "default", &format!("child-{n}")))
        .map(|c| c["data"]["madeBy"].to_string())
        .collect();
    let stats = world.stats("maker");
    assert_eq!((stats.traps, stats.errors, stats.denied), (0, 0, 0), "{stats:?} by {makers:?}");
    assert!(makers.len() >= 2, "more than one version had a hand in it: {makers:?}");
    let events = world.in_namespace("", "events", "default");
    let doubled = events.iter().filter(|e| e.value().expect("JSON")["count"].as_u64() > Some(1)).count();
    assert_eq!(doubled, 0, "no child was made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_that_keeps_failing_makes_room_for_the_last_good_one() {
    let world = World::new().await;
    let dir = scratch("rollback");
    let good = dir.join("good.wasm");
    fs::write(&good, guest()).expect("written");
    let mut module = controller("maker", json!({"version": "good"}));
    module["spec"]["source"]["file"] = json!(good);
    world.apply(module).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("the good one is known to be good", || world.status("maker")["lastGoodDigest"].as_str().map(|_| ())).await;
    // The sin is in the bytes: the same configuration is harmless to the good version.
    let bad = dir.join("bad.wasm");
    fs::write(&bad, sinful()).expect("written");
    let engine = Engine::new(Some(cache_dir())).expect("an engine");
    engine.load(sinful().into()).await.expect("compiled before it is needed");
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"source": {"file": bad}}})).await;
    // The bad one looks at everything when it takes over, so it need not be given work.
    world.create("", "configmaps", parent(1)).await.expect("created");
    let message = world
        .until("it says that it went back", || {
            world.status("maker")["message"].as_str().filter(|m| m.contains("back to")).map(str::to_owned)
        })
        .await;
    assert!(message.contains(&digest_of(&guest())), "{message}");
    world.until("and works", || world.get("", "configmaps", "default", "child-1")).await;
    assert_eq!(world.stats("maker").state, "Running");
}

/// The guest made sinful in its bytes: the marker that it looks at before it reconciles is overwritten.
fn sinful() -> Vec<u8> {
    guest_with(b"pintle-guest-is-honest", b"pintle-guest-is-sinful")
}
