//! Logs that grow, disks that fill, machines that run short.

use std::io::Read;
use std::time::Duration;

use pintle_runtime_bridge::{ImageRef, Runtime, RuntimeConfig};
use serde_json::{Value, json};

use crate::containerd::PAUSE;
use crate::kernel::{Kernel, State};
use crate::machine::{IMAGE, Machine, patience, pod, run, uid};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_log_is_rotated_and_followed_over_its_rotations() {
    run(41, |mut machine, kernel| async move {
        machine.extra = words("--container-log-max-size 16Ki --container-log-max-files 3 --container-log-monitor-ms 50");
        machine.start(&kernel);
        let script = "n=0; while [ $n -lt 1500 ]; do echo line $n of many that are written one after another; n=$((n+1)); \
            [ $((n % 30)) = 0 ] && sleep 0.1; done";
        let writer = pod("writer", json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["sh", "-c", script] }] }));
        kernel.put_pod(writer.clone()).await;
        let up = kernel
            .until("the log", |s| {
                s.pods.get(uid(&writer)).filter(|p| p["status"]["containerStatuses"][0]["containerID"].is_string()).cloned()
            })
            .await;
        let seen = kernel.logs(&up, "c", |mut o| o.set_follow(true)).await.expect("a log");
        let numbers: Vec<u32> = seen.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
        assert_eq!(numbers, (0..1500).collect::<Vec<_>>(), "no line is lost or told twice");

        let logs = machine.state_dir().join(format!("logs/default_writer_{}/c", uid(&writer)));
        let mut names: Vec<_> =
            std::fs::read_dir(&logs).expect("listed").flatten().map(|e| e.file_name().into_string().expect("text")).collect();
        names.sort();
        assert!(names.len() == 3 && names[0] == "0.log", "{names:?}");
        let packed: Vec<_> = names.iter().filter(|name| name.ends_with(".gz")).collect();
        assert_eq!(packed.len(), 1, "the newest stays as it is: {names:?}");
        let mut text = String::new();
        let file = std::fs::File::open(logs.join(packed[0])).expect("opened");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("unpacked");
        assert!(text.lines().all(|line| line.contains(" stdout F line ")), "{text}");
        kernel.delete_pod(uid(&writer), 0).await;
        kernel.until_removed(uid(&writer)).await;
        kernel.until("its logs to go", |_| (!logs.exists()).then_some(())).await;
    });
}

/// Puts the node's state on a file system of a size, as a machine with a small disk has it.
fn small_disk(machine: &Machine, mebibytes: u32) {
    let (state, kept) = (machine.state_dir(), machine.dir.join("kept"));
    std::fs::rename(&state, &kept).expect("moved");
    std::fs::create_dir(&state).expect("made");
    let options = format!("size={mebibytes}m,mode=700");
    nix::mount::mount(Some("small"), &state, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str())).expect("mounted");
    let copied = std::process::Command::new("cp").arg("-a").arg(kept.join(".")).arg(&state).status().expect("cp runs");
    assert!(copied.success());
}

fn condition<'a>(state: &'a State, kind: &str) -> &'a Value {
    let found = state.node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
    found.map_or(&Value::Null, |c| &c["status"])
}

async fn until_evicted(kernel: &Kernel, pod: &Value) -> Value {
    let failed = kernel.until_phase(uid(pod), "Failed").await;
    assert_eq!(failed["status"]["reason"], "Evicted", "{:#}", failed["status"]);
    failed
}

#[test]
fn a_full_disk_evicts_whoever_fills_it_and_tells_the_scheduler() {
    run(42, |mut machine, kernel| async move {
        small_disk(&machine, 64);
        machine.extra = words("--eviction-hard nodefs.available<40% --eviction-monitor-ms 100 --eviction-pressure-transition-period-s 1");
        machine.start(&kernel);
        let sleeper = |name: &str| pod(name, json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] }));
        let quiet = sleeper("quiet");
        let hog = pod(
            "hog",
            json!({ "terminationGracePeriodSeconds": 600, "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [{ "name": "c", "command": ["sh", "-c", "trap '' TERM; busybox dd if=/dev/zero of=/v/f bs=1M count=40; while true; do sleep 0.1; done"],
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] }),
        );
        kernel.put_pod(quiet.clone()).await;
        kernel.until_ready(uid(&quiet)).await;
        kernel.put_pod(hog.clone()).await;
        kernel.until("DiskPressure", |s| (condition(s, "DiskPressure") == "True").then_some(())).await;
        let failed = until_evicted(&kernel, &hog).await;
        let message = failed["status"]["message"].as_str().expect("a message");
        assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{message}");
        assert!(
            failed["status"]["conditions"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet")
        );
        // Its files are gone, so the pressure is: who was modest runs on, and who comes may.
        kernel.until("no DiskPressure", |s| (condition(s, "DiskPressure") == "False").then_some(())).await;
        assert_eq!(kernel.pod(uid(&quiet))["status"]["phase"], "Running");
        let next = sleeper("next");
        kernel.put_pod(next.clone()).await;
        kernel.until_ready(uid(&next)).await;
        kernel
            .until("the event", |s| {
                s.events.values().any(|e| e["reason"] == "Evicted" && e["involvedObject"]["name"] == "hog").then_some(())
            })
            .await;
    });
}

#[test]
fn when_memory_is_short_the_immodest_go_first_and_the_modest_may_come() {
    run(43, |mut machine, kernel| async move {
        machine.start(&kernel);
        let with = |name: &str, resources: Value| {
            pod(
                name,
                json!({ "terminationGracePeriodSeconds": 1, "containers": [{ "name": "c", "command": ["sleep", "1000"], "resources": resources }] }),
            )
        };
        let modest = json!({ "requests": { "memory": "64Mi", "cpu": "1m" }, "limits": { "memory": "64Mi", "cpu": "1" } });
        let (sure, greedy) = (with("sure", modest), with("greedy", json!({})));
        for pod in [&sure, &greedy] {
            kernel.put_pod(pod.clone()).await;
            kernel.until_ready(uid(pod)).await;
        }
        // No machine has so much: from now on it is short of memory. A pod goes at a look, so the second one is not reached.
        machine.kill();
        machine.extra = words("--eviction-hard memory.available<100% --eviction-monitor-ms 20000");
        machine.start(&kernel);
        let failed = until_evicted(&kernel, &greedy).await;
        let message = failed["status"]["message"].as_str().expect("a message");
        assert!(message.starts_with("The node was low on resource: memory. ") && message.contains("Container c was using "), "{message}");
        assert_eq!(kernel.pod(uid(&sure))["status"]["phase"], "Running");
        kernel.until("MemoryPressure", |s| (condition(s, "MemoryPressure") == "True").then_some(())).await;
        let late = with("late", json!({}));
        kernel.put_pod(late.clone()).await;
        let refused = until_evicted(&kernel, &late).await;
        assert_eq!(refused["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
        assert_eq!(kernel.pod(uid(&sure))["status"]["phase"], "Running");
    });
}

#[test]
fn pods_over_their_own_limits_of_disk_are_evicted() {
    run(44, |mut machine, kernel| async move {
        machine.extra = words("--eviction-monitor-ms 100");
        machine.start(&kernel);
        let fill = |name: &str, path: &str, mebibytes: u32| {
            let script = format!("busybox dd if=/dev/zero of={path} bs=1M count={mebibytes}; sleep 1000");
            let limits = json!({ "limits": { "ephemeral-storage": "8Mi" } });
            pod(
                name,
                json!({ "terminationGracePeriodSeconds": 0, "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "2Mi" } }], "containers": [{ "name": "c",
                "command": ["sh", "-c", script], "resources": limits, "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] }),
            )
        };
        let (fine, volume, layer) = (fill("fine", "/v/f", 1), fill("volume", "/v/f", 4), fill("layer", "/tmp/f", 16));
        for pod in [&fine, &volume, &layer] {
            kernel.put_pod(pod.clone()).await;
        }
        let check = async |pod: &Value, expected: &str| assert_eq!(until_evicted(&kernel, pod).await["status"]["message"], expected);
        check(&volume, "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". ").await;
        check(&layer, "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. ").await;
        assert_eq!(kernel.pod(uid(&fine))["status"]["phase"], "Running");
    });
}

#[test]
fn unused_images_go_when_their_disk_fills_and_used_or_pinned_ones_stay() {
    run(45, |mut machine, kernel| async move {
        let images = ["localhost/unused:1", "localhost/pinned:1"];
        machine.import_more(&images).await;
        // Young images stay until the pod is there that uses one of them.
        let age = patience(1).as_secs();
        machine.extra = words(&format!(
            "--image-gc-high 0 --image-gc-low 0 --image-gc-min-age-s {age} --image-gc-period-ms 200 --pinned-image localhost/pinned:1"
        ));
        machine.start(&kernel);
        let user = pod("user", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] }));
        kernel.put_pod(user.clone()).await;
        kernel.until_ready(uid(&user)).await;
        let records = machine.state_dir().join("runtime/images/records");
        let gone = || match &machine.other {
            Some(other) => !other.has(images[0]),
            None => std::fs::read_dir(&records).expect("listed").count() == 2,
        };
        kernel.until("the unused image to go", |_| gone().then_some(())).await;
        machine.kill();
        if let Some(other) = &machine.other {
            assert!(other.has(IMAGE) && other.has(images[1]) && other.has(PAUSE), "used, pinned, and the runtime's own");
            return;
        }
        let config = RuntimeConfig {
            run_dir: Some(machine.dir.join("run")),
            helper_exe: Some(env!("CARGO_BIN_EXE_host-node").into()),
            cgroup_parent: format!("/{}", machine.cgroup_parent()),
            ..RuntimeConfig::new(machine.state_dir().join("runtime"))
        };
        let runtime = Runtime::open(config).await.expect("opened");
        let has = async |name: &str| runtime.image(&ImageRef::parse(name).expect("a name").to_string()).await.is_some();
        assert_eq!((has(IMAGE).await, has(images[0]).await, has(images[1]).await), (true, false, true));
        drop(runtime);
        tokio::time::sleep(Duration::ZERO).await;
    });
}
