//! Pods on Debian's containerd: a sample of what all of this suite shows with `PINTLE_RUNTIME=cri`, in every run.
//!
//! Links are named after pods, and nodes of all tests share this machine's: no other test may have pods of these names.

use serde_json::{Value, json};

use crate::kernel::State;
use crate::machine::{patience, pod, run_on_containerd, uid};

/// The node's Ready condition.
fn ready(state: &State) -> Option<Value> {
    state.node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready").cloned()
}

fn said(condition: &Value, status: &str, words: &str) -> bool {
    condition["status"] == status && condition["message"].as_str().is_some_and(|message| message.contains(words))
}

#[test]
fn a_pod_runs_on_containerd_in_our_network_and_is_adopted_and_removed() {
    run_on_containerd(90, |mut machine, kernel| async move {
        machine.start(&kernel);
        kernel.until("a ready node", |s| ready(s).filter(|c| said(c, "True", ""))).await;
        let version = kernel.state.borrow().node["status"]["nodeInfo"]["containerRuntimeVersion"].to_string();
        assert!(version.starts_with("\"containerd://1."), "{version}");
        let web = pod(
            "on-containerd",
            json!({ "containers": [{ "name": "c", "stdin": true, "command": ["sh", "-c",
                "echo hello; echo trouble >&2; trap 'echo bye; exit 0' TERM; echo -n why > /dev/termination-log; while true; do sleep 0.1; done"],
                "readinessProbe": { "exec": { "command": ["true"] }, "periodSeconds": 1, "timeoutSeconds": patience(1).as_secs() },
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

        let reader = json!({ "name": "c", "stdin": true, "stdinOnce": true, "command": ["sh", "-c", "cat; exit 3"] });
        let reader = pod("attached", json!({ "restartPolicy": "Never", "containers": [reader] }));
        kernel.put_pod(reader.clone()).await;
        let reads = kernel.until_ready(uid(&reader)).await;
        assert_eq!(kernel.attach(&reads, "c", b"to whom it may concern").await, Ok((3, "to whom it may concern".into())));
        kernel.delete_pod(uid(&reader), 0).await;
        kernel.until_removed(uid(&reader)).await;

        machine.other.as_mut().expect("containerd").kill();
        kernel.until("the node to be told without its runtime", |s| ready(s).filter(|c| said(c, "False", "runtime is down"))).await;
        machine.other.as_mut().expect("containerd").wake();
        kernel.until("the node to have it again", |s| ready(s).filter(|c| said(c, "True", ""))).await;
        assert_eq!(kernel.pod(uid(&web))["status"]["phase"], "Running", "what runs runs on");

        machine.kill();
        machine.start(&kernel);
        kernel.until("a second session", |s| (s.sessions > 1).then_some(())).await;
        kernel.delete_pod(uid(&web), 5).await;
        kernel.until_removed(uid(&web)).await;
        let history = kernel.state.borrow().history.clone();
        assert_eq!(history.last().map(String::as_str), Some("on-containerd-0001-4000 Succeeded Completed"), "{history:?}");
        machine.kill();
        machine.purge();
        assert_eq!(machine.remains(), Vec::<String>::new());
    });
}

#[test]
fn containerds_own_network_is_told_when_it_is_not_there_and_used_when_it_is() {
    run_on_containerd(91, |mut machine, kernel| async move {
        machine.extra = ["--cri-network", "runtime"].map(str::to_owned).to_vec();
        machine.start(&kernel);
        let missing = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
        kernel.until("the node to miss its network", |s| ready(s).filter(|c| said(c, "False", missing))).await;
        machine.other.as_ref().expect("containerd").make_network("10.214.91.0/24");
        kernel.until("the node to have a network", |s| ready(s).filter(|c| said(c, "True", ""))).await;
        let web = pod(
            "own-network",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo -n page > /www/index.html; httpd -f -p 80 -h /www"] }] }),
        );
        kernel.put_pod(web.clone()).await;
        let up = kernel.until_ready(uid(&web)).await;
        let address = up["status"]["podIP"].as_str().expect("an address");
        assert!(address.starts_with("10.214.91."), "{address}");
        let page = kernel.forward(&up, 80, b"GET / HTTP/1.0\r\n\r\n").await.expect("forwarded");
        assert!(page.ends_with("page"), "{page}");
        kernel.delete_pod(uid(&web), 0).await;
        kernel.until_removed(uid(&web)).await;
        machine.kill();
        machine.purge();
        assert_eq!(machine.remains(), Vec::<String>::new());
    });
}
