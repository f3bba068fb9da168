//! Topology spread: how many pods of a kind are in each zone, on each host.

use std::collections::BTreeMap;

use crate::filter;
use crate::model::{Pod, Spread};
use crate::snapshot::{Place, Snapshot};

/// One constraint with its counts, for one pod.
pub struct Counted<'a> {
    constraint: &'a Spread,
    /// Matching pods by topology value.
    domains: BTreeMap<&'a str, i64>,
    /// The fewest in any domain.
    minimum: i64,
    /// Whether the pod itself will count.
    own: i64,
}

/// Why a node is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has no such label.
    NoLabel,
    /// Its domain has too many already.
    Skew,
}

/// Counts for the constraints of a pod that are hard, or for those that are not.
pub fn count<'a>(snapshot: &'a Snapshot, pod: &'a Pod, hard: bool) -> Vec<Counted<'a>> {
    let constraints: Vec<&Spread> = pod.spread.iter().filter(|c| c.is_hard() == hard).collect();
    let keys: Vec<&str> = constraints.iter().map(|c| c.topology_key.as_str()).collect();
    constraints.into_iter().map(|constraint| count_one(snapshot, pod, constraint, &keys)).collect()
}

fn count_one<'a>(snapshot: &'a Snapshot, pod: &'a Pod, constraint: &'a Spread, keys: &[&str]) -> Counted<'a> {
    let eligible = |place: &Place| {
        place.exists
            && keys.iter().all(|key| place.node.labels.contains_key(*key))
            && (!constraint.honors_affinity() || filter::affinity_matches(pod, &place.node))
            && (!constraint.honors_taints() || filter::untolerated(pod, &place.node).is_none())
    };
    let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
    let mut domain_of: BTreeMap<usize, &str> = BTreeMap::new();
    for (at, place) in snapshot.places.iter().enumerate().filter(|(_, place)| eligible(place)) {
        if let Some(value) = place.node.labels.get(&constraint.topology_key) {
            domains.entry(value).or_default();
            domain_of.insert(at, value);
        }
    }
    for (at, other) in snapshot.pods_of(&pod.namespace) {
        if !other.terminating
            && constraint.counts(&pod.labels, &other.labels)
            && let Some(count) = domain_of.get(&at).and_then(|value| domains.get_mut(value))
        {
            *count += 1;
        }
    }
    let too_few = constraint.min_domains.is_some_and(|min| (domains.len() as i64) < min);
    let minimum = if too_few { 0 } else { domains.values().copied().min().unwrap_or(0) };
    Counted { constraint, domains, minimum, own: i64::from(constraint.counts(&pod.labels, &pod.labels)) }
}

/// Whether a node keeps within every constraint.
pub fn check(counted: &[Counted<'_>], place: &Place) -> Result<(), Refused> {
    for entry in counted {
        let value = place.node.labels.get(&entry.constraint.topology_key).ok_or(Refused::NoLabel)?;
        let here = entry.domains.get(value.as_str()).copied().unwrap_or(0);
        if here + entry.own - entry.minimum > entry.constraint.max_skew {
            return Err(Refused::Skew);
        }
    }
    Ok(())
}

/// How crowded a node's domains are; less is better. `None`: the node lacks a label.
pub fn crowding(counted: &[Counted<'_>], place: &Place) -> Option<f64> {
    let mut sum = 0.0;
    for entry in counted {
        let value = place.node.labels.get(&entry.constraint.topology_key)?;
        let here = entry.domains.get(value.as_str()).copied().unwrap_or(0);
        // Fewer, larger domains weigh less, as a pod more in one matters less there.
        let weight = (entry.domains.len() as f64 + 2.0).ln();
        sum += here as f64 * weight + (entry.constraint.max_skew - 1) as f64;
    }
    Some(sum)
}
