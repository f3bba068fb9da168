//! Affinity and anti-affinity between pods.

use std::collections::BTreeMap;

use crate::model::{Pod, PodTerm};
use crate::snapshot::{Place, Snapshot};

type Domains<'a> = BTreeMap<(&'a str, &'a str), i64>;

/// What the pods that are placed mean for one pod.
#[derive(Default)]
pub struct Relations<'a> {
    /// Domains that some placed pod keeps this one out of.
    refused_by_others: Domains<'a>,
    /// Domains where pods are that this one wants to be with.
    wanted: Domains<'a>,
    /// Domains where pods are that this one keeps away from.
    shunned: Domains<'a>,
    /// Preference points.
    points: Domains<'a>,
    /// No pod is there yet to be with, and this one would be the first of its kind.
    first_of_its_kind: bool,
}

/// Why a node is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The pod wants to be with others that are not here.
    Affinity,
    /// The pod keeps away from some that are here.
    AntiAffinity,
    /// Some that are here keep the pod away.
    ByOthers,
}

/// Weighs a pod against all that are placed.
pub fn relate<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Relations<'a> {
    let mut relations = Relations::default();
    let namespaces = &snapshot.namespaces;
    for uid in &snapshot.with_terms {
        let Some((at, other)) = snapshot.pod(uid) else { continue };
        for term in other.anti_affinity.required.iter().filter(|term| term.means(other, pod, namespaces)) {
            mark(&mut relations.refused_by_others, &snapshot.places[at], term, 1);
        }
    }
    let (with, apart) = (&pod.affinity, &pod.anti_affinity);
    let indifferent = with.required.is_empty() && with.preferred.is_empty() && apart.required.is_empty() && apart.preferred.is_empty();
    if indifferent {
        return relations;
    }
    for (at, other) in snapshot.all_pods() {
        let place = &snapshot.places[at];
        let means = |term: &PodTerm| term.means(pod, other, namespaces);
        if !with.required.is_empty() && with.required.iter().all(means) {
            with.required.iter().for_each(|term| mark(&mut relations.wanted, place, term, 1));
        }
        apart.required.iter().filter(|term| means(term)).for_each(|term| mark(&mut relations.shunned, place, term, 1));
        with.preferred.iter().filter(|(_, term)| means(term)).for_each(|(weight, term)| mark(&mut relations.points, place, term, *weight));
        apart.preferred.iter().filter(|(_, term)| means(term)).for_each(|(weight, term)| mark(&mut relations.points, place, term, -weight));
    }
    relations.first_of_its_kind = relations.wanted.is_empty() && with.required.iter().all(|term| term.means(pod, pod, namespaces));
    relations
}

fn mark<'a>(domains: &mut Domains<'a>, place: &'a Place, term: &'a PodTerm, weight: i64) {
    if let Some(value) = place.node.labels.get(&term.topology_key) {
        *domains.entry((&term.topology_key, value)).or_default() += weight;
    }
}

fn has(domains: &Domains<'_>, place: &Place) -> bool {
    domains.keys().any(|(key, value)| place.node.labels.get(*key).is_some_and(|have| have == value))
}

impl Relations<'_> {
    /// Whether a node can take the pod.
    pub fn check(&self, pod: &Pod, place: &Place) -> Result<(), Refused> {
        let labels = &place.node.labels;
        for term in &pod.affinity.required {
            let value = labels.get(&term.topology_key).ok_or(Refused::Affinity)?;
            if !self.first_of_its_kind && !self.wanted.contains_key(&(term.topology_key.as_str(), value.as_str())) {
                return Err(Refused::Affinity);
            }
        }
        if has(&self.shunned, place) {
            return Err(Refused::AntiAffinity);
        }
        if has(&self.refused_by_others, place) { Err(Refused::ByOthers) } else { Ok(()) }
    }

    /// How much the pod would like to be on a node.
    pub fn points(&self, place: &Place) -> i64 {
        let here = self.points.iter().filter(|((key, value), _)| place.node.labels.get(*key).is_some_and(|have| have == value));
        here.map(|(_, weight)| weight).sum()
    }
}
