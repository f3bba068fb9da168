//! What a container finds: environment, volumes, tokens.

use serde_json::json;

use crate::machine::{pod, run, uid};

#[test]
fn a_container_finds_what_its_pod_mentions() {
    run(21, |mut machine, kernel| async move {
        kernel.object("configmaps", "default", "m", json!({ "metadata": { "name": "m" }, "data": { "key": "from-map" } }));
        kernel.object("secrets", "default", "s", json!({ "metadata": { "name": "s" }, "data": { "key": "ZnJvbS1zZWNyZXQ=" } }));
        kernel.object(
            "services",
            "default",
            "kubernetes",
            json!({ "metadata": { "name": "kubernetes" },
            "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "https", "port": 443, "protocol": "TCP" }] } }),
        );
        machine.start(&kernel);
        let script = "echo $FROM_MAP $FROM_SECRET $NAME $(cat /m/key) $(cat /s/key) $(cat /p/token) $(cat /p/labels) $(cat /sub) $KUBERNETES_SERVICE_HOST; \
            id -u; stat -L -c %a /s/key; touch /m/x 2>/dev/null || echo read-only; echo kept > /e/f; cat /e/f";
        let reader = pod(
            "reader",
            json!({ "restartPolicy": "Never", "serviceAccountName": "robot",
            "securityContext": { "runAsUser": 1000, "fsGroup": 2000 },
            "volumes": [
                { "name": "m", "configMap": { "name": "m" } }, { "name": "s", "secret": { "secretName": "s", "defaultMode": 0o400 } },
                { "name": "e", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
                { "name": "p", "projected": { "sources": [
                    { "serviceAccountToken": { "path": "token" } },
                    { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.namespace" } }] } }] } },
            ],
            "containers": [{ "name": "c", "command": ["sh", "-c", script],
                "env": [
                    { "name": "FROM_MAP", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "key" } } },
                    { "name": "FROM_SECRET", "valueFrom": { "secretKeyRef": { "name": "s", "key": "key" } } },
                    { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                "volumeMounts": [
                    { "name": "m", "mountPath": "/m", "readOnly": true }, { "name": "s", "mountPath": "/s" }, { "name": "e", "mountPath": "/e" },
                    { "name": "p", "mountPath": "/p" }, { "name": "m", "mountPath": "/sub", "subPath": "key" }] }] }),
        );
        kernel.put_pod(reader.clone()).await;
        let done = kernel.until_phase(uid(&reader), "Succeeded").await;
        let log = kernel.logs(&done, "c", |_| {}).await.expect("a log");
        let expected =
            "from-map from-secret reader from-map from-secret token-of-robot default from-map 10.96.0.1\n1000\n440\nread-only\nkept\n";
        assert_eq!(log, expected);
        kernel.delete_pod(uid(&reader), 0).await;
        kernel.until_removed(uid(&reader)).await;
        assert_eq!(machine.remains().iter().filter(|r| r.starts_with("mount") && r.contains("/pods/")).count(), 0);
    });
}

#[test]
fn a_missing_object_holds_the_pod_until_it_is_there() {
    run(22, |mut machine, kernel| async move {
        machine.start(&kernel);
        let waits = pod(
            "waits",
            json!({ "restartPolicy": "Never", "volumes": [{ "name": "m", "configMap": { "name": "late" } }],
            "containers": [{ "name": "c", "command": ["cat", "/m/key"], "volumeMounts": [{ "name": "m", "mountPath": "/m" }] }] }),
        );
        kernel.put_pod(waits.clone()).await;
        kernel
            .until("FailedMount", |s| {
                s.events.values().any(|e| e["reason"] == "FailedMount" && e["message"].to_string().contains("late")).then_some(())
            })
            .await;
        kernel.object("configmaps", "default", "late", json!({ "metadata": { "name": "late" }, "data": { "key": "now" } }));
        let done = kernel.until_phase(uid(&waits), "Succeeded").await;
        assert_eq!(kernel.logs(&done, "c", |_| {}).await.expect("a log").trim_end(), "now");

        let env = pod(
            "env",
            json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["true"],
            "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k" } } }] }] }),
        );
        kernel.put_pod(env.clone()).await;
        let words = format!("{} Pending CreateContainerConfigError", uid(&env));
        kernel.until(&words, |s| s.history.contains(&words).then_some(())).await;
        kernel.delete_pod(uid(&env), 0).await;
        kernel.until_removed(uid(&env)).await;
    });
}

#[test]
fn a_changed_object_is_seen_by_the_containers_that_mount_it() {
    run(23, |mut machine, kernel| async move {
        let map = |text: &str| json!({ "metadata": { "name": "m" }, "data": { "key": text } });
        kernel.object("configmaps", "default", "m", map("old"));
        machine.extra = vec!["--sync-period-ms".into(), "100".into()];
        machine.start(&kernel);
        let watches = pod(
            "watches",
            json!({ "restartPolicy": "Never", "volumes": [{ "name": "m", "configMap": { "name": "m" } }],
            "containers": [{ "name": "c", "command": ["sh", "-c", "cat /m/key; while [ $(cat /m/key) = old ]; do sleep 0.05; done; cat /m/key"],
                "volumeMounts": [{ "name": "m", "mountPath": "/m" }] }] }),
        );
        kernel.put_pod(watches.clone()).await;
        kernel.until_ready(uid(&watches)).await;
        kernel.object("configmaps", "default", "m", map("new"));
        let done = kernel.until_phase(uid(&watches), "Succeeded").await;
        assert_eq!(kernel.logs(&done, "c", |_| {}).await.expect("a log").trim_end(), "oldnew");
    });
}
