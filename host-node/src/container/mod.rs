//! From a container of a pod to what the runtime is asked for.
//!
//! Pure, but for nothing: files, volumes and fetched objects come in ready. Invariant: a setting that this node does not carry out is
//! an error, never ignored silently, when ignoring it would weaken confinement.

pub mod downward;
pub mod env;
pub mod files;

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, ResourceRequirements, SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pintle_runtime_bridge::{
    AppArmor, ContainerId, ContainerSpec, Mount, NetNs, Resources, SandboxId, SandboxSpec, Scope, Seccomp, Security, SelinuxOptions, User,
};

use crate::error::{Error, Result};
use crate::pod::record::{all_containers, host_network, name, namespace, uid};
use crate::pod::resize::whole;
use crate::pod::status::qos_class;
use crate::quantity;

/// Label of the runtime's containers and sandboxes: the pod's uid.
pub const LABEL_UID: &str = "io.kubernetes.pod.uid";
/// Label of the runtime's containers: the container's name.
pub const LABEL_CONTAINER: &str = "io.kubernetes.container.name";

/// Annotation of a pod, followed by a container's name: its AppArmor profile in words.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What was prepared for a start.
pub struct Prepared {
    /// The sandbox to join.
    pub sandbox: SandboxId,
    /// The image id.
    pub image_id: String,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Volumes and the node's files, in mount order.
    pub mounts: Vec<Mount>,
    /// The log file.
    pub log: PathBuf,
    /// The text of the seccomp profile that it names.
    pub seccomp_profile: Option<String>,
    /// The container among whose processes it is to live.
    pub pid_of: Option<ContainerId>,
    /// Sizes of the machine's huge pages.
    pub huge_page_sizes: Vec<u64>,
    /// The machine's memory, for oom_score_adj.
    pub node_memory_bytes: i64,
}

/// The runtime's spec of a container.
pub fn spec(pod: &Pod, container: &Container, prepared: Prepared) -> Result<ContainerSpec> {
    let lookup = |name: &str| prepared.env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| env::expand(text, lookup)).collect();
    let pod_context = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let context = container.security_context.clone().unwrap_or_default();
    if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Error::Unsupported("volumeDevices".into()));
    }
    let command = expand(&container.command);
    let args = expand(&container.args);
    let mut resources = only_asked(resources(container), &prepared.huge_page_sizes);
    resources.oom_score_adj = Some(oom_score(pod, container, prepared.node_memory_bytes));
    Ok(ContainerSpec {
        id: None,
        sandbox: Some(prepared.sandbox),
        pid_of: prepared.pid_of,
        image: prepared.image_id,
        command,
        args,
        env: prepared.env,
        working_dir: container.working_dir.clone().filter(|d| !d.is_empty()),
        user: user(&pod_context, &context),
        mounts: prepared.mounts,
        log_path: Some(prepared.log),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources,
        security: Security { app_armor: app_armor(pod, container)?, ..security(&pod_context, &context, prepared.seccomp_profile)? },
        rlimits: Vec::new(),
        devices: Vec::new(),
        labels: [(LABEL_UID.to_owned(), uid(pod).to_owned()), (LABEL_CONTAINER.to_owned(), container.name.clone())].into(),
        annotations: std::collections::BTreeMap::new(),
    })
}

/// The runtime's spec of a pod's sandbox.
pub fn sandbox_spec(pod: &Pod, hostname: String) -> SandboxSpec {
    let spec = pod.spec.as_ref();
    let flag = |get: fn(&k8s_openapi::api::core::v1::PodSpec) -> Option<bool>| spec.and_then(get) == Some(true);
    let host = |on: bool| if on { Scope::Host } else { Scope::Pod };
    let pid = match (flag(|s| s.host_pid), flag(|s| s.share_process_namespace)) {
        (true, _) => Scope::Host,
        (_, true) => Scope::Pod,
        _ => Scope::Container,
    };
    let sysctls = spec.and_then(|s| s.security_context.as_ref()).and_then(|c| c.sysctls.clone()).unwrap_or_default();
    SandboxSpec {
        id: None,
        hostname: Some(hostname),
        netns: if host_network(pod) { NetNs::Host } else { NetNs::New },
        ipc: host(flag(|s| s.host_ipc)),
        uts: host(host_network(pod)),
        pid: Some(pid),
        user_namespace: None, // told by whoever keeps the machine's ids
        sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
        cgroup: Some(cgroup(pod)),
        resources: pod_resources(pod),
        privileged: all_containers(pod).any(|c| c.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))),
        shm_bytes: None,
        labels: [
            (LABEL_UID.to_owned(), uid(pod).to_owned()),
            ("io.kubernetes.pod.name".to_owned(), name(pod).to_owned()),
            ("io.kubernetes.pod.namespace".to_owned(), namespace(pod).to_owned()),
        ]
        .into(),
        annotations: std::collections::BTreeMap::new(),
    }
}

fn cgroup(pod: &Pod) -> String {
    match qos_class(pod) {
        "Guaranteed" => format!("pod{}", uid(pod)),
        "Burstable" => format!("burstable/pod{}", uid(pod)),
        _ => format!("besteffort/pod{}", uid(pod)),
    }
}

fn user(pod: &PodSecurityContext, container: &SecurityContext) -> User {
    let id = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok());
    let groups = pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group);
    User {
        uid: id(container.run_as_user.or(pod.run_as_user)),
        gid: id(container.run_as_group.or(pod.run_as_group)),
        name: None,
        additional_gids: groups.filter_map(|g| u32::try_from(g).ok()).collect(),
        must_not_be_root: container.run_as_non_root.or(pod.run_as_non_root) == Some(true),
    }
}

fn security(pod: &PodSecurityContext, container: &SecurityContext, profile: Option<String>) -> Result<Security> {
    let capabilities = container.capabilities.clone().unwrap_or_default();
    let unmasked = container.proc_mount.as_deref() == Some("Unmasked");
    Ok(Security {
        privileged: container.privileged == Some(true),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        no_new_privs: container.allow_privilege_escalation == Some(false),
        seccomp: seccomp(container.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()), profile)?,
        app_armor: AppArmor::Unsaid, // told by the pod as a whole
        selinux: container.se_linux_options.as_ref().or(pod.se_linux_options.as_ref()).map(|options| {
            let given = |part: &Option<String>| part.clone().filter(|part| !part.is_empty());
            SelinuxOptions {
                user: given(&options.user),
                role: given(&options.role),
                kind: given(&options.type_),
                level: given(&options.level),
            }
        }),
        read_only_root: container.read_only_root_filesystem == Some(true),
        masked_paths: unmasked.then(Vec::new),
        read_only_paths: unmasked.then(Vec::new),
    })
}

/// The AppArmor profile that a container asks for: its own, else that of the annotation that was there before the field (a static pod may have
/// only that), else its pod's.
pub fn app_armor_profile(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.clone());
    let of_pod = || pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.clone();
    let annotated = || {
        let text = pod.metadata.annotations.as_ref()?.get(&format!("{APP_ARMOR_ANNOTATION}{}", container.name))?;
        let profile = |kind: &str, name: Option<&str>| AppArmorProfile { type_: kind.into(), localhost_profile: name.map(str::to_owned) };
        match (text.as_str(), text.strip_prefix("localhost/")) {
            ("runtime/default", _) => Some(profile("RuntimeDefault", None)),
            ("unconfined", _) => Some(profile("Unconfined", None)),
            (_, Some(name)) => Some(profile("Localhost", Some(name))),
            _ => None,
        }
    };
    own.or_else(annotated).or_else(of_pod)
}

fn app_armor(pod: &Pod, container: &Container) -> Result<AppArmor> {
    let Some(profile) = app_armor_profile(pod, container) else { return Ok(AppArmor::Unsaid) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(AppArmor::RuntimeDefault),
        "Unconfined" => Ok(AppArmor::Unconfined),
        "Localhost" => match profile.localhost_profile.filter(|name| !name.trim().is_empty()) {
            Some(name) => Ok(AppArmor::Profile(name)),
            None => Err(Error::ContainerConfig("appArmorProfile Localhost names no profile".into())),
        },
        other => Err(Error::Unsupported(format!("appArmorProfile {other}"))),
    }
}

/// The profile of this machine that a container is to be confined by, if it names one.
pub fn localhost_profile(pod: &Pod, container: &Container) -> Option<String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.seccomp_profile.as_ref());
    let own = container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    own.or(of_pod).filter(|profile| profile.type_ == "Localhost")?.localhost_profile.clone()
}

/// Without a profile the runtime's default applies: off only when a pod says so.
fn seccomp(profile: Option<&SeccompProfile>, text: Option<String>) -> Result<Seccomp> {
    match profile.map(|p| p.type_.as_str()) {
        None | Some("RuntimeDefault") => Ok(Seccomp::RuntimeDefault),
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            text.map(Seccomp::Profile).ok_or_else(|| Error::ContainerConfig("seccompProfile Localhost names no profile".into()))
        }
        Some(other) => Err(Error::Unsupported(format!("seccompProfile {other}"))),
    }
}

/// A container's own limits.
pub fn resources(container: &Container) -> Resources {
    amounts_of(&container.resources.clone().unwrap_or_default())
}

/// Amounts as the runtime takes them.
pub fn amounts_of(resources: &ResourceRequirements) -> Resources {
    let (requests, limits) = (resources.requests.clone().unwrap_or_default(), resources.limits.clone().unwrap_or_default());
    let cpu = |map: &std::collections::BTreeMap<_, _>| map.get("cpu").and_then(quantity::millis).and_then(|v| u64::try_from(v).ok());
    Resources {
        memory_limit_bytes: limits.get("memory").and_then(quantity::units).filter(|v| *v > 0),
        cpu_request_millis: Some(cpu(&requests).or_else(|| cpu(&limits)).unwrap_or(0)),
        cpu_limit_millis: cpu(&limits).filter(|v| *v > 0),
        huge_pages: limits.iter().filter_map(|(name, amount)| huge_pages(name, amount)).collect(),
        ..Resources::default()
    }
}

/// Size and amount of `hugepages-2Mi`, in bytes.
fn huge_pages(name: &str, amount: &Quantity) -> Option<(u64, u64)> {
    Some((quantity::huge_page_size(name)?, u64::try_from(quantity::units(amount)?).ok()?))
}

/// Of each size of huge pages that the machine has, what a group may use: nothing where it asks for none.
fn only_asked(mut resources: Resources, sizes: &[u64]) -> Resources {
    for size in sizes {
        resources.huge_pages.entry(*size).or_insert(0);
    }
    resources
}

/// Limits of the pod as a whole: its own, and where it has none the sum of its containers', if every one of them has a limit.
pub fn pod_resources(pod: &Pod) -> Resources {
    level(whole(all_containers(pod).map(resources)), pod_level(pod))
}

/// `spec.resources`: what the pod as a whole asks for.
pub fn pod_level(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref().and_then(|spec| spec.resources.as_ref())
}

/// A sum of containers with what the pod as a whole says in its place.
pub fn level(sum: Resources, own: Option<&ResourceRequirements>) -> Resources {
    let Some(own) = own else { return sum };
    let has = |list: &Option<std::collections::BTreeMap<String, _>>| list.as_ref().is_some_and(|list| list.contains_key("cpu"));
    let amounts = amounts_of(own);
    Resources {
        memory_limit_bytes: amounts.memory_limit_bytes.or(sum.memory_limit_bytes),
        cpu_request_millis: if has(&own.requests) || has(&own.limits) { amounts.cpu_request_millis } else { sum.cpu_request_millis },
        cpu_limit_millis: amounts.cpu_limit_millis.or(sum.cpu_limit_millis),
        ..sum
    }
}

/// The kubelet's oom_score_adj: by QoS class, and for Burstable by how small the request is.
fn oom_score(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i32 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = requests.and_then(|r| r.get("memory")).and_then(quantity::units).unwrap_or(0);
            let share = 1000i128 * i128::from(request.max(0)) / i128::from(node_memory_bytes.max(1));
            i32::try_from(1000 - share.min(1000)).unwrap_or(999).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod_spec: serde_json::Value, test: impl Fn(Result<ContainerSpec>)) {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": pod_spec })).expect("a pod");
        let container = pod.spec.as_ref().expect("a spec").containers[0].clone();
        let prepared = Prepared {
            sandbox: SandboxId::parse("s").expect("an id"),
            image_id: "sha256:1".into(),
            env: vec![("A".into(), "1".into())],
            mounts: vec![],
            log: "/log".into(),
            seccomp_profile: None,
            pid_of: None,
            huge_page_sizes: vec![2 << 20],
            node_memory_bytes: 1 << 30,
        };
        test(spec(&pod, &container, prepared));
    }

    #[test]
    fn the_containers_security_context_wins_over_the_pods() {
        let pod = json!({
            "securityContext": { "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "runAsNonRoot": true },
            "containers": [{ "name": "c", "command": ["x", "$(A)$(B)"], "securityContext": {
                "runAsUser": 9, "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] }, "allowPrivilegeEscalation": false } }],
        });
        check(pod, |spec| {
            let spec = spec.expect("a spec");
            assert_eq!((spec.user.uid, spec.user.gid, spec.user.must_not_be_root), (Some(9), Some(2), true));
            assert_eq!(spec.user.additional_gids, [4, 3]);
            assert_eq!(spec.command, ["x", "1$(B)"]);
            assert!(spec.security.no_new_privs && !spec.security.privileged);
            assert_eq!(spec.security.seccomp, Seccomp::RuntimeDefault);
        });
    }

    #[test]
    fn an_app_armor_profile_is_the_containers_then_the_annotations_then_the_pods() {
        let check = |own: Option<&str>, annotation: Option<&str>, of_pod: Option<&str>, expected: AppArmor| {
            let context = |name: Option<&str>| match name {
                Some(name) => json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": name } }),
                None => json!({}),
            };
            let mut pod = json!({ "metadata": { "name": "p" }, "spec": { "securityContext": context(of_pod), "containers": [{ "name": "c", "securityContext": context(own) }] } });
            if let Some(annotation) = annotation {
                pod["metadata"]["annotations"] = json!({ "container.apparmor.security.beta.kubernetes.io/c": annotation });
            }
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            let found = app_armor(&pod, &pod.spec.as_ref().expect("a spec").containers[0]).expect("a profile");
            assert_eq!(found, expected, "{own:?} {annotation:?} {of_pod:?}");
        };
        check(None, None, None, AppArmor::Unsaid);
        check(Some("own"), Some("localhost/noted"), Some("pods"), AppArmor::Profile("own".into()));
        check(None, Some("localhost/noted"), Some("pods"), AppArmor::Profile("noted".into()));
        check(None, Some("runtime/default"), Some("pods"), AppArmor::RuntimeDefault);
        check(None, Some("unconfined"), None, AppArmor::Unconfined);
        check(None, None, Some("pods"), AppArmor::Profile("pods".into()));
    }

    #[test]
    fn a_profile_that_cannot_be_honoured_is_an_error() {
        let pod = json!({ "containers": [{ "name": "c", "securityContext": { "seccompProfile": { "type": "Localhost", "localhostProfile": "x" } } }] });
        check(pod, |spec| assert!(matches!(spec, Err(Error::ContainerConfig(_)))));
    }

    #[test]
    fn limits_become_cgroup_numbers_and_an_oom_score() {
        let pod = json!({ "containers": [{ "name": "c", "resources": {
            "limits": { "cpu": "500m", "memory": "64Mi", "hugepages-1Gi": "2Gi" }, "requests": { "cpu": "100m", "memory": "512Mi" } } }] });
        check(pod, |spec| {
            let resources = spec.expect("a spec").resources;
            assert_eq!(resources.memory_limit_bytes, Some(64 << 20));
            assert_eq!((resources.cpu_request_millis, resources.cpu_limit_millis), (Some(100), Some(500)));
            assert_eq!(resources.oom_score_adj, Some(500));
            assert_eq!(resources.huge_pages, [(1 << 30, 2 << 30), (2 << 20, 0)].into(), "what is not asked for is not given");
        });
    }
}
