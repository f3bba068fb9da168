//! Which of the nodes that can take a pod is best. Each score is 0 to 100; the sum by upstream's weights decides.

use crate::filter::Cycle;
use crate::model::Pod;
use crate::opinions::Opinions;
use crate::snapshot::{Place, Snapshot};
use crate::spread::{self, Counted};

const BEST: i64 = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

/// Weights of upstream's default profile.
const TAINTS_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const INTERPOD_WEIGHT: i64 = 2;

/// The best of the places; of equal ones the least crowded with pods, then the first in the order given.
pub fn best(snapshot: &Snapshot, cycle: &Cycle<'_>, feasible: &[usize], opinions: &Opinions<'_>) -> Option<usize> {
    if let [only] = feasible {
        return Some(*only);
    }
    let pod = cycle.pod;
    let places: Vec<&Place> = feasible.iter().map(|at| &snapshot.places[*at]).collect();
    let each = |score: &dyn Fn(&Place) -> i64| places.iter().map(|place| score(place)).collect::<Vec<i64>>();
    let mut totals = each(&|place| least_allocated(pod, place) + balanced(pod, place));
    add(&mut totals, TAINTS_WEIGHT, reversed(each(&|place| avoided_taints(pod, place))));
    if !pod.preferred_nodes.is_empty() {
        add(&mut totals, AFFINITY_WEIGHT, scaled(each(&|place| preferred(pod, place))));
    }
    let soft = spread::count(snapshot, pod, false);
    if !soft.is_empty() {
        add(&mut totals, SPREAD_WEIGHT, spread_scores(&soft, &places));
    } else if pod.spread.is_empty() && !pod.kin.is_empty() {
        add(&mut totals, SPREAD_WEIGHT, sibling_scores(snapshot, pod, &places));
    }
    add(&mut totals, INTERPOD_WEIGHT, spanned(each(&|place| cycle.relations.points(place))));
    totals.iter_mut().zip(feasible).for_each(|(total, at)| *total += opinions.score(*at));
    let best = (0..places.len()).min_by_key(|i| (-totals[*i], places[*i].pods.len(), *i))?;
    Some(feasible[best])
}

fn add(totals: &mut [i64], weight: i64, scores: Vec<i64>) {
    totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
}

/// 100 for the largest.
fn scaled(raw: Vec<i64>) -> Vec<i64> {
    let max = raw.iter().copied().max().unwrap_or(0);
    if max <= 0 { vec![0; raw.len()] } else { raw.iter().map(|score| score * BEST / max).collect() }
}

/// 100 for none, 0 for the largest.
fn reversed(raw: Vec<i64>) -> Vec<i64> {
    scaled(raw).into_iter().map(|score| BEST - score).collect()
}

/// 0 for the smallest, 100 for the largest.
fn spanned(raw: Vec<i64>) -> Vec<i64> {
    let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    if max == min { vec![0; raw.len()] } else { raw.iter().map(|score| (score - min) * BEST / (max - min)).collect() }
}

fn fractions(pod: &Pod, place: &Place) -> [(i64, i64); 2] {
    let have = &place.node.allocatable;
    [(place.usual.0 + pod.usual.0, have.cpu), (place.usual.1 + pod.usual.1, have.memory)]
}

/// The more is left, the better.
fn least_allocated(pod: &Pod, place: &Place) -> i64 {
    let score = |(used, have): (i64, i64)| {
        if have == 0 || used > have { 0 } else { ((have - used) as i128 * i128::from(BEST) / have as i128) as i64 }
    };
    let [cpu, memory] = fractions(pod, place);
    (score(cpu) + score(memory)) / 2
}

/// The more evenly cpu and memory are used, the better.
fn balanced(pod: &Pod, place: &Place) -> i64 {
    let percent = |(used, have): (i64, i64)| {
        if have == 0 { BEST } else { (used as i128 * i128::from(BEST) / have as i128).min(i128::from(BEST)) as i64 }
    };
    let [cpu, memory] = fractions(pod, place);
    BEST - (percent(cpu) - percent(memory)).abs() / 2
}

fn avoided_taints(pod: &Pod, place: &Place) -> i64 {
    let soft = place.node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !pod.tolerations.iter().any(|t| t.tolerates(taint))).count() as i64
}

fn preferred(pod: &Pod, place: &Place) -> i64 {
    pod.preferred_nodes.iter().filter(|(_, term)| term.matches(&place.node.name, &place.node.labels)).map(|(weight, _)| weight).sum()
}

/// Nodes that lack a label of the constraints come last.
fn spread_scores(soft: &[Counted<'_>], places: &[&Place]) -> Vec<i64> {
    let raw: Vec<Option<f64>> = places.iter().map(|place| spread::crowding(soft, place)).collect();
    let known = || raw.iter().flatten().copied();
    let (min, max) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
    let score = |crowding: f64| if max == 0.0 { BEST } else { (BEST as f64 * (max + min - crowding) / max) as i64 };
    raw.into_iter().map(|crowding| crowding.map_or(0, score)).collect()
}

/// Pods that belong together are spread over hosts and zones without being asked to: a crowded host weighs twice a crowded zone.
fn sibling_scores(snapshot: &Snapshot, pod: &Pod, places: &[&Place]) -> Vec<i64> {
    let mut zones = std::collections::BTreeMap::<&str, i64>::new();
    for place in &snapshot.places {
        if let Some(zone) = place.node.labels.get(ZONE) {
            *zones.entry(zone).or_default() += i64::from(place.siblings(&pod.kin));
        }
    }
    let hosts = reversed(places.iter().map(|place| i64::from(place.siblings(&pod.kin))).collect());
    if zones.is_empty() {
        return hosts;
    }
    let in_zone = |place: &&Place| place.node.labels.get(ZONE).and_then(|zone| zones.get(zone.as_str())).copied().unwrap_or(0);
    let zones = reversed(places.iter().map(in_zone).collect());
    hosts.into_iter().zip(zones).map(|(host, zone)| (2 * host + zone) / 3).collect()
}
