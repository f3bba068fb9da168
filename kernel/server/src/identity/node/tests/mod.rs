use super::*;

#[test]
fn a_pod_mentions_what_it_mounts_reads_and_pulls_with() {
    let pod = serde_json::json!({ "spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{ "name": "pull" }],
            "volumes": [
                { "configMap": { "name": "files" } }, { "secret": { "secretName": "keys" } },
                { "projected": { "sources": [{ "configMap": { "name": "root-ca" } }, { "secret": { "name": "more" } }] } },
            ],
            "containers": [{ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "env", "key": "k" } } }] }],
            "initContainers": [{ "envFrom": [{ "configMapRef": { "name": "settings" } }] }],
        } });
    let mentioned = [
        ("serviceaccounts", "robot"),
        ("secrets", "pull"),
        ("configmaps", "files"),
        ("secrets", "keys"),
        ("configmaps", "root-ca"),
        ("secrets", "more"),
        ("secrets", "env"),
        ("configmaps", "settings"),
    ];
    for (resource, name) in mentioned {
        assert!(pod_mentions(&pod, resource, name), "{resource} {name}");
    }
    for (resource, name) in [("secrets", "files"), ("configmaps", "keys"), ("serviceaccounts", "default"), ("nodes", "robot")] {
        assert!(!pod_mentions(&pod, resource, name), "{resource} {name}");
    }
}

#[test]
fn a_route_table_mentions_the_certificates_of_its_listeners() {
    let table =
        serde_json::json!({ "spec": { "listeners": [{ "name": "a" }, { "certificates": [{ "namespace": "shop", "name": "tls" }] }] } });
    assert!(table_mentions(&table, "shop", "tls"));
    for (namespace, name) in [("shop", "other"), ("other", "tls"), ("", "")] {
        assert!(!table_mentions(&table, namespace, name), "{namespace}/{name}");
    }
}

#[test]
fn a_mirror_pod_is_bound_to_its_own_node_and_mentions_nothing() {
    let check = |node: &str, mirror: bool, spec: Value, fine: bool| {
        let mut pod = serde_json::json!({ "metadata": { "name": "web-n1" }, "spec": spec });
        pod["spec"]["nodeName"] = node.into();
        if mirror {
            pod["metadata"]["annotations"] = serde_json::json!({ "kubernetes.io/config.mirror": "0af3" });
        }
        assert_eq!(NodeAuthority::named("n1").check_mirror(&pod).is_ok(), fine, "{pod}");
    };
    let plain = serde_json::json!({ "containers": [{ "name": "c" }], "volumes": [{ "name": "v", "hostPath": { "path": "/x" } }] });
    check("n1", true, plain.clone(), true);
    check("n2", true, plain.clone(), false);
    check("n1", false, plain, false);
    for spec in [
        serde_json::json!({ "serviceAccountName": "robot" }),
        serde_json::json!({ "imagePullSecrets": [{ "name": "pull" }] }),
        serde_json::json!({ "volumes": [{ "name": "v", "secret": { "secretName": "keys" } }] }),
        serde_json::json!({ "volumes": [{ "name": "v", "ephemeral": {} }] }),
        serde_json::json!({ "containers": [{ "envFrom": [{ "configMapRef": { "name": "settings" } }] }] }),
    ] {
        check("n1", true, spec, false);
    }
}
