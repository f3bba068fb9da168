//! Claims and volumes with real containers: data that outlives pods, volumes that go with their claims, and what cannot be says why.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

pub const TESTS: &[Test] = &[
    ("volumes_data_of_a_stateful_set_outlives_its_pod_and_goes_with_its_claim", outlives),
    ("volumes_a_directory_that_a_user_names_is_mounted", named),
    ("volumes_a_claim_that_cannot_be_bound_says_why", unbound),
    ("volumes_a_claim_for_one_pod_is_one_pods_and_stays_while_it_is_used", one_pod),
    ("volumes_a_pods_own_volume_goes_with_it", ephemeral),
];

pub const MINUTE: Duration = Duration::from_secs(60);

pub fn apply(setup: &Setup, object: &Value) -> Outcome {
    setup.kubectl.run_with(&["apply", "-f", "-"], &object.to_string()).map(drop).map_err(Into::into)
}

/// What a node keeps of volumes on disk.
pub fn directories(setup: &Setup) -> Vec<PathBuf> {
    let nodes = std::fs::read_dir(setup.cluster.data_dir().join("volumes")).into_iter().flatten().flatten();
    nodes.flat_map(|node| std::fs::read_dir(node.path()).into_iter().flatten().flatten()).map(|entry| entry.path()).collect()
}

pub fn nothing_left(setup: &Setup) -> Outcome {
    setup.kubectl.wait_for("claims and volumes are gone", &["pvc,pv"], MINUTE, |l| match items(l).first() {
        None => Ok(()),
        Some(object) => Err(object.to_string()),
    })?;
    let empty = || if directories(setup).is_empty() { Ok(()) } else { Err(format!("{:?}", directories(setup))) };
    eventually("no directory is left", MINUTE, empty).map_err(Into::into)
}

pub fn claim(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    });
    change(&mut claim);
    claim
}

pub fn pod(name: &str, volume: Value, script: &str) -> Value {
    let mut volume = volume;
    volume["name"] = json!("data");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "volumes": [volume],
            "containers": [{"name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        },
    })
}

pub fn of_claim(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

pub const SLEEP: &str = "sleep 1000";

pub fn ready(setup: &Setup, name: &str) -> Result<Value, pintle_tests::Error> {
    setup.kubectl.wait_for("the pod is ready", &["pod", name], MINUTE, |p| if is_ready(p) { Ok(()) } else { Err(p["status"].to_string()) })
}

pub fn event(setup: &Setup, object: &str, words: &str) -> Outcome {
    let selector = format!("involvedObject.name={object}");
    setup.kubectl.wait_for(words, &["events", "--field-selector", &selector], MINUTE, |l| {
        let told: Vec<&Value> = items(l).iter().map(|e| &e["message"]).collect();
        if told.iter().any(|m| m.as_str().is_some_and(|m| m.contains(words))) { Ok(()) } else { Err(format!("{told:?}")) }
    })?;
    Ok(())
}

fn outlives(setup: &Setup) -> Outcome {
    let spec = claim("", |_| {})["spec"].clone();
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "store"},
        "spec": {
            "serviceName": "store", "replicas": 1, "selector": {"matchLabels": {"app": "store"}},
            "template": {"metadata": {"labels": {"app": "store"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
                "containers": [{"name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", "echo line >> /data/log; sleep 1000"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "below"}]}],
            }},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": spec}],
        },
    });
    apply(setup, &set)?;
    let first = ready(setup, "store-0")?;
    let bound = setup.kubectl.get(&["pvc", "data-store-0"])?;
    ensure!(bound["status"]["phase"] == "Bound" && bound["spec"]["storageClassName"] == "local-path", "claim {bound}");
    setup.kubectl.run(&["delete", "pod", "store-0", "--timeout=60s"])?;
    let second = setup.kubectl.wait_for("another pod is ready", &["pod", "store-0"], MINUTE, |p| {
        if is_ready(p) && p["metadata"]["uid"] != first["metadata"]["uid"] { Ok(()) } else { Err(p["status"].to_string()) }
    })?;
    ensure!(second["spec"]["nodeName"] == first["spec"]["nodeName"], "it came back on {}", second["spec"]["nodeName"]);
    let log = setup.kubectl.run(&["exec", "store-0", "--", "cat", "/data/log"])?;
    ensure!(log == "line\nline\n", "log {log:?}");
    let grow = json!({"spec": {"resources": {"requests": {"storage": "32Mi"}}}}).to_string();
    setup.kubectl.run(&["patch", "pvc", "data-store-0", "-p", &grow])?;
    setup.kubectl.wait_for("the claim has grown", &["pvc", "data-store-0"], MINUTE, |c| {
        let size = c["status"]["capacity"]["storage"].as_str().unwrap_or_default();
        if ["32Mi", "33554432"].contains(&size) { Ok(()) } else { Err(size.to_owned()) }
    })?;
    setup.kubectl.run(&["delete", "statefulset", "store", "--timeout=60s"])?;
    ensure!(directories(setup).len() == 1, "a claim outlives its set: {:?}", directories(setup));
    setup.kubectl.run(&["delete", "pvc", "data-store-0", "--timeout=60s"])?;
    nothing_left(setup)
}

fn named(setup: &Setup) -> Outcome {
    let dir = setup.cluster.data_dir().join("a-users-directory");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("text"), "from outside")?;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "named"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "", "hostPath": {"path": dir, "type": "Directory"},
            "claimRef": {"namespace": "default", "name": "named"},
        },
    });
    apply(setup, &volume)?;
    apply(setup, &claim("named", |c| c["spec"]["storageClassName"] = json!("")))?;
    let mut reader = pod("named", of_claim("named"), "cat /data/text; touch /data/x || echo read-only");
    reader["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = json!(true);
    apply(setup, &reader)?;
    setup.kubectl.wait_for("it has run", &["pod", "named"], MINUTE, |p| {
        if p["status"]["phase"] == "Succeeded" { Ok(()) } else { Err(p["status"].to_string()) }
    })?;
    let log = setup.kubectl.run(&["logs", "named"])?;
    ensure!(log.contains("from outside") && log.contains("read-only"), "log {log:?}");
    setup.kubectl.run(&["delete", "pod/named", "pvc/named", "--timeout=60s"])?;
    setup.kubectl.wait_for("the volume is left behind", &["pv", "named"], MINUTE, |v| {
        if v["status"]["phase"] == "Released" { Ok(()) } else { Err(v["status"].to_string()) }
    })?;
    setup.kubectl.run(&["delete", "pv", "named", "--timeout=60s"])?;
    ensure!(dir.join("text").exists(), "a user's directory is the user's");
    nothing_left(setup)
}

fn unbound(setup: &Setup) -> Outcome {
    apply(setup, &claim("none", |c| c["spec"]["storageClassName"] = json!("no-such-class")))?;
    apply(setup, &pod("none", of_claim("none"), SLEEP))?;
    event(setup, "none", "storageclass.storage.k8s.io \"no-such-class\" not found")?;
    event(setup, "none", "pod has unbound immediate PersistentVolumeClaims")?;
    apply(setup, &claim("many", |c| c["spec"]["accessModes"] = json!(["ReadWriteMany"])))?;
    apply(setup, &pod("many", of_claim("many"), SLEEP))?;
    event(setup, "many", "accessModes must be ReadWriteOnce")?;
    setup.kubectl.run(&["delete", "pod/none", "pod/many", "pvc/none", "pvc/many", "--timeout=60s"])?;
    nothing_left(setup)
}

fn one_pod(setup: &Setup) -> Outcome {
    apply(setup, &claim("once", |c| c["spec"]["accessModes"] = json!(["ReadWriteOncePod"])))?;
    apply(setup, &pod("once", of_claim("once"), SLEEP))?;
    ready(setup, "once")?;
    apply(setup, &pod("twice", of_claim("once"), SLEEP))?;
    event(setup, "twice", "ReadWriteOncePod access mode")?;
    setup.kubectl.run(&["delete", "pod", "twice", "--timeout=60s"])?;
    setup.kubectl.run(&["delete", "pvc", "once", "--wait=false"])?;
    let claim = setup.kubectl.get(&["pvc", "once"])?;
    ensure!(claim["metadata"]["deletionTimestamp"].is_string() && directories(setup).len() == 1, "it stays while it is used: {claim}");
    setup.kubectl.run(&["delete", "pod", "once", "--timeout=60s"])?;
    nothing_left(setup)
}

fn ephemeral(setup: &Setup) -> Outcome {
    let template = json!({"spec": claim("", |_| {})["spec"]});
    apply(setup, &pod("own", json!({"ephemeral": {"volumeClaimTemplate": template}}), "echo x > /data/f; sleep 1000"))?;
    ready(setup, "own")?;
    let claim = setup.kubectl.get(&["pvc", "own-data"])?;
    ensure!(claim["status"]["phase"] == "Bound", "claim {claim}");
    setup.kubectl.run(&["delete", "pod", "own", "--timeout=60s"])?;
    nothing_left(setup)
}
