//! What this machine is: the Node object with its capacity, addresses and conditions.
//!
//! Reads /proc and /etc only. Invariant: labels, conditions and resources that others put on the Node are not mentioned here, so
//! the kernel's merge leaves them alone.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::options::NodeOptions;
use crate::quantity;

/// Tells the provisioner of directories where this machine has them.
const VOLUMES: &str = "pintle.dev/local-volumes";

/// Facts of the machine that do not change while the daemon runs.
pub struct Machine {
    name: String,
    labels: Vec<(String, String)>,
    max_pods: u32,
    state_dir: PathBuf,
    volumes_dir: PathBuf,
    /// The InternalIPs, one of each family that the machine has; never empty.
    pub addresses: Vec<IpAddr>,
    cpus: usize,
    memory_bytes: u64,
    info: Value,
    /// What the ids of containers begin with, as `containerd://`.
    pub id_scheme: String,
    features: Features,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// Reserved huge pages: the resource's name, bytes.
    huge_pages: Vec<(String, u64)>,
    since: Timestamp,
}

/// What a machine's runtime can do that not every one can.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Mounts that are read-only with all that is mounted below them.
    pub recursive_read_only: bool,
    /// Pods with users of their own.
    pub user_namespaces: bool,
}

/// Whether a machine can run pods.
pub struct Readiness {
    /// Why not.
    pub fault: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// A pressure condition: its type, and status, reason and message when it does not hold and when it does.
const PRESSURE: [(&str, [(&str, &str); 2]); 3] = [
    (
        "MemoryPressure",
        [
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ],
    ),
    (
        "DiskPressure",
        [("KubeletHasNoDiskPressure", "kubelet has no disk pressure"), ("KubeletHasDiskPressure", "kubelet has disk pressure")],
    ),
    (
        "PIDPressure",
        [
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ],
    ),
];

impl Machine {
    /// Sizes of the huge pages that are reserved, in bytes.
    pub fn huge_page_sizes(&self) -> Vec<u64> {
        self.huge_pages.iter().filter(|(_, bytes)| *bytes > 0).filter_map(|(name, _)| quantity::huge_page_size(name)).collect()
    }

    /// Looks at the machine. `runtime`: what runs containers, as `containerd://1.6.20`.
    pub fn look(options: &NodeOptions, runtime: &str, features: Features) -> Self {
        Self {
            name: options.name.clone(),
            labels: options.label_pairs().unwrap_or_default(),
            max_pods: options.max_pods,
            state_dir: options.state_dir.clone(),
            volumes_dir: options.volumes_dir.clone(),
            addresses: match options.node_ip.as_slice() {
                [] => vec![default_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))],
                given => given.to_vec(),
            },
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_field("MemTotal:").unwrap_or(0),
            info: node_info(runtime),
            id_scheme: format!("{}://", runtime.split("://").next().unwrap_or_default()),
            features,
            app_armor: pintle_runtime_bridge::enforces_app_armor(),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            since: Timestamp::now(),
        }
    }

    /// What its Node has as the label `kubernetes.io/hostname`.
    pub fn hostname(&self) -> &str {
        let label = self.labels.iter().rev().find(|(key, _)| key == "kubernetes.io/hostname");
        label.map_or(&self.name, |(_, value)| value)
    }

    /// When the daemon looked at the machine first.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The Node object: what `NodeLink.open` registers; its `.status` alone goes with heartbeats.
    /// `pressure`: condition types, whether they hold, since when; `readiness`: whether it can run pods, since when.
    pub fn node(&self, pressure: &[(&str, bool, Timestamp)], readiness: &Readiness) -> Value {
        let arch = architecture();
        let mut labels = json!({
            "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
        });
        for (key, value) in &self.labels {
            labels[key] = json!(value);
        }
        let mut addresses: Vec<Value> =
            self.addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address.to_string() })).collect();
        addresses.push(json!({ "type": "Hostname", "address": self.name }));
        let (disk_total, _) = disk_bytes(&self.state_dir);
        let mut resources = json!({
            "cpu": self.cpus.to_string(),
            "memory": format!("{}Ki", self.memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", disk_total / 1024),
            "pods": self.max_pods.to_string(),
        });
        for (name, bytes) in &self.huge_pages {
            resources[name] = json!(format!("{}Ki", bytes / 1024));
        }
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": self.name, "labels": labels, "annotations": { VOLUMES: self.volumes_dir } },
            "status": {
                "capacity": resources, "allocatable": resources,
                "addresses": addresses,
                "conditions": self.conditions(pressure, readiness),
                "nodeInfo": self.info,
                "runtimeHandlers": [{ "name": "", "features": { "recursiveReadOnlyMounts": self.features.recursive_read_only, "userNamespaces": self.features.user_namespaces } }],
            },
        })
    }

    /// What the downward API may tell of this machine.
    pub fn facts(&self) -> crate::container::downward::Facts {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        crate::container::downward::Facts {
            pod_addresses: Vec::new(),
            host_addresses: self.addresses.clone(),
            allocatable_cpu_millis: signed(self.cpus as u64 * 1000),
            allocatable_memory_bytes: signed(self.memory_bytes),
            allocatable_storage_bytes: signed(disk_bytes(&self.state_dir).0),
        }
    }

    fn conditions(&self, pressure: &[(&str, bool, Timestamp)], readiness: &Readiness) -> Value {
        let now = second(Timestamp::now());
        let row = |kind: &str, value: bool, (reason, message): (&str, &str), since: Timestamp| {
            json!({
                "type": kind, "status": if value { "True" } else { "False" }, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": second(since),
            })
        };
        let pressed = PRESSURE.iter().map(|(kind, words)| {
            let known = pressure.iter().find(|known| known.0 == *kind);
            let (holds, since) = known.map_or((false, self.since), |known| (known.1, known.2));
            row(kind, holds, words[usize::from(holds)], since)
        });
        let words = match &readiness.fault {
            None => ("KubeletReady", "kubelet is posting ready status"),
            Some(fault) => ("KubeletNotReady", fault.as_str()),
        };
        let ready = row("Ready", readiness.fault.is_none(), words, readiness.since);
        pressed.chain([ready]).collect()
    }
}

/// A moment as Kubernetes writes it: RFC 3339, whole seconds, UTC.
pub fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The architecture by Go's name.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The source address that a packet to the outside would have: nothing is sent.
fn default_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

/// A field of `/proc/meminfo`, such as `MemTotal:`, in bytes.
pub fn memory_field(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Processor time of the whole machine, nanoseconds since its start: all that is not idle nor waiting for disks.
pub fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already. A tick is 10 ms on every architecture of ours.
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum();
    busy.saturating_mul(10_000_000)
}

/// Resident memory of this process, bytes.
pub fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Total and available bytes of the file system that holds `path`.
pub fn disk_bytes(path: &Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(path) {
        Ok(stat) => (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size()),
        Err(_) => (0, 0),
    }
}

/// Huge pages by size, as Kubernetes names them: `hugepages-2Mi`; none of a size is said, too.
fn huge_pages(directory: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| {
        let kib = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()?;
        let pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse::<u64>().ok()?;
        let name = [(1 << 20, "Gi"), (1 << 10, "Mi"), (1, "Ki")].into_iter().find(|(unit, _)| kib % unit == 0);
        let (unit, suffix) = name?;
        Some((format!("hugepages-{}{suffix}", kib / unit), pages * kib * 1024))
    };
    entries.filter_map(size).collect()
}

fn node_info(runtime: &str) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let os = read("/etc/os-release");
    let os_image = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    json!({
        "machineID": read("/etc/machine-id"), "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": read("/proc/sys/kernel/random/boot_id"), "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": os_image, "containerRuntimeVersion": runtime,
        "kubeletVersion": concat!("v1.37.0+pintle-", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
        "operatingSystem": "linux", "architecture": architecture(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_named_by_their_size() {
        let dir = crate::file::TestDir::new("huge-pages");
        for (name, pages) in [("hugepages-2048kB", "8\n"), ("hugepages-1048576kB", "0\n"), ("other", "1")] {
            crate::file::make_dir(&dir.0.join(name), 0o700).expect("made");
            std::fs::write(dir.0.join(name).join("nr_hugepages"), pages).expect("written");
        }
        let mut found = huge_pages(&dir.0);
        found.sort();
        assert_eq!(found, [("hugepages-1Gi".to_owned(), 0), ("hugepages-2Mi".to_owned(), 16 << 20)]);
    }

    #[test]
    fn the_node_object_has_what_schedulers_and_users_look_for() {
        let words =
            "host-node --name n1 --kernel k:1 --ca a --cert b --key c --state-dir / --run-dir / --node-ip 10.9.8.7,fd00::7 --label zone=a";
        let line = <crate::options::Line as clap::Parser>::parse_from(words.split(' '));
        let options = line.into_node().expect("options of a node");
        let short = [("DiskPressure", true, Timestamp::UNIX_EPOCH)];
        let node = Machine::look(&options, "pintle://1", Features { recursive_read_only: true, user_namespaces: true })
            .node(&short, &Readiness { fault: None, since: Timestamp::UNIX_EPOCH });
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
        assert_eq!(node["metadata"]["labels"]["zone"], "a");
        assert_eq!(node["status"]["addresses"][0]["address"], "10.9.8.7");
        assert_eq!(node["status"]["addresses"][1], json!({ "type": "InternalIP", "address": "fd00::7" }));
        assert_eq!(node["status"]["capacity"]["pods"], "110");
        let reasons: Vec<_> = node["status"]["conditions"].as_array().expect("a list").iter().map(|c| c["reason"].to_string()).collect();
        assert_eq!(reasons.len(), 4);
        assert!(reasons.contains(&"\"KubeletHasSufficientMemory\"".to_owned()), "{reasons:?}");
        assert!(reasons.contains(&"\"KubeletHasDiskPressure\"".to_owned()), "{reasons:?}");
        assert!(serde_json::from_value::<k8s_openapi::api::core::v1::Node>(node).is_ok());
    }
}
