//! What a restart keeps: everything.

use std::sync::Arc;

use pintle_registry::{ListOptions, RegistryConfig};
use serde_json::json;

use crate::world::{World, config_map, from, next};

#[tokio::test]
async fn a_restart_keeps_objects_versions_and_uids() {
    let world = World::new().await;
    let before = world.config("a", "1").await;
    world.merge("configmaps", "default", "a", json!({"data": {"value": "2"}})).await.expect("patched");
    let value = world.get("configmaps", "default", "a").await.expect("there");
    let revision = world.registry.revision();
    let world = world.restart(RegistryConfig::default()).await;
    assert_eq!(world.get("configmaps", "default", "a").await.expect("there"), value);
    assert_eq!(world.registry.revision(), revision);
    assert!(world.config("b", "1").await.revision() > revision);
    assert!(before.revision() < revision);
}

#[tokio::test]
async fn a_watch_resumes_across_a_restart_and_misses_nothing() {
    let world = World::new().await;
    let start = world.config("a", "1").await.revision();
    world.config("b", "1").await;
    world.merge("configmaps", "default", "a", json!({"metadata": {"labels": {"x": "y"}}})).await.expect("patched");
    world.delete("configmaps", "default", "b", &Default::default()).await.expect("deleted");
    let world = world.restart(RegistryConfig::default()).await;
    let mut stream = world.watch("configmaps", &from(start)).await;
    world.config("c", "1").await;
    for expected in ["ADDED b", "MODIFIED a", "DELETED b", "ADDED c"] {
        assert_eq!(next(&mut stream).await, expected);
    }
    let options = pintle_registry::WatchOptions { label_selector: "x=y".to_owned(), ..from(start) };
    let mut selected = world.watch("configmaps", &options).await;
    assert_eq!(next(&mut selected).await, "ADDED a");
}

#[tokio::test]
async fn a_resumed_watch_on_a_quiet_resource_goes_live() {
    let world = World::new().await;
    let start = world.config("a", "1").await.revision();
    for at in 0..5 {
        world.create("secrets", json!({"metadata": {"name": format!("s-{at}"), "namespace": "default"}})).await.expect("created");
    }
    let world = world.restart(RegistryConfig::default()).await;
    let mut stream = world.watch("configmaps", &from(start)).await;
    let write = async {
        tokio::task::yield_now().await;
        world.create("configmaps", config_map("b", "1")).await.expect("created");
    };
    let (event, ()) = tokio::join!(next(&mut stream), write);
    assert_eq!(event, "ADDED b");
}

#[tokio::test]
async fn the_system_namespaces_are_made_once() {
    let world = World::new().await;
    world.registry.bootstrap().await.expect("made");
    let revision = world.registry.revision();
    world.registry.bootstrap().await.expect("there already");
    assert_eq!(world.registry.revision(), revision);
    let page = world.list("namespaces", "", &ListOptions::default()).await.expect("listed");
    assert_eq!(crate::world::names(&page), ["default", "kube-node-lease", "kube-public", "kube-system"]);
}

#[tokio::test]
async fn allocated_addresses_survive_a_restart() {
    let world = World::new().await;
    let service =
        |name: &str| json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let first = world.create("services", service("a")).await.expect("created").value().expect("JSON");
    let world = world.restart(RegistryConfig::default()).await;
    let mut same = service("b");
    same["spec"]["clusterIP"] = first["spec"]["clusterIP"].clone();
    assert_eq!(crate::world::code(world.create("services", same).await), 422);
    let second = world.create("services", service("c")).await.expect("created").value().expect("JSON");
    assert_ne!(first["spec"]["clusterIP"], second["spec"]["clusterIP"]);
    assert_ne!(first["spec"]["ports"][0]["nodePort"], second["spec"]["ports"][0]["nodePort"]);
    world.delete("services", "default", "a", &Default::default()).await.expect("deleted");
    let mut freed = service("d");
    freed["spec"]["clusterIP"] = first["spec"]["clusterIP"].clone();
    world.create("services", freed).await.expect("free again");
}

#[tokio::test]
async fn dropping_the_registry_ends_its_watches_and_lets_go_of_the_store() {
    let world = World::new().await;
    let weak = Arc::downgrade(&world.store);
    let World { registry, store, .. } = world;
    drop((registry, store));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while weak.strong_count() > 0 {
        assert!(std::time::Instant::now() < deadline, "the store is let go of");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
