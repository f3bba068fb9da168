//! The patch languages and server-side apply, each on objects that are there.

use std::sync::LazyLock;

use pintle_api::apply::{self as ssa, Force, Writer};
use pintle_api::decode::{self, Format};
use pintle_api::patch::{self, JSON_PATCH_COPIED_BYTES_MAX, PatchType};
use pintle_api::{Resource, defaults, validate};
use serde_json::{Value, json};

use crate::input::{choice, chosen, schema};

/// What a byte of a patch may come to in JSON: a control character is written in six, a number like 1e9 in full.
const BYTES_FOR_A_BYTE: usize = 24;

/// Objects that are patched: kinds with lists of every sort, and one without any.
static CURRENT: LazyLock<Vec<(&'static Resource, Value)>> = LazyLock::new(|| {
    let texts = [
        (
            "Pod",
            "{metadata: {name: p, labels: {a: b}, finalizers: [x/y]}, spec: {containers: [{name: a, image: i, ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP}], env: [{name: E, value: v}]}, {name: b, image: j}], tolerations: [{key: k}], volumes: [{name: v, emptyDir: {}}]}}",
        ),
        (
            "Service",
            "{metadata: {name: s}, spec: {selector: {a: b}, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}}",
        ),
        (
            "Deployment",
            "{metadata: {name: d, annotations: {k: v}}, spec: {replicas: 2, selector: {matchLabels: {a: b}}, strategy: {rollingUpdate: {maxSurge: 1}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}",
        ),
        ("ConfigMap", "{metadata: {name: c}, data: {a: \"1\", b: \"2\"}}"),
    ];
    let object = |(kind, text): (&str, &str)| {
        let (_, resource) = chosen(kind);
        let (mut value, issues) = decode::decode(schema(), resource, text.as_bytes(), Format::Yaml).expect("an object");
        assert!(issues.is_empty(), "{issues:?}");
        defaults::apply(schema(), resource, &mut value);
        (resource, value)
    };
    texts.into_iter().map(object).collect()
});

fn current(choice: u8) -> (&'static Resource, &'static Value) {
    let (resource, value) = &CURRENT[usize::from(choice) % CURRENT.len()];
    (resource, value)
}

fn bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// What a patch makes is held against its type like any other write, with whatever it is.
fn taken(resource: &Resource, old: &Value, mut new: Value) -> Option<Value> {
    decode::check_type_meta(resource, &mut new).ok()?;
    decode::conform_resource(schema(), resource, &mut new).ok()?;
    defaults::apply(schema(), resource, &mut new);
    let failures = validate::update(schema(), resource, &new, old);
    assert!(failures.len() <= validate::FAILURES_MAX, "{} failures", failures.len());
    Some(new)
}

/// A JSON patch makes nothing larger than what it holds, what was there, and what it may copy.
pub fn json_patch(data: &[u8]) {
    let (choice, patch) = choice(data);
    let (resource, old) = current(choice);
    let Ok(new) = patch::apply(schema(), resource, PatchType::Json, patch, old) else { return };
    let bound = bytes(old) + BYTES_FOR_A_BYTE * patch.len() + JSON_PATCH_COPIED_BYTES_MAX;
    assert!(bytes(&new) <= bound, "{} bytes of patch made {}", patch.len(), bytes(&new));
    taken(resource, old, new);
}

/// Operations of every kind.
pub fn json_patch_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        r#"[{"op":"test","path":"/metadata/name","value":"p"},{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"replace","path":"/spec/containers/0/image","value":"k"}]"#,
        r#"[{"op":"remove","path":"/spec/containers/1"},{"op":"add","path":"/spec/containers/-","value":{"name":"z"}}]"#,
        r#"[{"op":"copy","from":"/spec","path":"/spec/a"},{"op":"move","from":"/metadata/labels","path":"/metadata/annotations"}]"#,
        r#"[{"op":"add","path":"/status","value":{}},{"op":"add","path":"","value":{"a":1}}]"#,
    ])
}

/// A merge patch makes nothing larger than what there was, and the same when it is merged again.
pub fn merge_patch(data: &[u8]) {
    let (choice, patch) = choice(data);
    let (resource, old) = current(choice);
    let merge = |old: &Value| patch::apply(schema(), resource, PatchType::Merge, patch, old);
    let Ok(new) = merge(old) else { return };
    assert!(bytes(&new) <= bytes(old) + BYTES_FOR_A_BYTE * patch.len());
    assert_eq!(merge(&new).ok().as_ref(), Some(&new), "merged twice");
    taken(resource, old, new);
}

/// Objects with nulls.
pub fn merge_patch_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        r#"{"metadata":{"labels":{"a":null,"x":"y"}},"spec":{"containers":[{"name":"z"}],"tolerations":null}}"#,
        r#"{"data":{"a":{"deep":{"er":null}}},"metadata":null}"#,
    ])
}

/// A strategic patch makes nothing larger than what there was.
pub fn strategic_patch(data: &[u8]) {
    let (choice, patch) = choice(data);
    let (resource, old) = current(choice);
    let Ok(new) = patch::apply(schema(), resource, PatchType::Strategic, patch, old) else { return };
    assert!(bytes(&new) <= bytes(old) + BYTES_FOR_A_BYTE * patch.len(), "{} bytes of patch made {}", patch.len(), bytes(&new));
    taken(resource, old, new);
}

/// Every directive.
pub fn strategic_patch_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        r#"{"spec":{"containers":[{"name":"a","image":"k","env":[{"name":"E","$patch":"delete"}]},{"name":"n","image":"l"}],"$setElementOrder/containers":[{"name":"n"},{"name":"a"}]}}"#,
        r#"{"spec":{"ports":[{"port":53,"protocol":"UDP","targetPort":5353}],"$setElementOrder/ports":[{"port":53}]}}"#,
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"template":{"spec":{"containers":[{"$patch":"replace"},{"name":"only"}]}}}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"],"finalizers":["a/b"],"$setElementOrder/finalizers":["a/b"],"labels":{"$patch":"replace","q":"r"}}}"#,
        r#"{"spec":{"volumes":[{"name":"v","emptyDir":null,"$retainKeys":["name","configMap"],"configMap":{"name":"c"}}],"tolerations":[{"key":"z"}]}}"#,
        r#"{"$patch":"delete"}"#,
    ])
}

/// What a manager applies is there afterwards, and to apply it again changes nothing.
pub fn apply(data: &[u8]) {
    let (choice, text) = choice(data);
    let (resource, live) = current(choice);
    let Ok((config, _)) = ssa::read_config(schema(), resource, "p", text) else { return };
    let writer = Writer { manager: "fuzz", subresource: "", now: "2026-01-01T00:00:00Z" };
    let apply = |live: &Value| {
        let (mut object, ownership) = ssa::applied(schema(), resource, writer, Force::Yes, live, &config)?;
        let changed = ownership.changed;
        ownership.put_into(&mut object);
        Ok::<_, pintle_api::ApiError>((object, changed))
    };
    let Ok((once, _)) = apply(live) else { return };
    assert!(bytes(&once) <= 2 * bytes(live) + 8 * BYTES_FOR_A_BYTE * text.len() + 4096, "{} bytes made {}", text.len(), bytes(&once));
    let (twice, changed) = apply(&once).expect("what was applied is applied again");
    assert_eq!(once, twice, "applied twice");
    assert!(!changed, "applied twice, the owners changed");
    taken(resource, live, once);
}

/// Configurations of each kind, in YAML and JSON.
pub fn apply_seeds() -> Vec<Vec<u8>> {
    let (_, pod) = current(0);
    let mut whole = pod.clone();
    whole["spec"]["containers"][0]["args"] = json!(["x"]);
    let mut seeds = seeds(&[
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {x: y}}\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 53, protocol: UDP, name: q}]\n  - name: z\n    image: i\n",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":53,"protocol":"TCP","nodePort":30053}]}}"#,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 3, template: {spec: {containers: [{name: c, resources: {limits: {cpu: 1500m}}}]}}}\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: x}\nbinaryData: {q: AAEC}\n",
    ]);
    seeds.push([vec![0], whole.to_string().into_bytes()].concat());
    seeds
}

/// Each text for each object.
fn seeds(all: &[&str]) -> Vec<Vec<u8>> {
    (0..4).flat_map(|choice| all.iter().map(move |text| [vec![choice], text.as_bytes().to_vec()].concat())).collect()
}
