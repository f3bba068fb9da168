//! Admission: who is asked, with what, and what an answer does.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pintle_registry::{Admission, AdmissionRequest, Body, Edit, EditOp, Failure, Operation, Phase, ResourceInfo, Verdict};
use serde_json::{Value, json};

use crate::world::{World, code, config_map, pod};

/// Judges ConfigMaps: labels those that come, refuses those that say so, and writes down what it was asked.
#[derive(Default)]
struct Judge {
    asked: Mutex<Vec<String>>,
}

impl Admission for Judge {
    fn wants(&self, resource: &ResourceInfo, _: &str, _: Operation, _: Phase) -> bool {
        matches!(resource.plural.as_ref(), "configmaps" | "pods")
    }

    fn mutate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            self.note("mutate", request);
            if request.operation == Operation::Delete || request.target.resource.plural == "pods" {
                return Verdict::allowed();
            }
            let edit = Edit { op: EditOp::Add, path: "/metadata/labels".to_owned(), value: json!({"judged": "yes"}) };
            Verdict { edits: vec![edit], warnings: vec!["labelled".to_owned()], ..Verdict::default() }
        })
    }

    fn validate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            self.note("validate", request);
            let value: Value = serde_json::from_slice(&request.object).unwrap_or_default();
            let old = request.old.as_ref().and_then(|old| old.value().ok()).unwrap_or_default();
            match (value["data"]["value"].as_str(), old["data"]["value"].as_str()) {
                (Some("bad"), _) => Verdict::forbidden("it is bad"),
                (Some("teapot"), _) => {
                    let failure = Failure { code: 418, reason: "Teapot".to_owned(), message: "short and stout".to_owned() };
                    Verdict { refused: Some(failure), ..Verdict::default() }
                }
                (None, Some("keep")) => Verdict::forbidden("it is kept"),
                _ => Verdict::allowed(),
            }
        })
    }
}

impl Judge {
    fn note(&self, phase: &str, request: &AdmissionRequest<'_>) {
        let place = [request.target.name.as_str(), request.target.subresource.as_str()].join("/");
        let kind = serde_json::from_slice::<Value>(&request.object).unwrap_or_default()["kind"].as_str().unwrap_or("nothing").to_owned();
        self.asked.lock().push(format!("{phase} {:?} {} {kind}", request.operation, place.trim_end_matches('/')));
    }
}

async fn judged() -> (World, Arc<Judge>) {
    let world = World::new().await;
    let judge = Arc::new(Judge::default());
    world.registry.set_admission(Arc::clone(&judge) as Arc<dyn Admission>);
    (world, judge)
}

#[tokio::test]
async fn edits_are_stored_and_both_phases_see_each_write() {
    let (world, judge) = judged().await;
    let written = world.create_with("configmaps", config_map("a", "1"), &Default::default()).await.expect("created");
    assert_eq!(written.object.meta().label("judged"), Some("yes"));
    assert_eq!(written.warnings, ["labelled"]);
    world.merge("configmaps", "default", "a", json!({"data": {"value": "2"}})).await.expect("patched");
    world.delete("configmaps", "default", "a", &Default::default()).await.expect("deleted");
    let expected = [
        "mutate Create a ConfigMap",
        "validate Create a ConfigMap",
        "mutate Update a ConfigMap",
        "validate Update a ConfigMap",
        "mutate Delete a nothing",
        "validate Delete a nothing",
    ];
    assert_eq!(*judge.asked.lock(), expected);
}

#[tokio::test]
async fn bindings_and_evictions_are_judged_as_what_they_create() {
    let (world, judge) = judged().await;
    world.create("pods", pod("a")).await.expect("created");
    judge.asked.lock().clear();
    for (subresource, body) in [("binding", json!({"target": {"name": "n1"}})), ("eviction", json!({}))] {
        let target = world.target("pods", "default", "a").subresource(subresource);
        world.registry.create(&world.caller, &target, Body::Value(body), &Default::default()).await.expect("done");
    }
    let expected = [
        "mutate Create a/binding Binding",
        "validate Create a/binding Binding",
        "mutate Create a/eviction Eviction",
        "validate Create a/eviction Eviction",
        "mutate Delete a nothing",
        "validate Delete a nothing",
    ];
    assert_eq!(*judge.asked.lock(), expected);
}

#[tokio::test]
async fn a_refusal_reaches_the_client_and_nothing_is_stored() {
    let (world, _) = judged().await;
    let err = world.create("configmaps", config_map("a", "bad")).await.expect_err("refused");
    assert_eq!((err.code, err.message.as_str()), (403, "configmaps \"a\" is forbidden: it is bad"));
    assert_eq!(code(world.create("configmaps", config_map("a", "teapot")).await), 418);
    assert_eq!(code(world.get("configmaps", "default", "a").await), 404);
    world.config("b", "keep").await;
    assert_eq!(code(world.delete("configmaps", "default", "b", &Default::default()).await), 403);
    world.get("configmaps", "default", "b").await.expect("still there");
}

#[tokio::test]
async fn kinds_that_nobody_judges_skip_it() {
    let (world, judge) = judged().await;
    world.create("secrets", json!({"metadata": {"name": "s", "namespace": "default"}})).await.expect("created");
    assert!(judge.asked.lock().is_empty());
}
