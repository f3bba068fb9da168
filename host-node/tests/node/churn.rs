//! Pods under random kills: of their processes, of the helper, of the daemon, of the kernel's link. At the end what the API says and what is
//! on the machine are the same, and when all is deleted nothing is left.
//!
//! A small sample runs with the other tests; `cargo xtask churn` runs as many pods as long as wanted. What is done follows from a seed. When they
//! do not agree, the difference is told, and what the daemon's log has on each part of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

fn setting((name, usual): (&str, u64)) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// SplitMix64: the same seed, the same story.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit.max(1) as u64).unwrap_or(0)
    }
}

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

/// What there is, by what it belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Books {
    pods: BTreeSet<String>,
    containers: BTreeSet<String>,
    /// Containers with processes.
    running: BTreeSet<String>,
    sandboxes: usize,
    addresses: usize,
    links: usize,
    /// Network namespaces that are held open.
    namespaces: usize,
}

impl Books {
    /// What the machine has and nobody tells of, and the other way round.
    fn differences(&self, found: &Self) -> Vec<String> {
        let sets = [
            ("pod", &self.pods, &found.pods),
            ("container", &self.containers, &found.containers),
            ("running container", &self.running, &found.running),
        ];
        let numbers = [
            ("sandboxes", self.sandboxes, found.sandboxes),
            ("addresses", self.addresses, found.addresses),
            ("links", self.links, found.links),
            ("network namespaces", self.namespaces, found.namespaces),
        ];
        let sets = sets.into_iter().flat_map(|(what, told, found)| {
            let only_told = told.difference(found).map(move |name| format!("{what} {name} is told and not there"));
            only_told.chain(found.difference(told).map(move |name| format!("{what} {name} is there and not told")))
        });
        let numbers = numbers.into_iter().filter(|(_, told, found)| told != found);
        sets.chain(numbers.map(|(what, told, found)| format!("{what}: {told} told, {found} there"))).collect()
    }
}

/// As the API tells it: every pod with every container ready; else what is not.
fn told(kernel: &Kernel) -> Result<Books, Vec<String>> {
    let state = kernel.state.borrow();
    let mut books = Books { pods: state.pods.keys().cloned().collect(), sandboxes: state.pods.len(), ..Books::default() };
    let mut unready = Vec::new();
    for (uid, pod) in &state.pods {
        let status = &pod["status"];
        let sidecar = |name: &Value| {
            pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
        };
        let inits = status["initContainerStatuses"].as_array().into_iter().flatten().filter(|c| sidecar(&c["name"]));
        let mains = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
        if mains.is_empty() || !pod["metadata"]["deletionTimestamp"].is_null() {
            unready.push(format!("pod {uid}, deleted {}: {}", pod["metadata"]["deletionTimestamp"], status));
        }
        for container in inits.chain(mains) {
            let id = container["containerID"].as_str().and_then(|id| id.strip_prefix("pintle://"));
            match id.filter(|_| container["ready"] == true) {
                Some(id) => drop(books.containers.insert(id.to_owned())),
                None => unready.push(format!("pod {uid}: {container}")),
            }
        }
        books.addresses += usize::from(pod["spec"]["hostNetwork"] != true);
    }
    (books.links, books.namespaces, books.running) = (books.addresses, books.addresses, books.containers.clone());
    if unready.is_empty() { Ok(books) } else { Err(unready) }
}

fn names(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// As the machine has it; `Err` tells of something that belongs to nobody.
fn found(machine: &Machine) -> Result<Books, String> {
    let (state, run) = (machine.state_dir(), machine.dir.join("run"));
    let containers = names(&state.join("runtime/containers"));
    let sandboxes: BTreeSet<String> =
        names(&state.join("runtime/sandboxes")).iter().map(|name| name.trim_end_matches(".json").to_owned()).collect();
    let pods = names(&state.join("pods"));
    let logs: BTreeSet<String> = names(&state.join("logs")).iter().filter_map(|name| Some(name.rsplit('_').next()?.to_owned())).collect();
    if logs != pods {
        return Err(format!("logs of {logs:?}, pods {pods:?}"));
    }
    let owned = |name: &str| {
        containers.contains(name) || sandboxes.contains(name) || pods.contains(name) || pods.contains(name.trim_start_matches("pod"))
    };
    let of = |path: &str, marks: &[&str]| {
        let parts: Vec<&str> = path.split('/').collect();
        parts.windows(2).find(|pair| marks.contains(&pair[0])).map(|pair| pair[1].to_owned())
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let ours = machine.dir.to_string_lossy().into_owned();
    for target in table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&ours)) {
        if let Some(owner) = of(target, &["pods", "sandboxes", "containers"]).filter(|owner| !owned(owner)) {
            return Err(format!("mount {target} of {owner}"));
        }
    }
    let mut running = BTreeSet::new();
    for root in names(Path::new("/sys/fs/cgroup")) {
        groups(&Path::new("/sys/fs/cgroup").join(root).join(machine.cgroup_parent()), &owned, &containers, &mut running)?;
    }
    if let Some(pin) = names(&run.join("sandboxes")).iter().find(|pin| !sandboxes.contains(*pin)) {
        return Err(format!("pins of {pin}"));
    }
    let left = names(&state.join("runtime/trash"));
    if !left.is_empty() {
        return Err(format!("in the trash: {left:?}"));
    }
    let addresses = names(&state.join("addresses")).iter().filter(|name| name.parse::<std::net::Ipv4Addr>().is_ok()).count();
    let bridge = Path::new("/sys/class/net").join(machine.bridge());
    // Set, and not the lowest of its ports' (`NET_ADDR_SET` of linux/netdevice.h), which change.
    let hardware_address = std::fs::read_to_string(bridge.join("addr_assign_type")).map_err(|e| e.to_string())?;
    if hardware_address.trim() != "3" {
        return Err("the bridge's hardware address follows its ports'".into());
    }
    let links = names(&bridge.join("brif")).len();
    let [helper] = processes(machine).1[..] else { return Err("there is not just one helper".into()) };
    let namespaces = network_namespaces(helper);
    Ok(Books { pods, containers, running, sandboxes: sandboxes.len(), addresses, links, namespaces })
}

/// Network namespaces that a process holds open, besides its own.
fn network_namespaces(pid: i32) -> usize {
    use std::os::unix::fs::MetadataExt;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|found| found.ino());
    let own = inode(&process.join("ns/net"));
    let open = names(&process.join("fd")).into_iter().map(|fd| process.join("fd").join(fd)).filter(|fd| {
        // A helper that made it has it from a process, one that adopted it from its pin.
        let target = std::fs::read_link(fd).unwrap_or_default();
        target.to_string_lossy().starts_with("net:[") || target.ends_with("net")
    });
    open.filter_map(|fd| inode(&fd)).filter(|inode| Some(*inode) != own).collect::<BTreeSet<_>>().len()
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

/// Every group below belongs to somebody, and so does every process in it; gathers the containers that have processes.
fn groups(
    directory: &Path,
    owned: &dyn Fn(&str) -> bool,
    containers: &BTreeSet<String>,
    running: &mut BTreeSet<String>,
) -> Result<(), String> {
    for entry in
        std::fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !owned(&name) && !matches!(name.as_str(), "burstable" | "besteffort" | "init") {
            return Err(format!("cgroup {}", entry.path().display()));
        }
        let inside = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
        if !inside.is_empty() {
            match containers.contains(&name) {
                true => drop(running.insert(name)),
                false if name == "init" => {}
                false => return Err(format!("processes {inside:?} in cgroup {}", entry.path().display())),
            }
        }
        groups(&entry.path(), owned, containers, running)?;
    }
    Ok(())
}

/// Processes of containers, and the helper's own.
fn processes(machine: &Machine) -> (Vec<i32>, Vec<i32>) {
    let roots = names(Path::new("/sys/fs/cgroup"));
    let root = roots.iter().map(|root| Path::new("/sys/fs/cgroup").join(root).join(machine.cgroup_parent())).find(|path| path.exists());
    let mut inside = Vec::new();
    let mut waiting: Vec<_> = root.into_iter().collect();
    while let Some(directory) = waiting.pop() {
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        inside.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        waiting.extend(std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|e| e.path()).filter(|path| path.is_dir()));
    }
    let mark = machine.dir.to_string_lossy().into_owned();
    let helper = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.starts_with("pintle-container-helper") && words.contains(&mark)
    };
    let all = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    // The init of a shared PID namespace bears the helper's words, too, but is in its pod's group.
    let helpers = all.filter(|pid| !inside.contains(pid)).filter(helper).collect();
    (inside, helpers)
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
            let (inside, helpers) = processes(&machine);
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
        let (inside, helpers) = processes(&machine);
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
