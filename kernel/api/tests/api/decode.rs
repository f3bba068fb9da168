//! From bytes to objects: what is refused, what is noted, what is made canonical.

use pintle_api::Schema;
use pintle_api::decode::{FieldValidation, Format, decode};

/// Decodes `body` strictly as a resource of `path` (`group/version/plural`); answers with the object or the message.
fn run(path: &str, body: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version, plural) = if let [version, plural] = parts[..] { ("", version, plural) } else { (parts[0], parts[1], parts[2]) };
    let resource = Schema::builtin().resource(group, version, plural).expect("a resource");
    let format = if body.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
    match decode(Schema::builtin(), resource, body.as_bytes(), format) {
        Ok((value, issues)) => match FieldValidation::Strict.settle(resource, &issues) {
            Ok(_) => value.to_string(),
            Err(error) => format!("{} {}", error.code, error.message),
        },
        Err(error) => format!("{} {}", error.code, error.message),
    }
}

#[track_caller]
fn check(path: &str, body: &str, expected: &str) {
    let (found, json) = (run(path, body), |text: &str| serde_json::from_str::<serde_json::Value>(text).ok());
    if json(expected).is_none() || json(expected) != json(&found) {
        assert_eq!(found, expected);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_named() {
    check(
        "apps/v1/deployments",
        r#"{"spec": {"foo": 1, "template": {"spec": {"containers": [{"name": "a", "imagee": "x"}]}}}}"#,
        "400 Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\", \
         unknown field \"spec.template.spec.containers[0].imagee\"",
    );
    check(
        "v1/pods",
        r#"{"metadata": {"name": "a", "name": "b"}, "spec": {"containers": [{"image": "x", "image": "y"}]}}"#,
        "400 Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: duplicate field \"metadata.name\", \
         duplicate field \"spec.containers[0].image\"",
    );
    check(
        "v1/configmaps",
        "metadata:\n  name: a\ndata:\n  a: one\n  a: two\n",
        "400 ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
         line 5: key \"a\" already set in map",
    );
}

#[test]
fn a_wrong_type_names_its_field() {
    check(
        "apps/v1/deployments",
        r#"{"spec": {"replicas": "3"}}"#,
        "400 Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        "v1/pods",
        r#"{"spec": {"containers": [{"name": 5}]}}"#,
        "400 Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
    );
    check(
        "v1/pods",
        r#"{"spec": {"containers": {}}}"#,
        "400 Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    check(
        "v1/configmaps",
        r#"{"data": {"a": 1}}"#,
        "400 ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data.a of type string",
    );
    check(
        "v1/pods",
        "[]",
        "400 Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal array into Go value of type v1.Pod",
    );
}

#[test]
fn a_body_of_another_kind_is_refused() {
    check("v1/pods", r#"{"kind": "Service"}"#, "400 the kind in the data (Service) does not match the expected kind (Pod)");
    check(
        "v1/pods",
        r#"{"apiVersion": "apps/v1"}"#,
        "400 the apiVersion in the data (apps/v1) does not match the expected apiVersion (v1)",
    );
}

#[test]
fn values_take_their_canonical_form_and_nulls_mean_absent() {
    check(
        "v1/persistentvolumeclaims",
        r#"{"metadata": {"name": "a", "creationTimestamp": null, "deletionTimestamp": "2024-01-01T02:00:00+02:00"}, "spec": {"resources": {"requests": {"storage": "1024Mi", "x": 1}}}}"#,
        r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"deletionTimestamp":"2024-01-01T00:00:00Z","name":"a"},"spec":{"resources":{"requests":{"storage":"1Gi","x":"1"}}}}"#,
    );
    check(
        "coordination.k8s.io/v1/leases",
        "spec:\n  renewTime: 2024-01-01T00:00:00.5Z\n  leaseDurationSeconds: 40\n",
        r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","spec":{"leaseDurationSeconds":40,"renewTime":"2024-01-01T00:00:00.500000Z"}}"#,
    );
}

#[test]
fn hostile_bodies_are_refused() {
    for body in
        ["{", "{\"a\": ", "- a: *b", "a: &x [*x]", "\u{0}", "{\"metadata\": {\"creationTimestamp\": \"yesterday\"}}", "{\"metadata\": 5}"]
    {
        assert!(run("v1/pods", body).starts_with("400 "), "{body}: {}", run("v1/pods", body));
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    assert!(run("v1/pods", &deep).starts_with("400 "));
    let deep = format!("a: {}1{}", "[".repeat(200), "]".repeat(200));
    assert!(run("v1/pods", &deep).starts_with("400 "));
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert!(run("v1/pods", bomb).starts_with("400 "), "an alias bomb is refused");
    let aliased = run("v1/configmaps", "metadata: {name: a, labels: &l {a: b}, annotations: *l}");
    assert!(aliased.contains(r#""annotations":{"a":"b"}"#), "{aliased}");
}

#[test]
fn fractions_keep_every_digit() {
    let mut state = 7u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (state >> 11) as f64 / (1u64 << 53) as f64;
        let text = format!("{{\"n\":{number}}}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("a number");
        assert_eq!(read.to_string(), text);
    }
}
