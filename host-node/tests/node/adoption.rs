//! What survives: a killed daemon, an absent kernel; and what purge leaves behind: nothing.

use serde_json::json;

use crate::machine::{pod, run, uid};

const LOOP: &[&str] = &["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"];

#[test]
fn a_killed_daemon_adopts_its_containers_when_it_returns() {
    run(31, |mut machine, kernel| async move {
        machine.start(&kernel);
        let stays = pod(
            "stays",
            json!({ "containers": [{ "name": "c", "command": LOOP }, { "name": "d", "command": ["sh", "-c", "sleep 0.3; exit 1"] }] }),
        );
        let goes = pod("goes", json!({ "containers": [{ "name": "c", "command": LOOP }] }));
        kernel.put_pod(stays.clone()).await;
        kernel.put_pod(goes.clone()).await;
        kernel.until_ready(uid(&goes)).await;
        let before = kernel
            .until("a restart of d", |s| {
                let status = &s.pods[uid(&stays)]["status"]["containerStatuses"];
                (status[1]["restartCount"].as_i64() >= Some(1) && status[0]["state"]["running"].is_object()).then(|| status.clone())
            })
            .await;
        machine.kill();
        kernel.erase_pod(uid(&goes)).await;
        kernel.until("the session to end", |_| Some(())).await;
        let sessions = kernel.state.borrow().sessions;
        machine.start(&kernel);
        kernel.until("a new session", |s| (s.sessions > sessions).then_some(())).await;
        let restarts = before[1]["restartCount"].as_i64();
        let after = kernel
            .until("another restart of d", |s| {
                let status = &s.pods[uid(&stays)]["status"]["containerStatuses"];
                (status[1]["restartCount"].as_i64() > restarts).then(|| status.clone())
            })
            .await;
        assert_eq!(before[0]["containerID"], after[0]["containerID"]);
        assert_eq!(after[0]["restartCount"], 0);
        assert_eq!(before[0]["state"], after[0]["state"]);
        let log = kernel.logs(&stays, "c", |_| {}).await.expect("a log");
        let numbers: Vec<u32> = log.lines().map(|l| l.parse().expect("a number")).collect();
        assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<_>>(), "nothing of the log is lost");
        let dir = machine.state_dir().join("pods").join(uid(&goes));
        kernel.until("the erased pod's files to go", |_| (!dir.exists()).then_some(())).await;
        kernel.delete_pod(uid(&stays), 1).await;
        kernel.until_removed(uid(&stays)).await;
    });
}

#[test]
fn while_the_kernel_is_away_pods_go_on_and_statuses_catch_up() {
    run(32, |mut machine, kernel| async move {
        machine.start(&kernel);
        let crash = pod("crash", json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "sleep 0.3; exit 1"] }] }));
        kernel.put_pod(crash.clone()).await;
        kernel.until_phase(uid(&crash), "Running").await;
        kernel.go_away();
        let record = machine.state_dir().join("pods").join(uid(&crash)).join("record.json");
        let restarts = |text: &str| text.split("\"restarts\":").nth(1).and_then(|t| t.split(',').next()?.parse::<u32>().ok()).unwrap_or(0);
        kernel.until("restarts without a kernel", |_| (restarts(&std::fs::read_to_string(&record).ok()?) >= 3).then_some(())).await;
        kernel.come_back();
        kernel
            .until("statuses to catch up", |s| {
                (s.pods[uid(&crash)]["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(3)).then_some(())
            })
            .await;
        kernel.delete_pod(uid(&crash), 0).await;
        kernel.until_removed(uid(&crash)).await;
    });
}

#[test]
fn purge_after_a_kill_leaves_nothing() {
    run(33, |mut machine, kernel| async move {
        machine.start(&kernel);
        let left = pod(
            "left",
            json!({ "volumes": [{ "name": "e", "emptyDir": { "medium": "Memory" } }],
            "containers": [{ "name": "c", "command": LOOP, "volumeMounts": [{ "name": "e", "mountPath": "/e" }] }] }),
        );
        let began = std::time::Instant::now();
        kernel.put_pod(left.clone()).await;
        kernel.until_ready(uid(&left)).await;
        println!("from the pod's row to its Running status: {} ms", began.elapsed().as_millis());
        if std::env::var_os("SHOW_LOG").is_some() {
            println!("{}", std::fs::read_to_string(machine.dir.join("node.log")).expect("a log"));
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", machine.pid())).expect("readable");
        let rss: u64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()).expect("VmRSS");
        println!("resident memory of host-node with one pod: {} MB", rss / 1024);
        assert!(rss < 60 << 10, "resident memory {rss} KiB");
        machine.kill();
        machine.purge();
        assert_eq!(machine.remains(), Vec::<String>::new());
        assert!(!machine.state_dir().exists());
    });
}
