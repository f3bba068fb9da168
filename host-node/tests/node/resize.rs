//! Pods that change while they run, and what they can be shown.

use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::machine::{pod, run, run_natively, uid};

/// A pod as another generation of it.
async fn change(kernel: &Kernel, pod: &Value, change: impl FnOnce(&mut Value)) -> i64 {
    let mut changed = kernel.pod(uid(pod));
    let generation = changed["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    changed["metadata"]["generation"] = json!(generation);
    change(&mut changed);
    kernel.put_pod(changed).await;
    generation
}

/// Waits until the first container has what it asks for, and gives the status.
async fn resized(kernel: &Kernel, pod: &Value, generation: i64) -> Value {
    let done = |pod: &&Value| {
        let status = &pod["status"];
        let waits =
            status["conditions"].as_array().into_iter().flatten().any(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize")));
        let container = &status["containerStatuses"][0];
        status["observedGeneration"] == generation
            && !waits
            && container["resources"] == pod["spec"]["containers"][0]["resources"]
            && container["ready"] == true
    };
    kernel.until("the resize", |s| s.pods.get(uid(pod)).filter(done).map(|pod| pod["status"].clone())).await
}

#[test]
fn a_running_container_gets_what_it_now_asks_for_without_a_restart_or_with_one() {
    run(25, |mut machine, kernel| async move {
        machine.start(&kernel);
        let amounts =
            |cpu: &str, memory: &str| json!({ "limits": { "cpu": cpu, "memory": memory }, "requests": { "cpu": "10m", "memory": "8Mi" } });
        let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
        let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c", "command": ["sleep", "1000"],
            "resources": amounts("200m", "64Mi"), "resizePolicy": policy }] });
        let small = pod("small", spec);
        kernel.put_pod(small.clone()).await;
        let up = kernel.until_ready(uid(&small)).await;
        let quota = async |pod: &Value| {
            let files = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
            kernel.exec(pod, "c", &["sh", "-c", files], None).await.expect("run").1.trim().to_owned()
        };
        assert_eq!(quota(&up).await, "20000");

        let generation = change(&kernel, &small, |pod| pod["spec"]["containers"][0]["resources"] = amounts("500m", "64Mi")).await;
        let status = resized(&kernel, &small, generation).await;
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(quota(&kernel.pod(uid(&small))).await, "50000");

        let generation = change(&kernel, &small, |pod| pod["spec"]["containers"][0]["resources"] = amounts("500m", "96Mi")).await;
        let status = resized(&kernel, &small, generation).await;
        assert_eq!(status["containerStatuses"][0]["restartCount"], 1, "memory is changed by a restart here");

        change(&kernel, &small, |pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("100000")).await;
        let infeasible = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible")
        };
        let left = kernel.until("the refusal", |s| s.pods.get(uid(&small)).filter(infeasible).cloned()).await;
        assert_eq!(left["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "10m", "it keeps what it has");
        kernel.delete_pod(uid(&small), 0).await;
        kernel.until_removed(uid(&small)).await;
    });
}

#[test]
fn a_pod_as_a_whole_is_resized() {
    run(28, |mut machine, kernel| async move {
        machine.start(&kernel);
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu, "memory": "64Mi" }, "requests": { "cpu": "10m", "memory": "8Mi" } });
        let whole = pod("whole", json!({ "resources": limits("200m"), "containers": [{ "name": "c", "command": ["sleep", "1000"] }] }));
        kernel.put_pod(whole.clone()).await;
        let up = kernel.until_ready(uid(&whole)).await;
        assert_eq!(up["status"]["qosClass"], "Burstable");
        let group = format!("{}/burstable/pod{}", machine.cgroup_parent(), uid(&whole));
        let quota = || {
            let read = |path: String| std::fs::read_to_string(path).ok()?.split_whitespace().next().map(str::to_owned);
            read(format!("/sys/fs/cgroup/cpu/{group}/cpu.cfs_quota_us")).or_else(|| read(format!("/sys/fs/cgroup/{group}/cpu.max")))
        };
        assert_eq!(quota().as_deref(), Some("20000"));
        change(&kernel, &whole, |pod| pod["spec"]["resources"] = limits("500m")).await;
        kernel.until("the new limit", |_| (quota().as_deref() == Some("50000")).then_some(())).await;
        let settled = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            pod["status"]["observedGeneration"] == 2
                && !conditions.into_iter().flatten().any(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize")))
        };
        let after = kernel.until("the resize", |s| s.pods.get(uid(&whole)).filter(settled).cloned()).await;
        assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    });
}

#[test]
fn a_pod_for_whose_port_there_is_no_room_fails() {
    run(26, |mut machine, kernel| async move {
        machine.start(&kernel);
        let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c", "command": ["sleep", "1000"],
            "ports": [{ "containerPort": 80, "hostPort": 21017 }] }] });
        let (first, second) = (pod("first", spec.clone()), pod("second", spec));
        kernel.put_pod(first.clone()).await;
        kernel.until_ready(uid(&first)).await;
        kernel.put_pod(second.clone()).await;
        let failed = kernel.until_phase(uid(&second), "Failed").await;
        assert_eq!(failed["status"]["reason"], "NodePorts");
        assert_eq!(kernel.pod(uid(&first))["status"]["phase"], "Running");
    });
}

#[test]
fn a_container_is_shown_an_image_and_a_certificate_of_its_pod() {
    run_natively(27, "CRI v1 shows no images as volumes", |mut machine, kernel| async move {
        machine.start(&kernel);
        let mut reader = pod("reader", json!({ "restartPolicy": "Never", "containers": [{ "name": "c" }] }));
        let image = reader["spec"]["containers"][0]["image"].clone();
        let certificate =
            json!({ "signerName": "example.com/signer", "keyType": "ED25519", "credentialBundlePath": "both", "keyPath": "key" });
        let script = "ls /image | grep -x bin; touch /image/x 2>/dev/null || echo read-only; /image/bin/busybox true 2>/dev/null || echo not-executable; \
            head -1 /p/both; tail -1 /p/both; head -1 /p/key";
        reader["spec"]["volumes"] = json!([
            { "name": "i", "image": { "reference": image, "pullPolicy": "IfNotPresent" } },
            { "name": "p", "projected": { "sources": [{ "podCertificate": certificate }] } },
        ]);
        reader["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
        reader["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "i", "mountPath": "/image" }, { "name": "p", "mountPath": "/p" }]);
        kernel.put_pod(reader.clone()).await;
        let done = kernel.until_phase(uid(&reader), "Succeeded").await;
        let log = kernel.logs(&done, "c", |_| {}).await.expect("a log");
        let key = "-----BEGIN PRIVATE KEY-----";
        assert_eq!(log, format!("bin\nread-only\nnot-executable\n{key}\ncertificate of reader by example.com/signer\n{key}\n"));
        kernel.delete_pod(uid(&reader), 0).await;
        kernel.until_removed(uid(&reader)).await;
        assert_eq!(machine.remains().iter().filter(|r| r.starts_with("mount") && r.contains("/pods/")).count(), 0);
    });
}
