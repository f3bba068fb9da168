//! A storage driver as users install one: the published sidecars beside it, a DaemonSet with the folders of a kubelet, and only the plain API between.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{clients, eventually, kubectl::is_ready, kubectl::items};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command, time::Duration};

pub const TESTS: &[Test] =
    &[("csi_a_driver_is_what_the_specification_says", sane), ("csi_a_volume_is_made_attached_mounted_grown_and_deleted", whole)];

/// What the tests of this module are called after.
pub const PREFIX: &str = "csi_";

const NAME: &str = "dir.csi.pintle.test";
const TWO_MINUTES: Duration = Duration::from_secs(120);

/// Whether `cargo xtask test` could not build the driver and the sidecars here.
pub fn missing() -> bool {
    ["csi-driver", "csi-sanity", "csi-provisioner", "csi-attacher", "csi-resizer"]
        .iter()
        .any(|program| !clients::folder().join(program).exists())
}

/// The driver of the tests is held to the specification by its own project's suite; otherwise it would show nothing about nodes.
fn sane(setup: &Setup) -> Outcome {
    let dir = setup.cluster.data_dir().join("csi-sanity");
    std::fs::create_dir_all(&dir)?;
    let socket = dir.join("csi.sock");
    let mut driver = Command::new(clients::folder().join("csi-driver"));
    let mut driver = driver.args(["--node", "nodes/here", "--data"]).arg(dir.join("data")).arg("--socket").arg(&socket).spawn()?;
    let there = eventually("the driver serves", TWO_MINUTES, || if socket.exists() { Ok(()) } else { Err("no socket".to_owned()) });
    let mut suite = Command::new(clients::folder().join("csi-sanity"));
    suite.arg(format!("--csi.endpoint={}", socket.display()));
    suite
        .arg(format!("--csi.mountdir={}", dir.join("target").display()))
        .arg(format!("--csi.stagingdir={}", dir.join("staging").display()));
    let output = there.map_err(std::io::Error::other).and_then(|_| suite.output());
    driver.kill()?;
    driver.wait()?;
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "csi-sanity: {}",
        text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn data(setup: &Setup) -> PathBuf {
    setup.cluster.data_dir().join("csi-data")
}

/// What the driver was asked of a kind that succeeded, oldest first.
fn calls(setup: &Setup, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data(setup).join("calls")).unwrap_or_default();
    let calls = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    calls.filter(|call| call["call"] == kind && call["code"] == "OK").map(|call| call["request"].clone()).collect()
}

fn container(name: &str, arguments: &[&str]) -> Value {
    let command: Vec<String> = std::iter::once(format!("/opt/csi/{name}")).chain(arguments.iter().map(|a| (*a).to_owned())).collect();
    json!({
        "name": name, "image": "registry.pintle.test/web:1", "command": command,
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "volumeMounts": [{"name": "programs", "mountPath": "/opt/csi", "readOnly": true}],
    })
}

/// The objects that install the driver, in the shape of the published examples.
fn installation(setup: &Setup) -> Value {
    let host = |name: &str, path: &str, kind: &str| json!({"name": name, "hostPath": {"path": path, "type": kind}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let both = |name: &str, path: &str| json!({"name": name, "mountPath": path, "mountPropagation": "Bidirectional"});
    let programs = host("programs", &clients::folder().display().to_string(), "Directory");
    let store = host("data", &data(setup).display().to_string(), "DirectoryOrCreate");
    let add = |container: &mut Value, mounts: &[Value]| {
        container["volumeMounts"].as_array_mut().into_iter().for_each(|list| list.extend(mounts.iter().cloned()));
        container["securityContext"] = json!({"privileged": true});
    };
    let mut on_nodes = container(
        "csi-driver",
        &[
            "--node=$(NODE)",
            "--limit=2",
            "--data=/data",
            "--socket=/var/lib/kubelet/plugins/dir/csi.sock",
            "--register=/var/lib/kubelet/plugins_registry/dir-reg.sock",
        ],
    );
    add(
        &mut on_nodes,
        &[
            mount("data", "/data"),
            mount("registry", "/var/lib/kubelet/plugins_registry"),
            both("plugins", "/var/lib/kubelet/plugins"),
            both("pods", "/var/lib/kubelet/pods"),
        ],
    );
    let mut controller = container("csi-driver", &["--data=/data", "--socket=/csi/csi.sock"]);
    add(&mut controller, &[mount("data", "/data"), mount("socket", "/csi")]);
    let sidecar = |name: &str, more: &[&str]| {
        let mut sidecar = container(name, &[&["--csi-address=/csi/csi.sock"], more].concat());
        sidecar["volumeMounts"].as_array_mut().into_iter().for_each(|list| list.push(mount("socket", "/csi")));
        sidecar
    };
    let pod = |app: &str, containers: Value, volumes: Value| {
        json!({"metadata": {"labels": {"app": app}}, "spec": {
            "serviceAccountName": "csi-dir", "terminationGracePeriodSeconds": 1, "containers": containers, "volumes": volumes}})
    };
    let nodes = pod(
        "csi-dir-node",
        json!([on_nodes]),
        json!([
            programs,
            store,
            host("registry", "/var/lib/kubelet/plugins_registry", "Directory"),
            host("plugins", "/var/lib/kubelet/plugins", "Directory"),
            host("pods", "/var/lib/kubelet/pods", "Directory"),
        ]),
    );
    let sidecars = json!([
        controller,
        sidecar(
            "csi-provisioner",
            &["--feature-gates=Topology=true", "--default-fstype=ext4", "--enable-capacity", "--capacity-ownerref-level=2"]
        ),
        sidecar("csi-attacher", &[]),
        sidecar("csi-resizer", &[]),
    ]);
    let center = pod("csi-dir", sidecars, json!([programs, store, {"name": "socket", "emptyDir": {}}]));
    let select = |app: &str| json!({"matchLabels": {"app": app}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "csi-dir"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "csi-dir"}, "stringData": {"word": "open"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "csi-dir"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
         "subjects": [{"kind": "ServiceAccount", "name": "csi-dir", "namespace": "default"}]},
        {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": NAME}, "spec": {"attachRequired": true, "fsGroupPolicy": "File"}},
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "dir"}, "provisioner": NAME,
         // The driver stages a volume only with the word that it was made with: the node has it from the Secret that the volume names.
         "parameters": {"secret": "open", "csi.storage.k8s.io/node-stage-secret-name": "csi-dir", "csi.storage.k8s.io/node-stage-secret-namespace": "default"},
         "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "csi-dir-node"},
         "spec": {"selector": select("csi-dir-node"), "template": nodes}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "csi-dir"},
         "spec": {"selector": select("csi-dir"), "template": center}},
    ]})
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "dir", "resources": {"requests": {"storage": "16Mi"}}},
    })
}

fn pod(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            "containers": [{"name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", "echo line >> /data/log; exec sleep 1000"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        },
    })
}

fn whole(setup: &Setup) -> Outcome {
    let apply = |object: &Value| setup.kubectl.run_with(&["apply", "-f", "-"], &object.to_string());
    let kubectl = &setup.kubectl;
    let ready =
        |name: &str| {
            kubectl.wait_for("the pod is ready", &["pod", name], TWO_MINUTES, |p| {
                if is_ready(p) { Ok(()) } else { Err(p["status"].to_string()) }
            })
        };
    let gone = |what: &str| {
        kubectl.wait_for("they are gone", &[what], TWO_MINUTES, |l| items(l).first().map_or(Ok(()), |object| Err(object.to_string())))
    };
    std::fs::create_dir_all(data(setup))?;
    apply(&installation(setup))?;
    // Every node says that it has the driver, under which ID, and where it is.
    for number in 1..=crate::setup::NODES {
        let node = format!("node-{number}");
        kubectl.wait_for("the driver has registered", &["csinode", &node], TWO_MINUTES, |n| {
            let driver = &n["spec"]["drivers"][0];
            let said = driver["name"] == NAME
                && driver["nodeID"] == *node
                && driver["topologyKeys"] == json!(["dir.csi.pintle.test/node"])
                && driver["allocatable"]["count"] == 2;
            if said { Ok(()) } else { Err(n["spec"].to_string()) }
        })?;
        kubectl.wait_for("its topology is told", &["node", &node], TWO_MINUTES, |n| {
            let label = &n["metadata"]["labels"]["dir.csi.pintle.test/node"];
            if *label == *node { Ok(()) } else { Err(label.to_string()) }
        })?;
    }
    apply(&claim("csi"))?;
    apply(&pod("csi", "csi"))?;
    let running = ready("csi")?;
    let node = running["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let bound = kubectl.get(&["pvc", "csi"])?;
    ensure!(
        bound["status"]["phase"] == "Bound" && bound["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == *node,
        "claim {bound}"
    );
    let volume = kubectl.get(&["pv", bound["spec"]["volumeName"].as_str().unwrap_or_default()])?;
    let handle = volume["spec"]["csi"]["volumeHandle"].as_str().unwrap_or_default().to_owned();
    ensure!(volume["spec"]["csi"]["driver"] == NAME && volume["spec"]["nodeAffinity"].to_string().contains(&node), "volume {volume}");
    let unique = format!("kubernetes.io/csi/{NAME}^{handle}");
    let attachments = kubectl.get(&["volumeattachments"])?;
    ensure!(items(&attachments).len() == 1 && items(&attachments)[0]["status"]["attached"] == true, "attachments {attachments}");
    kubectl.wait_for("the node says so", &["node", &node], TWO_MINUTES, |n| {
        let (used, attached) = (&n["status"]["volumesInUse"], &n["status"]["volumesAttached"]);
        if used.to_string().contains(&unique) && attached.to_string().contains(&unique) {
            Ok(())
        } else {
            Err(format!("{used} {attached}"))
        }
    })?;
    ensure!(
        calls(setup, "NodeStageVolume").last().is_some_and(|call| call["publish_context"]["published"] == *node),
        "what attaching told reaches the node"
    );
    // It grows while it is mounted: the sidecar's part, then the node's.
    kubectl.run(&["patch", "pvc", "csi", "-p", r#"{"spec": {"resources": {"requests": {"storage": "32Mi"}}}}"#])?;
    kubectl.wait_for("the claim has grown", &["pvc", "csi"], TWO_MINUTES, |c| {
        let over = c["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
        if c["status"]["capacity"]["storage"] == "32Mi" && over { Ok(()) } else { Err(c["status"].to_string()) }
    })?;
    ensure!(calls(setup, "NodeExpandVolume").len() == 1, "{:?}", calls(setup, "NodeExpandVolume"));
    // Data outlives the pod, and what is not used is not attached.
    kubectl.run(&["delete", "pod", "csi", "--timeout=60s"])?;
    gone("volumeattachments")?;
    ensure!(calls(setup, "NodeUnstageVolume").len() == 1, "unstaged");
    apply(&pod("csi", "csi"))?;
    ready("csi")?;
    let log = kubectl.run(&["exec", "csi", "--", "cat", "/data/log"])?;
    ensure!(log == "line\nline\n", "log {log:?}");
    kubectl.run(&["delete", "pod/csi", "pvc/csi", "--timeout=60s"])?;
    gone("pv")?;
    gone("volumeattachments")?;
    // The sidecar may ask twice: the specification has it that the second changes nothing.
    ensure!(!data(setup).join("volumes").join(&handle).exists() && !calls(setup, "DeleteVolume").is_empty(), "the driver has deleted it");
    // Away with it all.
    kubectl.run(&[
        "delete",
        "daemonset/csi-dir-node",
        "deployment/csi-dir",
        "storageclass/dir",
        &format!("csidriver/{NAME}"),
        "clusterrolebinding/csi-dir",
        "serviceaccount/csi-dir",
        "secret/csi-dir",
        "--timeout=60s",
    ])?;
    kubectl.wait_for("the driver's pods are gone", &["pods", "-l", "app in (csi-dir, csi-dir-node)"], TWO_MINUTES, |l| {
        items(l).first().map_or(Ok(()), |p| Err(p["metadata"]["name"].to_string()))
    })?;
    Ok(())
}
