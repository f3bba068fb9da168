//! Gets, lists, selectors, chunks, indexes, projections.

use pintle_registry::{GetOptions, Index, ListOptions, ResourceKey, VersionMatch, project};
use serde_json::json;

use crate::world::{World, code, config_map, names, pod};

async fn filled(count: usize) -> World {
    let world = World::new().await;
    for at in 0..count {
        let mut object = config_map(&format!("cm-{at:03}"), "1");
        object["metadata"]["labels"] = json!({"third": (at % 3).to_string()});
        world.create("configmaps", object).await.expect("created");
    }
    world
}

fn chunk(limit: usize, continue_token: &str) -> ListOptions {
    ListOptions { limit, continue_token: continue_token.to_owned(), ..ListOptions::default() }
}

#[tokio::test]
async fn a_chunked_list_is_one_snapshot_across_writes() {
    let world = filled(25).await;
    let first = world.list("configmaps", "default", &chunk(10, "")).await.expect("first");
    assert_eq!((first.items.len(), first.remaining), (10, Some(15)));
    world.config("cm-005x", "new").await;
    world.config("cm-015x", "new").await;
    world.merge("configmaps", "default", "cm-012", json!({"data": {"value": "2"}})).await.expect("patched");
    world.delete("configmaps", "default", "cm-020", &Default::default()).await.expect("deleted");
    let second = world.list("configmaps", "default", &chunk(10, &first.continue_token)).await.expect("second");
    assert_eq!((second.items.len(), second.remaining, second.revision), (10, Some(5), first.revision));
    let old = second.items[2].value().expect("JSON");
    assert_eq!((&old["metadata"]["name"], &old["data"]["value"]), (&json!("cm-012"), &json!("1")));
    let third = world.list("configmaps", "default", &chunk(10, &second.continue_token)).await.expect("third");
    assert_eq!((third.items.len(), third.remaining, third.continue_token.as_str()), (5, None, ""));
    let all: Vec<String> = [&first, &second, &third].into_iter().flat_map(names).collect();
    assert_eq!(all, (0..25).map(|at| format!("cm-{at:03}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_expired_token_comes_with_one_that_goes_on_inconsistently() {
    use pintle_store::Store as _;
    let world = filled(6).await;
    let first = world.list("configmaps", "default", &chunk(4, "")).await.expect("first");
    world.config("cm-9", "1").await;
    world.store.compact(world.registry.revision()).await.expect("compacted");
    let err = world.list("configmaps", "default", &chunk(4, &first.continue_token)).await.expect_err("expired");
    assert_eq!(err.code, 410);
    let rest = world.list("configmaps", "default", &chunk(4, &err.continue_token.expect("a token"))).await.expect("goes on");
    assert_eq!(names(&rest), ["cm-004", "cm-005", "cm-9"]);
}

#[tokio::test]
async fn selectors_choose_by_label_and_by_field() {
    let world = filled(9).await;
    let by_label = ListOptions { label_selector: "third=1".to_owned(), ..ListOptions::default() };
    assert_eq!(names(&world.list("configmaps", "", &by_label).await.expect("listed")), ["cm-001", "cm-004", "cm-007"]);
    let chunked = ListOptions { limit: 2, ..by_label };
    let page = world.list("configmaps", "default", &chunked).await.expect("listed");
    assert_eq!((names(&page).len(), page.remaining), (2, None));
    let by_name = ListOptions { field_selector: "metadata.name=cm-002".to_owned(), ..ListOptions::default() };
    assert_eq!(names(&world.list("configmaps", "default", &by_name).await.expect("listed")), ["cm-002"]);
    let unknown = ListOptions { field_selector: "spec.none=1".to_owned(), ..ListOptions::default() };
    assert_eq!(code(world.list("configmaps", "default", &unknown).await), 400);
    let mut object = pod("a");
    object["spec"]["nodeName"] = json!("n1");
    world.create("pods", object).await.expect("created");
    world.create("pods", pod("b")).await.expect("created");
    for (selector, expected) in
        [("spec.nodeName=n1", "a"), ("spec.nodeName=", "b"), ("spec.nodeName!=n1", "b"), ("status.phase=Pending,metadata.name=a", "a")]
    {
        let options = ListOptions { field_selector: selector.to_owned(), ..ListOptions::default() };
        assert_eq!(names(&world.list("pods", "", &options).await.expect("listed")), [expected], "{selector}");
    }
}

#[tokio::test]
async fn resource_versions_of_reads_mean_what_upstream_says() {
    let world = filled(3).await;
    let old = world.registry.revision();
    world.config("later", "1").await;
    let at = |resource_version: &str, version_match| ListOptions {
        resource_version: resource_version.to_owned(),
        version_match,
        ..ListOptions::default()
    };
    let list = async |options: ListOptions| world.list("configmaps", "default", &options).await;
    assert_eq!(list(at(&old.to_string(), Some(VersionMatch::Exact))).await.expect("exact").items.len(), 3);
    assert_eq!(list(at(&old.to_string(), Some(VersionMatch::NotOlderThan))).await.expect("newest").items.len(), 4);
    assert_eq!(list(at(&old.to_string(), None)).await.expect("newest").items.len(), 4);
    assert_eq!(list(at("0", None)).await.expect("any").items.len(), 4);
    assert_eq!(code(list(at("0", Some(VersionMatch::Exact))).await), 422);
    assert_eq!(code(list(at("", Some(VersionMatch::NotOlderThan))).await), 422);
    assert_eq!(code(list(at("abc", None)).await), 400);
}

#[tokio::test]
async fn a_version_that_is_not_there_yet_times_out() {
    let world = World::new().await;
    let options = ListOptions { resource_version: "1000000".to_owned(), ..ListOptions::default() };
    let get = GetOptions { resource_version: "1000000".to_owned() };
    let target = world.target("configmaps", "default", "a");
    let (listed, got) = tokio::join!(world.list("configmaps", "", &options), world.registry.get(&target, &get));
    let err = listed.expect_err("too new");
    assert_eq!(err.code, 504);
    assert_eq!(err.details.expect("details").causes[0].reason, "ResourceVersionTooLarge");
    assert_eq!(code(got), 504);
}

#[tokio::test]
async fn indexes_follow_every_change() {
    let world = World::new().await;
    let pods = ResourceKey::new("", "pods");
    let mut object = pod("a");
    object["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u-1", "controller": true}]);
    world.create("pods", object).await.expect("created");
    let mut config = config_map("c", "1");
    config["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u-1"}]);
    world.create("configmaps", config).await.expect("created");
    let under = |index: Index, value: &str| world.registry.list_index(&pods, &index, value).0.len();
    assert_eq!(world.registry.dependents("u-1").len(), 2);
    assert_eq!(under(Index::Owner, "u-1"), 1);
    assert_eq!(under(Index::Namespace, "default"), 1);
    assert_eq!(under(Index::Label("app".to_owned()), "web"), 1);
    assert_eq!(under(Index::Field("spec.nodeName".to_owned()), ""), 1);
    world.merge("pods", "default", "a", json!({"metadata": {"labels": {"app": "other"}, "ownerReferences": null}})).await.expect("patched");
    assert_eq!(under(Index::Label("app".to_owned()), "web"), 0);
    assert_eq!(under(Index::Label("app".to_owned()), "other"), 1);
    assert_eq!(world.registry.dependents("u-1").len(), 1);
    world.delete("pods", "default", "a", &Default::default()).await.expect("deleted");
    assert_eq!(under(Index::Label("app".to_owned()), "other"), 0);
    assert_eq!(under(Index::Field("spec.nodeName".to_owned()), ""), 0);
}

#[tokio::test]
async fn a_projection_of_a_stored_object_holds_the_named_fields() {
    let world = World::new().await;
    let object = world.create("pods", pod("a")).await.expect("created");
    let small = project(object.body(), &["/metadata/name", "/spec/containers"]).expect("projected");
    let value: serde_json::Value = serde_json::from_slice(&small).expect("JSON");
    assert_eq!(value["metadata"], json!({"name": "a"}));
    assert_eq!(value["spec"].as_object().map(serde_json::Map::len), Some(1));
}

#[tokio::test]
async fn a_second_face_shows_the_same_objects_in_its_own_words() {
    let world = World::new().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "hello", "reason": "R", "type": "Normal",
    });
    world.create("events", event).await.expect("created");
    let target = world.registry.resolve("events.k8s.io", "v1", "events", "", "default", "e").expect("served");
    let shown = world.registry.get(&target, &GetOptions::default()).await.expect("there").value().expect("JSON");
    assert_eq!(
        (&shown["apiVersion"], &shown["note"], &shown["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("hello"), &json!("p"))
    );
    let all = world.registry.resolve("events.k8s.io", "v1", "events", "", "default", "").expect("served");
    let options = ListOptions { field_selector: "regarding.kind=Pod".to_owned(), ..ListOptions::default() };
    assert_eq!(names(&world.registry.list(&all, &options).await.expect("listed")), ["e"]);
    let mut stream = world.registry.watch(&all, &pintle_registry::WatchOptions::default()).await.expect("watched");
    let patch = pintle_registry::Patch::Merge(crate::world::bytes(&json!({"note": "changed"})));
    world.registry.patch(&world.caller, &target, patch, &Default::default()).await.expect("patched");
    assert_eq!(world.get("events", "default", "e").await.expect("there")["message"], "changed");
    assert_eq!(crate::world::next(&mut stream).await, "ADDED e");
    let Some(Ok(pintle_registry::WatchEvent::Modified(object))) = stream.next().await else { panic!("an event") };
    assert_eq!(object.value().expect("JSON")["note"], "changed");
}

#[tokio::test]
async fn an_autoscaler_written_in_the_old_version_keeps_what_that_cannot_say() {
    let world = World::new().await;
    let scaler = json!({
        "metadata": {"name": "h", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}},
            ],
        },
    });
    world.create("horizontalpodautoscalers.autoscaling", scaler).await.expect("created");
    let old = world.registry.resolve("autoscaling", "v1", "horizontalpodautoscalers", "", "default", "h").expect("served");
    let shown = world.registry.get(&old, &GetOptions::default()).await.expect("there").value().expect("JSON");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 70);
    let patch = pintle_registry::Patch::Merge(crate::world::bytes(&json!({"spec": {"targetCPUUtilizationPercentage": 80}})));
    world.registry.patch(&world.caller, &old, patch, &Default::default()).await.expect("patched");
    let metrics = world.get("horizontalpodautoscalers.autoscaling", "default", "h").await.expect("there")["spec"]["metrics"].clone();
    assert_eq!(metrics.as_array().map(Vec::len), Some(2));
    assert!(metrics.as_array().into_iter().flatten().any(|metric| metric["resource"]["target"]["averageUtilization"] == 80));
}
