//! Pods of a directory of the machine.

use std::path::Path;

use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::machine::{IMAGE, run};

/// A manifest, as JSON: a pod on the machine's network that says who it is in a file of the machine, once for each start.
fn manifest(name: &str, word: &str, at: &Path) -> String {
    let script = format!("echo {word} >> /out/said; echo {word}; trap 'exit 0' TERM; while true; do sleep 0.1; done");
    let container =
        json!({ "name": "c", "image": IMAGE, "command": ["sh", "-c", script], "volumeMounts": [{ "name": "out", "mountPath": "/out" }] });
    let spec = json!({ "hostNetwork": true, "terminationGracePeriodSeconds": 2, "containers": [container],
        "volumes": [{ "name": "out", "hostPath": { "path": at } }] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec }).to_string()
}

/// The mirror that runs, if its container does.
async fn mirror(kernel: &Kernel, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    let up = |pod: &&Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null() && test(pod);
    kernel.until(what, |s| s.pods.values().find(up).cloned()).await
}

#[test]
fn pods_of_a_directory_run_without_the_kernel_and_are_mirrored_when_it_is_there() {
    run(75, |mut machine, kernel| async move {
        let (manifests, out) = (machine.dir.join("manifests"), machine.dir.join("out"));
        for directory in [&manifests, &out] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        let write = |file: &str, text: &str| std::fs::write(manifests.join(file), text).expect("written");
        let said = || std::fs::read_to_string(out.join("said")).unwrap_or_default();
        write("web.json", &manifest("web", "one", &out));
        write("broken.yaml", "kind: Pod\nspec: [");
        write(
            "secret.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: s}\nspec: {containers: [{name: c}], volumes: [{name: v, secret: {secretName: x}}]}\n",
        );
        machine.extra = vec!["--pod-manifest-path".to_owned(), manifests.display().to_string()];
        kernel.go_away();
        machine.start(&kernel);
        kernel.until("the pod to run without a kernel", |_| (said() == "one\n").then_some(())).await;

        kernel.come_back();
        let first = mirror(&kernel, "a mirror with a status", |_| true).await;
        let meta = &first["metadata"];
        assert_eq!((meta["name"].as_str(), meta["namespace"].as_str()), (Some("web-n1"), Some("default")));
        let annotations = &meta["annotations"];
        assert_eq!(annotations["kubernetes.io/config.source"], "file");
        assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
        assert_eq!((first["spec"]["nodeName"].as_str(), meta["labels"]["app"].as_str()), (Some("n1"), Some("web")));
        let container = first["status"]["containerStatuses"][0]["containerID"].clone();
        assert_eq!(kernel.logs(&first, "c", |_| {}).await.expect("a log of the mirror is the pod's"), "one\n");
        assert_eq!(kernel.state.borrow().pods.len(), 1, "bad files are no pods");

        // Who deletes the mirror does not touch the pod.
        kernel.delete_pod(meta["uid"].as_str().expect("a uid"), 30).await;
        let second = mirror(&kernel, "a second mirror", |pod| pod["metadata"]["uid"] != meta["uid"]).await;
        assert_eq!(second["status"]["containerStatuses"][0]["containerID"], container);

        // A daemon that was killed finds it again.
        machine.kill();
        let sessions = kernel.state.borrow().sessions;
        machine.start(&kernel);
        kernel.until("a new session", |s| (s.sessions > sessions).then_some(())).await;

        // Another text is another pod, and the old one leaves first; half a text changes nothing.
        write("web.json", "{");
        write("web.json", &manifest("web", "two", &out));
        let third = mirror(&kernel, "the changed pod", |pod| pod["metadata"]["annotations"] != *annotations).await;
        assert_ne!(third["status"]["containerStatuses"][0]["containerID"], container);
        assert_eq!(said(), "one\ntwo\n", "each was started once");

        std::fs::remove_file(manifests.join("web.json")).expect("removed");
        kernel.until("its mirror to go", |s| s.pods.is_empty().then_some(())).await;
        let pods = machine.state_dir().join("pods");
        kernel.until("its files to go", |_| (std::fs::read_dir(&pods).ok()?.count() == 0).then_some(())).await;
    });
}
