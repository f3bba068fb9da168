//! What the registry does on its own account.

use std::time::{Duration, Instant};

use pintle_registry::{ListOptions, RegistryConfig};
use pintle_store::Store as _;
use serde_json::json;

use crate::world::{World, from, next};

/// Wait until something holds, ten seconds at most.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn history_is_compacted_a_period_late_and_the_last_revisions_stay() {
    let config = RegistryConfig { compaction_period_seconds: 1, history_revisions_min: 5, ..RegistryConfig::default() };
    let world = World::with(config).await;
    for at in 0..20 {
        world.config(&format!("cm-{at}"), "1").await;
    }
    let newest = world.registry.revision();
    eventually("the history is compacted", async || world.store.compacted().0 == newest.0 - 5).await;
    let mut stream = world.watch("configmaps", &from(newest.0 - 4)).await;
    assert_eq!(next(&mut stream).await, "ADDED cm-16");
}

#[tokio::test]
async fn core_events_expire() {
    let world = World::with(RegistryConfig { event_ttl_seconds: 1, ..RegistryConfig::default() }).await;
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"kind": "Pod", "namespace": "default"}, "type": "Normal"});
    world.create("events", event).await.expect("created");
    world.config("stays", "1").await;
    eventually("the event expires", async || world.list("events", "", &ListOptions::default()).await.expect("listed").items.is_empty())
        .await;
    world.get("configmaps", "default", "stays").await.expect("there");
}
