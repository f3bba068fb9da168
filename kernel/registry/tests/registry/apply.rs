//! Who owns what, as it is stored: every kind of write notes its manager, and an apply goes by it.

use std::sync::Arc;

use pintle_registry::{Body, Caller, DryRun, Force, Missing, Object, Patch, WriteOptions, Written};
use serde_json::{Value, json};

use crate::world::{Outcome, World, bytes, code, config_map, deployment};

/// The owners of an object: `manager[/subresource] field field`, the fields as the last parts of their paths.
fn owners(object: &Object) -> Vec<String> {
    fn fields(set: &Value, found: &mut Vec<String>) {
        for (part, below) in set.as_object().into_iter().flatten() {
            match below.as_object().is_some_and(serde_json::Map::is_empty) {
                true if part == "." => {}
                true => found.push(part.split_once(':').map_or(part.as_str(), |(_, name)| name).to_owned()),
                false => fields(below, found),
            }
        }
    }
    let value = object.value().expect("JSON");
    let entries = value["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = |entry: &Value| {
        let subresource = entry["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let mut words = vec![format!("{}{subresource}", entry["manager"].as_str().expect("a manager"))];
        fields(&entry["fieldsV1"], &mut words);
        words.join(" ")
    };
    let mut owners: Vec<String> = entries.iter().map(entry).collect();
    owners.sort();
    owners
}

fn by(manager: &str) -> WriteOptions {
    WriteOptions { field_manager: manager.to_owned(), missing: Missing::Create, ..WriteOptions::default() }
}

async fn apply(world: &World, kind: &str, subresource: &str, options: &WriteOptions, config: Value) -> Outcome<Written> {
    let name = config["metadata"]["name"].as_str().expect("a name").to_owned();
    let target = world.target(kind, "default", &name).subresource(subresource);
    world.registry.patch(&world.caller, &target, Patch::Apply(bytes(&config)), options).await
}

fn settings(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[tokio::test]
async fn every_write_notes_its_manager() {
    let world = World::new().await;
    world.create_with("deployments.apps", deployment("a"), &by("creator")).await.expect("created");
    let target = world.target("deployments.apps", "default", "a");
    let patch = Patch::Strategic(bytes(&json!({"spec": {"paused": true}})));
    world.registry.patch(&world.caller, &target, patch, &by("patcher")).await.expect("patched");
    let scale = Patch::Merge(bytes(&json!({"spec": {"replicas": 7}})));
    world.registry.patch(&world.caller, &target.subresource("scale"), scale, &by("scaler")).await.expect("scaled");
    let mut value = world.get("deployments.apps", "default", "a").await.expect("there");
    value["status"] = json!({"replicas": 2});
    let node = Caller::node("n1");
    let status = target.subresource("status");
    let written = world.registry.update(&node, &status, Body::Value(value), &WriteOptions::default()).await.expect("status");
    let owners = owners(&written.object);
    assert_eq!(owners[1..], ["kubelet/status replicas", "patcher paused", "scaler/scale replicas"]);
    let creator: Vec<&str> = owners[0].split(' ').collect();
    assert!(creator.starts_with(&["creator", "progressDeadlineSeconds"]) && !creator.contains(&"replicas"), "{creator:?}");
}

#[tokio::test]
async fn an_apply_makes_merges_conflicts_and_is_forced() {
    let world = World::new().await;
    let refuse = WriteOptions { missing: Missing::Refuse, ..by("a") };
    assert_eq!(code(apply(&world, "configmaps", "", &refuse, settings(json!({}))).await), 404);
    let dry = WriteOptions { dry_run: DryRun::All, ..by("a") };
    assert!(apply(&world, "configmaps", "", &dry, settings(json!({"k": "v"}))).await.expect("would be made").created);
    assert_eq!(code(world.get("configmaps", "default", "a").await), 404);
    let made = apply(&world, "configmaps", "", &by("a"), settings(json!({"k": "v"}))).await.expect("made");
    assert!(made.created);
    let again = apply(&world, "configmaps", "", &by("a"), settings(json!({"k": "v"}))).await.expect("again");
    assert_eq!((again.created, again.object.revision()), (false, made.object.revision()));
    let both = apply(&world, "configmaps", "", &by("b"), settings(json!({"l": "v"}))).await.expect("another key");
    assert_eq!(owners(&both.object), ["a k", "b l"]);
    let err = apply(&world, "configmaps", "", &by("b"), settings(json!({"k": "w"}))).await.expect_err("a conflict");
    assert_eq!((err.code, err.message.as_str()), (409, "Apply failed with 1 conflict: conflict with \"a\": .data.k"));
    let force = WriteOptions { force: Force::Yes, ..by("b") };
    let forced = apply(&world, "configmaps", "", &force, settings(json!({"k": "w"}))).await.expect("forced");
    assert_eq!((owners(&forced.object), &forced.object.value().expect("JSON")["data"]), (vec!["b k".to_owned()], &json!({"k": "w"})));
    // An object that another deletes in between is made anew by who may.
    world.delete("configmaps", "default", "a", &Default::default()).await.expect("deleted");
    assert_eq!(code(apply(&world, "configmaps", "status", &by("a"), settings(json!({}))).await), 404);
    let mut other = settings(json!({}));
    other["metadata"]["uid"] = json!("2f0b9b5c-0000-4000-8000-000000000000");
    assert_eq!(code(apply(&world, "configmaps", "", &by("a"), other).await), 409);
}

#[tokio::test]
async fn replicas_are_owned_by_who_applies_the_scale() {
    let world = World::new().await;
    let mut config = deployment("a");
    apply(&world, "deployments.apps", "", &by("a"), config.clone()).await.expect("made");
    let scale =
        |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": replicas}});
    let err = apply(&world, "deployments.apps", "scale", &by("s"), scale(9)).await.expect_err("a conflict");
    assert_eq!(err.message, "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
    let force = WriteOptions { force: Force::Yes, ..by("s") };
    let scaled = apply(&world, "deployments.apps", "scale", &force, scale(9)).await.expect("forced");
    assert_eq!(scaled.object.value().expect("JSON")["spec"]["replicas"], 9);
    let err = apply(&world, "deployments.apps", "", &by("a"), config.clone()).await.expect_err("a conflict");
    assert_eq!(err.message, "Apply failed with 1 conflict: conflict with \"s\" with subresource \"scale\": .spec.replicas");
    config["spec"].as_object_mut().expect("a spec").remove("replicas");
    let left = apply(&world, "deployments.apps", "", &by("a"), config).await.expect("lets go").object;
    assert_eq!((&left.value().expect("JSON")["spec"]["replicas"], left.meta().generation), (&json!(9), 2));
}

#[tokio::test]
async fn a_second_face_is_applied_in_its_own_words() {
    let world = World::new().await;
    let config = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "targetCPUUtilizationPercentage": 60},
    });
    let target = world.registry.resolve("autoscaling", "v1", "horizontalpodautoscalers", "", "default", "a").expect("served");
    let written = world.registry.patch(&world.caller, &target, Patch::Apply(bytes(&config)), &by("a")).await.expect("made");
    let value = written.object.value().expect("JSON");
    assert_eq!((&value["apiVersion"], &value["spec"]["targetCPUUtilizationPercentage"]), (&json!("autoscaling/v1"), &json!(60)));
}

#[tokio::test]
async fn an_update_makes_what_its_kind_allows() {
    let world = World::new().await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a", "namespace": "default"}});
    let target = world.target("leases.coordination.k8s.io", "default", "a");
    let refuse = world.registry.update(&world.caller, &target, Body::Value(lease.clone()), &WriteOptions::default()).await;
    assert_eq!(code(refuse), 404);
    assert!(world.registry.update(&world.caller, &target, Body::Value(lease), &by("a")).await.expect("made").created);
    let target = world.target("configmaps", "default", "a");
    assert_eq!(code(world.registry.update(&world.caller, &target, Body::Value(config_map("a", "1")), &by("a")).await), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_updaters_of_one_object_lose_nothing() {
    const WRITERS: usize = 50;
    let world = Arc::new(World::new().await);
    world.config("a", "0").await;
    let writers = (0..WRITERS).map(|at| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            // As clients do: read, change, write, and again on a conflict.
            loop {
                let mut value = world.get("configmaps", "default", "a").await.expect("there");
                value["data"][format!("updated-{at}")] = json!("x");
                match world.update("configmaps", &value).await {
                    Ok(_) => break,
                    Err(err) => assert_eq!(err.code, 409),
                }
            }
            let config = settings(json!({format!("applied-{at}"): "x"}));
            while let Err(err) = apply(&world, "configmaps", "", &by(&format!("m{at}")), config.clone()).await {
                assert_eq!(err.code, 409);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    let value = world.get("configmaps", "default", "a").await.expect("there");
    assert_eq!(value["data"].as_object().map(serde_json::Map::len), Some(2 * WRITERS + 1));
    let appliers =
        value["metadata"]["managedFields"].as_array().expect("entries").iter().filter(|entry| entry["operation"] == "Apply").count();
    assert_eq!(appliers, WRITERS);
}
