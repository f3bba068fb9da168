//! Speed and memory, measured and printed; held only against bounds so wide that a busy machine passes them. Run with
//! `--nocapture` to see the figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pintle_registry::{GetOptions, WatchEvent};
use serde_json::json;

use crate::world::{World, config_map, from, pod};

/// A pod of about 2 KB.
fn two_kilobytes(name: &str) -> serde_json::Value {
    let mut object = pod(name);
    object["metadata"]["annotations"] = json!({"filler": "x".repeat(1200)});
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_creates_and_gets_are_fast() {
    const CLIENTS: usize = 64;
    const EACH: usize = 60;
    let world = Arc::new(World::new().await);
    let started = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for at in 0..EACH {
                world.create("pods", two_kilobytes(&format!("p-{client}-{at}"))).await.expect("created");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    let creates = (CLIENTS * EACH) as f64 / started.elapsed().as_secs_f64();
    let target = world.target("pods", "default", "p-0-0");
    let started = Instant::now();
    for _ in 0..100_000 {
        world.registry.get(&target, &GetOptions::default()).await.expect("there");
    }
    let gets = 100_000.0 / started.elapsed().as_secs_f64();
    println!("creates/s {creates:.0}, gets/s {gets:.0}");
    assert!(creates > 50.0 && gets > 20_000.0, "creates/s {creates:.0}, gets/s {gets:.0}");
}

#[test]
fn noting_the_owner_of_a_new_pod_is_cheap() {
    const TIMES: u32 = 20_000;
    let schema = pintle_api::Schema::builtin();
    let resource = schema.resource("", "v1", "pods").expect("pods");
    let mut pod = two_kilobytes("p");
    pintle_api::defaults::apply(schema, resource, &mut pod);
    let writer = pintle_api::apply::Writer { manager: "m", subresource: "", now: "2026-01-02T03:04:05Z" };
    let started = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(pintle_api::apply::created(schema, resource, writer, std::hint::black_box(&pod)));
    }
    println!("field ownership of a new pod: {:?}", started.elapsed() / TIMES);
    let mut old = pod.clone();
    pintle_api::apply::created(schema, resource, writer, &pod).put_into(&mut old);
    let mut new = old.clone();
    new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
    let writer = pintle_api::apply::Writer { manager: "kubelet", subresource: "status", now: "2026-01-02T03:04:05Z" };
    let started = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(pintle_api::apply::updated(schema, resource, writer, &old, std::hint::black_box(&new)));
    }
    println!("field ownership of a status update: {:?}", started.elapsed() / TIMES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_a_watcher_soon_after_it_is_made() {
    const WRITES: usize = 200;
    let world = Arc::new(World::new().await);
    let mut stream = world.watch("configmaps", &from(world.registry.revision())).await;
    let writer = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for at in 0..WRITES {
                let sent = jiff::Timestamp::now().as_nanosecond().to_string();
                world.config(&format!("cm-{at}"), &sent).await;
            }
        })
    };
    let mut delays: Vec<Duration> = Vec::new();
    while delays.len() < WRITES {
        let object = match stream.next().await {
            Some(Ok(WatchEvent::Added(object))) => object,
            Some(Ok(WatchEvent::Bookmark { .. })) => continue,
            other => panic!("{other:?}"),
        };
        let value = object.value().expect("JSON");
        let sent: i128 = value["data"]["value"].as_str().and_then(|text| text.parse().ok()).expect("a time");
        let delay = jiff::Timestamp::now().as_nanosecond() - sent;
        delays.push(Duration::from_nanos(u64::try_from(delay).unwrap_or_default()));
    }
    writer.await.expect("no panic");
    delays.sort();
    println!("create to watch event, commit included: p50 {:?}, p99 {:?}", delays[WRITES / 2], delays[WRITES * 99 / 100]);
    assert!(delays[WRITES / 2] < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_in_memory_about_once() {
    const COUNT: usize = 1000;
    const SIZE: usize = 20 * 1024;
    let world = World::new().await;
    let before = resident_bytes();
    for batch in 0..COUNT / 20 {
        let text = "x".repeat(SIZE);
        let creates = (0..20).map(|at| world.create("configmaps", config_map(&format!("cm-{batch}-{at}"), &text)));
        for outcome in futures::future::join_all(creates).await {
            outcome.expect("created");
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "{COUNT} objects of {SIZE} bytes: {:.1} MB resident more, {:.1} MB of objects",
        grown as f64 / 1e6,
        (COUNT * SIZE) as f64 / 1e6
    );
    // The store's page cache and windows come on top, but not in proportion.
    assert!(grown < COUNT * SIZE * 2 + 80_000_000, "{grown}");
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}
