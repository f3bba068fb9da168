//! Pods with users of their own (`hostUsers: false`).

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::machine::{patience, pod, run, uid, user_namespaces};

fn first_id(text: &str) -> u32 {
    text.split_whitespace().nth(1).and_then(|id| id.parse().ok()).expect("a line of a uid_map")
}

#[test]
fn pods_have_users_of_their_own_and_everything_of_theirs_is_usable_inside() {
    if !user_namespaces() {
        return println!("skipped: user namespaces for pods need Linux 5.19, 6.3 on a tmpfs");
    }
    run(72, |mut machine, kernel| async move {
        kernel.object("configmaps", "default", "m", json!({ "metadata": { "name": "m" }, "data": { "key": "from-map" } }));
        kernel.object("secrets", "default", "s", json!({ "metadata": { "name": "s" }, "data": { "key": "ZnJvbS1zZWNyZXQ=" } }));
        machine.start(&kernel);
        let features = kernel.until("the node", |s| s.node["status"]["runtimeHandlers"][0]["features"].as_object().cloned()).await;
        assert_eq!(features["userNamespaces"], true);
        let script = "echo $(cat /m/key) $(cat /s/key) $(cat /p/token) $(cat /sub); stat -L -c '%u:%g %a' /s/key /e /t; touch /e/f /t/f && echo wrote; \
            ls -ln /etc/hosts | busybox awk '{ print $3, $4 }'; echo done > /dev/termination-log; httpd -p 80 -h /www && echo listens; \
            trap 'exit 0' TERM; while true; do sleep 0.1; done";
        let apart = |name: &str| {
            pod(
                name,
                json!({ "hostUsers": false, "serviceAccountName": "robot", "securityContext": { "fsGroup": 2000 },
                "volumes": [
                    { "name": "m", "configMap": { "name": "m" } }, { "name": "s", "secret": { "secretName": "s", "defaultMode": 0o400 } },
                    { "name": "e", "emptyDir": {} }, { "name": "t", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
                    { "name": "p", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
                ],
                "containers": [{ "name": "c", "command": ["sh", "-c", script],
                    "readinessProbe": { "exec": { "command": ["cat", "/e/f"] }, "periodSeconds": 1, "timeoutSeconds": patience(1).as_secs() },
                    "volumeMounts": [
                        { "name": "m", "mountPath": "/m" }, { "name": "s", "mountPath": "/s" }, { "name": "e", "mountPath": "/e" },
                        { "name": "t", "mountPath": "/t" }, { "name": "p", "mountPath": "/p" },
                        { "name": "m", "mountPath": "/sub", "subPath": "key" }] }] }),
            )
        };
        let (one, two) = (apart("one"), apart("two"));
        let map = async |pod: &Value| kernel.exec(pod, "c", &["cat", "/proc/self/uid_map"], None).await.expect("run").1;
        for pod in [&one, &two] {
            kernel.put_pod(pod.clone()).await;
            kernel.until_ready(uid(pod)).await;
        }
        let log = kernel.logs(&one, "c", |_| {}).await.expect("a log");
        let expected = "from-map from-secret token-of-robot from-map\n0:2000 440\n0:2000 2777\n0:2000 2777\nwrote\n0 0\nlistens\n";
        assert_eq!(log, expected);
        let (of_one, of_two) = (first_id(&map(&one).await), first_id(&map(&two).await));
        assert!(of_one >= 65_536 && of_two >= 65_536 && of_one != of_two && of_one % 65_536 == 0, "{of_one} {of_two}");
        let made = machine.state_dir().join("pods").join(uid(&one)).join("volumes/e/f");
        assert_eq!(std::fs::metadata(made).expect("made").uid(), 0);
        let outside = processes_of(of_one);
        assert!(outside > 0, "its processes are nobody's of the machine");

        // Who they are survives the daemon, and goes with the pod.
        machine.kill();
        let sessions = kernel.state.borrow().sessions;
        machine.start(&kernel);
        kernel.until("a new session", |s| (s.sessions > sessions).then_some(())).await;
        let adopted = kernel.until_ready(uid(&one)).await;
        assert_eq!(first_id(&map(&adopted).await), of_one);
        kernel.delete_pod(uid(&one), 1).await;
        kernel.until_removed(uid(&one)).await;
        let directory = machine.state_dir().join("pods").join(uid(&one));
        kernel.until("its files to go", |_| (!directory.exists()).then_some(())).await;
        assert_eq!(processes_of(of_one), 0);
        let three = apart("three");
        kernel.put_pod(three.clone()).await;
        kernel.until_ready(uid(&three)).await;
        assert_eq!(first_id(&map(&three).await), of_one, "the lowest that is free");
        for pod in [&two, &three] {
            kernel.delete_pod(uid(pod), 1).await;
            kernel.until_removed(uid(pod)).await;
        }
    });
}

/// How many processes of the machine have this real uid.
fn processes_of(uid: u32) -> usize {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let of = |entry: &std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().next() == Some(&uid.to_string())))
    };
    entries.filter(of).count()
}
