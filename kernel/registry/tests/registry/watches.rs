//! Watches and subscriptions.

use std::collections::HashSet;

use pintle_registry::{
    Bookmarks, Feed, InitialEvents, RegistryConfig, ResourceKey, SubscriptionFilter, VersionMatch, WatchEvent, WatchOptions,
};
use serde_json::json;

use crate::world::{World, code, config_map, from, next, pod, with_initial_events};

#[tokio::test]
async fn a_watch_resumes_after_its_version_and_sees_each_change_once() {
    let world = World::new().await;
    let start = world.config("a", "1").await.revision();
    world.config("b", "1").await;
    let mut stream = world.watch("configmaps", &from(start)).await;
    assert_eq!(next(&mut stream).await, "ADDED b");
    world.merge("configmaps", "default", "a", json!({"data": {"value": "2"}})).await.expect("patched");
    world.delete("configmaps", "default", "b", &Default::default()).await.expect("deleted");
    world.create("pods", pod("p")).await.expect("created");
    assert_eq!(next(&mut stream).await, "MODIFIED a");
    assert_eq!(next(&mut stream).await, "DELETED b");
    assert!(stream.try_next().is_none());
    let Some(WatchEvent::Bookmark { revision, initial_events_end: false }) = stream.bookmark() else { panic!("a bookmark") };
    assert_eq!(revision, world.registry.revision());
}

#[tokio::test]
async fn watchers_share_one_encoding_with_reads() {
    let world = World::new().await;
    let mut streams = [world.watch("configmaps", &from("")).await, world.watch("configmaps", &from("")).await];
    let object = world.config("a", "1").await;
    for stream in &mut streams {
        let Some(Ok(WatchEvent::Added(seen))) = stream.next().await else { panic!("an event") };
        assert_eq!(seen.body().as_ptr(), object.body().as_ptr());
    }
}

#[tokio::test]
async fn entering_and_leaving_a_selector_are_added_and_deleted() {
    let world = World::new().await;
    let options = WatchOptions { label_selector: "on=yes".to_owned(), ..from(world.registry.revision()) };
    let mut stream = world.watch("configmaps", &options).await;
    world.config("a", "1").await;
    let label = async |value: serde_json::Value| {
        world.merge("configmaps", "default", "a", json!({"metadata": {"labels": {"on": value}}})).await.expect("patched")
    };
    label(json!("yes")).await;
    world.merge("configmaps", "default", "a", json!({"data": {"value": "2"}})).await.expect("patched");
    let left = label(json!("no")).await;
    label(json!("yes")).await;
    world.delete("configmaps", "default", "a", &Default::default()).await.expect("deleted");
    assert_eq!(next(&mut stream).await, "ADDED a");
    assert_eq!(next(&mut stream).await, "MODIFIED a");
    let Some(Ok(WatchEvent::Deleted(object))) = stream.next().await else { panic!("left") };
    let value = object.value().expect("JSON");
    assert_eq!(
        (&value["metadata"]["labels"]["on"], &value["metadata"]["resourceVersion"]),
        (&json!("yes"), &json!(left.revision().to_string()))
    );
    assert_eq!(next(&mut stream).await, "ADDED a");
    assert_eq!(next(&mut stream).await, "DELETED a");
}

#[tokio::test]
async fn a_machine_sees_the_pods_that_are_bound_to_it() {
    let world = World::new().await;
    let options = WatchOptions { field_selector: "spec.nodeName=n1".to_owned(), ..from(world.registry.revision()) };
    let mut stream = world.watch("pods", &options).await;
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        world.create("pods", pod(name)).await.expect("created");
        let target = world.target("pods", "default", name).subresource("binding");
        let binding = pintle_registry::Body::Value(json!({"target": {"kind": "Node", "name": node}}));
        world.registry.create(&world.caller, &target, binding, &Default::default()).await.expect("bound");
    }
    assert_eq!(next(&mut stream).await, "ADDED a");
    assert_eq!(next(&mut stream).await, "ADDED c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_events_of_5000_objects_end_with_a_bookmark() {
    let world = World::new().await;
    for batch in 0..50 {
        let creates = (0..100).map(|at| world.create("configmaps", config_map(&format!("cm-{batch:02}-{at:02}"), "1")));
        for outcome in futures::future::join_all(creates).await {
            outcome.expect("created");
        }
    }
    let mut stream = world.watch("configmaps", &with_initial_events()).await;
    let mut seen = HashSet::new();
    loop {
        match stream.next().await.expect("not ended").expect("no error") {
            WatchEvent::Added(object) => assert!(seen.insert(object.meta().name.clone())),
            WatchEvent::Bookmark { revision, initial_events_end: true } => {
                assert_eq!(revision, world.registry.revision());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen.len(), 5000);
    world.config("later", "1").await;
    assert_eq!(next(&mut stream).await, "ADDED later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_falls_between_the_initial_events_and_the_live_ones() {
    let world = World::new().await;
    let write = async {
        for at in 0..300 {
            world.config(&format!("cm-{at:03}"), "1").await;
        }
    };
    let observe = async {
        let mut watched = 0;
        for _ in 0..20 {
            let mut stream = world.watch("configmaps", &with_initial_events()).await;
            let mut seen = HashSet::new();
            while seen.len() < 300 {
                match stream.next().await.expect("not ended").expect("no error") {
                    WatchEvent::Added(object) => assert!(seen.insert(object.meta().name.clone()), "{object:?} twice"),
                    WatchEvent::Bookmark { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            watched += 1;
        }
        watched
    };
    let ((), watched) = tokio::join!(write, observe);
    assert_eq!(watched, 20);
}

#[tokio::test]
async fn a_slow_watcher_is_told_not_skipped() {
    let world = World::with(RegistryConfig { watch_buffer_events_max: 10, ..RegistryConfig::default() }).await;
    let mut stream = world.watch("configmaps", &from(world.registry.revision())).await;
    for at in 0..11 {
        world.config(&format!("cm-{at}"), "1").await;
    }
    assert_eq!(next(&mut stream).await, "ERROR 410");
    assert_eq!(next(&mut stream).await, "END");
}

#[tokio::test]
async fn a_version_older_than_history_is_expired() {
    use pintle_store::Store as _;
    let world = World::new().await;
    let old = world.config("a", "1").await.revision();
    world.config("b", "1").await;
    let world = world.restart(RegistryConfig::default()).await;
    world.store.compact(world.registry.revision()).await.expect("compacted");
    let mut stream = world.watch("configmaps", &from(old)).await;
    assert_eq!(next(&mut stream).await, "ERROR 410");
    assert_eq!(next(&mut stream).await, "END");
}

#[tokio::test]
async fn watch_options_that_contradict_each_other_are_refused() {
    let world = World::new().await;
    let send = WatchOptions { initial_events: Some(InitialEvents::Send), ..WatchOptions::default() };
    let target = world.target("configmaps", "", "");
    let start = async |options: WatchOptions| world.registry.watch(&target, &options).await.map(|_| ());
    assert_eq!(code(start(send.clone()).await), 422);
    let matched = WatchOptions { version_match: Some(VersionMatch::NotOlderThan), ..send };
    assert_eq!(code(start(matched.clone()).await), 422);
    start(WatchOptions { bookmarks: Bookmarks::Yes, ..matched }).await.expect("allowed");
    assert_eq!(code(start(WatchOptions { version_match: Some(VersionMatch::Exact), ..WatchOptions::default() }).await), 422);
    assert_eq!(code(start(from("x")).await), 400);
}

#[tokio::test]
async fn an_idle_watch_gets_bookmarks() {
    let world = World::with(RegistryConfig { bookmark_period_seconds: 1, ..RegistryConfig::default() }).await;
    let mut stream = world.watch("configmaps", &from(world.registry.revision())).await;
    world.create("pods", pod("p")).await.expect("created");
    let event = stream.next().await;
    let Some(Ok(WatchEvent::Bookmark { revision, initial_events_end: false })) = event else { panic!("{event:?}") };
    assert_eq!(revision, world.registry.revision());
}

#[tokio::test]
async fn a_subscription_gets_every_change_of_its_resources_in_order() {
    let world = World::new().await;
    let mut all = world.registry.subscribe(SubscriptionFilter::All);
    let mut some = world.registry.subscribe(SubscriptionFilter::Resources(vec![ResourceKey::new("", "pods")]));
    world.config("a", "1").await;
    world.create("pods", pod("p")).await.expect("created");
    world.delete("configmaps", "default", "a", &Default::default()).await.expect("deleted");
    let mut seen = Vec::new();
    while let Some(Feed::Event(event)) = all.try_next() {
        seen.push((event.kind, event.object.meta().name.to_string(), event.revision));
    }
    assert_eq!(seen.len(), 3);
    assert!(seen.is_sorted_by_key(|(_, _, revision)| *revision));
    assert!(matches!(some.next().await, Some(Feed::Event(event)) if *event.object.meta().name == *"p"));
    assert!(some.try_next().is_none());
}

#[tokio::test]
async fn a_subscription_that_lags_is_told_and_goes_on() {
    let world = World::with(RegistryConfig { subscription_buffer_events_max: 3, ..RegistryConfig::default() }).await;
    let mut feed = world.registry.subscribe(SubscriptionFilter::All);
    for at in 0..5 {
        world.config(&format!("cm-{at}"), "1").await;
    }
    assert!(matches!(feed.next().await, Some(Feed::Lagged)));
    world.config("later", "1").await;
    assert!(matches!(feed.next().await, Some(Feed::Event(event)) if *event.object.meta().name == *"later"));
}
