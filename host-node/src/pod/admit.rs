//! Whether a pod that was bound to this machine finds room on it: the part of a scheduler's rules that a node holds pods against once more, because not
//! every pod comes from a scheduler. A pod that does not fit fails, and whoever made it makes another.
//!
//! Only ports of the machine are asked for here, and whether it is short of something; what pods ask for of processor and memory is the scheduler's affair alone.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::record::{Record, Verdict, all_containers};
use super::status::qos_class;
use crate::container::app_armor_profile;
use crate::housekeeping::ranking;
use crate::net::nft::Family;
use crate::service::frontends::{Front, host_ports};

/// Why a new pod does not fit beside the others, if it does not.
pub fn refusal<'a>(pod: &Pod, others: impl Iterator<Item = (&'a Pod, &'a Record)>) -> Option<Verdict> {
    let somewhere: [IpAddr; 2] = Family::BOTH.map(Family::unspecified);
    let wanted = host_ports(pod, &somewhere);
    if wanted.is_empty() {
        return None;
    }
    let meet = |a: &Front, b: &Front| {
        let everywhere = a.address.is_unspecified() || b.address.is_unspecified();
        (a.family(), a.protocol, a.port) == (b.family(), b.protocol, b.port) && (everywhere || a.address == b.address)
    };
    let taken = others
        .filter(|(pod, record)| holds(pod, record))
        .any(|(pod, _)| host_ports(pod, &somewhere).keys().any(|theirs| wanted.keys().any(|ours| meet(ours, theirs))));
    let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    taken.then(|| Verdict::new("NodePorts", message))
}

/// Why a pod that asks for AppArmor cannot have it on a machine without. Running it all the same would leave it less confined than it was told.
pub fn unconfined(pod: &Pod, app_armor: bool) -> Option<Verdict> {
    let asks = |c: &Container| app_armor_profile(pod, c).is_some_and(|profile| profile.type_ != "Unconfined");
    let message = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    (!app_armor && all_containers(pod).any(asks)).then(|| Verdict::new("AppArmor", message))
}

/// Why a new pod may not come while the machine is short of something. `pressure`: conditions that hold. What the cluster cannot do without comes
/// all the same; when only memory is short, so does whoever said how much of it is wanted, or tolerates that.
pub fn pressed(pod: &Pod, pressure: &[&str]) -> Option<Verdict> {
    if pressure.is_empty() || !ranking::may_go(pod) {
        return None;
    }
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut tolerates = tolerations.map(|t| {
        let named = t.key.as_deref().is_none_or(|key| key == "node.kubernetes.io/memory-pressure");
        named && t.effect.as_deref().is_none_or(|effect| effect == "NoSchedule")
    });
    if pressure == ["MemoryPressure"] && (qos_class(pod) != "BestEffort" || tolerates.any(|yes| yes)) {
        return None;
    }
    Some(Verdict::new("Evicted", format!("Pod was rejected: The node had condition: [{}]. ", pressure.join(" "))))
}

/// Whether a pod still has what it was given: not when it has ended, or is going and has been taken down.
fn holds(pod: &Pod, record: &Record) -> bool {
    let over = pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
    let taken_down = pod.metadata.deletion_timestamp.is_some() && record.sandbox.is_none();
    !over && !taken_down && record.ended.is_none() && record.verdict.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::Ending;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    fn pod(ports: Value) -> Pod {
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "c", "ports": ports }] } })).expect("a pod")
    }

    #[test]
    fn who_asks_for_app_armor_comes_only_where_it_is() {
        let check = |context: Value, comes: bool| {
            let pod = json!({ "spec": { "containers": [{ "name": "c", "securityContext": context }] } });
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(unconfined(&pod, false).is_none(), comes);
            assert!(unconfined(&pod, true).is_none());
        };
        check(json!({}), true);
        check(json!({ "appArmorProfile": { "type": "Unconfined" } }), true);
        check(json!({ "appArmorProfile": { "type": "RuntimeDefault" } }), false);
        check(json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": "x" } }), false);
        check(json!({ "seLinuxOptions": { "type": "spc_t" } }), true);
    }

    #[test]
    fn who_comes_while_the_machine_is_short_of_something() {
        let check = |spec: Value, pressure: &[&str], comes: bool| {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).expect("a pod");
            assert_eq!(pressed(&pod, pressure).is_none(), comes, "{spec} {pressure:?}");
        };
        let (memory, disk) = (&["MemoryPressure"][..], &["DiskPressure"][..]);
        let anyone = json!({ "containers": [{ "name": "c" }] });
        let modest = json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] });
        let vital = json!({ "priority": 2_000_001_000, "containers": [{ "name": "c" }] });
        let tolerant = json!({ "containers": [{ "name": "c" }], "tolerations": [{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" }] });
        check(anyone.clone(), &[], true);
        check(anyone.clone(), memory, false);
        check(modest.clone(), memory, true);
        check(tolerant, memory, true);
        check(modest, disk, false);
        check(vital, disk, true);
    }

    #[test]
    fn a_port_of_the_machine_is_one_pods_at_a_time() {
        let check = |mine: Value, theirs: Value, fits: bool| {
            let (mine, theirs) = (pod(mine), pod(theirs));
            let mut record = Record::new(Timestamp::UNIX_EPOCH);
            let refused = |pod: &Pod, record: &Record| refusal(&mine, std::iter::once((pod, record))).is_some();
            assert_eq!(!refused(&theirs, &record), fits);
            let mut going = theirs.clone();
            going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
            assert!(!refused(&going, &record), "it has been taken down");
            record.ended = Some(Ending::Succeeded);
            assert!(!refused(&theirs, &record), "it has ended");
        };
        let port =
            |host: u16, protocol: &str, ip: &str| json!([{ "containerPort": 80, "hostPort": host, "protocol": protocol, "hostIP": ip }]);
        check(port(8080, "TCP", ""), port(8080, "TCP", ""), false);
        check(port(8080, "TCP", ""), port(8080, "UDP", ""), true);
        check(port(8080, "TCP", "127.0.0.1"), port(8080, "TCP", ""), false);
        check(port(8080, "TCP", "127.0.0.1"), port(8080, "TCP", "127.0.0.2"), true);
        check(json!([{ "containerPort": 80 }]), port(80, "TCP", ""), true);
    }
}
