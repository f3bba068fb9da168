//! Who goes first when the machine runs short, and what is said to them.
//!
//! Pure. The order is the kubelet's: pods that use more than they asked for, then those of lower priority, then those that use most above what they asked
//! for; for processes, priority and number alone. Pods that the cluster cannot do without are never chosen.
//! Messages are the kubelet's form, because people and tools look for them.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Container, Pod};
use pintle_runtime_bridge::DiskUsage;

use super::pressure::Threshold;
use super::signal::{Amount, Observations, Resource, Signal};
use crate::pod::record::{Verdict, all_containers, init_containers, is_sidecar, main_containers};
use crate::quantity;

/// Pods of this priority or a higher one are never evicted.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// Seconds that a pod gets when there is no time.
const IMMEDIATELY: i64 = 1;

/// What a pod uses.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Bytes of memory (the working set).
    pub memory: u64,
    /// Tasks.
    pub pids: u64,
    /// Writable layers, logs and volumes on disk.
    pub disk: DiskUsage,
    /// By container: memory, disk.
    pub containers: Vec<(String, u64, DiskUsage)>,
    /// emptyDir volumes.
    pub empty_dirs: Vec<(String, DiskUsage)>,
}

impl Usage {
    fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.memory,
            Resource::Storage => self.disk.bytes,
            Resource::Inodes => self.disk.inodes,
            Resource::Pids => self.pids,
        }
    }
}

/// Whether a pod may be evicted at all.
pub fn may_go(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) < SYSTEM_CRITICAL && !crate::pod::record::is_static(pod)
}

fn amount(container: &Container, limit: bool, name: &str) -> Option<u64> {
    let resources = container.resources.as_ref()?;
    let list = if limit { &resources.limits } else { &resources.requests };
    u64::try_from(quantity::units(list.as_ref()?.get(name)?)?).ok()
}

/// What lasting containers ask for together, or one init container if that is more.
fn sum(pod: &Pod, limit: bool, name: &str) -> Option<u64> {
    let of = |container: &Container| amount(container, limit, name);
    let lasting = main_containers(pod).iter().chain(all_containers(pod).filter(|c| is_sidecar(c)));
    let lasting: Vec<u64> = lasting.filter_map(of).collect();
    let first = init_containers(pod).iter().filter(|c| !is_sidecar(c)).filter_map(of).max();
    if lasting.is_empty() && first.is_none() { None } else { Some(lasting.iter().sum::<u64>().max(first.unwrap_or(0))) }
}

fn requested(pod: &Pod, resource: Resource) -> u64 {
    match resource {
        Resource::Memory => sum(pod, false, "memory").unwrap_or(0),
        Resource::Storage => sum(pod, false, "ephemeral-storage").unwrap_or(0),
        Resource::Inodes | Resource::Pids => 0,
    }
}

/// Where a pod stands: the least goes first.
fn place(pod: &Pod, usage: &Usage, resource: Resource) -> (bool, i32, Reverse<i128>) {
    let (used, asked) = (i128::from(usage.of(resource)), i128::from(requested(pod, resource)));
    let modest = resource != Resource::Pids && used <= asked;
    (modest, pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0), Reverse(used - asked))
}

/// The index of the pod that goes first.
pub fn first(pods: &[(&Pod, &Usage)], resource: Resource) -> Option<usize> {
    (0..pods.len()).filter(|index| may_go(pods[*index].0)).min_by_key(|index| place(pods[*index].0, pods[*index].1, resource))
}

/// Why a pod goes for the sake of the machine. `grace_max`: what a soft threshold leaves it at most, seconds.
pub fn verdict(pod: &Pod, usage: &Usage, threshold: &Threshold, seen: &Observations, grace_max: i64) -> Verdict {
    let resource = threshold.signal.resource();
    let mut message = format!("The node was low on resource: {}. ", resource.name());
    if let Some(now) = seen.get(&threshold.signal) {
        let show = |units: u64| show(threshold.signal, units);
        let limit = match &threshold.amount {
            Amount::Whole(units) => show(*units),
            Amount::Share(_) => show(threshold.amount.of(now.capacity)),
        };
        message.push_str(&format!("Threshold quantity: {limit}, available: {}. ", show(now.available)));
    }
    for (name, memory, disk) in &usage.containers {
        let Some(container) = all_containers(pod).find(|c| c.name == *name) else { continue };
        let (used, wanted) = match resource {
            Resource::Memory => (*memory, "memory"),
            Resource::Storage => (disk.bytes, "ephemeral-storage"),
            Resource::Inodes | Resource::Pids => continue,
        };
        let asked = amount(container, false, wanted).unwrap_or(0);
        if used > asked {
            let request = if asked == 0 { "0".to_owned() } else { kib(asked) };
            message
                .push_str(&format!("Container {name} was using {}, request is {request}, has larger consumption of {wanted}. ", kib(used)));
        }
    }
    let spec_grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let grace = if threshold.grace_seconds.is_some() { grace_max.min(spec_grace) } else { IMMEDIATELY };
    evicted(message, grace)
}

/// Why a pod goes for its own limits: a volume, a container, or all of it takes more of the disk than allowed.
pub fn over_its_limits(pod: &Pod, usage: &Usage) -> Option<Verdict> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let limit = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref());
        let bytes = limit.and_then(quantity::units).and_then(|units| u64::try_from(units).ok()).filter(|units| *units > 0);
        let used = usage.empty_dirs.iter().find(|(name, _)| *name == volume.name).map_or(0, |(_, used)| used.bytes);
        if let (Some(limit), Some(bytes)) = (limit, bytes)
            && used > bytes
        {
            return Some(evicted(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0), IMMEDIATELY));
        }
    }
    if let Some(limit) = sum(pod, true, "ephemeral-storage")
        && usage.disk.bytes > limit
    {
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", kib(limit));
        return Some(evicted(message, IMMEDIATELY));
    }
    usage.containers.iter().find_map(|(name, _, disk)| {
        let container = all_containers(pod).find(|c| c.name == *name)?;
        let limit = amount(container, true, "ephemeral-storage").filter(|limit| disk.bytes > *limit)?;
        Some(evicted(format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", kib(limit)), IMMEDIATELY))
    })
}

/// Whether a pod has limits of disk space that someone must watch.
pub fn has_disk_limits(pod: &Pod) -> bool {
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes().any(|v| v.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some()))
        || sum(pod, true, "ephemeral-storage").is_some()
}

fn evicted(message: String, grace: i64) -> Verdict {
    Verdict { reason: "Evicted".into(), message, grace_seconds: Some(grace), disrupts: true }
}

/// A signal's amount as Kubernetes writes quantities.
fn show(signal: Signal, units: u64) -> String {
    match signal.resource() {
        Resource::Memory | Resource::Storage => kib(units),
        Resource::Inodes | Resource::Pids => units.to_string(),
    }
}

/// Bytes in the largest binary unit that loses nothing, in whole KiB for what was measured.
fn kib(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes.div_ceil(1024), 0);
    const UNITS: [&str; 5] = ["Ki", "Mi", "Gi", "Ti", "Pi"];
    while value >= 1024 && value % 1024 == 0 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    if value == 0 { "0".to_owned() } else { format!("{value}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::housekeeping::signal::Observed;
    use serde_json::{Value, json};

    fn pod(priority: i32, requests: Value, limits: Value, volumes: Value) -> Pod {
        let container = json!({ "name": "c", "resources": { "requests": requests, "limits": limits } });
        serde_json::from_value(
            json!({ "metadata": { "name": "p" }, "spec": { "priority": priority, "containers": [container], "volumes": volumes } }),
        )
        .expect("a pod")
    }

    fn plain(priority: i32, memory: &str) -> Pod {
        pod(priority, json!({ "memory": memory }), json!({}), json!([]))
    }

    fn uses(memory: u64) -> Usage {
        Usage { memory, pids: memory, containers: vec![("c".into(), memory, DiskUsage::default())], ..Usage::default() }
    }

    #[test]
    fn the_immodest_go_first_then_the_unimportant_then_the_greedy() {
        let check = |pods: &[(Pod, Usage)], resource: Resource, expected: Option<usize>| {
            let list: Vec<_> = pods.iter().map(|(pod, usage)| (pod, usage)).collect();
            assert_eq!(first(&list, resource), expected);
        };
        let modest = (plain(0, "1Ki"), uses(1000));
        let immodest = (plain(9, "1Ki"), uses(1025));
        check(&[modest.clone(), immodest.clone()], Resource::Memory, Some(1));
        check(&[modest.clone(), immodest.clone()], Resource::Pids, Some(0));
        check(&[immodest.clone(), (plain(8, "0"), uses(2))], Resource::Memory, Some(1));
        check(&[immodest.clone(), (plain(9, "1Ki"), uses(2000))], Resource::Memory, Some(1));
        check(&[(plain(SYSTEM_CRITICAL, "0"), uses(5000))], Resource::Memory, None);
    }

    #[test]
    fn what_is_said_names_the_threshold_and_the_container() {
        let seen: Observations = [(Signal::MemoryAvailable, Observed { available: 50 << 20, capacity: 1 << 30 })].into();
        let hard = Threshold { signal: Signal::MemoryAvailable, amount: Amount::Whole(100 << 20), grace_seconds: None, reclaim: None };
        let verdict_of = |threshold: &Threshold| verdict(&plain(0, "1Ki"), &uses(3 << 20), threshold, &seen, 7);
        let said = verdict_of(&hard);
        assert_eq!(
            said.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 3Mi, request is 1Ki, has larger consumption of memory. "
        );
        assert_eq!((said.reason.as_str(), said.grace_seconds, said.disrupts), ("Evicted", Some(1), true));
        assert_eq!(verdict_of(&Threshold { grace_seconds: Some(60), ..hard }).grace_seconds, Some(7));
    }

    #[test]
    fn a_pod_over_its_own_limits_of_disk_goes() {
        let limits = json!({ "ephemeral-storage": "10Ki" });
        let volumes = json!([{ "name": "v", "emptyDir": { "sizeLimit": "4Ki" } }]);
        let check = |pod: &Pod, volume: u64, layer: u64, whole: u64, expected: Option<&str>| {
            let disk = |bytes| DiskUsage { bytes, inodes: 1 };
            let usage = Usage {
                disk: disk(whole),
                containers: vec![("c".into(), 0, disk(layer))],
                empty_dirs: vec![("v".into(), disk(volume))],
                ..Usage::default()
            };
            assert_eq!(over_its_limits(pod, &usage).map(|v| v.message).as_deref(), expected);
        };
        let both = pod(0, json!({}), limits, volumes.clone());
        check(&both, 4096, 10240, 10240, None);
        check(&both, 4097, 0, 0, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"4Ki\". "));
        check(&both, 0, 0, 10241, Some("Pod ephemeral local storage usage exceeds the total limit of containers 10Ki. "));
        check(&both, 0, 10241, 0, Some("Container c exceeded its local ephemeral storage limit \"10Ki\". "));
        check(&pod(0, json!({}), json!({}), volumes), 0, 1 << 40, 1 << 40, None);
        assert!(has_disk_limits(&both) && !has_disk_limits(&plain(0, "1Ki")));
    }
}
