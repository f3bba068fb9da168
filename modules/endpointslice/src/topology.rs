//! Hints of Services that say `service.kubernetes.io/topology-mode: Auto`: zones get endpoints by their share of the cluster's processors.
//!
//! Pure. The rule is upstream's: no zone may be so short of endpoints that one of its own gets more than a fifth over its share; where that cannot be had, or
//! where a node or an endpoint has no zone, there are no hints at all. Which endpoints move is our choice: the fewest, the last by uid.

use std::collections::BTreeMap;

use pintle_sdk::workload::milli;

use crate::model::{Node, Service, Zones};

const MODE: &str = "service.kubernetes.io/topology-mode";
/// The annotation's older name.
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with this label serve the cluster itself: they have no share.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// A zone's share, in hundredths, that one minimum stands for: the overload that is borne.
const SHARE_AND_OVERLOAD: u64 = 120;

/// Zones for endpoints, by uid.
pub type Hints = BTreeMap<String, String>;

/// Processors of each zone, thousandths; `None` where a node that counts does not say both.
pub type Processors = Option<BTreeMap<String, u64>>;

/// Whether a Service asks for it.
pub fn is_wanted(service: &Service) -> bool {
    let said = |key| service.metadata.annotations.get(key);
    said(MODE).or_else(|| said(MODE_BEFORE)).is_some_and(|mode| matches!(mode.as_str(), "Auto" | "auto"))
}

/// What the ready nodes have to offer.
pub fn processors(nodes: &[Node], zones: &Zones) -> Processors {
    let mut all = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.is_ready() && !node.metadata.labels.contains_key(CONTROL_PLANE)) {
        let cpu = u64::try_from(milli(&node.status.allocatable.cpu)).ok().filter(|cpu| *cpu > 0)?;
        *all.entry(zones.get(&node.metadata.name)?.clone()).or_default() += cpu;
    }
    (all.len() >= 2).then_some(all)
}

/// Zones for endpoints that are ready, given by uid with the zone that each is in.
pub fn hints(processors: &Processors, ready: &BTreeMap<String, Option<String>>) -> Option<Hints> {
    let processors = processors.as_ref()?;
    let (total, count) = (processors.values().sum::<u64>(), ready.len() as u64);
    let least: BTreeMap<&String, usize> =
        processors.iter().map(|(zone, cpu)| (zone, (count * cpu * 100).div_ceil(total * SHARE_AND_OVERLOAD) as usize)).collect();
    if ready.len() < processors.len() || least.values().sum::<usize>() > ready.len() {
        return None;
    }
    let mut placed: BTreeMap<&String, Vec<&String>> = processors.keys().map(|zone| (zone, Vec::new())).collect();
    for (uid, zone) in ready {
        placed.get_mut(zone.as_ref()?)?.push(uid);
    }
    while let Some(short) = placed.iter().find(|(zone, uids)| uids.len() < least[*zone]).map(|(zone, _)| *zone) {
        let (_, giver) = placed.iter_mut().max_by_key(|(zone, uids)| uids.len().saturating_sub(least[**zone]))?;
        let moved = giver.pop()?;
        placed.get_mut(short)?.push(moved);
    }
    Some(placed.into_iter().flat_map(|(zone, uids)| uids.into_iter().map(|uid| (uid.clone(), zone.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_get_endpoints_by_their_processors_or_there_are_no_hints() {
        let check = |cpus: &[(&str, u64)], placed: &[&str], expected: Option<&[&str]>| {
            let processors = Some(cpus.iter().map(|(zone, cpu)| ((*zone).to_owned(), *cpu)).collect());
            let zone = |zone: &&str| if zone.is_empty() { None } else { Some((*zone).to_owned()) };
            let ready = placed.iter().enumerate().map(|(n, at)| (format!("u{n}"), zone(at))).collect();
            let found = hints(&processors, &ready).map(|hints| hints.into_values().collect::<Vec<_>>());
            assert_eq!(found, expected.map(|all| all.iter().map(|zone| (*zone).to_owned()).collect()), "{cpus:?} {placed:?}");
        };
        let even = [("a", 4000), ("b", 4000)];
        check(&even, &["a", "b"], Some(&["a", "b"]));
        check(&even, &["a", "a", "a", "b"], Some(&["a", "a", "b", "b"]));
        check(&even, &["a", "a", "a", "a"], Some(&["a", "a", "b", "b"]));
        check(&[("a", 1000), ("b", 3000)], &["a", "a", "a", "a", "b", "b"], Some(&["a", "a", "b", "b", "b", "b"]));
        // Too few to share, or a place that is not known.
        check(&even, &["a"], None);
        check(&[("a", 4000), ("b", 4000), ("c", 4000)], &["a", "b", "b", "c"], None);
        check(&even, &["a", ""], None);
        check(&even, &["a", "z"], None);
        assert_eq!(hints(&None, &BTreeMap::new()), None);
    }
}
