//! A pod from its creation to its removal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::machine::{patience, pod, run, run_natively, uid};

#[test]
fn a_pod_runs_answers_on_its_address_and_is_deleted_gracefully() {
    run(11, |mut machine, kernel| async move {
        machine.start(&kernel);
        kernel.until("a heartbeat", |s| (s.leases > 0).then_some(())).await;
        let node = kernel.state.borrow().node.clone();
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
        assert_eq!(node["status"]["addresses"][0]["address"], "127.0.0.1");

        let web = pod(
            "web",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c",
            "echo hello; echo trouble >&2; trap 'echo bye; exit 0' TERM; echo page > /www/index.html; httpd -p 80 -h /www; while true; do sleep 0.1; done"] }] }),
        );
        kernel.put_pod(web.clone()).await;
        let up = kernel.until_ready(uid(&web)).await;
        let status = &up["status"];
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["qosClass"], "BestEffort");
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
        assert!(status["containerStatuses"][0]["containerID"].as_str().expect("an id").starts_with(machine.scheme()));
        let address = status["podIP"].as_str().expect("an address").to_owned();
        assert!(address.starts_with("10.213.11."), "{address}");

        let page = kernel.until("the page", |_| get(&address)).await;
        assert!(page.ends_with("page\n"), "{page}");

        let log = kernel.logs(&up, "c", |_| {}).await.expect("a log");
        assert!(log.contains("hello\n") && log.contains("trouble\n"), "{log}");
        let tail = kernel
            .logs(&up, "c", |mut o| {
                // containerd copies the two streams by two hands: which is the last line is open there.
                if machine.other.is_none() {
                    o.set_tail_lines(1);
                }
                o.set_stream("Stderr");
            })
            .await
            .expect("a log");
        assert_eq!(tail, "trouble\n");

        let (code, out, err) = kernel.exec(&up, "c", &["sh", "-c", "echo out; echo err >&2; exit 7"], None).await.expect("run");
        assert_eq!((code, out.as_str(), err.as_str()), (7, "out\n", "err\n"));
        let (code, out, _) = kernel.exec(&up, "c", &["cat"], Some(b"through stdin")).await.expect("run");
        assert_eq!((code, out.as_str()), (0, "through stdin"));
        let (_, out, _) = kernel.exec(&up, "c", &["hostname"], None).await.expect("run");
        assert_eq!(out, "web\n");
        let (_, hosts, _) = kernel.exec(&up, "c", &["cat", "/etc/hosts"], None).await.expect("run");
        assert!(hosts.contains(&format!("{address}\tweb")), "{hosts}");
        assert!(kernel.exec(&up, "none", &["true"], None).await.is_err());

        kernel.delete_pod(uid(&web), 5).await;
        kernel.until_removed(uid(&web)).await;
        let reasons = kernel.until("a last status", |s| Some(s.history.clone())).await;
        assert_eq!(reasons.last().map(String::as_str), Some("web-0001-4000 Succeeded Completed"), "{reasons:?}");
        kernel
            .until("events", |s| {
                let all: Vec<_> = s.events.values().map(|e| e["reason"].as_str().unwrap_or_default().to_owned()).collect();
                ["Pulled", "Created", "Started", "Killing"].iter().all(|r| all.iter().any(|a| a == r)).then_some(())
            })
            .await;
        let files = machine.state_dir().join("pods").join(uid(&web));
        kernel.until("its files to go", |_| (!files.exists()).then_some(())).await;
    });
}

#[test]
fn a_pod_has_no_process_but_its_workloads_own() {
    run_natively(18, "containerd has a pause process and a shim", |mut machine, kernel| async move {
        machine.start(&kernel);
        kernel.until("a heartbeat", |s| (s.leases > 0).then_some(())).await;
        let (daemon, mark) = (machine.pid(), machine.dir.to_string_lossy().into_owned());
        // The daemon, the helper that it started, and whatever these have started since.
        let family = || {
            let all = all_processes();
            let helpers = all.iter().filter(|p| p.words.starts_with("pintle-container-helper ") && p.words.contains(&mark)).map(|p| p.pid);
            let mut family: Vec<u32> = helpers.chain([daemon]).collect();
            let roots = family.len();
            let mut at = 0;
            while let Some(parent) = family.get(at).copied() {
                family.extend(all.iter().filter(|p| p.parent == parent && !family.contains(&p.pid)).map(|p| p.pid).collect::<Vec<_>>());
                at += 1;
            }
            let words = |pid: &u32| all.iter().find(|p| p.pid == *pid).map(|p| p.words.clone());
            let mut children: Vec<String> = family[roots..].iter().filter_map(words).collect();
            children.sort();
            (roots, children)
        };
        assert_eq!(family(), (2, Vec::new()), "the daemon and one helper");
        let sleeping = |name: &str, seconds: u32| json!({ "name": name, "command": ["sleep", seconds.to_string()] });
        let one = pod("one", json!({ "containers": [sleeping("c", 5001)] }));
        let two = pod(
            "two",
            json!({ "initContainers": [{ "name": "i", "command": ["true"] }], "containers": [sleeping("c", 5002), sleeping("d", 5003)] }),
        );
        for pod in [&one, &two] {
            kernel.put_pod(pod.clone()).await;
        }
        for pod in [&one, &two] {
            kernel.until_ready(uid(pod)).await;
        }
        assert_eq!(family(), (2, ["sleep 5001 ", "sleep 5002 ", "sleep 5003 "].map(str::to_owned).to_vec()));
        for pod in [&one, &two] {
            kernel.delete_pod(uid(pod), 0).await;
            kernel.until_removed(uid(pod)).await;
        }
        kernel.until("nothing to run", |_| (family() == (2, Vec::new())).then_some(())).await;
    });
}

struct Process {
    pid: u32,
    parent: u32,
    words: String,
}

fn all_processes() -> Vec<Process> {
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some(Process { pid, parent, words: String::from_utf8_lossy(&words).replace('\0', " ") })
    };
    std::fs::read_dir("/proc").expect("readable").flatten().filter_map(read).collect()
}

fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:80").parse().ok()?, Duration::from_millis(200)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("200 OK").then_some(text)
}

#[test]
fn a_crashing_container_restarts_with_back_off_and_keeps_its_previous_log() {
    run(12, |mut machine, kernel| async move {
        machine.start(&kernel);
        let crash = pod(
            "crash",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo run; echo why > /dev/termination-log; exit 3"] }] }),
        );
        kernel.put_pod(crash.clone()).await;
        let seen = kernel
            .until("a third start", |s| {
                s.pods.get(uid(&crash)).filter(|p| p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(3)).cloned()
            })
            .await;
        let waiting = kernel
            .until("CrashLoopBackOff", |s| {
                let status = &s.pods[uid(&crash)]["status"];
                (status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff").then(|| status.clone())
            })
            .await;
        assert_eq!(waiting["phase"], "Running");
        let last = &waiting["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!((last["exitCode"].as_i64(), last["reason"].as_str(), last["message"].as_str()), (Some(3), Some("Error"), Some("why\n")));
        assert_eq!(kernel.logs(&seen, "c", |mut o| o.set_previous(true)).await.expect("a log"), "run\n");
        kernel.delete_pod(uid(&crash), 1).await;
        kernel.until_removed(uid(&crash)).await;
    });
}

#[test]
fn pods_end_by_their_restart_policy_and_init_containers_go_first() {
    run(13, |mut machine, kernel| async move {
        machine.start(&kernel);
        let init = pod(
            "init",
            json!({ "restartPolicy": "Never", "volumes": [{ "name": "v", "emptyDir": {} }],
            "initContainers": [{ "name": "i", "command": ["sh", "-c", "echo one > /v/f"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
            "containers": [{ "name": "c", "command": ["cat", "/v/f"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] }),
        );
        let fails = pod("fails", json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["sh", "-c", "exit 9"] }] }));
        let none = pod("none", json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["/no/such/program"] }] }));
        for pod in [&init, &fails, &none] {
            kernel.put_pod(pod.clone()).await;
        }
        let done = kernel.until_phase(uid(&init), "Succeeded").await;
        assert_eq!(kernel.logs(&done, "c", |_| {}).await.expect("a log"), "one\n");
        assert_eq!(done["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
        let failed = kernel.until_phase(uid(&fails), "Failed").await;
        assert_eq!(failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 9);
        let unstarted = kernel.until_phase(uid(&none), "Failed").await;
        assert_eq!(unstarted["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "StartError");
        for pod in [&init, &fails, &none] {
            kernel.delete_pod(uid(pod), 0).await;
            kernel.until_removed(uid(pod)).await;
        }
    });
}

#[test]
fn images_that_cannot_be_had_are_told_with_back_off() {
    run(14, |mut machine, kernel| async move {
        machine.start(&kernel);
        let missing = pod("missing", json!({ "containers": [{ "name": "c", "image": "127.0.0.1:9/no/such:1" }] }));
        let invalid = pod("invalid", json!({ "containers": [{ "name": "c", "image": "UPPER//case::" }] }));
        let never = pod("never", json!({ "containers": [{ "name": "c", "image": "127.0.0.1:9/x:1", "imagePullPolicy": "Never" }] }));
        for pod in [&missing, &invalid, &never] {
            kernel.put_pod(pod.clone()).await;
        }
        for (pod, reason) in
            [(&missing, "ErrImagePull"), (&missing, "ImagePullBackOff"), (&invalid, "InvalidImageName"), (&never, "ErrImageNeverPull")]
        {
            let words = format!("{} Pending {reason}", uid(pod));
            kernel.until(&words, |s| s.history.contains(&words).then_some(())).await;
        }
        kernel.delete_pod(uid(&missing), 0).await;
        kernel.until_removed(uid(&missing)).await;
    });
}

#[test]
fn probes_decide_readiness_and_restart_what_is_dead() {
    run(15, |mut machine, kernel| async move {
        machine.start(&kernel);
        let probed = pod(
            "probed",
            json!({ "containers": [{ "name": "c",
            "command": ["sh", "-c", "touch /tmp/alive; while true; do sleep 0.1; done"],
            "readinessProbe": { "exec": { "command": ["cat", "/tmp/ready"] }, "periodSeconds": 1, "timeoutSeconds": patience(1).as_secs() },
            "livenessProbe": { "exec": { "command": ["cat", "/tmp/alive"] }, "periodSeconds": 1, "initialDelaySeconds": 1, "failureThreshold": 1, "timeoutSeconds": patience(1).as_secs(), "terminationGracePeriodSeconds": 0 } }] }),
        );
        kernel.put_pod(probed.clone()).await;
        let up = kernel.until_phase(uid(&probed), "Running").await;
        assert_eq!(up["status"]["containerStatuses"][0]["ready"], false);
        kernel.exec(&up, "c", &["touch", "/tmp/ready"], None).await.expect("run");
        kernel.until_ready(uid(&probed)).await;
        kernel.exec(&up, "c", &["sh", "-c", "busybox rm /tmp/alive"], None).await.expect("run");
        kernel.until("a restart", |s| (s.pods[uid(&probed)]["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())).await;
        kernel.delete_pod(uid(&probed), 0).await;
        kernel.until_removed(uid(&probed)).await;
    });
}

#[test]
fn a_container_over_its_memory_limit_is_told_as_oom_killed() {
    run(16, |mut machine, kernel| async move {
        machine.start(&kernel);
        let greedy = pod(
            "greedy",
            json!({ "restartPolicy": "Never", "containers": [{ "name": "c",
                "command": ["sh", "-c", "x=0123456789; while true; do x=$x$x; done"],
                "resources": { "limits": { "memory": "16Mi", "cpu": "1" }, "requests": { "memory": "16Mi", "cpu": "1" } } }] }),
        );
        kernel.put_pod(greedy.clone()).await;
        let failed = kernel.until_phase(uid(&greedy), "Failed").await;
        let end = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((end["reason"].as_str(), end["exitCode"].as_i64()), (Some("OOMKilled"), Some(137)));
        assert_eq!(failed["status"]["qosClass"], "Guaranteed");
    });
}

#[test]
fn a_port_inside_a_pod_is_reached_through_the_link() {
    run(17, |mut machine, kernel| async move {
        machine.start(&kernel);
        let web = pod(
            "web",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo page > /www/index.html; httpd -f -p 127.0.0.1:8080 -h /www"] }] }),
        );
        kernel.put_pod(web.clone()).await;
        let up = kernel.until_ready(uid(&web)).await;
        let mut answer = Err("not asked".to_owned());
        for _ in 0..600 {
            answer = kernel.forward(&up, 8080, b"GET / HTTP/1.0\r\n\r\n").await;
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let answer = answer.expect("an answer");
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with("page\n"), "{answer}");
        assert!(kernel.forward(&up, 9, b"").await.is_err());
        let (code, out) = kernel.terminal(&up, "c", &["sh", "-c", "sleep 0.3; busybox stty size; exit 4"], (120, 40)).await.expect("run");
        assert_eq!((code, out.trim_end()), (4, "40 120"));
    });
}
