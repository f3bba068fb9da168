//! From a bundle's `config.json` to what a process becomes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc;
use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Mount as OciMount, Process as OciProcess, Spec};

use super::record::Record;
use super::{Refused, doing};
use crate::cgroup::{DevicePolicy, DeviceRule, Hierarchies};
use crate::helper::identity::{self, CapabilitySet};
use crate::helper::init::{Launch, NewContainer};
use crate::helper::profile;
use crate::helper::protocol::Process;
use crate::helper::rootfs::{Base, RootPlan};
use crate::label::Labels;
use crate::spec::{Device, Mount, MountSource, Propagation, Resources, Rlimit, TerminalSize, User};

/// Where the root has its kernel file systems, whatever a bundle says of them.
const KERNEL_MOUNTS: &[&str] = &["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/mqueue"];
/// Devices that every root has.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];

/// What `create` clones.
pub(super) struct Init {
    pub(super) container: NewContainer,
    /// Namespaces that the clone makes.
    pub(super) flags: libc::c_int,
    /// The PID namespace to be born into.
    pub(super) pid_namespace: Option<OwnedFd>,
}

/// Reads a bundle and refuses what is not served.
pub(super) fn load(bundle: &Path) -> Result<Spec, Refused> {
    let spec = Spec::load(bundle.join("config.json")).map_err(doing(bundle.join("config.json").display()))?;
    let hooks = spec
        .hooks()
        .as_ref()
        .is_some_and(|hooks| serde_json::to_value(hooks).is_ok_and(|hooks| hooks.as_object().is_some_and(|map| !map.is_empty())));
    let linux = spec.linux().as_ref().ok_or("config.json: linux is missing")?;
    let process = spec.process().as_ref().ok_or("config.json: process is missing")?;
    let user_namespace = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User);
    for (wanted, field) in [(hooks, "hooks"), (user_namespace, "linux.namespaces: user")] {
        if wanted {
            return Err(format!("config.json: {field} is not served by this runtime"));
        }
    }
    labels(linux, process)?;
    Ok(spec)
}

/// What the machine's security modules are to hold a process to; it is refused what the machine does not have.
fn labels(linux: &Linux, process: &OciProcess) -> Result<Labels, Refused> {
    let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    let [app_armor, process, files] = [process.apparmor_profile(), process.selinux_label(), linux.mount_label()].map(given);
    for (asked, there, field, module) in [
        (&app_armor, crate::label::enforces_app_armor(), "process.apparmorProfile", "AppArmor"),
        (&process, crate::label::has_selinux(), "process.selinuxLabel", "SELinux"),
        (&files, crate::label::has_selinux(), "linux.mountLabel", "SELinux"),
    ] {
        if asked.is_some() && !there {
            return Err(format!("config.json: {field}: this machine has no {module}"));
        }
    }
    Ok(Labels { app_armor, process, files })
}

/// The directory that becomes the root.
pub(super) fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, Refused> {
    let root = spec.root().as_ref().ok_or("config.json: root is missing")?;
    std::fs::canonicalize(bundle.join(root.path())).map_err(doing("root.path"))
}

/// Limits in the words of this crate.
pub(super) fn resources(from: &LinuxResources) -> Resources {
    let memory = from.memory().as_ref();
    let cpu = from.cpu().as_ref();
    let ceiling = cpu.and_then(|cpu| {
        let (quota, period) = (cpu.quota()?, cpu.period().unwrap_or(100_000).max(1));
        Some(u64::try_from(quota).unwrap_or(0).saturating_mul(1000) / period)
    });
    let huge = from.hugepage_limits().iter().flatten();
    Resources {
        memory_limit_bytes: memory.and_then(|memory| memory.limit()).filter(|limit| *limit != 0),
        cpu_request_millis: cpu
            .and_then(|cpu| cpu.shares())
            .filter(|shares| *shares > 0)
            .map(|shares| shares.saturating_mul(1000).div_ceil(1024)),
        cpu_limit_millis: ceiling,
        pids_limit: from.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()).filter(|cpus| !cpus.is_empty()),
        huge_pages: huge
            .filter_map(|row| Some((bytes(row.page_size().trim_end_matches('B'))?, u64::try_from(row.limit()).ok()?)))
            .collect(),
        oom_score_adj: None,
    }
}

/// Makes the container's group with its limits and devices.
pub(super) fn make_cgroup(hierarchies: &Hierarchies, spec: &Spec, path: &str) -> Result<(), Refused> {
    let given = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = given.and_then(|given| given.devices().as_ref()).map_or(&[][..], Vec::as_slice);
    let everything = |access: &Option<String>| access.as_ref().is_none_or(|access| "rwm".chars().all(|c| access.contains(c)));
    let all =
        rules.last().is_some_and(|rule| rule.allow() && rule.major().is_none() && rule.minor().is_none() && everything(rule.access()));
    let allowed: Vec<DeviceRule> = crate::bundle::standard_devices()
        .chain(rules.iter().filter(|rule| rule.allow()).flat_map(|rule| {
            let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
            let kinds: &[char] = match rule.typ() {
                Some(LinuxDeviceType::B) => &['b'],
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => &['c'],
                _ => &['b', 'c'],
            };
            let (major, minor) = (number(rule.major()), number(rule.minor()));
            let access = rule.access().clone().unwrap_or_else(|| "rwm".to_owned());
            kinds.iter().map(move |kind| DeviceRule { kind: *kind, major, minor, access: access.clone() })
        }))
        .collect();
    let policy = if all || rules.is_empty() { DevicePolicy::All } else { DevicePolicy::Only(&allowed) };
    hierarchies.create(path, &given.map(resources).unwrap_or_default(), &policy).map_err(doing(format!("make cgroup {path}")))
}

/// The container's init.
pub(super) fn init(hierarchies: &Hierarchies, spec: &Spec, record: &Record, report: OwnedFd, gate: OwnedFd) -> Result<Init, Refused> {
    let process = spec.process().as_ref().ok_or("config.json: process is missing")?;
    let mut launch = launch(hierarchies, spec, process, &record.cgroup, report)?;
    launch.gate = Some(gate);
    let (mut flags, mut fresh, mut joined, mut pid_namespace) = (libc::CLONE_NEWNS, 0, Vec::new(), None);
    for namespace in spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()) {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            // Its own mounts and its own view of its group every container has.
            _ => continue,
        };
        match (namespace.path(), kind) {
            (Some(path), libc::CLONE_NEWPID) => pid_namespace = Some(OwnedFd::from(File::open(path).map_err(doing(path.display()))?)),
            (Some(path), _) => joined.push((OwnedFd::from(File::open(path).map_err(doing(path.display()))?), kind)),
            (None, libc::CLONE_NEWPID) => flags |= kind,
            (None, _) => fresh |= kind,
        }
    }
    let root = root(hierarchies, spec, record)?;
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().clone()).unwrap_or_default();
    for name in sysctls.keys() {
        let (net, ipc) = (name.starts_with("net."), crate::bundle::IPC_SYSCTLS.iter().any(|prefix| name.starts_with(prefix)));
        let own = |kind: libc::c_int| fresh & kind != 0 || joined.iter().any(|(_, joined)| *joined == kind);
        if !(net && own(libc::CLONE_NEWNET) || ipc && own(libc::CLONE_NEWIPC)) || name.contains("..") || name.contains('/') {
            return Err(format!("config.json: linux.sysctl: {name} does not belong to a namespace of this container"));
        }
    }
    let hostname = spec.hostname().clone().filter(|_| fresh & libc::CLONE_NEWUTS != 0);
    let container = NewContainer { launch, namespaces: joined, fresh, hostname, sysctls: sysctls.into_iter().collect(), root };
    Ok(Init { container, flags, pid_namespace })
}

/// What init and execs have in common.
pub(super) fn launch(
    hierarchies: &Hierarchies,
    spec: &Spec,
    process: &OciProcess,
    cgroup: &str,
    report: OwnedFd,
) -> Result<Launch, Refused> {
    let capabilities = capabilities(process)?;
    let linux = spec.linux().as_ref();
    let filters = match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(seccomp) => {
            let text = serde_json::to_string(seccomp).map_err(doing("linux.seccomp"))?;
            Rc::new(profile::compile(&text, capabilities).map_err(doing("linux.seccomp"))?)
        }
        None => Rc::default(),
    };
    let tty = process.terminal().unwrap_or(false);
    let user = process.user();
    let given = linux.and_then(|linux| linux.resources().as_ref()).map(resources).unwrap_or_default();
    let rlimits = process.rlimits().iter().flatten();
    Ok(Launch {
        process: Process {
            argv: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().to_string_lossy().into_owned(),
            user: User {
                uid: Some(user.uid()),
                gid: Some(user.gid()),
                additional_gids: user.additional_gids().clone().unwrap_or_default(),
                ..User::default()
            },
            tty,
            size: process.console_size().as_ref().map(|size| TerminalSize {
                width: u16::try_from(size.width()).unwrap_or(80),
                height: u16::try_from(size.height()).unwrap_or(24),
            }),
        },
        report,
        stdio: if tty { None } else { Some(stdio()?) },
        capabilities,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        filters,
        labels: labels(spec.linux().as_ref().ok_or("config.json: linux is missing")?, process)?,
        rlimits: rlimits.map(|limit| Rlimit { kind: limit.typ().to_string(), soft: limit.soft(), hard: limit.hard() }).collect(),
        oom_score_adj: process.oom_score_adj(),
        hostname: None,
        entry: hierarchies.entry(cgroup, &given).map_err(doing("open cgroup"))?,
        users: None,
        own_mounts: false,
        gate: None,
    })
}

/// The caller's own, which are the container's.
fn stdio() -> Result<[OwnedFd; 3], Refused> {
    use std::os::fd::AsFd;
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(doing("dup stdio"));
    Ok([own(std::io::stdin().as_fd())?, own(std::io::stdout().as_fd())?, own(std::io::stderr().as_fd())?])
}

fn capabilities(process: &OciProcess) -> Result<CapabilitySet, Refused> {
    let given = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    given.iter().try_fold(0, |set, name| {
        let name = name.to_string();
        identity::capability_bit(&name).map(|bit| set | bit).ok_or_else(|| format!("unknown capability {name}"))
    })
}

fn root(hierarchies: &Hierarchies, spec: &Spec, record: &Record) -> Result<RootPlan, Refused> {
    let linux = spec.linux().as_ref();
    let mounts = spec.mounts().clone().unwrap_or_default();
    let has = |mount: &OciMount, option: &str| mount.options().iter().flatten().any(|known| known == option);
    // Who may write to /sys is what runc calls privileged.
    let privileged = mounts.iter().any(|mount| mount.destination() == Path::new("/sys") && !has(mount, "ro"));
    let mut shm_bytes = None;
    let mut binds = Vec::new();
    for mount in &mounts {
        let target = mount.destination().to_string_lossy().into_owned();
        let kind = mount.typ().as_deref().unwrap_or_default();
        let bind = kind == "bind" || has(mount, "bind") || has(mount, "rbind");
        let value = |key: &str| mount.options().iter().flatten().find_map(|option| option.strip_prefix(key));
        let source = match kind {
            _ if bind => {
                let source = mount.source().as_ref().ok_or_else(|| format!("mount {target}: no source"))?;
                MountSource::Bind(record.bundle.join(source))
            }
            "tmpfs" if target == "/dev/shm" => {
                shm_bytes = value("size=").and_then(bytes);
                continue;
            }
            _ if KERNEL_MOUNTS.contains(&target.trim_end_matches('/')) => continue,
            "tmpfs" => {
                let mode = value("mode=").and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o1777);
                MountSource::Tmpfs { size_bytes: value("size=").and_then(bytes), mode }
            }
            other => return Err(format!("config.json: mount {target}: type {other:?} is not served by this runtime")),
        };
        let propagation = match () {
            () if has(mount, "rshared") || has(mount, "shared") => Propagation::Both,
            () if has(mount, "rslave") || has(mount, "slave") => Propagation::FromHost,
            () => Propagation::Private,
        };
        let recursive = has(mount, "rro");
        binds.push(Mount {
            target,
            source,
            read_only: recursive || has(mount, "ro"),
            recursive_read_only: recursive,
            propagation,
            no_exec: has(mount, "noexec"),
            relabel: false,
        });
    }
    let devices = linux.and_then(|linux| linux.devices().clone()).unwrap_or_default();
    let devices = devices.iter().filter_map(|device| {
        let name = device.path().strip_prefix("/dev").ok()?.to_string_lossy().into_owned();
        let given = !DEVICES.contains(&name.as_str()) && !privileged;
        given.then(|| Device { host_path: device.path().clone(), container_path: format!("/dev/{name}"), permissions: "rwm".to_owned() })
    });
    let paths = |paths: Option<Vec<String>>| Some(paths.unwrap_or_default());
    Ok(RootPlan {
        base: Base::Directory(record.rootfs.clone()),
        mounts: binds,
        devices: devices.collect(),
        shm: None,
        shm_bytes,
        cgroups: hierarchies.visible(&record.cgroup),
        privileged,
        read_only: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        masked: paths(linux.and_then(|linux| linux.masked_paths().clone())),
        read_only_paths: paths(linux.and_then(|linux| linux.readonly_paths().clone())),
        label: linux.and_then(|linux| linux.mount_label().clone()).filter(|label| !label.is_empty()),
    })
}

/// `65536k` as mount options write sizes.
fn bytes(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
