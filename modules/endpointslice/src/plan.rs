//! From a Service and the pods that it selects to writes.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

use crate::model::{Endpoints, Pod, Service, Slice, Zones, protocol};
use crate::slices::Said;
use crate::topology::{self, Hints, Processors};
use crate::{endpoints, slices};

/// Pods that share the numbers of all ports, by those ports as JSON text.
pub type Groups<'a> = BTreeMap<String, Group<'a>>;

/// The ports and who serves them.
pub struct Group<'a> {
    /// As an EndpointSlice has them.
    pub ports: Vec<Value>,
    /// The pods with their addresses, in the order of addresses.
    pub members: Vec<(&'a Pod, &'a str)>,
}

/// The nodes around a Service.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// Their zones.
    pub zones: &'a Zones,
    /// Their processors, for a Service that has its endpoints shared by them.
    pub processors: Option<&'a Processors>,
}

/// What a Service's slices and Endpoints lack.
pub fn plan(attempt: u32, service: &Service, pods: &[Pod], around: Around<'_>, existing: &[Slice], old: Option<Endpoints>) -> Result<Plan> {
    if service.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    if !service.is_selecting() {
        // What it selected before is no longer said; a hand-made Endpoints object stays.
        return Ok(existing.iter().map(|slice| Write::delete(slices::target(slice))).collect());
    }
    let mut plan = Plan::new();
    let no_family = ["IPv4".to_owned()];
    let families = if service.spec.ip_families.is_empty() { &no_family[..] } else { &service.spec.ip_families };
    let mut losing = Vec::new();
    for family in families {
        let groups = groups(service, pods, family);
        // `None`: not asked for; hints that cannot be had are none.
        let shared = around.processors.map(|processors| share(service, processors, around.zones, &groups));
        let said = Said { service, zones: around.zones, shared: shared.as_ref() };
        let changes = slices::plan(attempt, &said, family, &groups, existing)?;
        plan = plan.then(changes.gaining);
        losing.extend(changes.losing);
    }
    losing.extend(existing.iter().filter(|s| !families.contains(&s.address_type)).map(|slice| Write::delete(slices::target(slice))));
    plan.writes.extend(losing);
    Ok(plan.then(endpoints::plan(service, &groups(service, pods, &families[0]), old)?))
}

fn share(service: &Service, processors: &Processors, zones: &Zones, groups: &Groups<'_>) -> Hints {
    let members = groups.values().flat_map(|group| &group.members).map(|(pod, _)| *pod);
    let ready = members.filter(|pod| slices::is_ready(service, pod));
    let placed = ready.map(|pod| (pod.metadata.uid.clone(), zones.get(&pod.spec.node_name).cloned())).collect();
    topology::hints(processors, &placed).unwrap_or_default()
}

/// A Service that is gone leaves no Endpoints; its slices go with their owner.
pub fn gone(old: Option<Endpoints>) -> Plan {
    let ours = old.filter(|old| endpoints::is_ours(old));
    ours.map(|old| Write::delete(ObjectRef::of("", "endpoints", &old.metadata))).into_iter().collect()
}

fn groups<'a>(service: &Service, pods: &'a [Pod], family: &str) -> Groups<'a> {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| !pod.is_over()) {
        let Some(address) = pod.address(family) else { continue };
        let ports = service.spec.ports.iter().filter_map(|port| {
            let mut entry = json!({ "name": port.name, "port": pod.port(port)?, "protocol": protocol(&port.protocol) });
            if let Some(said) = &port.app_protocol {
                entry["appProtocol"] = json!(said);
            }
            Some(entry)
        });
        let ports: Vec<Value> = ports.collect();
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| Group { ports, members: Vec::new() });
        group.members.push((pod, address));
    }
    for group in groups.values_mut() {
        group.members.sort_by(|a, b| (a.1, &a.0.metadata.uid).cmp(&(b.1, &b.0.metadata.uid)));
    }
    groups
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
