//! Creates, updates and patches.

use std::sync::atomic::{AtomicUsize, Ordering};

use pintle_registry::{Body, DryRun, FieldValidation, Patch, RegistryConfig, WriteOptions};
use serde_json::json;

use crate::world::{World, bytes, code, config_map, deployment, pod};

#[tokio::test]
async fn a_create_answers_with_what_the_server_added() {
    let world = World::new().await;
    let object = world.create("pods", pod("a")).await.expect("created");
    let value = object.value().expect("JSON");
    assert_eq!(value["metadata"]["resourceVersion"], object.revision().to_string());
    assert_eq!(value["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert_eq!(value["metadata"]["generation"], 1);
    assert_eq!(value["spec"]["restartPolicy"], "Always");
    assert_eq!(value["status"]["phase"], "Pending");
    assert!(object.body().starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":""#));
    assert_eq!(world.get("pods", "default", "a").await.expect("there"), value);
}

#[tokio::test]
async fn a_second_create_of_a_name_is_refused() {
    let world = World::new().await;
    world.config("a", "1").await;
    let err = world.create("configmaps", config_map("a", "2")).await.expect_err("taken");
    assert_eq!((err.code, err.message.as_str()), (409, "configmaps \"a\" already exists"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creates_of_one_name_one_wins() {
    let world = World::new().await;
    let attempts = (0..32).map(|_| world.create("configmaps", config_map("a", "1")));
    let outcomes = futures::future::join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|err| err.code == 409));
}

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict() {
    let world = World::new().await;
    let mut value = world.config("a", "1").await.value().expect("JSON");
    value["data"]["value"] = json!("2");
    world.update("configmaps", &value).await.expect("updated");
    value["data"]["value"] = json!("3");
    let err = world.update("configmaps", &value).await.expect_err("stale");
    assert_eq!(err.code, 409);
    assert_eq!(
        err.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    value["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    world.update("configmaps", &value).await.expect("unconditional");
    assert_eq!(code(world.update("configmaps", &config_map("gone", "1")).await), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updaters_lose_nothing() {
    let world = World::new().await;
    world.config("a", "0").await;
    let add = async || {
        for _ in 0..20 {
            loop {
                let mut value = world.get("configmaps", "default", "a").await.expect("there");
                let count: u32 = value["data"]["value"].as_str().and_then(|text| text.parse().ok()).expect("a number");
                value["data"]["value"] = json!((count + 1).to_string());
                match world.update("configmaps", &value).await {
                    Ok(_) => break,
                    Err(err) => assert_eq!(err.code, 409),
                }
            }
        }
    };
    futures::future::join_all((0..8).map(|_| add())).await;
    assert_eq!(world.get("configmaps", "default", "a").await.expect("there")["data"]["value"], "160");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_patches_are_tried_again_until_each_is_in() {
    let world = World::new().await;
    world.create("deployments.apps", deployment("a")).await.expect("created");
    let target = world.target("deployments.apps", "default", "a");
    let patches = (0..24).map(|at| {
        let (world, target) = (&world, &target);
        async move {
            let patch = json!({"metadata": {"annotations": {format!("key-{at}"): "x"}}});
            world.registry.patch(&world.caller, target, Patch::Strategic(bytes(&patch)), &WriteOptions::default()).await
        }
    });
    for outcome in futures::future::join_all(patches).await {
        outcome.expect("patched");
    }
    let value = world.get("deployments.apps", "default", "a").await.expect("there");
    assert_eq!(value["metadata"]["annotations"].as_object().map(serde_json::Map::len), Some(24));
    assert_eq!(value["metadata"]["generation"], 1);
}

#[tokio::test]
async fn a_patch_that_names_an_old_version_is_a_conflict() {
    let world = World::new().await;
    let old = world.config("a", "1").await.revision();
    world.merge("configmaps", "default", "a", json!({"data": {"value": "2"}})).await.expect("patched");
    let patch = json!({"metadata": {"resourceVersion": old.to_string()}, "data": {"value": "3"}});
    assert_eq!(code(world.merge("configmaps", "default", "a", patch).await), 409);
    assert_eq!(code(world.merge("configmaps", "default", "gone", json!({})).await), 404);
}

#[tokio::test]
async fn all_patch_languages_work() {
    let world = World::new().await;
    world.create("pods", pod("a")).await.expect("created");
    let target = world.target("pods", "default", "a");
    let patch = async |patch: Patch| world.registry.patch(&world.caller, &target, patch, &WriteOptions::default()).await;
    let json_patch = json!([{"op": "add", "path": "/metadata/labels/x", "value": "1"}]);
    patch(Patch::Json(bytes(&json_patch))).await.expect("JSON patch");
    patch(Patch::Merge(bytes(&json!({"metadata": {"labels": {"y": "2", "app": null}}})))).await.expect("merge patch");
    let strategic = json!({"spec": {"containers": [{"name": "c", "image": "registry.example/web:2"}]}});
    let written = patch(Patch::Strategic(bytes(&strategic))).await.expect("strategic merge patch");
    let value = written.object.value().expect("JSON");
    assert_eq!(value["metadata"]["labels"], json!({"x": "1", "y": "2"}));
    assert_eq!(value["spec"]["containers"][0]["image"], "registry.example/web:2");
    assert_eq!(value["metadata"]["generation"], 2);
    assert_eq!(patch(Patch::Apply(bytes(&json!({})))).await.expect_err("no version").code, 400);
    assert_eq!(patch(Patch::Json(bytes(&json!([{"op": "remove", "path": "/no"}])))).await.expect_err("refused").code, 422);
    assert_eq!(patch(Patch::Merge(b"{".as_slice().into())).await.expect_err("refused").code, 400);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let world = World::new().await;
    let first = world.create("deployments.apps", deployment("a")).await.expect("created");
    let again = world.update("deployments.apps", &deployment("a")).await.expect("same");
    assert_eq!(first.revision(), again.revision());
    let patched = world.merge("deployments.apps", "default", "a", json!({"spec": {"replicas": 3}})).await.expect("same");
    assert_eq!(first.revision(), patched.revision());
    assert_eq!(world.registry.revision(), first.revision());
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec_only() {
    let world = World::new().await;
    world.create("deployments.apps", deployment("a")).await.expect("created");
    let labelled = world.merge("deployments.apps", "default", "a", json!({"metadata": {"labels": {"x": "y"}}})).await.expect("patched");
    assert_eq!(labelled.meta().generation, 1);
    let scaled = world.merge("deployments.apps", "default", "a", json!({"spec": {"replicas": 5}})).await.expect("patched");
    assert_eq!(scaled.meta().generation, 2);
    let mut value = scaled.value().expect("JSON");
    value["status"] = json!({"replicas": 5});
    let status = world.update_part("deployments.apps", "status", &value).await.expect("status");
    assert_eq!(status.meta().generation, 2);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let world = World::new().await;
    let before = world.config("a", "1").await.revision();
    let dry = WriteOptions { dry_run: DryRun::All, ..WriteOptions::default() };
    let made = world.create_with("pods", pod("b"), &dry).await.expect("would be created");
    assert!(made.object.value().expect("JSON")["metadata"].get("resourceVersion").is_none());
    assert_eq!(code(world.create_with("configmaps", config_map("a", "2"), &dry).await), 409);
    let target = world.target("configmaps", "default", "a");
    let changed = world.registry.update(&world.caller, &target, Body::Value(config_map("a", "2")), &dry).await.expect("would be updated");
    assert_eq!(changed.object.value().expect("JSON")["data"]["value"], "2");
    let patch = Patch::Merge(bytes(&json!({"data": {"value": "3"}})));
    world.registry.patch(&world.caller, &target, patch, &dry).await.expect("would be patched");
    let delete = pintle_registry::DeleteOptions { dry_run: DryRun::All, ..Default::default() };
    assert!(world.registry.delete(&world.caller, &target, &delete).await.expect("would be deleted").gone);
    assert_eq!(world.registry.revision(), before);
    assert_eq!(world.get("configmaps", "default", "a").await.expect("there")["data"]["value"], "1");
    assert_eq!(code(world.get("pods", "default", "b").await), 404);
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused_as_the_client_asks() {
    let world = World::new().await;
    let mut object = config_map("a", "1");
    object["dta"] = json!({});
    let with = |field_validation| WriteOptions { field_validation, dry_run: DryRun::All, ..WriteOptions::default() };
    let ignored = world.create_with("configmaps", object.clone(), &with(FieldValidation::Ignore)).await.expect("dropped");
    assert!(ignored.warnings.is_empty());
    assert!(ignored.object.value().expect("JSON").get("dta").is_none());
    let warned = world.create_with("configmaps", object.clone(), &with(FieldValidation::Warn)).await.expect("dropped");
    assert_eq!(warned.warnings, ["unknown field \"dta\""]);
    let err = world.create_with("configmaps", object, &with(FieldValidation::Strict)).await.expect_err("refused");
    assert_eq!(err.code, 400);
    assert!(err.message.contains("unknown field \"dta\""), "{}", err.message);
}

#[tokio::test]
async fn generated_names_are_tried_eight_times() {
    static DRAWN: AtomicUsize = AtomicUsize::new(0);
    fn suffix() -> String {
        let drawn = DRAWN.fetch_add(1, Ordering::SeqCst);
        ["aaaaa", "aaaaa", "aaaaa", "bbbbb"].get(drawn).unwrap_or(&"bbbbb").to_string()
    }
    let world = World::with(RegistryConfig { name_suffix: suffix, ..RegistryConfig::default() }).await;
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "cm-", "namespace": "default"}});
    let names = [
        world.create("configmaps", generated.clone()).await.expect("first").meta().name.to_string(),
        world.create("configmaps", generated.clone()).await.expect("third draw").meta().name.to_string(),
    ];
    assert_eq!(names, ["cm-aaaaa", "cm-bbbbb"]);
    let before = DRAWN.load(Ordering::SeqCst);
    let err = world.create("configmaps", generated).await.expect_err("no name is free");
    assert_eq!(DRAWN.load(Ordering::SeqCst) - before, 8);
    assert_eq!((err.code, err.details.map(|details| details.retry_after_seconds)), (409, Some(1)));
    let long = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x".repeat(70), "namespace": "default"}});
    let made = world.create("configmaps", long).await.expect("cut");
    assert_eq!(made.meta().name.len(), 63);
}

#[tokio::test]
async fn bad_requests_are_told_apart() {
    let world = World::new().await;
    assert_eq!(code(world.create("configmaps", json!({"metadata": {"namespace": "default"}})).await), 422);
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "default"}});
    assert_eq!(code(world.create("configmaps", other).await), 400);
    assert_eq!(
        code(world.create("configmaps", json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": "7"}})).await),
        400
    );
    let target = world.target("configmaps", "default", "");
    let mismatch = Body::Value(json!({"metadata": {"name": "a", "namespace": "other"}}));
    assert_eq!(code(world.registry.create(&world.caller, &target, mismatch, &WriteOptions::default()).await), 400);
    let broken = Body::Json(b"{\"a\":".as_slice().into());
    assert_eq!(code(world.registry.create(&world.caller, &target, broken, &WriteOptions::default()).await), 400);
    assert_eq!(code(world.registry.resolve("", "v1", "configmaps", "", "default", "a%2fb")), 400);
    assert_eq!(code(world.registry.resolve("", "v1", "nothings", "", "", "")), 404);
    assert_eq!(code(world.registry.resolve("", "v1", "nodes", "", "default", "n")), 404);
}

#[tokio::test]
async fn a_protobuf_body_makes_the_same_object() {
    let world = World::new().await;
    let target = world.target("pods", "default", "");
    let mut object = pod("a");
    object["spec"]["restartPolicy"] = json!("Never");
    let body = pintle_api::proto::encode_object(&world.registry.schema(), &target.resource, &object).expect("encoded");
    world.registry.create(&world.caller, &target, Body::Protobuf(body.into()), &WriteOptions::default()).await.expect("created");
    let value = world.get("pods", "default", "a").await.expect("there");
    assert_eq!((&value["spec"]["restartPolicy"], &value["metadata"]["labels"]["app"]), (&json!("Never"), &json!("web")));
    let broken = Body::Protobuf(b"k8s\0\xff".as_slice().into());
    assert_eq!(code(world.registry.create(&world.caller, &target, broken, &WriteOptions::default()).await), 400);
}
