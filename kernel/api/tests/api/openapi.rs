//! OpenAPI documents: what kubectl reads from them.

use pintle_api::{Schema, openapi};
use serde_json::{Value, json};

fn v3(group: &str, version: &str) -> Value {
    let bytes = openapi::v3(Schema::builtin(), group, version).expect("a document");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn the_index_names_every_group_version_with_its_hash() {
    let index = openapi::v3_index(Schema::builtin());
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address");
    assert_eq!(address, format!("/openapi/v3/apis/apps/v1?hash={}", openapi::v3_hash(Schema::builtin(), "apps", "v1")));
    assert!(index["paths"]["api/v1"].is_object() && index["paths"]["apis/pintle.dev/v1"].is_object());
    assert_eq!(openapi::v3(Schema::builtin(), "apps", "v7"), None);
}

#[test]
fn a_patch_says_that_it_takes_field_validation() {
    let apps = v3("apps", "v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    let names: Vec<&str> = patch["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}

#[test]
fn schemas_carry_kinds_merge_keys_and_list_types() {
    let core = v3("", "v1");
    let schemas = &core["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    let ports = &schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(
        (
            &ports["type"],
            &ports["x-kubernetes-list-type"],
            &ports["x-kubernetes-list-map-keys"],
            &ports["x-kubernetes-patch-merge-key"],
            &ports["x-kubernetes-patch-strategy"]
        ),
        (&json!("array"), &json!("map"), &json!(["port", "protocol"]), &json!("port"), &json!("merge"))
    );
    assert_eq!(ports["items"], json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ServicePort"}]}));
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert!(schemas["io.k8s.api.core.v1.Container"]["properties"]["image"]["description"].as_str().is_some_and(|d| d.len() > 20));
    assert_eq!(schemas["io.k8s.api.core.v1.PodList"]["required"], json!(["items"]));
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, item)| match item.as_str() {
                Some(target) if key == "$ref" => found.push(target),
                _ => references(item, found),
            }),
            Value::Array(list) => list.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let v2: Value = serde_json::from_slice(&openapi::v2_json(Schema::builtin())).expect("JSON");
    for document in [v3("", "v1"), v3("apps", "v1"), v3("apiextensions.k8s.io", "v1"), v3("pintle.dev", "v1"), v2] {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for target in found {
            assert!(document.pointer(&target[1..]).is_some(), "{target}");
        }
    }
}

/// Fields of one protobuf message: (number, bytes); numbers alone for the others.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => found.push((tag >> 3, {
                varint(&mut bytes);
                &[][..]
            })),
            2 => {
                let length = varint(&mut bytes) as usize;
                found.push((tag >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn inner<'a>(message: &[(u64, &'a [u8])], number: u64) -> Vec<(u64, &'a [u8])> {
    fields(message.iter().find(|(n, _)| *n == number).map_or(&[], |(_, bytes)| bytes))
}

#[test]
fn the_protobuf_form_says_the_same_as_the_json_form() {
    let json: Value = serde_json::from_slice(&openapi::v2_json(Schema::builtin())).expect("JSON");
    let bytes = openapi::v2_protobuf(Schema::builtin());
    let document = fields(&bytes);
    let definitions = inner(&document, 9);
    assert_eq!(Some(definitions.len()), json["definitions"].as_object().map(serde_json::Map::len));
    assert_eq!(Some(inner(&document, 8).len()), json["paths"].as_object().map(serde_json::Map::len));
    let pod_spec = definitions.iter().map(|(_, bytes)| fields(bytes)).find(|d| d[0].1 == b"io.k8s.api.core.v1.PodSpec").expect("PodSpec");
    let schema = inner(&pod_spec, 2);
    assert_eq!(schema.iter().find(|(n, _)| *n == 19).map(|(_, v)| *v), Some(&b"containers"[..]));
    let properties = inner(&schema, 25);
    let containers = properties.iter().map(|(_, bytes)| fields(bytes)).find(|p| p[0].1 == b"containers").expect("containers");
    let extension = inner(&inner(&containers, 2), 31);
    assert_eq!(extension[0].1, b"x-kubernetes-list-type");
    println!("version 2: {} bytes of JSON, {} of protobuf", json.to_string().len(), bytes.len());
}
