//! In-place resize: what containers were given against what the pod now asks for.
//!
//! Pure. Only processor and memory can be resized. A change waits until the machine has room for it; then the groups' limits are changed under the
//! running program, or the container is restarted where its resize policy wants that. Facts:
//! <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pintle_runtime_bridge::Resources;

use super::record::{Attempt, Record, all_containers, is_sidecar, main_containers};
use crate::container::{amounts_of, level, pod_level, resources};
use crate::quantity;

/// Whether the machine has room for what a pod now asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It has.
    Fits,
    /// Not beside the other pods that are here.
    Deferred(String),
    /// Never.
    Infeasible(String),
}

/// How a running container gets what it now asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its group's limits are changed.
    InPlace,
    /// It is stopped and started again.
    Restart,
}

/// What a machine can give to pods.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Thousandths of processors.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// How a running container gets what it asks for, unless it has it.
pub fn way(container: &Container, attempt: &Attempt) -> Option<Way> {
    let (has, wants) = (attempt.resources.as_ref()?, container.resources.clone().unwrap_or_default());
    let differs = |name: &str| {
        let get = |map: &Option<BTreeMap<String, Quantity>>| map.as_ref().and_then(|map| map.get(name)).cloned();
        get(&has.requests) != get(&wants.requests) || get(&has.limits) != get(&wants.limits)
    };
    let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|name| differs(name)).collect();
    let policies = container.resize_policy.as_deref().unwrap_or(&[]);
    let restarts = |name: &&str| policies.iter().any(|p| p.resource_name == **name && p.restart_policy == "RestartContainer");
    match (changed.is_empty(), changed.iter().any(restarts)) {
        (true, _) => None,
        (_, true) => Some(Way::Restart),
        (_, false) => Some(Way::InPlace),
    }
}

/// Whether the pod as a whole was given other amounts than it asks for.
pub fn pod_pending(pod: &Pod, record: &Record) -> bool {
    let amounts = |level: Option<&ResourceRequirements>| {
        let level = level.cloned().unwrap_or_default();
        let of = |list: Option<BTreeMap<String, Quantity>>| {
            let list = list.unwrap_or_default();
            ["cpu", "memory"].map(|name| list.get(name).cloned())
        };
        (of(level.requests), of(level.limits))
    };
    record.sandbox.as_ref().is_some_and(|sandbox| amounts(sandbox.resources.as_ref()) != amounts(pod_level(pod)))
}

/// The containers that run with other amounts than the pod asks for.
pub fn pending(pod: &Pod, record: &Record) -> Vec<(String, Way)> {
    let running = |container: &Container| way(container, record.containers.get(&container.name)?.running()?);
    all_containers(pod).filter_map(|c| Some((c.name.clone(), running(c)?))).collect()
}

/// Requests of a pod for processor and memory: what its containers ask for or still have, whichever is more.
fn requests(pod: &Pod, record: &Record) -> (i64, i64) {
    let lasting = main_containers(pod).iter().chain(all_containers(pod).filter(|c| is_sidecar(c)));
    let sum = lasting.map(|container| {
        let attempt = record.containers.get(&container.name).and_then(|r| r.running());
        let lists = [container.resources.as_ref(), attempt.and_then(|a| a.resources.as_ref())];
        let most = |name: &str, read: fn(&Quantity) -> Option<i64>| {
            let amounts = lists.iter().flatten().filter_map(|r| r.requests.as_ref()?.get(name)).filter_map(read);
            amounts.max().unwrap_or(0)
        };
        (most("cpu", quantity::millis), most("memory", quantity::units))
    });
    let sum = sum.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    let given = record.sandbox.as_ref().and_then(|sandbox| sandbox.resources.as_ref());
    let whole = |name: &str, read: fn(&Quantity) -> Option<i64>| {
        let levels = [pod_level(pod), given].into_iter().flatten();
        levels.filter_map(|level| level.requests.as_ref()?.get(name)).filter_map(read).max()
    };
    (whole("cpu", quantity::millis).unwrap_or(sum.0), whole("memory", quantity::units).unwrap_or(sum.1))
}

/// Whether there is room for the pod beside `others`.
pub fn fit<'a>(pod: &Pod, record: &Record, others: impl Iterator<Item = (&'a Pod, &'a Record)>, capacity: Capacity) -> Fit {
    let own = requests(pod, record);
    let taken = others.map(|(pod, record)| requests(pod, record)).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    let rows = [("cpu", own.0, taken.0, capacity.cpu_millis), ("memory", own.1, taken.1, capacity.memory_bytes)];
    for (name, wanted, _, whole) in rows {
        if wanted > whole {
            return Fit::Infeasible(format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {whole}"));
        }
    }
    for (name, wanted, taken, whole) in rows {
        if wanted + taken > whole {
            return Fit::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {taken}, capacity: {whole}"
            ));
        }
    }
    Fit::Fits
}

/// Limits of the pod as a whole under which both what its containers have and what they ask for find room.
pub fn ceiling(pod: &Pod, record: &Record) -> Resources {
    let wanted = all_containers(pod).map(resources);
    let had = all_containers(pod).map(|container| {
        let attempt = record.containers.get(&container.name).and_then(|r| r.running());
        attempt.and_then(|a| a.resources.as_ref()).map_or_else(|| resources(container), amounts_of)
    });
    let given = record.sandbox.as_ref().and_then(|sandbox| sandbox.resources.as_ref());
    let (wanted, had) = (level(whole(wanted), pod_level(pod)), level(whole(had), given));
    // No limit is more than any limit.
    let most = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    let most_cpu = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
    Resources {
        memory_limit_bytes: most(wanted.memory_limit_bytes, had.memory_limit_bytes),
        cpu_request_millis: most_cpu(wanted.cpu_request_millis, had.cpu_request_millis),
        cpu_limit_millis: most_cpu(wanted.cpu_limit_millis, had.cpu_limit_millis),
        ..Resources::default()
    }
}

/// The same amounts, with what is not limited said: for groups that may have a limit.
pub fn explicit(amounts: Resources) -> Resources {
    let (memory, cpu) = (amounts.memory_limit_bytes.or(Some(-1)), amounts.cpu_limit_millis.or(Some(0)));
    Resources { memory_limit_bytes: memory, cpu_limit_millis: cpu, ..amounts }
}

/// The sum of containers; where one is not limited, the whole is not.
pub fn whole(all: impl Iterator<Item = Resources>) -> Resources {
    let all: Vec<_> = all.collect();
    Resources {
        memory_limit_bytes: all.iter().map(|r| r.memory_limit_bytes).sum(),
        cpu_request_millis: all.iter().map(|r| r.cpu_request_millis).sum(),
        cpu_limit_millis: all.iter().map(|r| r.cpu_limit_millis).sum(),
        huge_pages: all.iter().flat_map(|r| &r.huge_pages).fold(BTreeMap::new(), |mut sum, (size, bytes)| {
            *sum.entry(*size).or_default() += bytes;
            sum
        }),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    fn pod(resources: Value, policy: Value) -> Pod {
        let container = json!({ "name": "c", "resources": resources, "resizePolicy": policy });
        serde_json::from_value(json!({ "spec": { "containers": [container] } })).expect("a pod")
    }

    fn running(with: Value) -> Record {
        let attempt = json!({ "id": "1", "image": "", "image_id": "", "started_at": "1970-01-01T00:00:00Z", "end": null, "log": "", "message_file": "",
            "hook_done": true, "resources": with });
        let mut record = Record::new(Timestamp::UNIX_EPOCH);
        record.containers.entry("c".into()).or_default().current = Some(serde_json::from_value(attempt).expect("an attempt"));
        record
    }

    #[test]
    fn what_a_container_has_and_asks_for_says_whether_and_how_it_is_changed() {
        let check = |has: Value, wants: Value, policy: Value, expected: Option<Way>| {
            let found = pending(&pod(wants, policy), &running(has)).pop();
            assert_eq!(found.map(|(_, way)| way), expected);
        };
        let cpu = |amount: &str| json!({ "requests": { "cpu": amount } });
        let restart = |name: &str| json!([{ "resourceName": name, "restartPolicy": "RestartContainer" }]);
        check(cpu("1"), cpu("1"), json!([]), None);
        check(cpu("1"), cpu("2"), json!([]), Some(Way::InPlace));
        check(cpu("1"), json!({ "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } }), restart("cpu"), Some(Way::InPlace));
        check(cpu("1"), cpu("2"), restart("cpu"), Some(Way::Restart));
        check(cpu("1"), json!({ "requests": { "cpu": "1", "example.com/dongle": "1" } }), json!([]), None);
        check(Value::Null, cpu("2"), json!([]), None);
    }

    #[test]
    fn a_change_waits_for_room_or_never_has_it() {
        let capacity = Capacity { cpu_millis: 2_000, memory_bytes: 1 << 30 };
        let (other, old) = (pod(json!({ "requests": { "cpu": "1" } }), json!([])), running(json!({ "requests": { "cpu": "1" } })));
        let check = |cpu: &str| {
            let mine = pod(json!({ "requests": { "cpu": cpu } }), json!([]));
            match fit(&mine, &running(json!({})), std::iter::once((&other, &old)), capacity) {
                Fit::Fits => "fits",
                Fit::Deferred(_) => "deferred",
                Fit::Infeasible(_) => "infeasible",
            }
        };
        assert_eq!([check("1"), check("1500m"), check("3")], ["fits", "deferred", "infeasible"]);
    }

    #[test]
    fn the_pods_own_limit_covers_both_ends_of_a_change() {
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu } });
        let covers = |has: Value, wants: Value| ceiling(&pod(wants, json!([])), &running(has)).cpu_limit_millis;
        assert_eq!(covers(limits("2"), limits("1")), Some(2_000));
        assert_eq!(covers(limits("1"), limits("3")), Some(3_000));
        assert_eq!(covers(json!({}), limits("3")), None);
    }
}
