//! From a spec and an image to what is run: validation, merging, device rules. Pure; no system calls but looking at a device.

use std::collections::HashSet;

use crate::cgroup::DeviceRule;
use crate::error::{Error, Result, StartFailure, Step};
use crate::helper::identity;
use crate::helper::init::rlimit_resource;
use crate::helper::profile;
use crate::helper::protocol::Process;
use crate::image::{ImageInfo, Record};
use crate::label::Labels;
use crate::spec::{ContainerSpec, ExecSpec, NetNs, SandboxId, SandboxSpec, Scope, Seccomp, User};
use crate::state::{Bundle, now_ns};

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];
const TERM: i32 = 15;
const HOSTNAME_BYTES_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 128 * 1024;

/// Sysctls that belong to a namespace of the sandbox: prefix, and whether the name must equal it.
pub(crate) const IPC_SYSCTLS: &[&str] = &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Devices of every container, as v1 words them.
const DEVICES: &[(char, Option<u32>, Option<u32>, &str)] = &[
    // Making nodes harms nobody; opening them is what counts.
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// Refuses sandbox specs that cannot or must not be honoured.
pub(crate) fn check_sandbox(spec: &SandboxSpec) -> Result<()> {
    if let Some(hostname) = &spec.hostname
        && (hostname.is_empty() || hostname.len() > HOSTNAME_BYTES_MAX)
    {
        return Err(Error::spec("hostname", "must have 1 to 64 characters"));
    }
    if let Some(cgroup) = &spec.cgroup {
        check_relative("cgroup", cgroup)?;
    }
    if let Some(range) = spec.user_namespace {
        if range.first == 0 || range.length == 0 || range.first.checked_add(range.length).is_none() {
            return Err(Error::spec("user_namespace", "a range of ids above 0"));
        }
        if spec.netns == NetNs::Host || [spec.ipc, spec.uts].contains(&Scope::Host) || spec.pid == Some(Scope::Host) {
            return Err(Error::spec("user_namespace", "its root would have no power over the node's namespaces"));
        }
    }
    for name in spec.sysctls.keys() {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let net = name.starts_with("net.") && spec.netns == NetNs::New;
        let ipc = IPC_SYSCTLS.iter().any(|prefix| name.starts_with(prefix)) && spec.ipc != Scope::Host;
        if !plain || name.contains("..") || !(net || ipc) {
            return Err(Error::spec("sysctls", format!("{name} does not belong to a namespace of this sandbox")));
        }
    }
    Ok(())
}

/// Refuses container specs that cannot be honoured, before anything is made.
pub(crate) fn check_container(spec: &ContainerSpec) -> Result<()> {
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') || mount.target.split('/').any(|part| part == "..") {
            return Err(Error::spec("mounts", format!("target {:?} is not an absolute path without \"..\"", mount.target)));
        }
        if mount.recursive_read_only && !mount.read_only {
            return Err(Error::spec("mounts", "recursive_read_only needs read_only"));
        }
    }
    if let Some(limit) = spec.rlimits.iter().find(|limit| rlimit_resource(&limit.kind).is_none()) {
        return Err(Error::spec("rlimits", format!("unknown kind {:?}", limit.kind)));
    }
    let capabilities =
        identity::capabilities(&spec.security).map_err(|name| Error::spec("capabilities", format!("unknown capability {name:?}")))?;
    if let Seccomp::Profile(json) = &spec.security.seccomp {
        profile::compile(json, capabilities).map_err(|reason| Error::spec("seccomp profile", reason))?;
    }
    for device in &spec.devices {
        let inside = device.container_path.strip_prefix("/dev/").is_some_and(|rest| !rest.is_empty());
        if !inside || device.container_path.split('/').any(|part| part == "..") {
            return Err(Error::spec("devices", format!("{:?} is not below /dev", device.container_path)));
        }
        if device.permissions.is_empty() || !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::spec("devices", format!("permissions {:?}", device.permissions)));
        }
    }
    let lists = [("command", &spec.command), ("args", &spec.args)];
    for (field, list) in lists {
        if list.iter().any(|text| text.contains('\0') || text.len() > ARGUMENT_BYTES_MAX) {
            return Err(Error::spec(field, "contains a NUL byte or is longer than the kernel allows"));
        }
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::spec("env", format!("unusable variable {name:?}")));
        }
    }
    Ok(())
}

/// Refuses paths that are empty or not plain names joined by slashes.
pub(crate) fn check_relative(field: &'static str, path: &str) -> Result<()> {
    let fine = !path.trim_matches('/').is_empty()
        && path.trim_matches('/').split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.contains('\0');
    if fine { Ok(()) } else { Err(Error::spec(field, format!("unusable path {path:?}"))) }
}

/// Puts spec and image together.
pub(crate) fn make(spec: ContainerSpec, sandbox: SandboxId, image: &Record, cgroup: String, labels: Labels) -> Result<Bundle> {
    let info = &image.info;
    let argv = command(&spec, info);
    if argv.is_empty() {
        let message = format!("neither the spec nor image {} says what to run", spec.image);
        return Err(Error::Start { kind: StartFailure::NoCommand, message });
    }
    let mut user = spec.user.clone();
    if user.uid.is_none() && user.name.is_none() && !info.user.is_empty() {
        user.name = Some(info.user.clone());
    }
    let own_dir = spec.working_dir.as_ref().filter(|dir| !dir.is_empty());
    let cwd = own_dir.unwrap_or(&info.working_dir).clone();
    Ok(Bundle {
        argv,
        env: merge_env(&info.env, &spec.env),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user,
        stop_signal: info.stop_signal.as_deref().and_then(signal_number).unwrap_or(TERM),
        image_id: info.id.to_string(),
        layers: image.layers.clone(),
        sandbox,
        cgroup,
        created_at_ns: now_ns(),
        labels,
        spec,
    })
}

/// Kubernetes' table: command replaces entrypoint and drops cmd, args replace cmd.
fn command(spec: &ContainerSpec, image: &ImageInfo) -> Vec<String> {
    let (entrypoint, default) =
        if spec.command.is_empty() { (&image.entrypoint, image.cmd.as_slice()) } else { (&spec.command, [].as_slice()) };
    let arguments = if spec.args.is_empty() { default } else { &spec.args };
    entrypoint.iter().chain(arguments).cloned().collect()
}

/// Later variables win, and keep the place of the first.
fn merge_env(base: &[String], more: &[(String, String)]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    let pairs = more.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in base.iter().cloned().chain(pairs) {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match merged.iter_mut().find(|known| known.split('=').next() == Some(&name)) {
            Some(known) => *known = entry,
            None => merged.push(entry),
        }
    }
    merged
}

/// A process for an exec.
pub(crate) fn exec_process(bundle: &Bundle, spec: &ExecSpec) -> Result<Process> {
    if spec.command.is_empty() {
        return Err(Error::spec("command", "is empty"));
    }
    let user = match &spec.user {
        Some(user) => user.clone(),
        None => User { must_not_be_root: false, ..bundle.user.clone() },
    };
    Ok(Process {
        argv: spec.command.clone(),
        env: merge_env(&bundle.env, &spec.env),
        cwd: spec.working_dir.clone().unwrap_or_else(|| bundle.cwd.clone()),
        user,
        tty: spec.tty,
        size: spec.size,
    })
}

/// Devices of every container.
pub(crate) fn standard_devices() -> impl Iterator<Item = DeviceRule> {
    DEVICES.iter().map(|(kind, major, minor, access)| DeviceRule {
        kind: *kind,
        major: *major,
        minor: *minor,
        access: (*access).to_owned(),
    })
}

/// The device allow list of an unprivileged container.
pub(crate) fn device_rules(spec: &ContainerSpec) -> Result<Vec<DeviceRule>> {
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.to_owned() };
    let mut rules: Vec<DeviceRule> = standard_devices().collect();
    let mut seen = HashSet::new();
    for device in spec.devices.iter().filter(|d| seen.insert(&d.host_path)) {
        use nix::sys::stat::{major, minor, stat};
        let found = stat(&device.host_path).step(|| format!("look at device {}", device.host_path.display()))?;
        let kind = if found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFBLK { 'b' } else { 'c' };
        let (major, minor) = (major(found.st_rdev) as u32, minor(found.st_rdev) as u32);
        rules.push(rule(kind, Some(major), Some(minor), &device.permissions));
    }
    Ok(rules)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let find = |name: &str| SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match name.split_once('+') {
        Some(("RTMIN", offset)) => offset.parse::<i32>().ok().map(|o| 34 + o).filter(|n| (34..=64).contains(n)),
        _ => find(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "SIGNOPE", "0", "65", "RTMIN+99"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }

    #[test]
    fn later_variables_win() {
        let more = [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "3".to_owned())];
        assert_eq!(merge_env(&["A=1".to_owned(), "C=x=y".to_owned()], &more), ["A=3", "C=x=y", "B=2"]);
    }

    #[test]
    fn sysctls_outside_the_sandbox_are_refused() {
        let check = |name: &str, netns: NetNs| {
            let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            check_sandbox(&SandboxSpec { sysctls, netns, ..SandboxSpec::default() }).is_ok()
        };
        assert!(check("kernel.shm_rmid_forced", NetNs::Host));
        assert!(check("net.ipv4.ip_unprivileged_port_start", NetNs::New));
        assert!(!check("net.ipv4.ip_forward", NetNs::Host));
        assert!(!check("kernel.panic", NetNs::New));
        assert!(!check("net.../../kernel/panic", NetNs::New));
    }
}
