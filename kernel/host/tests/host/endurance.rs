//! Much at once, and often: a thousand swaps under load, a hundred modules together, a module that is called without pause.

use crate::world::{World, admission, controller, pod};
use pintle_registry::{AdmissionRequest, Caller, DryRun, Operation};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

const SWAPS: usize = 1_000;

/// Asks a judge for its opinion of one pod until told to stop; gives what each answer said: `generation:count` of the instance that answered.
async fn ask_until(world: &World, stop: &AtomicBool) -> Vec<String> {
    let (judges, caller) = (world.host.admission(), Caller::user("load", ["system:masters"]));
    let target = world.registry.resolve("", "", "pods", "", "default", "").expect("served");
    let object = bytes::Bytes::from(pod("asked-about").to_string());
    let mut said = Vec::new();
    while !stop.load(Relaxed) {
        let request = AdmissionRequest {
            operation: Operation::Create,
            target: &target,
            caller: &caller,
            object: object.clone(),
            old: None,
            dry_run: DryRun::No,
        };
        let verdict = judges.validate(&request).await;
        assert!(verdict.refused.is_none(), "a call was lost: {:?}", verdict.refused);
        said.extend(verdict.warnings);
        tokio::task::yield_now().await;
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_swaps_under_load_lose_and_double_no_call() {
    let world = Arc::new(World::new().await);
    let module = |swap: usize| {
        let mut module = admission("gate", json!({"mode": "count", "swap": swap}));
        module["spec"]["admission"]["phases"] = json!(["validating"]);
        module
    };
    world.apply(module(0)).await;
    world.until_state("gate", "Running").await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (world, stop) = (world.clone(), stop.clone());
            tokio::spawn(async move { ask_until(&world, &stop).await })
        })
        .collect();
    for swap in 1..=SWAPS {
        let before = world.stats("gate").generation;
        world.merge("pintle.dev", "modules", "", "gate", "", json!({"spec": module(swap)["spec"]})).await;
        world.until("the next one runs", || (world.stats("gate").generation > before).then_some(())).await;
    }
    stop.store(true, Relaxed);
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut answers = 0;
    for caller in callers {
        for said in caller.await.expect("no call was lost") {
            let (generation, count) = said.split_once(':').expect("generation:count");
            counts.entry(generation.parse().expect("a number")).or_default().push(count.parse().expect("a number"));
            answers += 1;
        }
    }
    for (generation, mut counted) in counts {
        counted.sort_unstable();
        let whole: Vec<u64> = (1..=counted.len() as u64).collect();
        assert_eq!(counted, whole, "instance {generation} answered each call once, and each answer came to its caller");
    }
    let stats = world.stats("gate");
    assert_eq!((stats.calls, stats.traps, stats.errors), (answers, 0, 0), "the host counted what the callers did");
    assert!(answers > SWAPS as u64, "there was load: {answers} calls");
    println!("{answers} calls during {SWAPS} swaps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_modules_run_together() {
    let world = World::new().await;
    for number in 0..50 {
        world.apply(controller(&format!("controller-{number}"), json!({}))).await;
        world.apply(admission(&format!("judge-{number}"), json!({"label": format!("judge-{number}")}))).await;
    }
    world.until("all run", || world.host.stats().modules.iter().all(|m| m.state == "Running").then_some(())).await;
    let made = world.create("", "pods", pod("watched")).await.expect("allowed by fifty");
    assert!((0..50).all(|number| made.meta().label(&format!("judge-{number}")) == Some("guest")));
    world.create("", "configmaps", crate::world::parent(1)).await.expect("created");
    world.until("a controller of fifty made the child", || world.get("", "configmaps", "default", "child-1")).await;
    let stats = world.host.stats();
    assert_eq!((stats.modules.len(), stats.modules.iter().map(|m| m.traps).sum::<u64>()), (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_held_to_its_share_of_the_processor() {
    let world = Arc::new(World::new().await);
    let mut module = admission("greedy", json!({"mode": "count"}));
    module["spec"]["admission"] = json!({"phases": ["validating"], "failurePolicy": "Fail", "rules": module["spec"]["admission"]["rules"]});
    module["spec"]["limits"] = json!({"cpuMillicores": 10});
    world.apply(module).await;
    world.until_state("greedy", "Running").await;
    // A second's share is ten milliseconds: some hundred calls.
    let refused = loop {
        if let Err(refused) =
            world.create("", "pods", json!({"metadata": {"generateName": "p-", "namespace": "default"}, "spec": pod("p")["spec"]})).await
        {
            break refused;
        }
    };
    assert!(refused.message.contains("could not judge"), "{refused}");
    world.until("it is told", || world.event_about("greedy", "Throttled", "share of the processor")).await;
    let stats = world.stats("greedy");
    assert!(stats.throttled > 0 && stats.cpu >= Duration::from_millis(10) && stats.traps == 0, "{stats:?}");
    world.merge("pintle.dev", "modules", "", "greedy", "", json!({"spec": {"limits": {"cpuMillicores": 1000}}})).await;
    world.until_allowed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_beyond_its_share_waits_and_works() {
    let world = World::new().await;
    let mut module = controller("slow", json!({"mode": "toil"}));
    module["spec"]["limits"] = json!({"cpuMillicores": 20});
    module["spec"]["controller"]["batch"] = json!(1);
    world.apply(module).await;
    // A second's share is twenty milliseconds, a call's toil some ten.
    for number in 0..10 {
        world.create("", "configmaps", crate::world::parent(number)).await.expect("created");
    }
    let done = || (0..10).all(|n| world.get("", "configmaps", "default", &format!("child-{n}")).is_some()).then_some(());
    world.until("all is done", done).await;
    let stats = world.stats("slow");
    assert!(stats.throttled > 0 && stats.traps == 0, "{stats:?}");
}
