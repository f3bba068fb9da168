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
