//! Module objects: from apply to Running, what status says, what is refused, built-ins.

use crate::world::{World, cache_dir, config, controller, guest, guest_path, guest_variant, parent, registry, scratch};
use pintle_host::{Host, HostConfig, engine::digest_of};
use serde_json::json;
use std::{fs, time::Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_module_runs_and_its_status_says_so() {
    let world = World::new().await;
    world.apply(controller("maker", json!({}))).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("it works", || world.get("", "configmaps", "default", "child-0")).await;
    let status = world
        .until("status says so", || Some(world.status("maker")).filter(|s| s["state"] == "Running" && !s["lastGoodDigest"].is_null()))
        .await;
    assert_eq!(status["digest"], digest_of(&guest()));
    assert!(status["generation"].as_u64() > Some(0) && status["memoryBytes"].as_u64() > Some(0), "{status}");
    assert_eq!(status["traps"], 0);
    world.delete("pintle.dev", "modules", "", "maker").await;
    world.until("deleting stops it", || world.host.stats().modules.is_empty().then_some(())).await;
    world.create("", "configmaps", parent(1)).await.expect("created");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(world.get("", "configmaps", "default", "child-1").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_settles_and_does_not_feed_itself() {
    let world = World::new().await;
    world.apply(controller("maker", json!({}))).await;
    world.until("status is written", || (world.status("maker")["state"] == "Running").then_some(())).await;
    let rounds = async |count: u64| {
        let since = world.host.stats().status_rounds;
        world.until("statuses were looked at", || (world.host.stats().status_rounds >= since + count).then_some(())).await;
    };
    rounds(2).await;
    let before = world.registry.revision();
    rounds(2).await;
    assert_eq!(world.registry.revision(), before, "nothing is written while nothing happens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_says_why() {
    let world = World::new().await;
    for (name, change, says) in [
        ("no-file", json!({"source": {"file": "/nowhere.wasm"}}), "no such file"),
        ("outside", json!({"source": {"file": "/proc/self/exe"}}), "outside the folders"),
        ("wrong-digest", json!({"digest": format!("sha256:{}", "0".repeat(64))}), "digest mismatch"),
        ("not-wasm", json!({"source": {"file": null, "inline": "aGVsbG8="}}), "not a WebAssembly component"),
        ("oci", json!({"source": {"file": null, "oci": "registry.example/x:1"}}), "the program that pulls modules is not there"),
        ("api-level", json!({"apiLevel": 99}), "spec.apiLevel: this kernel has level"),
        ("unseen", json!({"controller": {"primary": "/secrets"}}), "nothing grants get, list or watch of \"/secrets\""),
        (
            "no-primary",
            json!({"controller": {"primary": "/unicorns"}, "permissions": [{"resources": ["unicorns", "configmaps"], "verbs": ["list"]}]}),
            "unicorns is not served",
        ),
    ] {
        let mut module = controller(name, json!({}));
        json_merge(&mut module["spec"], &change);
        world.apply(module).await;
        world.until_state(name, "Failed").await;
        let message =
            world.until("status says why", || world.status(name)["message"].as_str().filter(|m| !m.is_empty()).map(str::to_owned)).await;
        assert!(message.contains(says), "{name}: {message}");
    }
    let mut inline = controller("inline", json!({}));
    inline["spec"]["source"] = json!({"inline": base64_of(&guest())});
    world.apply(inline).await;
    world.until_state("inline", "Running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_module_stops_and_comes_back() {
    let world = World::new().await;
    world.apply(controller("maker", json!({}))).await;
    world.until_state("maker", "Running").await;
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"suspend": true}})).await;
    world.until_state("maker", "Stopped").await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"suspend": false}})).await;
    world.until("what happened meanwhile is worked on", || world.get("", "configmaps", "default", "child-0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_modules_are_objects_that_a_user_can_replace() {
    let dir = scratch("builtins");
    let names: Vec<String> = (0..10).map(|n| format!("builtin-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        fs::write(dir.join(format!("{name}.wasm")), guest_variant(&n.to_string())).expect("written");
        let mut manifest = controller(name, json!({"version": "shipped"}));
        manifest["spec"]["source"] = json!(null);
        fs::write(dir.join(format!("{name}.json")), manifest.to_string()).expect("written");
    }
    let registry = registry().await;
    let config = || HostConfig { builtin_dir: Some(dir.clone()), cache_dir: Some(cache_dir()), ..config(&registry) };
    let first = Host::start(config()).await.expect("it starts");
    first.ready().await;
    drop(first);
    let started = Instant::now();
    let host = Host::start(config()).await.expect("it starts");
    host.ready().await;
    println!("ten modules from a warm cache: {:?}", started.elapsed());
    let world = World { registry: registry.clone(), host };
    let stats = world.host.stats();
    assert_eq!((stats.modules.len(), stats.cache_hits, stats.compiled), (10, 10, 0));
    assert!(stats.modules.iter().all(|m| m.state == "Running"), "{stats:?}");
    let object = world.get("pintle.dev", "modules", "", "builtin-3").expect("there");
    assert_eq!(
        (&object["metadata"]["labels"]["pintle.dev/builtin"], &object["spec"]["source"]["builtin"]),
        (&json!("true"), &json!("builtin-3"))
    );
    world.merge("pintle.dev", "modules", "", "builtin-3", "", json!({"spec": {"source": {"builtin": null, "file": guest_path()}}})).await;
    world.until("the replacement runs", || (world.status("builtin-3")["digest"] == digest_of(&guest())).then_some(())).await;
    let World { host, .. } = world;
    drop(host);
    let host = Host::start(config()).await.expect("it starts");
    host.ready().await;
    let world = World { registry, host };
    let kept = world.get("pintle.dev", "modules", "", "builtin-3").expect("there");
    assert!(kept["spec"]["source"]["file"].is_string(), "a replacement survives a restart: {kept}");
}

fn json_merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    for (key, value) in patch.as_object().expect("an object") {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(key);
        } else if value.is_object() && target[key].is_object() {
            json_merge(&mut target[key], value);
        } else {
            target[key] = value.clone();
        }
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
