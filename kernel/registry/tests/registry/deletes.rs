//! Deletes, finalizers, grace periods, propagation.

use pintle_registry::{DeleteOptions, ListOptions, Propagation};
use serde_json::json;

use crate::world::{World, code, config_map, deployment, names, pod};

fn now() -> DeleteOptions {
    DeleteOptions::default()
}

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
}

async fn bound_pod(world: &World, name: &str) {
    let mut object = pod(name);
    object["spec"]["nodeName"] = json!("n1");
    world.create("pods", object).await.expect("created");
}

#[tokio::test]
async fn a_delete_without_anything_to_wait_for_removes() {
    let world = World::new().await;
    let last = world.config("a", "1").await;
    let deleted = world.delete("configmaps", "default", "a", &now()).await.expect("deleted");
    assert!(deleted.gone);
    assert_eq!(deleted.object.meta().uid, last.meta().uid);
    assert!(deleted.object.revision() > last.revision());
    assert_eq!(code(world.get("configmaps", "default", "a").await), 404);
    assert_eq!(code(world.delete("configmaps", "default", "a", &now()).await), 404);
}

#[tokio::test]
async fn delete_with_finalizer_only_sets_the_deletion_timestamp() {
    let world = World::new().await;
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    world.create("configmaps", object).await.expect("created");
    let deleted = world.delete("configmaps", "default", "a", &now()).await.expect("marked");
    assert!(!deleted.gone);
    assert!(deleted.object.meta().deletion_timestamp.is_some());
    let again = world.delete("configmaps", "default", "a", &now()).await.expect("waits");
    assert_eq!(again.object.revision(), deleted.object.revision());
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    assert_eq!(code(world.merge("configmaps", "default", "a", more).await), 422);
    world.merge("configmaps", "default", "a", json!({"metadata": {"finalizers": null}})).await.expect("the last write");
    assert_eq!(code(world.get("configmaps", "default", "a").await), 404);
}

#[tokio::test]
async fn a_bound_pod_gets_its_grace_period_and_the_period_only_shrinks() {
    let world = World::new().await;
    bound_pod(&world, "a").await;
    let first = world.delete("pods", "default", "a", &now()).await.expect("marked");
    assert!(!first.gone);
    assert_eq!(first.object.meta().deletion_grace_period_seconds, Some(30));
    assert_eq!(first.object.meta().generation, 2);
    let longer = world.delete("pods", "default", "a", &grace(60)).await.expect("no change");
    assert_eq!(longer.object.revision(), first.object.revision());
    let shorter = world.delete("pods", "default", "a", &grace(5)).await.expect("shrinks");
    assert_eq!(shorter.object.meta().deletion_grace_period_seconds, Some(5));
    let time = |text: &Option<Box<str>>| text.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time").as_second();
    assert_eq!(time(&first.object.meta().deletion_timestamp) - time(&shorter.object.meta().deletion_timestamp), 25);
    assert!(world.delete("pods", "default", "a", &grace(0)).await.expect("gone").gone);
    assert_eq!(code(world.get("pods", "default", "a").await), 404);
}

#[tokio::test]
async fn a_pod_that_runs_nowhere_goes_at_once() {
    let world = World::new().await;
    world.create("pods", pod("a")).await.expect("created");
    assert!(world.delete("pods", "default", "a", &now()).await.expect("gone").gone);
}

#[tokio::test]
async fn a_stopping_pod_without_finalizers_is_not_removed_by_an_update() {
    let world = World::new().await;
    bound_pod(&world, "a").await;
    world.delete("pods", "default", "a", &now()).await.expect("marked");
    world.merge("pods", "default", "a", json!({"metadata": {"annotations": {"x": "y"}}})).await.expect("patched");
    world.get("pods", "default", "a").await.expect("still there");
}

#[tokio::test]
async fn propagation_sets_the_collectors_finalizer() {
    let world = World::new().await;
    for (name, propagation, finalizer) in [("f", Propagation::Foreground, "foregroundDeletion"), ("o", Propagation::Orphan, "orphan")] {
        world.create("deployments.apps", deployment(name)).await.expect("created");
        let options = DeleteOptions { propagation: Some(propagation), ..now() };
        let deleted = world.delete("deployments.apps", "default", name, &options).await.expect("marked");
        assert!(!deleted.gone);
        assert_eq!(deleted.object.meta().finalizers.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), [finalizer]);
    }
    world.create("deployments.apps", deployment("b")).await.expect("created");
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..now() };
    assert!(world.delete("deployments.apps", "default", "b", &options).await.expect("gone").gone);
}

#[tokio::test]
async fn preconditions_are_held() {
    let world = World::new().await;
    let object = world.config("a", "1").await;
    let uid = DeleteOptions { precondition_uid: Some("other".to_owned()), ..now() };
    assert_eq!(code(world.delete("configmaps", "default", "a", &uid).await), 409);
    let revision = DeleteOptions { precondition_resource_version: Some("1".to_owned()), ..now() };
    assert_eq!(code(world.delete("configmaps", "default", "a", &revision).await), 409);
    let right = DeleteOptions {
        precondition_uid: Some(object.meta().uid.to_string()),
        precondition_resource_version: Some(object.revision().to_string()),
        ..now()
    };
    assert!(world.delete("configmaps", "default", "a", &right).await.expect("gone").gone);
}

#[tokio::test]
async fn a_namespace_terminates_until_it_is_finalized() {
    let world = World::new().await;
    let made =
        world.create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).await.expect("created");
    let value = made.value().expect("JSON");
    assert_eq!((&value["status"]["phase"], &value["spec"]["finalizers"]), (&json!("Active"), &json!(["kubernetes"])));
    let patched = world.merge("namespaces", "", "a", json!({"spec": {"finalizers": []}})).await.expect("kept");
    assert_eq!(patched.value().expect("JSON")["spec"]["finalizers"], json!(["kubernetes"]));
    let deleted = world.delete("namespaces", "", "a", &now()).await.expect("marked");
    assert!(!deleted.gone);
    let mut value = deleted.object.value().expect("JSON");
    assert_eq!(value["status"]["phase"], "Terminating");
    assert_eq!(code(world.delete("namespaces", "", "a", &now()).await), 409);
    value["spec"]["finalizers"] = json!([]);
    world.update_part("namespaces", "finalize", &value).await.expect("finalized");
    assert_eq!(code(world.get("namespaces", "", "a").await), 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let world = World::new().await;
    for at in 0..40 {
        let mut object = config_map(&format!("cm-{at:02}"), "1");
        object["metadata"]["labels"] = json!({"half": if at % 2 == 0 { "even" } else { "odd" }});
        world.create("configmaps", object).await.expect("created");
    }
    let select = ListOptions { label_selector: "half=even".to_owned(), ..ListOptions::default() };
    let target = world.target("configmaps", "default", "");
    let page = world.registry.delete_collection(&world.caller, &target, &now(), &select).await.expect("deleted");
    assert_eq!(page.items.len(), 20);
    let left = world.list("configmaps", "default", &ListOptions::default()).await.expect("listed");
    assert_eq!(left.items.len(), 20);
    assert!(names(&left).iter().all(|name| name.ends_with(['1', '3', '5', '7', '9'])));
}
