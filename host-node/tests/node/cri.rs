//! Pods on Debian's containerd: a sample of what all of this suite shows with `PINTLE_RUNTIME=cri`, in every run.

use serde_json::json;

use crate::machine::{pod, run_on_containerd, uid};

#[test]
fn a_pod_runs_on_containerd_in_our_network_and_is_adopted_and_removed() {
    run_on_containerd(90, |mut machine, kernel| async move {
        machine.start(&kernel);
        let version = kernel
            .until("a ready node", |s| {
                let ready = s.node["status"]["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
                ready.then(|| s.node["status"]["nodeInfo"]["containerRuntimeVersion"].to_string())
            })
            .await;
        assert!(version.starts_with("\"containerd://1."), "{version}");
        let web = pod(
            "web",
            json!({ "containers": [{ "name": "c", "stdin": true, "command": ["sh", "-c",
                "echo hello; echo trouble >&2; trap 'echo bye; exit 0' TERM; echo -n why > /dev/termination-log; while true; do sleep 0.1; done"],
                "readinessProbe": { "exec": { "command": ["true"] }, "periodSeconds": 1 },
                "resources": { "limits": { "memory": "64Mi" } } }] }),
        );
        kernel.put_pod(web.clone()).await;
        let up = kernel.until_ready(uid(&web)).await;
        let status = &up["status"]["containerStatuses"][0];
        assert!(status["containerID"].as_str().expect("an id").starts_with("containerd://"), "{status}");
        let address = up["status"]["podIP"].as_str().expect("an address").to_owned();
        assert!(address.starts_with("10.213.90."), "{address}");
        let log = kernel.logs(&up, "c", |_| {}).await.expect("a log");
        assert!(log.contains("hello\n") && log.contains("trouble\n"), "{log}");

        let run = ["sh", "-c", "echo out; ip -o address show dev eth0; echo err >&2; exit 7"];
        let (code, out, err) = kernel.exec(&up, "c", &run, None).await.expect("run");
        assert!(code == 7 && out.starts_with("out\n") && out.contains(&address) && err == "err\n", "{code} {out} {err}");
        let (code, out, _) = kernel.exec(&up, "c", &["cat"], Some(b"through stdin")).await.expect("run");
        assert_eq!((code, out.as_str()), (0, "through stdin"));
        let (code, out) = kernel.terminal(&up, "c", &["sh", "-c", "tty; exit 4"], (80, 24)).await.expect("run");
        assert!(code == 4 && out.starts_with("/dev/pts/"), "{code} {out}");

        machine.kill();
        machine.start(&kernel);
        kernel.until("a second session", |s| (s.sessions > 1).then_some(())).await;
        kernel.delete_pod(uid(&web), 5).await;
        kernel.until_removed(uid(&web)).await;
        let history = kernel.state.borrow().history.clone();
        assert_eq!(history.last().map(String::as_str), Some("web-0001-4000 Succeeded Completed"), "{history:?}");
        machine.kill();
        machine.purge();
        assert_eq!(machine.remains(), Vec::<String>::new());
    });
}
