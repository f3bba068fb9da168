//! Pods under random kills: of their processes, of the helper, of the daemon, of the kernel's link. At the end what the API says and what is
//! on the machine are the same, and when all is deleted nothing is left.
//!
//! A small sample runs with the other tests; `cargo xtask churn` runs as many pods as long as wanted. What is done follows from a seed. When they
//! do not agree, the difference is told, and what the daemon's log has on each part of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pintle_tests::books::{self, Books, Dice, Place, names, setting};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::kernel::Kernel;
use crate::machine::{Machine, patience, pod, run_natively, uid, user_namespaces};

/// The settings: environment variable and value for the sample.
const PODS: (&str, u64) = ("PINTLE_CHURN_PODS", 6);
const SECONDS: (&str, u64) = ("PINTLE_CHURN_SECONDS", 3);
const SEED: (&str, u64) = ("PINTLE_CHURN_SEED", 1);
/// How often it is said how far things are.
const PROGRESS: Duration = Duration::from_secs(10);
/// Lines of the daemon's log told for each thing that does not agree, and for how many things.
const LINES: usize = 25;
const THINGS: usize = 6;
/// Length of an id of containers, and the least of a pod's.
const ID_DIGITS: usize = 12;

/// Pods of several shapes: plain, with init container and volumes, with a sidecar, sharing processes (as users of their own, where that can be), on the host's network.
fn shape(number: usize, kind: usize) -> Value {
    let forever = json!(["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done"]);
    let main = json!({ "name": "c", "command": forever });
    let mounted = json!({ "name": "c", "command": forever, "volumeMounts": [{ "name": "m", "mountPath": "/m" }, { "name": "d", "mountPath": "/d", "subPath": "below" }] });
    let spec = match kind % 5 {
        0 => json!({ "containers": [main] }),
        1 => json!({ "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory" } }, { "name": "d", "emptyDir": {} }],
            "initContainers": [{ "name": "i", "command": ["true"] }], "containers": [mounted] }),
        2 => json!({ "initContainers": [{ "name": "s", "restartPolicy": "Always", "command": forever }], "containers": [main] }),
        3 if user_namespaces() => {
            json!({ "hostUsers": false, "shareProcessNamespace": true, "containers": [main, { "name": "e", "command": forever }] })
        }
        3 => json!({ "shareProcessNamespace": true, "containers": [main, { "name": "e", "command": forever }] }),
        _ => json!({ "hostNetwork": true, "containers": [main] }),
    };
    let mut made = pod(&format!("churn-{number}"), spec);
    made["spec"]["terminationGracePeriodSeconds"] = json!(1);
    made
}

fn place(machine: &Machine) -> Place {
    Place { state: machine.state_dir(), run: machine.dir.join("run"), cgroup: machine.cgroup_parent() }
}

fn told(kernel: &Kernel) -> Result<Books, Vec<String>> {
    books::told(kernel.state.borrow().pods.values())
}

fn found(machine: &Machine) -> Result<Books, String> {
    let bridge = Path::new("/sys/class/net").join(machine.bridge());
    // Set, and not the lowest of its ports' (`NET_ADDR_SET` of linux/netdevice.h), which change.
    let hardware_address = std::fs::read_to_string(bridge.join("addr_assign_type")).map_err(|e| e.to_string())?;
    if hardware_address.trim() != "3" {
        return Err("the bridge's hardware address follows its ports'".into());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    place(machine).found(&mounts, names(&bridge.join("brif")).len())
}

/// Files of the daemon and the runtime, images aside.
fn files(machine: &Machine) -> BTreeSet<PathBuf> {
    let images = machine.state_dir().join("runtime/images");
    let (mut found, mut waiting) = (BTreeSet::new(), vec![machine.state_dir(), machine.dir.join("run")]);
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten().filter(|entry| entry.path() != images) {
            waiting.extend(entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()));
            found.insert(entry.path());
        }
    }
    found
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// Waits until books and machine agree.
async fn settle(machine: &Machine, kernel: &Kernel, at_most: Duration, what: &str) {
    let began = Instant::now();
    loop {
        let differences = match (told(kernel), found(machine)) {
            (Ok(told), Ok(found)) => told.differences(&found),
            (Ok(_), Err(stray)) => vec![stray],
            (Err(unready), found) => unready.into_iter().chain(found.err()).collect(),
        };
        if differences.is_empty() {
            return println!("{what}: API and machine agree after {:.1} s", began.elapsed().as_secs_f64());
        }
        if began.elapsed() > at_most {
            let log = std::fs::read_to_string(machine.dir.join("node.log")).unwrap_or_default();
            let helper = std::fs::read_to_string(machine.dir.join("run/helper.log")).unwrap_or_default();
            println!("--- helper.log\n{helper}");
            tell(&differences, &log);
            panic!("{what}, {} things do not agree:\n{}", differences.len(), differences.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the log has on the ids in these words.
fn tell(differences: &[String], log: &str) {
    let ids = differences.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    let ids: BTreeSet<&str> =
        ids.filter(|id| id.starts_with("churn-") || id.len() >= ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit())).collect();
    for id in ids.into_iter().take(THINGS) {
        // A line of the log has a pod's name or its uid.
        let name = id.trim_end_matches("-0001-4000");
        let whole =
            |line: &&str| line.match_indices(name).any(|(at, _)| !line[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()));
        let lines: Vec<&str> = log.lines().filter(whole).collect();
        println!("--- {id} in node.log, {} lines\n{}", lines.len(), lines[lines.len().saturating_sub(LINES)..].join("\n"));
    }
}

/// What was done so far.
#[derive(Default)]
struct Done([u32; 6]);

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [processes, helpers, daemons, deleted, erased, links] = self.0;
        write!(
            f,
            "killed: {processes} processes, {helpers} helpers, {daemons} daemons; pods: {deleted} deleted, {erased} erased; {links} turns of the kernel's link"
        )
    }
}

#[test]
fn churn_leaves_nothing_behind_and_api_and_machine_agree() {
    run_natively(61, "it counts our own runtime's files and helpers", |mut machine, kernel| async move {
        let count = usize::try_from(setting(PODS)).expect("a count");
        let (time, seed) = (Duration::from_secs(setting(SECONDS)), setting(SEED));
        println!("churn: {count} pods for {time:?}, seed {seed}");
        let mut dice = Dice(seed);
        machine.extra = vec!["--max-pods".into(), (count + 10).to_string()];
        machine.start(&kernel);
        kernel.until("a heartbeat", |s| (s.leases > 0).then_some(())).await;
        let mut before = files(&machine);
        // Made with the first pod, to stay.
        before.extend(["logs", "addresses", "pods"].map(|name| machine.state_dir().join(name)));
        let mut made = 0;
        let mut put = async |dice: &mut Dice| {
            made += 1;
            kernel.put_pod(shape(made, dice.below(5))).await;
        };
        for _ in 0..count {
            put(&mut dice).await;
        }
        settle(&machine, &kernel, patience(60) + time, "at the start").await;
        let (began, mut told_at) = (Instant::now(), Instant::now());
        let (mut away, mut done) = (false, Done::default());
        while began.elapsed() < time {
            if told_at.elapsed() >= PROGRESS {
                told_at = Instant::now();
                println!("{} s of {}; {done}", began.elapsed().as_secs(), time.as_secs());
            }
            let action = [0, 0, 0, 1, 2, 3, 3, 3, 4, 5][dice.below(10)];
            done.0[action] += 1;
            let (inside, helpers) = place(&machine).processes();
            let uids: Vec<String> = kernel.state.borrow().pods.keys().cloned().collect();
            match action {
                0 => {
                    if let Some(pid) = inside.get(dice.below(inside.len())) {
                        kill(*pid);
                    }
                }
                1 => helpers.iter().copied().for_each(kill),
                2 => {
                    machine.kill();
                    machine.start(&kernel);
                }
                3 if !uids.is_empty() => {
                    let grace = i64::try_from(dice.below(2)).unwrap_or(0);
                    kernel.delete_pod(&uids[dice.below(uids.len())], grace).await;
                }
                4 if !uids.is_empty() => kernel.erase_pod(&uids[dice.below(uids.len())]).await,
                _ if away => {
                    kernel.come_back();
                    away = false;
                }
                _ => {
                    kernel.go_away();
                    away = true;
                }
            }
            while kernel.state.borrow().pods.len() < count {
                put(&mut dice).await;
            }
            let pause = u64::try_from(dice.below(150)).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        println!("{done}");
        kernel.come_back();
        let at_most = patience(60) + time;
        let deadline = Instant::now() + at_most;
        while kernel.state.borrow().pods.len() < count
            || kernel.state.borrow().pods.values().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        {
            assert!(Instant::now() < deadline, "pods that were deleted stay");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let missing = count.saturating_sub(kernel.state.borrow().pods.len());
            for _ in 0..missing {
                put(&mut dice).await;
            }
        }
        settle(&machine, &kernel, at_most, "after the churn").await;
        let all: Vec<Value> = kernel.state.borrow().pods.values().cloned().collect();
        for pod in &all {
            kernel.delete_pod(uid(pod), 0).await;
        }
        settle(&machine, &kernel, at_most, "after all were deleted").await;
        let (inside, helpers) = place(&machine).processes();
        assert_eq!((inside.len(), helpers.len()), (0, 1), "no process but one helper");
        let deadline = Instant::now() + patience(60);
        loop {
            let left: Vec<_> = files(&machine).difference(&before).cloned().collect();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "files stay: {left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        machine.kill();
        machine.purge();
        assert_eq!(machine.remains(), Vec::<String>::new());
    });
}
