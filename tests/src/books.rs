//! What the API tells of a node's pods and what is on the machine, to be compared after whatever happened to either; and the dice that say what does.

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A node on this machine.
pub struct Place {
    /// Its daemon's `--state-dir`.
    pub state: PathBuf,
    /// Its daemon's `--run-dir`.
    pub run: PathBuf,
    /// Its daemon's `--cgroup-parent`, below each hierarchy.
    pub cgroup: String,
}

/// A setting of a churn: the environment's, or what is usual for the sample among the other tests.
#[must_use]
pub fn setting((name, usual): (&str, u64)) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// SplitMix64: the same seed, the same story.
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to below the limit; 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit.max(1) as u64).unwrap_or(0)
    }
}

/// What there is, by what it belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Uids.
    pub pods: BTreeSet<String>,
    /// Ids, as the runtime knows them.
    pub containers: BTreeSet<String>,
    /// Those of them with processes.
    pub running: BTreeSet<String>,
    /// One a pod.
    pub sandboxes: usize,
    /// One of version 4 a pod that is not on the host's network.
    pub addresses: usize,
    /// Ports of the pods' bridge.
    pub links: usize,
    /// Network namespaces that are held open.
    pub namespaces: usize,
}

impl Books {
    /// What the machine has and nobody tells of, and the other way round.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<String> {
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

/// As the API tells it of all pods of a node: every pod with every container ready; else what is not.
///
/// # Errors
/// Pods that are being deleted and containers that are not ready, one text each.
pub fn told<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Result<Books, Vec<String>> {
    let mut books = Books::default();
    let mut unready = Vec::new();
    for pod in pods {
        let (status, uid) = (&pod["status"], pod["metadata"]["uid"].as_str().unwrap_or_default());
        books.pods.insert(uid.to_owned());
        let sidecar = |name: &Value| {
            pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
        };
        let inits = status["initContainerStatuses"].as_array().into_iter().flatten().filter(|c| sidecar(&c["name"]));
        let mains = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
        if mains.is_empty() || !pod["metadata"]["deletionTimestamp"].is_null() {
            unready.push(format!("pod {uid}, deleted {}: {status}", pod["metadata"]["deletionTimestamp"]));
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
    books.sandboxes = books.pods.len();
    (books.links, books.namespaces, books.running) = (books.addresses, books.addresses, books.containers.clone());
    if unready.is_empty() { Ok(books) } else { Err(unready) }
}

/// The names in a directory; none where there is none.
#[must_use]
pub fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

impl Place {
    /// As the machine has it. `mounts`: the text of the daemon's `mountinfo`; `links`: how many ports the pods' bridge has.
    ///
    /// # Errors
    /// Something that belongs to nobody.
    pub fn found(&self, mounts: &str, links: usize) -> Result<Books, String> {
        let containers = names(&self.state.join("runtime/containers"));
        let sandboxes: BTreeSet<String> =
            names(&self.state.join("runtime/sandboxes")).iter().map(|name| name.trim_end_matches(".json").to_owned()).collect();
        let pods = names(&self.state.join("pods"));
        let logs: BTreeSet<String> =
            names(&self.state.join("logs")).iter().filter_map(|name| Some(name.rsplit('_').next()?.to_owned())).collect();
        if logs != pods {
            return Err(format!("logs of {logs:?}, pods {pods:?}"));
        }
        let owned = |name: &str| {
            containers.contains(name) || sandboxes.contains(name) || pods.contains(name) || pods.contains(name.trim_start_matches("pod"))
        };
        let of = |path: &str| {
            let parts: Vec<&str> = path.split('/').collect();
            parts.windows(2).find(|pair| ["pods", "sandboxes", "containers"].contains(&pair[0])).map(|pair| pair[1].to_owned())
        };
        let ours = [self.state.to_string_lossy(), self.run.to_string_lossy()];
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for target in targets.filter(|target| ours.iter().any(|ours| target.starts_with(&**ours))) {
            if let Some(owner) = of(target).filter(|owner| !owned(owner)) {
                return Err(format!("mount {target} of {owner}"));
            }
        }
        let mut running = BTreeSet::new();
        for group in self.groups() {
            groups(&group, &owned, &containers, &mut running)?;
        }
        if let Some(pin) = names(&self.run.join("sandboxes")).iter().find(|pin| !sandboxes.contains(*pin)) {
            return Err(format!("pins of {pin}"));
        }
        let left = names(&self.state.join("runtime/trash"));
        if !left.is_empty() {
            return Err(format!("in the trash: {left:?}"));
        }
        let addresses = names(&self.state.join("addresses")).iter().filter(|name| name.parse::<std::net::Ipv4Addr>().is_ok()).count();
        let [helper] = self.processes().1[..] else { return Err("there is not just one helper".into()) };
        Ok(Books { pods, containers, running, sandboxes: sandboxes.len(), addresses, links, namespaces: network_namespaces(helper) })
    }

    /// The pods' parent cgroup, in each hierarchy that has it.
    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        // The one hierarchy of version 2 begins there; those of version 1 are folders there.
        let hierarchies = if root.join("cgroup.controllers").exists() {
            vec![root.to_owned()]
        } else {
            names(root).into_iter().map(|name| root.join(name)).collect()
        };
        hierarchies.into_iter().map(|hierarchy| hierarchy.join(&self.cgroup)).filter(|path| path.exists())
    }

    /// Process ids: of what is in containers, and of the helper.
    #[must_use]
    pub fn processes(&self) -> (Vec<i32>, Vec<i32>) {
        let mut inside = Vec::new();
        let mut waiting: Vec<_> = self.groups().next().into_iter().collect();
        while let Some(directory) = waiting.pop() {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            inside.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            waiting.extend(fs::read_dir(&directory).into_iter().flatten().flatten().map(|e| e.path()).filter(|path| path.is_dir()));
        }
        let mark = self.run.to_string_lossy().into_owned();
        let helper = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.starts_with("pintle-container-helper") && words.contains(&mark)
        };
        let all = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        // The init of a shared PID namespace bears the helper's words, too, but is in its pod's group.
        let helpers = all.filter(|pid| !inside.contains(pid)).filter(helper).collect();
        (inside, helpers)
    }
}

/// Network namespaces that a process holds open, besides its own.
fn network_namespaces(pid: i32) -> usize {
    use std::os::unix::fs::MetadataExt;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let inode = |path: &Path| fs::metadata(path).ok().map(|found| found.ino());
    let own = inode(&process.join("ns/net"));
    let open = names(&process.join("fd")).into_iter().map(|fd| process.join("fd").join(fd)).filter(|fd| {
        // A helper that made it has it from a process, one that adopted it from its pin.
        let target = fs::read_link(fd).unwrap_or_default();
        target.to_string_lossy().starts_with("net:[") || target.ends_with("net")
    });
    open.filter_map(|fd| inode(&fd)).filter(|inode| Some(*inode) != own).collect::<BTreeSet<_>>().len()
}

/// Every group below belongs to somebody, and so does every process in it; gathers the containers that have processes.
fn groups(
    directory: &Path,
    owned: &dyn Fn(&str) -> bool,
    containers: &BTreeSet<String>,
    running: &mut BTreeSet<String>,
) -> Result<(), String> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !owned(&name) && !matches!(name.as_str(), "burstable" | "besteffort" | "init") {
            return Err(format!("cgroup {}", entry.path().display()));
        }
        let inside = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
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
