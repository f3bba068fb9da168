//! Protobuf against upstream's fixtures, and against bytes that mean harm.

use pintle_api::resource::kind_type;
use pintle_api::{Schema, TypeView, proto};
use serde_json::{Value, json};

/// Upstream's objects that are kinds of ours: name, type, JSON, protobuf.
fn fixtures() -> Vec<(String, TypeView<'static>, Value, Vec<u8>)> {
    let Some(folder) = crate::shared_data("api-fixtures") else { return Vec::new() };
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let object: Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(view) = kind_type(group, version, object["kind"].as_str().unwrap_or_default()).and_then(|id| Schema::builtin().get(id))
        else {
            continue;
        };
        let body = std::fs::read(path.with_extension("pb")).expect("a protobuf beside the JSON");
        found.push((path.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_owned(), view, object, body));
    }
    found
}

#[test]
fn fixtures_are_the_same_object_and_the_same_bytes_in_both_forms() {
    let fixtures = fixtures();
    for (name, view, object, body) in &fixtures {
        let decoded = proto::decode_kind(*view, body).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(&decoded, object, "{name}");
        assert!(proto::encode_kind(*view, object) == *body, "{name}: other bytes than upstream's");
    }
    println!("{} fixtures held", fixtures.len());
}

#[test]
fn damaged_bytes_are_refused_or_read_but_never_harm() {
    let pod = Schema::builtin().type_named("io.k8s.api.core.v1.Pod").expect("Pod");
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}}}]}});
    let body = proto::encode_kind(pod, &object);
    assert_eq!(proto::decode_kind(pod, &body).expect("whole"), object);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for _ in 0..20_000 {
        let mut damaged = body.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % damaged.len();
            damaged[at] = random() as u8;
        }
        damaged.truncate(random() % (damaged.len() + 1));
        let _ = proto::decode_kind(pod, &damaged);
    }
    assert_eq!(proto::decode_kind(pod, b"{}").expect_err("refused").code, 400);
}

#[test]
fn nesting_is_bounded() {
    let schema = Schema::builtin().type_named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").expect("type");
    let mut message = Vec::new();
    for _ in 0..2_000 {
        // Field 28, `not`: a schema within a schema.
        let mut outer = vec![0xe2, 0x01];
        let mut length = message.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.append(&mut message);
        message = outer;
    }
    let error = proto::decode_kind(schema, &proto::wrap("v1", "x", &message)).expect_err("refused");
    assert_eq!((error.code, error.message.as_str()), (400, "the protobuf message nests too deep"));
}

#[test]
fn zeros_that_say_nothing_are_dropped_and_others_kept() {
    let deployments = crate::resource("apps/v1/deployments");
    let check = |object: Value, expected: Value| {
        let body = proto::encode_object(Schema::builtin(), deployments, &object).expect("a body");
        let mut decoded = proto::decode_object(Schema::builtin(), deployments, &body).expect("an object");
        decoded.as_object_mut().into_iter().for_each(|map| map.retain(|key, _| key != "kind" && key != "apiVersion"));
        assert_eq!(decoded, expected);
    };
    check(json!({"metadata": {"name": "a", "generateName": "", "generation": 0}}), json!({"metadata": {"name": "a"}}));
    check(json!({"spec": {"replicas": 0, "minReadySeconds": 0, "paused": false}}), json!({"spec": {"replicas": 0}}));
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    check(
        pod(
            json!({"hostNetwork": false, "automountServiceAccountToken": false, "containers": [{"name": "a", "livenessProbe": {"timeoutSeconds": 0}}]}),
        ),
        pod(json!({"automountServiceAccountToken": false, "containers": [{"name": "a", "livenessProbe": {}}]})),
    );
    check(
        pod(json!({"tolerations": [{"key": "", "operator": "Exists", "value": "", "tolerationSeconds": 0}]})),
        pod(json!({"tolerations": [{"operator": "Exists", "tolerationSeconds": 0}]})),
    );
}

#[test]
fn lists_metadata_and_watch_frames_are_framed_as_upstream_frames_them() {
    let pods = crate::resource("v1/pods");
    let items = [json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "b"}})];
    let items = items.map(|item| proto::encode_message(Schema::builtin(), pods, &item).expect("a message"));
    let list = proto::join_list(Schema::builtin(), pods, &json!({"resourceVersion": "7"}), &items);
    let envelope = proto::unwrap(&list).expect("an envelope");
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "PodList"));
    assert_eq!(envelope.raw, b"\x0a\x03\x12\x017\x12\x05\x0a\x03\x0a\x01a\x12\x05\x0a\x03\x0a\x01b");
    let metadata = proto::encode_metadata(&json!({"name": "a"}), "v1");
    let envelope = proto::unwrap(&metadata).expect("an envelope");
    assert_eq!(
        (envelope.api_version.as_str(), envelope.kind.as_str(), envelope.raw),
        ("meta.k8s.io/v1", "PartialObjectMetadata", &b"\x0a\x03\x0a\x01a"[..])
    );
    assert_eq!(proto::watch_frame("ADDED", b"xy"), b"\0\0\0\x0d\x0a\x05ADDED\x12\x04\x0a\x02xy");
    let modules = crate::resource("pintle.dev/v1/modules");
    assert_eq!(proto::encode_object(Schema::builtin(), modules, &json!({})).expect_err("refused").code, 406);
}
