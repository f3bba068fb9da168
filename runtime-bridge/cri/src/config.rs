//! From the bridge's specs to CRI's configurations. Pure.
//!
//! Invariant: a setting that the protocol cannot carry is an error, never left out silently, when leaving it out would weaken confinement.

use std::collections::HashMap;
use std::path::Path;

use pintle_runtime_bridge::{
    AppArmor, ContainerSpec, Error, MASKED_PATHS, MountSource, NetNs, Propagation, READ_ONLY_PATHS, Resources, SandboxSpec, Scope, Seccomp,
};
use serde::{Deserialize, Serialize};

use crate::message as m;

/// Kubernetes' labels from which the metadata of sandboxes are made.
const POD_LABELS: [&str; 3] = ["io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"];
const CONTAINER_LABEL: &str = "io.kubernetes.container.name";
/// Annotation of a sandbox: what it was made from, for a later daemon.
const KEPT: &str = "pintle.dev/sandbox";
/// Annotation of a container: which of stdin and tty it has.
const STDIO: &str = "pintle.dev/stdio";
/// cgroup's shortest weight and its period, as the kubelet has them.
const SHARES_MIN: u64 = 2;
const PERIOD_MICROS: i64 = 100_000;

/// What a sandbox was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) spec: SandboxSpec,
    /// The pod's cgroup, below every hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) attempt: u32,
}

impl Kept {
    /// Out of a sandbox's annotations; `None`: it is not ours.
    pub(crate) fn of(annotations: &HashMap<String, String>) -> Option<Self> {
        serde_json::from_str(annotations.get(KEPT)?).ok()
    }

    /// The sandbox's configuration; `owner` is the label that tells this node's from others'.
    pub(crate) fn config(&self, owner: &(String, String)) -> Result<m::PodSandboxConfig, Error> {
        let spec = &self.spec;
        let label = |name: &str| spec.labels.get(name).cloned().unwrap_or_default();
        let [name, namespace, uid] = POD_LABELS.map(label);
        if spec.user_namespace.is_some() {
            return Err(Error::remote("RunPodSandbox", "users of its own cannot be given"));
        }
        if let NetNs::Path(path) = &spec.netns {
            return Err(Error::remote("RunPodSandbox", format!("the namespace {} cannot be given", path.display())));
        }
        let mut annotations: HashMap<_, _> = spec.annotations.clone().into_iter().collect();
        annotations.insert(KEPT.to_owned(), serde_json::to_string(self).unwrap_or_default());
        let host_network = spec.netns == NetNs::Host;
        Ok(m::PodSandboxConfig {
            metadata: Some(m::PodSandboxMetadata { name, uid, namespace, attempt: self.attempt }),
            hostname: spec.hostname.clone().filter(|_| !host_network).unwrap_or_default(),
            log_directory: String::new(),
            labels: spec.labels.clone().into_iter().chain([owner.clone()]).collect(),
            annotations,
            linux: Some(m::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(m::LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces(None)),
                    privileged: spec.privileged,
                    seccomp: Some(profile(m::profile::RUNTIME_DEFAULT, "")),
                }),
                sysctls: spec.sysctls.clone().into_iter().collect(),
            }),
        })
    }

    fn namespaces(&self, pid_of: Option<&str>) -> m::NamespaceOption {
        let mode = |scope: Scope| match scope {
            Scope::Container => m::namespace::CONTAINER,
            Scope::Pod => m::namespace::POD,
            Scope::Host => m::namespace::NODE,
        };
        let pid = if pid_of.is_some() { m::namespace::TARGET } else { mode(self.spec.pid.unwrap_or(Scope::Container)) };
        m::NamespaceOption {
            network: if self.spec.netns == NetNs::Host { m::namespace::NODE } else { m::namespace::POD },
            pid,
            ipc: mode(self.spec.ipc),
            target_id: pid_of.unwrap_or_default().to_owned(),
        }
    }

    /// A container's configuration. `image_user`: whom the image names, for containers that name nobody; `profile_file`: where the text of
    /// its seccomp profile was written.
    pub(crate) fn container(
        &self,
        spec: &ContainerSpec,
        image_user: (Option<i64>, String),
        profile_file: Option<&Path>,
    ) -> Result<m::ContainerConfig, Error> {
        if !spec.rlimits.is_empty() {
            return Err(Error::remote("CreateContainer", "resource limits of processes cannot be given"));
        }
        let log_name = spec.log_path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let stdio = [(spec.stdin, "stdin"), (spec.tty, "tty")].into_iter().filter_map(|(has, name)| has.then_some(name));
        let mut annotations: HashMap<_, _> = spec.annotations.clone().into_iter().collect();
        annotations.insert(STDIO.to_owned(), stdio.collect::<Vec<_>>().join(","));
        let name = spec.labels.get(CONTAINER_LABEL).cloned().unwrap_or_else(|| "container".to_owned());
        Ok(m::ContainerConfig {
            metadata: Some(m::ContainerMetadata { name, attempt: crate::random_attempt() }),
            image: Some(m::ImageSpec { image: spec.image.clone() }),
            command: spec.command.clone(),
            args: spec.args.clone(),
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            envs: spec.env.iter().map(|(key, value)| m::KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect(),
            mounts: spec.mounts.iter().map(mount).collect::<Result<_, _>>()?,
            devices: spec.devices.iter().map(device).collect(),
            labels: spec.labels.clone().into_iter().collect(),
            annotations,
            log_path: log_name.unwrap_or_default(),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            linux: Some(m::LinuxContainerConfig {
                resources: Some(resources(&spec.resources)),
                security_context: Some(self.security(spec, image_user, profile_file)),
            }),
        })
    }

    fn security(
        &self,
        spec: &ContainerSpec,
        (image_uid, image_name): (Option<i64>, String),
        profile_file: Option<&Path>,
    ) -> m::LinuxContainerSecurityContext {
        let (security, user) = (&spec.security, &spec.user);
        let bare = |list: &[String]| list.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned()).collect();
        let given = user.uid.map(i64::from);
        let name = user.name.clone().unwrap_or(image_name);
        // Without a name there is always a number: a group alone is not accepted.
        let uid = given.or(image_uid).or_else(|| name.is_empty().then_some(0));
        let masked = [MASKED_PATHS, &[THERMAL]].concat();
        let listed = |paths: &Option<Vec<String>>, usual: &[&str]| {
            paths.clone().unwrap_or_else(|| usual.iter().map(|path| (*path).to_owned()).collect())
        };
        m::LinuxContainerSecurityContext {
            capabilities: Some(m::Capability {
                add_capabilities: bare(&security.add_capabilities),
                drop_capabilities: bare(&security.drop_capabilities),
            }),
            privileged: security.privileged,
            namespace_options: Some(self.namespaces(spec.pid_of.as_ref().map(|id| id.as_str()))),
            run_as_user: uid.map(|value| m::Int64Value { value }),
            run_as_username: if uid.is_none() { name } else { String::new() },
            readonly_rootfs: security.read_only_root,
            supplemental_groups: user.additional_gids.iter().map(|gid| i64::from(*gid)).collect(),
            no_new_privs: security.no_new_privs,
            run_as_group: user.gid.map(|gid| m::Int64Value { value: i64::from(gid) }),
            masked_paths: listed(&security.masked_paths, &masked),
            readonly_paths: listed(&security.read_only_paths, READ_ONLY_PATHS),
            seccomp: Some(match (&security.seccomp, profile_file) {
                _ if security.privileged => profile(m::profile::UNCONFINED, ""),
                (Seccomp::RuntimeDefault, _) => profile(m::profile::RUNTIME_DEFAULT, ""),
                (Seccomp::Unconfined, _) => profile(m::profile::UNCONFINED, ""),
                (Seccomp::Profile(_), path) => profile(m::profile::LOCALHOST, &path.unwrap_or(Path::new("")).to_string_lossy()),
            }),
            // What nobody asked for is the other runtime's to choose.
            apparmor: match &security.app_armor {
                AppArmor::Unsaid => None,
                AppArmor::RuntimeDefault => Some(profile(m::profile::RUNTIME_DEFAULT, "")),
                AppArmor::Unconfined => Some(profile(m::profile::UNCONFINED, "")),
                AppArmor::Profile(name) => Some(profile(m::profile::LOCALHOST, name)),
            },
            selinux_options: security.selinux.as_ref().map(|options| {
                let [user, role, kind, level] =
                    [&options.user, &options.role, &options.kind, &options.level].map(|part| part.clone().unwrap_or_default());
                m::SelinuxOption { user, role, kind, level }
            }),
        }
    }
}

/// One more of the kubelet's masked paths for `procMount: Default`; the rest our own runtime masks as well.
const THERMAL: &str = "/sys/devices/system/cpu/cpu0/thermal_throttle";

/// Whether a container keeps stdin, and whether it has a terminal.
pub(crate) fn stdio(annotations: &HashMap<String, String>) -> (bool, bool) {
    let words = annotations.get(STDIO).map(String::as_str).unwrap_or_default();
    (words.split(',').any(|word| word == "stdin"), words.split(',').any(|word| word == "tty"))
}

fn profile(profile_type: i32, localhost_ref: &str) -> m::SecurityProfile {
    m::SecurityProfile { profile_type, localhost_ref: localhost_ref.to_owned() }
}

fn mount(mount: &pintle_runtime_bridge::Mount) -> Result<m::Mount, Error> {
    let refuse = |what: &str| Err(Error::remote("CreateContainer", format!("mount {}: {what} cannot be given", mount.target)));
    let MountSource::Bind(source) = &mount.source else { return refuse("this kind of source") };
    if mount.recursive_read_only || mount.no_exec {
        return refuse(if mount.no_exec { "noexec" } else { "recursive read-only" });
    }
    Ok(m::Mount {
        container_path: mount.target.clone(),
        host_path: source.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        selinux_relabel: mount.relabel,
        propagation: match mount.propagation {
            Propagation::Private => m::propagation::PRIVATE,
            Propagation::FromHost => m::propagation::HOST_TO_CONTAINER,
            Propagation::Both => m::propagation::BIDIRECTIONAL,
        },
    })
}

fn device(device: &pintle_runtime_bridge::Device) -> m::Device {
    m::Device {
        container_path: device.container_path.clone(),
        host_path: device.host_path.to_string_lossy().into_owned(),
        permissions: device.permissions.clone(),
    }
}

/// Amounts as CRI has them: 0 leaves as it is, -1 takes a limit away.
pub(crate) fn resources(resources: &Resources) -> m::LinuxContainerResources {
    let quota = |millis: u64| if millis == 0 { -1 } else { i64::try_from(millis).unwrap_or(i64::MAX / 100).max(10) * PERIOD_MICROS / 1000 };
    let shares = |millis: u64| i64::try_from((millis * 1024 / 1000).max(SHARES_MIN)).unwrap_or(i64::MAX);
    m::LinuxContainerResources {
        cpu_period: PERIOD_MICROS,
        cpu_quota: resources.cpu_limit_millis.map_or(0, quota),
        cpu_shares: resources.cpu_request_millis.map_or(0, shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.map_or(0, i64::from),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        hugepage_limits: resources.huge_pages.iter().map(huge_pages).collect(),
    }
}

/// A limit by its size as cgroups name it: `2MB`.
fn huge_pages((size, limit): (&u64, &u64)) -> m::HugepageLimit {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let (unit, suffix) = units.into_iter().find(|(unit, _)| size % unit == 0).unwrap_or((1, "B"));
    m::HugepageLimit { page_size: format!("{}{suffix}", size / unit), limit: *limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_runtime_bridge::{Mount, Security, SelinuxOptions, User};

    fn kept() -> Kept {
        let labels = POD_LABELS.map(str::to_owned).into_iter().zip(["p", "n", "u"].map(str::to_owned)).collect();
        Kept { spec: SandboxSpec { labels, hostname: Some("h".into()), ..SandboxSpec::default() }, cgroup: "/g/podu".into(), attempt: 4 }
    }

    #[test]
    fn a_sandbox_is_named_after_its_pod_and_found_again() {
        let config = kept().config(&("owner".into(), "me".into())).expect("a configuration");
        let expected = m::PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 4 };
        assert_eq!((config.metadata, config.hostname.as_str(), config.labels["owner"].as_str()), (Some(expected), "h", "me"));
        let again = Kept::of(&config.annotations).expect("what was kept");
        assert_eq!((again.cgroup.as_str(), again.attempt), ("/g/podu", 4));
        assert!(Kept::of(&HashMap::new()).is_none());
    }

    #[test]
    fn whoever_names_nobody_runs_as_the_images_user_else_as_root() {
        let check = |user: User, image: (Option<i64>, &str), expected: (Option<i64>, &str)| {
            let spec = ContainerSpec { user, ..ContainerSpec::default() };
            let context = kept().security(&spec, (image.0, image.1.to_owned()), None);
            assert_eq!((context.run_as_user.map(|v| v.value), context.run_as_username.as_str()), expected);
        };
        check(User { uid: Some(7), ..User::default() }, (Some(1), ""), (Some(7), ""));
        check(User::default(), (Some(1), ""), (Some(1), ""));
        check(User::default(), (None, "web"), (None, "web"));
        check(User { gid: Some(9), ..User::default() }, (None, ""), (Some(0), ""));
    }

    #[test]
    fn profiles_and_labels_go_to_the_other_runtime() {
        let check = |app_armor: AppArmor, expected: Option<(i32, &str)>| {
            let selinux = Some(SelinuxOptions { kind: Some("t".into()), ..SelinuxOptions::default() });
            let spec = ContainerSpec { security: Security { app_armor, selinux, ..Security::default() }, ..ContainerSpec::default() };
            let context = kept().security(&spec, (None, String::new()), None);
            let found = context.apparmor.as_ref().map(|profile| (profile.profile_type, profile.localhost_ref.as_str()));
            assert_eq!((found, context.selinux_options.map(|options| options.kind)), (expected, Some("t".into())));
        };
        check(AppArmor::Unsaid, None);
        check(AppArmor::RuntimeDefault, Some((0, "")));
        check(AppArmor::Unconfined, Some((1, "")));
        check(AppArmor::Profile("x".into()), Some((2, "x")));
    }

    #[test]
    fn what_the_protocol_cannot_carry_is_refused() {
        let with = |mount: Mount| {
            let spec = ContainerSpec { mounts: vec![mount], ..ContainerSpec::default() };
            kept().container(&spec, (None, String::new()), None).map(|config| config.mounts.len()).map_err(|error| error.to_string())
        };
        assert_eq!(with(Mount::bind("/a", "/b").read_only()), Ok(1));
        let recursive = Mount { recursive_read_only: true, ..Mount::bind("/a", "/b").read_only() };
        assert_eq!(with(recursive), Err("CreateContainer: mount /b: recursive read-only cannot be given".into()));
    }

    #[test]
    fn amounts_are_shares_and_quotas() {
        let given = Resources { cpu_request_millis: Some(1), cpu_limit_millis: Some(500), ..Resources::default() };
        let asked = resources(&given);
        assert_eq!((asked.cpu_shares, asked.cpu_quota, asked.memory_limit_in_bytes), (2, 50_000, 0));
        let pages = resources(&Resources { huge_pages: [(2 << 20, 4 << 20), (1 << 30, 0)].into(), ..Resources::default() }).hugepage_limits;
        assert_eq!(pages.iter().map(|p| (p.page_size.as_str(), p.limit)).collect::<Vec<_>>(), [("2MB", 4 << 20), ("1GB", 0)]);
        assert_eq!(resources(&Resources { cpu_limit_millis: Some(0), ..Resources::default() }).cpu_quota, -1);
    }
}
