//! One hostile guest for each sin: each is contained, named in its status, and started again with back-off, while others go on.

use crate::world::{World, controller, parent};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A sinner beside an honest module: the sin is seen and told, and the honest one does not notice.
async fn check(mode: &str, says: &str) {
    let world = World::new().await;
    let mut sinner = controller("sinner", json!({"mode": mode}));
    sinner["spec"]["limits"] = json!({"callsPerSecond": 500});
    world.apply(controller("honest", json!({}))).await;
    world.apply(sinner).await;
    world.until_state("honest", "Running").await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until(&format!("{mode} is counted"), || (world.stats("sinner").traps >= 2).then_some(())).await;
    let message = world
        .until(&format!("{mode} is told"), || world.status("sinner")["message"].as_str().filter(|m| !m.is_empty()).map(str::to_owned))
        .await;
    assert!(message.contains(says), "{mode}: {message}");
    assert!(world.stats("sinner").restarts >= 1, "{mode}");
    world.until("the honest module works", || world.get("", "configmaps", "default", "child-0")).await;
    assert_eq!(world.stats("honest").traps, 0, "{mode}");
}

macro_rules! sins {
    ($($test:ident: $mode:literal => $says:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            check($mode, $says).await;
        }
    )*};
}

sins! {
    fault_endless_loop: "loop" => "deadline exceeded";
    fault_endless_loop_at_start: "loop-at-start" => "deadline exceeded";
    fault_memory_growth: "grow" => "memory limit exceeded: it wanted more than 64 MiB";
    fault_trap: "trap" => "it said: the guest gives up";
    fault_trap_at_start: "trap-at-start" => "trap";
    fault_malformed_frames: "malformed" => "bad frame";
    fault_half_a_frame: "half-frame" => "bad frame";
    fault_a_message_of_junk: "junk-message" => "bad frame";
    fault_an_oversize_message: "oversize" => "bytes in one slice";
    fault_a_forged_capability: "forged" => "bad frame";
    fault_a_flood_in_one_slice: "flood" => "messages in one slice";
    fault_a_smuggled_capability: "smuggled" => "bad frame";
    fault_a_call_on_an_answer_never_asked_for: "pipelined" => "bad frame";
    fault_a_capability_given_back_that_was_never_had: "released" => "bad frame";
    fault_a_capability_given_back_too_often: "released-again" => "bad frame";
    fault_an_answer_to_nothing: "answered" => "bad frame";
    fault_an_embargo_never_set: "embargoed" => "bad frame";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_a_flood_over_time_is_refused_and_then_ended() {
    let world = World::new().await;
    let mut sinner = controller("sinner", json!({"mode": "steady-flood"}));
    sinner["spec"]["limits"] = json!({"callsPerSecond": 200});
    world.apply(sinner).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("it is refused", || (world.stats("sinner").denied > 200).then_some(())).await;
    world.until("and ended", || (world.stats("sinner").traps > 0).then_some(())).await;
    world.until("and named", || world.status("sinner")["message"].as_str().filter(|m| m.contains("misuse")).map(|_| ())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_log_lines_costs_its_rate_and_nothing_else() {
    let world = World::new().await;
    world.apply(controller("printer", json!({"mode": "print"}))).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("it works all the same", || world.get("", "configmaps", "default", "child-0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_always_wants_more_does_not_starve_its_neighbours() {
    let world = World::new().await;
    world.apply(controller("greedy", json!({"mode": "more-for-ever"}))).await;
    world.apply(controller("honest", json!({}))).await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.until("the honest module works", || world.get("", "configmaps", "default", "child-0")).await;
    world.until("the greedy one is ended", || (world.stats("greedy").traps > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_back_off_and_the_api_stays_quick() {
    let world = World::new().await;
    world.create("", "configmaps", parent(0)).await.expect("created");
    world.apply(controller("sinner", json!({"mode": "loop"}))).await;
    world.until("it sinned", || (world.stats("sinner").traps > 0).then_some(())).await;
    let (start, before) = (Instant::now(), world.stats("sinner").traps);
    let mut slowest = Duration::ZERO;
    let mut number = 1;
    while start.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        world.create("", "configmaps", parent(number)).await.expect("created");
        slowest = slowest.max(one.elapsed());
        number += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let faults = world.stats("sinner").traps - before;
    assert!(faults < 12, "two seconds hold few restarts that double from 10 ms, and each loop its 100 ms: {faults}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let status: Value = world.until("status is written", || Some(world.status("sinner")).filter(|s| s["traps"].as_u64() > Some(0))).await;
    assert!(["BackOff", "Running", "Loading"].contains(&status["state"].as_str().unwrap_or_default()), "{status}");
}
