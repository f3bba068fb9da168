//! Control groups of both versions: where a container's groups are, what is written to them, what is read from them.
//!
//! cgroups-rs finds the hierarchies; the files are written here directly, because starting a container writes to only
//! the controllers asked for, and a group is joined by descriptors that are opened before the clone.
//! A controller that is not there is skipped with a warning, never an error: limits are best effort on such a kernel.
//!
//! Invariant: every path is below `cgroup_parent`, and removal goes from the leaves up, so nothing else's groups are touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::Controllers;
use cgroups_rs::fs::hierarchies::{V1, is_cgroup2_unified_mode};
use nix::libc;

use crate::spec::Resources;
use crate::state::{Stats, now_ns};

const CPU_PERIOD_US: u64 = 100_000;
const V2_CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset", "hugetlb"];
/// How long a dying group may stay busy before removal gives up.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub(crate) enum Hierarchies {
    /// One tree a controller (controllers that are mounted together share a path).
    V1(V1Mounts),
    /// The unified tree.
    V2(PathBuf),
}

/// Mount points of the v1 controllers that this runtime uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct V1Mounts {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    pids: Option<PathBuf>,
    devices: Option<PathBuf>,
    freezer: Option<PathBuf>,
    cpuset: Option<PathBuf>,
    hugetlb: Option<PathBuf>,
}

/// How a new process gets into its group.
pub(crate) enum Entry {
    /// Write "0" to each, by the process itself.
    Tasks(Vec<File>),
    /// Clone into this directory.
    Directory(OwnedFd),
}

/// A device rule: `c 1:3 rwm` in v1's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) kind: char,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: String,
}

impl DeviceRule {
    fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// Which devices a group may use.
pub(crate) enum DevicePolicy<'a> {
    /// All: privileged containers and pod groups.
    All,
    /// These and no others.
    Only(&'a [DeviceRule]),
}

impl Hierarchies {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> Self {
        if is_cgroup2_unified_mode() {
            return Self::V2(PathBuf::from("/sys/fs/cgroup"));
        }
        let v1 = V1::new();
        let find = |c: Controllers| v1.get_mount_point(c).map(|(point, _)| point);
        Self::V1(V1Mounts {
            memory: find(Controllers::Mem),
            cpu: find(Controllers::Cpu),
            cpuacct: find(Controllers::CpuAcct),
            pids: find(Controllers::Pids),
            devices: find(Controllers::Devices),
            freezer: find(Controllers::Freezer),
            cpuset: find(Controllers::CpuSet),
            hugetlb: find(Controllers::HugeTlb),
        })
    }

    /// The directories that make up group `path`; those of `resources`' optional controllers only when asked for.
    fn directories(&self, path: &str, resources: &Resources) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V2(root) => vec![root.join(path)],
            Self::V1(v1) => {
                let mut roots: Vec<&PathBuf> = v1.always();
                if resources.cpuset_cpus.is_some() {
                    roots.extend(v1.cpuset.as_ref());
                }
                if !resources.huge_pages.is_empty() {
                    roots.extend(v1.hugetlb.as_ref());
                }
                roots.iter().map(|root| root.join(path)).collect()
            }
        }
    }

    /// Every directory that group `path` may have, asked for or not.
    fn all_directories(&self, path: &str) -> Vec<PathBuf> {
        let every = Resources { cpuset_cpus: Some(String::new()), huge_pages: [(0, 0)].into(), ..Resources::default() };
        self.directories(path, &every)
    }

    /// Makes group `path` and writes its limits.
    pub(crate) fn create(&self, path: &str, resources: &Resources, devices: &DevicePolicy<'_>) -> io::Result<()> {
        match self {
            Self::V2(root) => make_v2(root, path)?,
            Self::V1(_) => {
                for directory in self.directories(path, resources) {
                    make_directory(&directory)?;
                }
            }
        }
        self.limit(path, resources)?;
        self.restrict_devices(path, devices)
    }

    /// Writes limits to an existing group.
    pub(crate) fn limit(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let settings = match self {
            Self::V2(root) => v2_settings(&root.join(path), resources),
            Self::V1(v1) => v1.settings(path, resources)?,
        };
        for (file, value) in settings {
            match write_value(&file, &value) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(file = %file.display(), "cgroup controller absent, limit not applied");
                }
                Err(e) => return Err(io::Error::new(e.kind(), format!("{} = {value}: {e}", file.display()))),
            }
        }
        Ok(())
    }

    fn restrict_devices(&self, path: &str, policy: &DevicePolicy<'_>) -> io::Result<()> {
        let DevicePolicy::Only(rules) = policy else { return Ok(()) };
        match self {
            Self::V1(v1) => {
                let Some(root) = &v1.devices else { return Ok(()) };
                let directory = root.join(path.trim_start_matches('/'));
                write_value(&directory.join("devices.deny"), "a")?;
                let mut allow = OpenOptions::new().write(true).open(directory.join("devices.allow"))?;
                rules.iter().try_for_each(|rule| allow.write_all(rule.line().as_bytes()))
            }
            Self::V2(root) => crate::device_filter::attach(&root.join(path.trim_start_matches('/')), rules),
        }
    }

    /// Whether device rules have an effect here (else CAP_MKNOD must not be given).
    pub(crate) fn restricts_devices(&self) -> bool {
        match self {
            Self::V1(v1) => v1.devices.is_some(),
            Self::V2(_) => true,
        }
    }

    /// Opens the way into group `path`.
    pub(crate) fn entry(&self, path: &str, resources: &Resources) -> io::Result<Entry> {
        match self {
            Self::V2(root) => {
                let directory = root.join(path.trim_start_matches('/'));
                let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(directory)?;
                Ok(Entry::Directory(file.into()))
            }
            // A thread that moves itself by `tasks` does not take the lock that `cgroup.procs` takes.
            Self::V1(_) => self
                .directories(path, resources)
                .iter()
                .map(|d| OpenOptions::new().write(true).open(d.join("tasks")))
                .collect::<io::Result<Vec<_>>>()
                .map(Entry::Tasks),
        }
    }

    /// Directories to show read-only in the container's /sys/fs/cgroup: name and path. Empty name: the whole tree.
    pub(crate) fn visible(&self, path: &str) -> Vec<(String, PathBuf)> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V2(root) => vec![(String::new(), root.join(path))],
            Self::V1(v1) => v1.always().iter().filter_map(|root| Some((root.file_name()?.to_str()?.to_owned(), root.join(path)))).collect(),
        }
    }

    /// How often the kernel killed in this group for lack of memory.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let path = path.trim_start_matches('/');
        let file = match self {
            Self::V2(root) => root.join(path).join("memory.events"),
            Self::V1(v1) => match &v1.memory {
                Some(root) => root.join(path).join("memory.oom_control"),
                None => return 0,
            },
        };
        field(&fs::read_to_string(file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// Process ids of the group and all below it.
    pub(crate) fn processes(&self, path: &str) -> Vec<i32> {
        let path = path.trim_start_matches('/');
        let root = match self {
            Self::V2(root) => Some(root),
            Self::V1(v1) => v1.always().into_iter().next(),
        };
        let mut pids = Vec::new();
        if let Some(root) = root {
            walk(&root.join(path), &mut |directory| {
                let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
            });
        }
        pids
    }

    /// SIGKILL to all of a group until none is left or none new appears.
    pub(crate) fn kill_all(&self, path: &str) {
        if let Self::V2(root) = self
            && write_value(&root.join(path.trim_start_matches('/')).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // Without cgroup.kill a fork may slip through a pass: repeat while new ones show up.
        let mut seen = std::collections::HashSet::new();
        for _ in 0..16 {
            let mut fresh = false;
            for pid in self.processes(path) {
                if pid > 0 && seen.insert(pid) {
                    fresh = true;
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
            }
            if !fresh {
                return;
            }
        }
    }

    /// Removes the group and all below it, and kills who is still in it: a process whose helper died before it could note that it had started it is
    /// known by nothing else. Blocks while the last ones die; errors only when they do not.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            let mut left = Ok(());
            for directory in self.all_directories(path) {
                if let Err(e) = remove_tree(&directory) {
                    let busy = e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline;
                    left = Err((busy, io::Error::new(e.kind(), format!("{}: {e}", directory.display()))));
                }
            }
            match left {
                Ok(()) => return Ok(()),
                Err((false, error)) => return Err(error),
                // Or a task that the kernel has not quite let go of: it gives no event of that in v1.
                Err((true, _)) => self.kill_all(path),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes empty groups from `path` up to the root, as far as they are empty.
    pub(crate) fn prune_up(&self, path: &str) {
        let mut path = Path::new(path.trim_matches('/'));
        while !path.as_os_str().is_empty() {
            for directory in self.all_directories(&path.to_string_lossy()) {
                let _ = fs::remove_dir(directory);
            }
            path = path.parent().unwrap_or(Path::new(""));
        }
    }

    /// Reads the group's use of resources.
    pub(crate) fn stats(&self, path: &str) -> Stats {
        let path = path.trim_start_matches('/');
        let read = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
        let number = |file: PathBuf| read(file).trim().parse::<u64>().unwrap_or(0);
        let mut stats = Stats { at_ns: now_ns(), ..Stats::default() };
        let inactive;
        match self {
            Self::V2(root) => {
                let d = root.join(path);
                stats.cpu_usage_ns = field(&read(d.join("cpu.stat")), "usage_usec").unwrap_or(0) * 1000;
                stats.memory_usage_bytes = number(d.join("memory.current"));
                let memory = read(d.join("memory.stat"));
                inactive = field(&memory, "inactive_file").unwrap_or(0);
                stats.memory_rss_bytes = field(&memory, "anon").unwrap_or(0);
                stats.pids = number(d.join("pids.current"));
            }
            Self::V1(v1) => {
                let at = |root: &Option<PathBuf>, file: &str| root.as_ref().map(|r| r.join(path).join(file)).unwrap_or_default();
                stats.cpu_usage_ns = number(at(&v1.cpuacct, "cpuacct.usage"));
                stats.memory_usage_bytes = number(at(&v1.memory, "memory.usage_in_bytes"));
                let memory = read(at(&v1.memory, "memory.stat"));
                inactive = field(&memory, "total_inactive_file").unwrap_or(0);
                stats.memory_rss_bytes = field(&memory, "total_rss").unwrap_or(0);
                stats.pids = number(at(&v1.pids, "pids.current"));
            }
        }
        stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(inactive);
        stats
    }
}

impl V1Mounts {
    /// Roots that every container has a group in; a root that carries two controllers appears once.
    fn always(&self) -> Vec<&PathBuf> {
        let mut roots = Vec::new();
        for root in [&self.memory, &self.cpu, &self.cpuacct, &self.pids, &self.devices].into_iter().flatten() {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        if roots.is_empty() {
            roots.extend(self.freezer.as_ref());
        }
        roots
    }

    fn settings(&self, path: &str, r: &Resources) -> io::Result<Vec<(PathBuf, String)>> {
        let mut settings = Vec::new();
        let mut put = |root: &Option<PathBuf>, file: &str, value: Option<String>| {
            if let Some(value) = value {
                let directory = root.as_ref().map_or_else(|| PathBuf::from("/sys/fs/cgroup/absent"), |r| r.join(path));
                settings.push((directory.join(file), value));
            }
        };
        put(&self.memory, "memory.limit_in_bytes", r.memory_limit_bytes.map(|v| v.to_string()));
        put(&self.cpu, "cpu.shares", r.cpu_request_millis.map(|m| shares(m).to_string()));
        put(&self.cpu, "cpu.cfs_period_us", r.cpu_limit_millis.map(|_| CPU_PERIOD_US.to_string()));
        put(&self.cpu, "cpu.cfs_quota_us", r.cpu_limit_millis.map(|m| quota_or(m, "-1")));
        put(&self.pids, "pids.max", r.pids_limit.map(limit_or_max));
        for (size, bytes) in &r.huge_pages {
            // What is reserved counts from the reservation on, what is not from its use.
            for kind in ["", "rsvd."] {
                put(&self.hugetlb, &format!("hugetlb.{}.{kind}limit_in_bytes", page_size(*size)), Some(bytes.to_string()));
            }
        }
        if let (Some(root), Some(cpus)) = (&self.cpuset, &r.cpuset_cpus) {
            inherit_cpuset(root, Path::new(path))?;
            put(&self.cpuset, "cpuset.cpus", Some(cpus.clone()));
        }
        Ok(settings)
    }
}

fn v2_settings(directory: &Path, r: &Resources) -> Vec<(PathBuf, String)> {
    let rows = [
        ("memory.max", r.memory_limit_bytes.map(limit_or_max)),
        ("memory.swap.max", r.memory_limit_bytes.map(|_| "0".to_owned())),
        ("memory.oom.group", r.memory_limit_bytes.map(|_| "1".to_owned())),
        ("cpu.weight", r.cpu_request_millis.map(|m| weight(shares(m)).to_string())),
        ("cpu.max", r.cpu_limit_millis.map(|m| format!("{} {CPU_PERIOD_US}", quota_or(m, "max")))),
        ("pids.max", r.pids_limit.map(limit_or_max)),
        ("cpuset.cpus", r.cpuset_cpus.clone()),
    ];
    let huge = r.huge_pages.iter().flat_map(|(size, bytes)| {
        ["", "rsvd."].map(|kind| (directory.join(format!("hugetlb.{}.{kind}max", page_size(*size))), bytes.to_string()))
    });
    rows.into_iter().filter_map(|(file, value)| Some((directory.join(file), value?))).chain(huge).collect()
}

/// A size of huge pages as the names of files have it: `2MB`.
fn page_size(bytes: u64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes % unit == 0).unwrap_or((1, "B"));
    format!("{}{name}", bytes / unit)
}

fn limit_or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

fn weight(shares: u64) -> u64 {
    1 + (shares - 2) * 9999 / 262_142
}

fn quota_or(millis: u64, none: &str) -> String {
    if millis == 0 { none.to_owned() } else { quota_us(millis).to_string() }
}

fn quota_us(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(1000)
}

fn write_value(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(directory),
        other => other,
    }
}

/// Makes a v2 group, enabling on the way down what the kernel offers of the controllers that we use.
fn make_v2(root: &Path, path: &str) -> io::Result<()> {
    let mut directory = root.to_owned();
    for part in Path::new(path.trim_start_matches('/')).components() {
        let offered = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for controller in V2_CONTROLLERS.iter().filter(|c| has(&offered, c) && !has(&enabled, c)) {
            if let Err(e) = write_value(&directory.join("cgroup.subtree_control"), &format!("+{controller}")) {
                tracing::warn!(controller, directory = %directory.display(), error = %e, "cgroup controller not enabled");
            }
        }
        directory.push(part);
        make_directory(&directory)?;
    }
    Ok(())
}

/// A new v1 cpuset has neither cpus nor mems and accepts no task: copy the parents' from the top down.
fn inherit_cpuset(root: &Path, path: &Path) -> io::Result<()> {
    let mut directory = root.to_owned();
    for part in path.components() {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(directory.join(file))?.trim().is_empty() {
                write_value(&directory.join(file), fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(&entry.path(), visit);
            }
        }
        visit(directory);
    }
}

/// Removes the groups below a directory, then itself. Busy: somebody is in one of them.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match fs::remove_dir(directory) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove_tree(&entry.path())?;
                }
            }
            gone(fs::remove_dir(directory))
        }
        other => gone(other),
    }
}

/// The number after `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_requests_become_shares_and_weights_as_the_kubelet_computes_them() {
        for (millis, share, w) in [(0, 2, 1), (100, 102, 4), (1000, 1024, 39), (1_000_000, 262_144, 10_000)] {
            assert_eq!((shares(millis), weight(shares(millis))), (share, w), "{millis}m");
        }
        assert_eq!(quota_us(500), 50_000);
        assert_eq!(quota_us(1), 1000);
    }

    #[test]
    fn limits_of_huge_pages_are_written_by_size_in_both_versions() {
        let limits = Resources { huge_pages: [(2 << 20, 4 << 20), (1 << 30, 0)].into(), ..Resources::default() };
        let said =
            |list: Vec<(PathBuf, String)>| list.iter().map(|(file, value)| format!("{}={value}", file.display())).collect::<Vec<_>>();
        let v2 = ["2MB.max=4194304", "2MB.rsvd.max=4194304", "1GB.max=0", "1GB.rsvd.max=0"].map(|row| format!("/c/hugetlb.{row}"));
        assert_eq!(said(v2_settings(Path::new("/c"), &limits)), v2);
        let v1 = V1Mounts { hugetlb: Some("/h".into()), ..V1Mounts::default() };
        let found = said(v1.settings("g", &limits).expect("settings"));
        assert_eq!(found[..2], ["2MB.limit_in_bytes=4194304", "2MB.rsvd.limit_in_bytes=4194304"].map(|row| format!("/h/g/hugetlb.{row}")));
        let hierarchies = Hierarchies::V1(v1);
        assert_eq!(hierarchies.directories("/g", &limits), [PathBuf::from("/h/g")]);
        assert_eq!(hierarchies.directories("/g", &Resources::default()), Vec::<PathBuf>::new());
        assert_eq!([64 << 10, 2 << 20, 1 << 30].map(page_size), ["64KB", "2MB", "1GB"]);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(field("low 0\noom 1\n", "oom_kill"), None);
    }
}
