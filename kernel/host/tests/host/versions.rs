//! One version and the next: what was recorded is asked again, a shadow is compared, a version is gone back to.

use crate::world::{World, admission, controller, guest, guest_path, guest_with, node, parent, pod, scheduler, scratch};
use pintle_host::HostConfig;
use pintle_host::engine::{Engine, digest_of};
use pintle_record::{Entry, Header};
use pintle_registry::Object;
use pintle_replay::{Report, replay};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

/// The guest that faults when it is asked anything.
fn sinful() -> Vec<u8> {
    guest_with(b"pintle-guest-is-honest", b"pintle-guest-is-sinful")
}

/// The guest that says something else of what is called odd, and only of that.
fn other() -> Vec<u8> {
    guest_with(b"pintle-guest-says-one!", b"pintle-guest-says-two!")
}

async fn asked(record: &(Header, Vec<Entry>), wasm: Vec<u8>) -> Report {
    let engine = Engine::new(Some(crate::world::cache_dir())).expect("an engine");
    replay(&engine, &record.0, &record.1, wasm).await.expect("replayed")
}

/// Waits until a record holds `calls` calls, ends it and reads it.
async fn recorded(world: &World, module: &str, calls: usize) -> (Header, Vec<Entry>) {
    let status = world.until("it is recorded", || Some(world.status(module)["record"].clone()).filter(|r| r["file"].is_string())).await;
    let file = Path::new(status["file"].as_str().expect("a file")).to_owned();
    world.until("the record has the calls", || pintle_record::read(&file).ok().filter(|(_, entries)| entries.len() > calls)).await;
    world.merge("pintle.dev", "modules", "", module, "", json!({"spec": {"record": null}})).await;
    world.until("it is recorded no more", || world.status(module)["record"].is_null().then_some(())).await;
    pintle_record::read(&file).expect("a whole record")
}

async fn make_parents(world: &World) {
    for name in ["parent-even-1", "parent-odd-1", "parent-even-2"] {
        let mut object = parent(0);
        object["metadata"]["name"] = json!(name);
        world.create("", "configmaps", object).await.expect("created");
        world.until("it has its child", || world.get("", "configmaps", "default", &name.replace("parent", "child"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controllers_record_is_answered_the_same_by_the_same_and_otherwise_where_another_differs() {
    let world = World::new().await;
    let mut module = controller("maker", json!({"version": "7"}));
    module["spec"]["record"] = json!({});
    world.apply(module).await;
    world.until_state("maker", "Running").await;
    make_parents(&world).await;
    let record = recorded(&world, "maker", 3).await;
    assert_eq!((record.0.kind.as_str(), record.0.digest.clone()), ("controller", digest_of(&guest())));
    let same = asked(&record, guest().to_vec()).await;
    assert!(same.calls >= 3 && same.differences.is_empty(), "{same:?}");
    let differs = asked(&record, other()).await;
    assert!(!differs.differences.is_empty(), "{differs:?}");
    for difference in &differs.differences {
        let [line] = &difference.lines[..] else { panic!("one planted difference: {difference:?}") };
        assert!(line.ends_with("/writes/0/create/data/words: \"one\" -> \"two\""), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admission_rules_and_a_schedulers_records_are_answered_the_same_by_the_same() {
    let world = World::new().await;
    for mut module in [admission("rule", json!({})), scheduler("scheduler", json!({}))] {
        module["spec"]["record"] = json!({"maxBytes": 1 << 20});
        world.apply(module).await;
    }
    world.until_state("rule", "Running").await;
    world.until_state("scheduler", "Running").await;
    world.create("", "nodes", node("n1")).await.expect("a node");
    for name in ["even", "odd"] {
        world.create("", "pods", pod(name)).await.expect("created");
    }
    world
        .until("both are bound", || {
            (world.in_namespace("", "pods", "default").iter().all(|p| p.field("spec.nodeName") == Some("n1"))).then_some(())
        })
        .await;
    // Two pods, each asked of in both phases; a snapshot and at least one decision.
    for (module, calls) in [("rule", 4), ("scheduler", 2)] {
        let record = recorded(&world, module, calls).await;
        let same = asked(&record, guest().to_vec()).await;
        assert!(same.calls >= calls && same.differences.is_empty(), "{module}: {same:?}");
        let differs = asked(&record, other()).await;
        let lines: Vec<&String> = differs.differences.iter().flat_map(|d| &d.lines).collect();
        let expected = if module == "rule" { 2 } else { 0 };
        assert_eq!(lines.len(), expected, "{module}: {lines:?}");
        assert!(lines.iter().all(|line| *line == "/warnings/0: \"one\" -> \"two\""), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_ends_at_its_bound_and_the_module_goes_on() {
    let world = World::new().await;
    let mut module = admission("rule", json!({}));
    module["spec"]["record"] = json!({"maxBytes": 4096});
    world.apply(module).await;
    world.until_state("rule", "Running").await;
    let mut made = 0;
    let message = loop {
        world.create("", "pods", pod(&format!("p-{made}"))).await.expect("created");
        made += 1;
        let record = world.status("rule")["record"].clone();
        if let Some(message) = record["message"].as_str().filter(|m| !m.is_empty()) {
            break message.to_owned();
        }
        assert!(made < 10_000, "{record}");
    };
    assert!(message.starts_with("full: "), "{message}");
    world.create("", "pods", pod("after")).await.expect("created");
}

fn shadow_of(world: &World, module: &str) -> Value {
    world.status(module)["shadow"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_shows_a_planted_difference_and_only_that_and_writes_nothing() {
    let world = World::new().await;
    let file = scratch("shadow").join("other.wasm");
    fs::write(&file, other()).expect("written");
    let mut module = controller("maker", json!({}));
    module["spec"]["shadow"] = json!({"source": {"file": file}, "digest": digest_of(&other())});
    world.apply(module).await;
    world.until("the shadow runs", || (shadow_of(&world, "maker")["state"] == "Running").then_some(())).await;
    make_parents(&world).await;
    let told = world.until("the difference is told", || Some(shadow_of(&world, "maker")).filter(|s| s["differences"] == 1)).await;
    assert!(told["message"].as_str().is_some_and(|m| m.ends_with("/data/words: \"one\" -> \"two\"")), "{told}");
    world.until("it saw every call", || (world.stats("maker").shadow_calls >= 3).then_some(())).await;
    assert_eq!((world.stats("maker").shadow_skipped, world.stats("maker").shadow_differences), (0, 1));
    let child = world.get("", "configmaps", "default", "child-odd-1").expect("made");
    assert_eq!(child["data"]["words"], "one", "the running version wrote it");
    world
        .until("an event says so", || {
            world.in_namespace("", "events", "default").iter().any(|e| e.value().expect("JSON")["reason"] == "ShadowDiffers").then_some(())
        })
        .await;
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"shadow": null}})).await;
    world.until("it is gone", || shadow_of(&world, "maker").is_null().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_faults_costs_the_running_version_nothing() {
    let world = World::new().await;
    let file = scratch("sinful-shadow").join("sinful.wasm");
    fs::write(&file, sinful()).expect("written");
    let mut module = controller("maker", json!({}));
    module["spec"]["shadow"] = json!({"source": {"file": file}});
    world.apply(module).await;
    world.until("the shadow runs", || (shadow_of(&world, "maker")["state"] == "Running").then_some(())).await;
    make_parents(&world).await;
    let failed = world.until("it failed", || Some(shadow_of(&world, "maker")).filter(|s| s["state"] == "Failed")).await;
    assert!(failed["message"].as_str().is_some_and(|m| m.starts_with("trap")), "{failed}");
    let stats = world.stats("maker");
    assert_eq!((stats.state, stats.traps), ("Running", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_ran_is_gone_back_to_without_its_source() {
    let world = World::new().await;
    let file = scratch("history").join("module.wasm");
    fs::write(&file, guest()).expect("written");
    let mut module = controller("maker", json!({}));
    module["spec"]["source"] = json!({"file": file});
    world.apply(module).await;
    let (first, second) = (digest_of(&guest()), digest_of(&other()));
    let runs = |digest: &str| (world.status("maker")["digest"] == digest && world.stats("maker").state == "Running").then_some(());
    world.until("the first runs", || runs(&first)).await;
    fs::write(&file, other()).expect("written");
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"digest": second}})).await;
    world.until("the second runs", || runs(&second)).await;
    let history = world.status("maker")["history"].clone();
    assert_eq!((&history[0]["digest"], &history[1]["digest"]), (&json!(first), &json!(second)), "{history}");
    let back = json!({"spec": {"source": {"file": null, "kept": first}, "digest": first}});
    world.merge("pintle.dev", "modules", "", "maker", "", back).await;
    world.until("the first runs again", || runs(&first)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_older_than_the_last_ten_are_thrown_away_with_their_files() {
    let cache = scratch("pruned");
    let world = World::with(|config| HostConfig { cache_dir: Some(cache.clone()), ..config }).await;
    let file = scratch("pruned-source").join("module.wasm");
    // The files of a version: its own and its compiled code.
    let files = |digest: &str| {
        let named = |dir: std::path::PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name().into_string());
        let all = named(cache.clone()).chain(named(cache.join("artifacts"))).flatten();
        all.filter(|name| name.starts_with(digest.trim_start_matches("sha256:"))).count()
    };
    let versions: Vec<_> = (0..11).map(|number| crate::world::guest_variant(&number.to_string())).collect();
    for (number, wasm) in versions.iter().enumerate() {
        fs::write(&file, wasm).expect("written");
        let digest = digest_of(wasm);
        if number == 0 {
            let mut module = controller("maker", json!({}));
            module["spec"]["source"] = json!({"file": file});
            world.apply(module).await;
        } else {
            world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"digest": digest}})).await;
        }
        world.until("it runs", || (world.status("maker")["digest"] == digest).then_some(())).await;
        world.until("it is kept", || (files(&digest) == 2).then_some(())).await;
    }
    let [first, second] = [0, 1].map(|number| digest_of(&versions[number]));
    world.until("the first is thrown away", || (files(&first) == 0).then_some(())).await;
    assert_eq!(files(&second), 2, "the oldest that can be gone back to");
    let history = world.status("maker")["history"].clone();
    assert_eq!((history.as_array().map(Vec::len), &history[0]["digest"]), (Some(10), &json!(second)), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_takes_over_by_namespace_and_gives_back_what_it_cannot_do() {
    let world = World::new().await;
    world
        .create("", "namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trial"}}))
        .await
        .expect("a namespace");
    let dir = scratch("take-over");
    fs::write(dir.join("other.wasm"), other()).expect("written");
    fs::write(dir.join("sinful.wasm"), sinful()).expect("written");
    let shadow = |file: &str| json!({"source": {"file": dir.join(file)}, "takeOver": {"namespaces": ["trial"]}});
    for mut module in [controller("maker", json!({})), admission("rule", json!({}))] {
        module["spec"]["shadow"] = shadow("other.wasm");
        let name = module["metadata"]["name"].as_str().expect("a name").to_owned();
        world.apply(module).await;
        world.until("the shadow runs", || (shadow_of(&world, &name)["state"] == "Running").then_some(())).await;
    }
    let make = async |namespace: &str, name: &str| {
        let mut object = parent(0);
        (object["metadata"]["name"], object["metadata"]["namespace"]) = (json!(name), json!(namespace));
        world.create("", "configmaps", object).await.expect("created");
        let child = name.replace("parent", "child");
        world.until("it has its child", || world.get("", "configmaps", namespace, &child)).await["data"]["words"].clone()
    };
    assert_eq!((make("default", "parent-odd-1").await, make("trial", "parent-odd-1").await), (json!("one"), json!("two")));
    let warnings = async |namespace: &str| {
        let mut object = pod("odd");
        object["metadata"]["namespace"] = json!(namespace);
        let target = world.registry.resolve("", "v1", "pods", "", namespace, "").expect("served");
        let (caller, options) = (pintle_registry::Caller::kernel(), pintle_registry::WriteOptions::default());
        world.registry.create(&caller, &target, pintle_registry::Body::Value(object), &options).await.expect("created").warnings
    };
    assert!(warnings("default").await.iter().all(|w| w == "one") && warnings("trial").await.iter().all(|w| w == "two"));
    // Only what the running version did was compared.
    world.until("the difference is told", || (shadow_of(&world, "maker")["differences"] == 1).then_some(())).await;
    world.merge("pintle.dev", "modules", "", "maker", "", json!({"spec": {"shadow": shadow("sinful.wasm")}})).await;
    // It is shown what it takes over as soon as it is there.
    world.until("the next one faults", || (shadow_of(&world, "maker")["state"] == "Failed").then_some(())).await;
    assert_eq!(make("trial", "parent-odd-2").await, "one", "it gave the namespace back");
    assert_eq!(world.stats("maker").state, "Running");
}

/// Where each pod of these namespaces is.
fn placed(world: &World, namespaces: &[&str]) -> Vec<(String, String)> {
    let pods = namespaces.iter().flat_map(|namespace| world.in_namespace("", "pods", namespace));
    let placed = |pod: Arc<Object>| Some((pod.meta().name.to_string(), pod.field("spec.nodeName")?.to_owned()));
    pods.filter_map(placed).filter(|(_, node)| !node.is_empty()).collect()
}

/// Nodes, a namespace beside the default one, and versions to take over: one that puts odd pods on the last node, one that faults.
async fn trial(name: &str) -> (World, impl Fn(&str, Value) -> Value) {
    let world = World::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trial"}});
    world.create("", "namespaces", namespace).await.expect("a namespace");
    for name in ["n1", "n2", "n3"] {
        world.create("", "nodes", node(name)).await.expect("a node");
    }
    let dir = scratch(name);
    fs::write(dir.join("other.wasm"), other()).expect("written");
    fs::write(dir.join("sinful.wasm"), sinful()).expect("written");
    (world, move |file: &str, rule: Value| json!({"source": {"file": dir.join(file)}, "takeOver": rule}))
}

/// Waits until this version has been put beside the running one, whatever comes of it.
async fn until_beside(world: &World, module: &str, wasm: &[u8]) {
    let digest = digest_of(wasm);
    let there = || {
        let shadow = shadow_of(world, module);
        (shadow["digest"] == digest.as_str() && shadow["state"] != "Loading").then_some(())
    };
    world.until("it is loaded", there).await;
}

async fn make_odd(world: &World, namespace: &str, name: &str) {
    let mut object = pod(&format!("odd-{name}"));
    object["metadata"]["namespace"] = json!(namespace);
    world.create("", "pods", object).await.expect("created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_a_scheduler_takes_over_by_namespace_and_both_count_all_pods() {
    let (world, shadow) = trial("scheduler-take-over").await;
    let mut module = scheduler("scheduler", json!({"podsPerNode": 4}));
    module["spec"]["shadow"] = shadow("other.wasm", json!({"namespaces": ["trial"]}));
    world.apply(module).await;
    world.until("the shadow runs", || (shadow_of(&world, "scheduler")["state"] == "Running").then_some(())).await;
    for n in 0..3 {
        make_odd(&world, "trial", &format!("t{n}")).await;
        make_odd(&world, "default", &format!("d{n}")).await;
    }
    let all = |count: usize| Some(placed(&world, &["trial", "default"])).filter(|placed| placed.len() == count);
    let there = world.until("all are bound", || all(6)).await;
    let theirs = |(name, _): &&(String, String)| name.starts_with("odd-t");
    assert!(there.iter().filter(theirs).all(|(_, node)| node == "n3"), "{there:?}");
    assert!(there.iter().any(|(_, node)| node == "n1") && there.iter().any(|(_, node)| node == "n2"), "{there:?}");
    // There is room for twelve: none is given twice, whoever decides.
    for n in 3..8 {
        make_odd(&world, "trial", &format!("t{n}")).await;
        make_odd(&world, "default", &format!("d{n}")).await;
    }
    let there = world.until("the room is used up", || all(12)).await;
    for node in ["n1", "n2", "n3"] {
        assert_eq!(there.iter().filter(|(_, at)| at == node).count(), 4, "{there:?}");
    }
    let refused = || {
        let pods = ["trial", "default"].into_iter().flat_map(|n| world.in_namespace("", "pods", n)).map(|p| p.value().expect("JSON"));
        (pods.filter(|pod| pod["status"]["conditions"][0]["reason"] == "Unschedulable").count() == 4).then_some(())
    };
    world.until("the rest is told so", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_a_scheduler_that_faults_gives_its_pods_back() {
    let (world, shadow) = trial("scheduler-give-back").await;
    world.apply(scheduler("scheduler", json!({}))).await;
    world.until_state("scheduler", "Running").await;
    for (round, file) in ["sinful.wasm", "other.wasm"].into_iter().enumerate() {
        let patch = json!({"spec": {"shadow": shadow(file, json!({"percent": 100}))}});
        world.merge("pintle.dev", "modules", "", "scheduler", "", patch).await;
        until_beside(&world, "scheduler", &if round == 0 { sinful() } else { other() }).await;
        for n in 0..8 {
            make_odd(&world, "default", &format!("{round}-{n}")).await;
        }
        let done = || Some(placed(&world, &["default"])).filter(|placed| placed.len() == 8 * (round + 1));
        world.until("all are bound", done).await;
        let state = if round == 0 { "Failed" } else { "Running" };
        world.until("it is as it should be", || (shadow_of(&world, "scheduler")["state"] == state).then_some(())).await;
    }
    make_odd(&world, "default", "last").await;
    let last = || placed(&world, &["default"]).into_iter().find(|(name, _)| name == "odd-last").map(|(_, node)| node);
    assert_eq!(world.until("it is bound", last).await, "n3", "by the version that took over");
    assert_eq!((world.stats("scheduler").state, world.stats("scheduler").traps), ("Running", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_a_schedulers_plugin_takes_over_and_gives_back() {
    let (world, shadow) = trial("plugin-take-over").await;
    let plugin = json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": "prefers"},
        "spec": {
            "type": "schedulerPlugin",
            "source": {"file": guest_path()},
            "config": {"prefer": "n2", "preferTwo": "n1"},
            "plugin": {"points": ["score"]},
            "permissions": [{"apiGroups": [""], "resources": ["nodes", "namespaces", "pods"], "verbs": ["get", "list", "watch"]}],
            "shadow": shadow("other.wasm", json!({"namespaces": ["trial"]})),
        },
    });
    world.apply(plugin).await;
    world.until("the shadow runs", || (shadow_of(&world, "prefers")["state"] == "Running").then_some(())).await;
    world.apply(scheduler("scheduler", json!({}))).await;
    world.until_state("scheduler", "Running").await;
    let at = async |namespace: &str, name: &str| {
        make_odd(&world, namespace, name).await;
        let name = format!("odd-{name}");
        world.until("it is bound", || placed(&world, &[namespace]).into_iter().find(|(pod, _)| *pod == name)).await.1
    };
    assert_eq!((at("default", "1").await, at("trial", "1").await), ("n2".to_owned(), "n1".to_owned()));
    let patch = json!({"spec": {"shadow": shadow("sinful.wasm", json!({"namespaces": ["trial"]}))}});
    world.merge("pintle.dev", "modules", "", "prefers", "", patch).await;
    until_beside(&world, "prefers", &sinful()).await;
    make_odd(&world, "trial", "2").await;
    world.until("it faults", || (shadow_of(&world, "prefers")["state"] == "Failed").then_some(())).await;
    let second = || placed(&world, &["trial"]).into_iter().find(|(pod, _)| pod == "odd-2");
    assert_eq!(world.until("the running version answers for it", second).await.1, "n2");
    assert_eq!((at("trial", "3").await, world.stats("prefers").state), ("n2".to_owned(), "Running"));
}
