//! Custom resources from the definition to the end of its objects.

use std::time::Duration;

use pintle_registry::{Caller, DeleteOptions, ListOptions, Missing, Patch, RegistryConfig, WatchOptions, WriteOptions};
use serde_json::{Value, json};

use crate::world::{World, code, names, next};

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const WIDGETS: &str = "v1/widgets.example.com";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0}, "color": {"type": "string"}, "selector": {"type": "string"}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}, "selector": {"type": "string"}}},
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
        })
    };
    json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version("v1", true), version("v2", false)]},
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// Wait until the stored definition is as `is` wants it.
async fn until(world: &World, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        if let Ok(found) = world.get(DEFINITIONS, "", name).await
            && is(&found)
        {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} never was {what}: {:?}", world.get(DEFINITIONS, "", name).await)
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let conditions = definition["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn established(definition: &Value) -> bool {
    condition(definition, "Established")["status"] == "True"
}

async fn with_widgets() -> World {
    let world = World::new().await;
    world.create(DEFINITIONS, definition()).await.expect("the definition");
    until(&world, "widgets.example.com", "established", established).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_and_says_so() {
    let world = with_widgets().await;
    let stored = world.get(DEFINITIONS, "", "widgets.example.com").await.expect("the definition");
    assert_eq!(condition(&stored, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(condition(&stored, "Established")["reason"], "InitialNamesAccepted");
    assert_eq!(stored["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        stored["status"]["acceptedNames"],
        json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"]})
    );
    let made = world.create(WIDGETS, widget("a", json!({"size": 1, "color": "red"}))).await.expect("a widget").value().expect("JSON");
    assert_eq!(
        (&made["apiVersion"], &made["kind"], &made["metadata"]["generation"]),
        (&json!("example.com/v1"), &json!("Widget"), &json!(1))
    );
    assert_eq!(code(world.create(WIDGETS, widget("b", json!({"size": -1}))).await), 422);
    assert_eq!(code(world.create(WIDGETS, widget("b", json!({"size": "x"}))).await), 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_scale_generation_and_selectable_fields_of_custom_objects() {
    let world = with_widgets().await;
    world.create(WIDGETS, widget("a", json!({"size": 1, "color": "red"}))).await.expect("a widget");
    world.create(WIDGETS, widget("b", json!({"size": 1, "color": "blue"}))).await.expect("a widget");
    let status =
        json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"size": 9}, "status": {"size": 1, "selector": "app=a"}});
    let after = world.update_part(WIDGETS, "status", &status).await.expect("status").value().expect("JSON");
    assert_eq!((&after["spec"]["size"], &after["status"]["size"], &after["metadata"]["generation"]), (&json!(1), &json!(1), &json!(1)));
    let after = world
        .merge(WIDGETS, "default", "a", json!({"spec": {"size": 2}, "status": {"size": 7}}))
        .await
        .expect("merged")
        .value()
        .expect("JSON");
    assert_eq!((&after["spec"]["size"], &after["status"]["size"], &after["metadata"]["generation"]), (&json!(2), &json!(1), &json!(2)));
    let scale = world.registry.get(&world.target(WIDGETS, "default", "a").subresource("scale"), &Default::default()).await.expect("scale");
    let scale = scale.value().expect("JSON");
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]),
        (&json!("Scale"), &json!(2), &json!({"replicas": 1, "selector": "app=a"}))
    );
    let scaled = world
        .update_part(WIDGETS, "scale", &json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": 5}}))
        .await
        .expect("scaled");
    assert_eq!(scaled.value().expect("JSON")["spec"]["replicas"], 5);
    assert_eq!(world.get(WIDGETS, "default", "a").await.expect("a")["spec"]["size"], 5);
    let red = ListOptions { field_selector: "spec.color=red".into(), ..ListOptions::default() };
    assert_eq!(names(&world.list(WIDGETS, "default", &red).await.expect("a list")), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_show_the_same_objects_and_the_storage_version_may_change() {
    let world = with_widgets().await;
    const SECOND: &str = "v2/widgets.example.com";
    let made = world.create(SECOND, widget("a", json!({"size": 1}))).await.expect("a widget").value().expect("JSON");
    assert_eq!(made["apiVersion"], "example.com/v2");
    assert_eq!(world.get(WIDGETS, "default", "a").await.expect("a")["apiVersion"], "example.com/v1");
    let mut stream = world.watch(SECOND, &WatchOptions::default()).await;
    assert!(next(&mut stream).await.contains('a'));
    let mut changed = world.get(DEFINITIONS, "", "widgets.example.com").await.expect("the definition");
    changed["spec"]["versions"][0]["storage"] = json!(false);
    changed["spec"]["versions"][1]["storage"] = json!(true);
    changed["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["default"] = json!("green");
    world.update(DEFINITIONS, &changed).await.expect("changed");
    until(&world, "widgets.example.com", "stored as v2", |found| found["status"]["storedVersions"] == json!(["v1", "v2"])).await;
    // What was stored before the default came has it when it is read.
    let now = world.get(SECOND, "default", "a").await.expect("a");
    assert_eq!((&now["apiVersion"], &now["spec"]["color"]), (&json!("example.com/v2"), &json!("green")));
    world.merge(WIDGETS, "default", "a", json!({"spec": {"size": 4}})).await.expect("patched through the other version");
    assert_eq!(world.get(SECOND, "default", "a").await.expect("a")["spec"]["size"], 4);
    let world = world.restart(RegistryConfig::default()).await;
    assert_eq!(world.get(WIDGETS, "default", "a").await.expect("a")["spec"]["size"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_others_have_are_not_accepted_until_they_go() {
    let world = with_widgets().await;
    let mut other = definition();
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Widget"});
    world.create(DEFINITIONS, other).await.expect("the definition");
    let told =
        until(&world, "gadgets.example.com", "told of the conflict", |found| condition(found, "NamesAccepted")["status"] == "False").await;
    assert_eq!(condition(&told, "NamesAccepted")["reason"], "ListKindConflict");
    assert_eq!(condition(&told, "NamesAccepted")["message"], "\"WidgetList\" is already in use");
    assert_eq!(condition(&told, "Established")["reason"], "NotAccepted");
    assert!(world.registry.resource("example.com", "v1", "gadgets").is_none());
    world.delete(DEFINITIONS, "", "widgets.example.com", &DeleteOptions::default()).await.expect("deleted");
    until(&world, "gadgets.example.com", "established", established).await;
    assert!(world.registry.resource("example.com", "v1", "gadgets").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_definition_takes_its_objects_with_it_and_waits_for_them() {
    let world = with_widgets().await;
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    world.create(WIDGETS, held).await.expect("a widget");
    world.create(WIDGETS, widget("free", json!({}))).await.expect("a widget");
    let deleted = world.delete(DEFINITIONS, "", "widgets.example.com", &DeleteOptions::default()).await.expect("deleted");
    assert!(!deleted.gone);
    assert_eq!(&*deleted.object.meta().finalizers[0], "customresourcecleanup.apiextensions.k8s.io");
    until(&world, "widgets.example.com", "terminating", |found| condition(found, "Terminating")["reason"] == "InstanceDeletionInProgress")
        .await;
    while world.get(WIDGETS, "default", "free").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.get(WIDGETS, "default", "held").await.is_ok());
    world.merge(WIDGETS, "default", "held", json!({"metadata": {"finalizers": null}})).await.expect("released");
    while world.get(DEFINITIONS, "", "widgets.example.com").await.is_ok()
        || world.registry.resource("example.com", "v1", "widgets").is_some()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The same name again starts without the objects of before.
    world.create(DEFINITIONS, definition()).await.expect("the definition");
    until(&world, "widgets.example.com", "established", established).await;
    assert!(world.list(WIDGETS, "", &ListOptions::default()).await.expect("a list").items.is_empty());
    assert_eq!(world.caller, Caller::kernel());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_applied_by_the_keys_of_their_schema() {
    let world = World::new().await;
    let mut definition = definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["parts"] = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}},
    });
    world.create(DEFINITIONS, definition).await.expect("the definition");
    until(&world, "widgets.example.com", "established", established).await;
    let apply = async |manager: &str, parts: Value| {
        let config = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"parts": parts}});
        let target = world.target("widgets.example.com", "default", "a");
        let options = WriteOptions { field_manager: manager.to_owned(), missing: Missing::Create, ..WriteOptions::default() };
        world.registry.patch(&world.caller, &target, Patch::Apply(config.to_string().into()), &options).await
    };
    apply("a", json!([{"name": "x", "count": 1}])).await.expect("made");
    let both = apply("b", json!([{"name": "y", "count": 2}])).await.expect("another element").object.value().expect("JSON");
    assert_eq!(both["spec"]["parts"], json!([{"name": "x", "count": 1}, {"name": "y", "count": 2}]));
    let err = apply("b", json!([{"name": "x", "count": 3}, {"name": "y", "count": 2}])).await.expect_err("a conflict");
    assert_eq!(err.message, "Apply failed with 1 conflict: conflict with \"a\": .spec.parts[name=\"x\"].count");
    let left = apply("a", json!([])).await.expect("lets go").object.value().expect("JSON");
    assert_eq!(left["spec"]["parts"], json!([{"name": "y", "count": 2}]));
}
