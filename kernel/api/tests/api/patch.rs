//! The patch languages, as before-and-after tables.

use pintle_api::Schema;
use pintle_api::patch::{PatchType, apply};
use serde_json::{Value, json};

#[track_caller]
fn check(kind: PatchType, path: &str, before: Value, patch: Value, after: Value) {
    let found =
        apply(Schema::builtin(), crate::resource(path), kind, patch.to_string().as_bytes(), &before).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found, after, "{patch}");
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn strategic_merge_patches_merge_lists_by_key() {
    use PatchType::Strategic;
    // What a patch adds comes before what it does not mention, unless it says otherwise: upstream's order.
    let two = || containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
    for (patch, after) in [
        (containers(json!([{"name": "b", "image": "3"}])), containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]))),
        (
            containers(json!([{"name": "c", "image": "3"}])),
            containers(json!([{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
        ),
        (containers(json!([{"name": "a", "$patch": "delete"}])), containers(json!([{"name": "b", "image": "2"}]))),
        (containers(json!([{"name": "z"}, {"$patch": "replace"}])), containers(json!([{"name": "z"}]))),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            containers(json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1"}])),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "9"}]}}),
            containers(json!([{"name": "c", "image": "9"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
        ),
        (json!({"spec": {"$patch": "replace", "nodeName": "n"}}), json!({"spec": {"nodeName": "n"}})),
        (json!({"spec": {"$patch": "delete"}}), json!({"spec": {}})),
        (json!({"spec": {"containers": null}}), json!({"spec": {}})),
        (
            json!({"spec": {"containers": null, "nodeName": null}, "metadata": {"labels": {"a": null, "b": "c"}}}),
            json!({"spec": {}, "metadata": {"labels": {"b": "c"}}}),
        ),
    ] {
        check(Strategic, "v1/pods", two(), patch, after);
    }
}

#[test]
fn strategic_merge_knows_the_directives_for_primitives_and_retained_keys() {
    use PatchType::Strategic;
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    check(Strategic, "v1/pods", finalizers(json!(["a/b", "c/d"])), finalizers(json!(["e/f"])), finalizers(json!(["e/f", "a/b", "c/d"])));
    check(
        Strategic,
        "v1/pods",
        finalizers(json!(["a/b", "c/d"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}}),
        finalizers(json!(["c/d"])),
    );
    check(
        Strategic,
        "apps/v1/deployments",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    // Lists without a merge strategy are replaced; service ports merge by port alone.
    check(
        Strategic,
        "v1/pods",
        json!({"spec": {"tolerations": [{"key": "a"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
    );
    check(
        Strategic,
        "v1/services",
        json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}}),
        json!({"spec": {"ports": [{"port": 53, "name": "dns"}]}}),
        json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "dns"}]}}),
    );
    // Deeper: environment variables of a container of a template.
    check(
        Strategic,
        "apps/v1/deployments",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}}}}),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}}}}),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}]}}}}),
    );
}

#[test]
fn merge_and_json_patches_follow_their_standards() {
    check(
        PatchType::Merge,
        "v1/configmaps",
        json!({"data": {"a": "b", "c": "d"}}),
        json!({"data": {"a": null, "e": "f"}}),
        json!({"data": {"c": "d", "e": "f"}}),
    );
    check(
        PatchType::Merge,
        "v1/pods",
        json!({"spec": {"x": [1, 2]}}),
        json!({"spec": {"x": [3], "y": {"z": null, "q": 1}}}),
        json!({"spec": {"x": [3], "y": {"q": 1}}}),
    );
    check(
        PatchType::Json,
        "v1/configmaps",
        json!({"data": {"a": "b"}}),
        json!([{"op": "test", "path": "/data/a", "value": "b"}, {"op": "add", "path": "/data/c", "value": "d"}]),
        json!({"data": {"a": "b", "c": "d"}}),
    );
}

#[test]
fn malformed_patches_are_refused() {
    let run = |kind, patch: &str| {
        let current = json!({"spec": {"containers": [{"name": "a"}]}});
        apply(Schema::builtin(), crate::resource("v1/pods"), kind, patch.as_bytes(), &current).err().map_or(0, |e| e.code)
    };
    assert_eq!(run(PatchType::Json, "{"), 400);
    assert_eq!(run(PatchType::Json, r#"[{"op": "remove", "path": "/nowhere"}]"#), 422);
    assert_eq!(run(PatchType::Json, &format!("[{}]", vec![r#"{"op":"test","path":"","value":1}"#; 10_001].join(","))), 413);
    assert_eq!(run(PatchType::Strategic, r#"{"spec": {"containers": [{"image": "x"}]}}"#), 400);
    assert_eq!(run(PatchType::Strategic, r#"{"spec": {"$patch": "explode"}}"#), 400);
    assert_eq!(run(PatchType::Strategic, "[]"), 400);
    assert_eq!(run(PatchType::Apply, "{}"), 415);
    assert_eq!(PatchType::from_content_type("application/json").err().map_or(0, |e| e.code), 415);
}

#[test]
fn json_patches_can_make_an_object_neither_huge_nor_deep() {
    let pods = crate::resource("v1/pods");
    let refused = |before: Value, operations: Vec<Value>| {
        let patch = Value::Array(operations).to_string();
        let error = apply(Schema::builtin(), pods, PatchType::Json, patch.as_bytes(), &before).expect_err("refused");
        assert_eq!(error.code, 422);
        error.details.unwrap().causes[0].message.clone()
    };
    // Each copy doubles the list.
    let doubling = vec![json!({"op": "copy", "from": "/a", "path": "/a/a/-"}); 60];
    assert!(refused(json!({"a": {"a": ["x"]}}), doubling).contains("adds up to more than"));
    // Each copy goes to the leaf of what it copies, and doubles the depth.
    let leaf = |levels: usize| "/a".repeat(levels);
    let deepening = (1..18).map(|i| json!({"op": "copy", "from": "/a", "path": leaf((1 << i) + 1)})).collect();
    assert!(refused(json!({"a": {"a": {}}}), deepening).contains("nests deeper"));
    let adding = (1..500).map(|i| json!({"op": "add", "path": leaf(i), "value": {}})).collect();
    assert!(refused(json!({}), adding).contains("nests deeper"));
    // What is large but bounded is done.
    let some = vec![json!({"op": "copy", "from": "/a/a/0", "path": "/a/a/-"}); 10_000];
    let patch = Value::Array(some).to_string();
    let after = apply(Schema::builtin(), pods, PatchType::Json, patch.as_bytes(), &json!({"a": {"a": ["x"]}})).unwrap();
    assert_eq!(after["a"]["a"].as_array().unwrap().len(), 10_001);
}

#[test]
fn a_json_patch_may_put_something_into_a_status_that_is_not_there_yet() {
    let claims = crate::resource("resource.k8s.io/v1/resourceclaims");
    let patched = |text: &str| pintle_api::patch::apply(Schema::builtin(), claims, PatchType::Json, text.as_bytes(), &json!({"spec": {}}));
    let value = patched(r#"[{"op": "add", "path": "/status/allocation", "value": {}}]"#).expect("a value");
    assert_eq!(value, json!({"spec": {}, "status": {"allocation": {}}}));
    assert_eq!(patched(r#"[{"op": "add", "path": "/spec/a", "value": 1}]"#).expect("a value"), json!({"spec": {"a": 1}}));
    assert!(patched(r#"[{"op": "add", "path": "/nothing/a", "value": 1}]"#).is_err());
}
