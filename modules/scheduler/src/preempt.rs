//! Making room for a pod by ending pods that matter less.

use std::rc::Rc;

use pintle_sdk::{Decision, ObjectRef};

use crate::filter::Cycle;
use crate::model::Pod;
use crate::snapshot::Snapshot;

/// Nodes on which ending pods is tried, at most.
const CANDIDATES_MAX: usize = 100;

/// Where room can be made, and the pods that would go. `curable` are the places that refused for want of room.
pub fn find(snapshot: &mut Snapshot, pod: &Rc<Pod>, curable: &[usize]) -> Option<Decision> {
    if !pod.may_preempt || is_awaited(snapshot, pod) {
        return None;
    }
    let mut choices: Vec<(usize, Vec<Rc<Pod>>)> = Vec::new();
    for at in curable.iter().copied() {
        if let Some(victims) = victims(snapshot, pod, at) {
            choices.push((at, victims));
            if choices.len() == CANDIDATES_MAX {
                break;
            }
        }
    }
    let (at, victims) = choices.into_iter().min_by_key(|(at, victims)| cost(*at, victims))?;
    snapshot.nominated.insert(pod.uid.clone(), (at, pod.clone()));
    let node = snapshot.places[at].node.name.clone();
    let refer = |pod: Rc<Pod>| ObjectRef::named("", "pods", &pod.namespace, &pod.name).with_uid(&pod.uid);
    Some(Decision::Evict { node, victims: victims.into_iter().map(refer).collect() })
}

/// Whether room is already being made for the pod: pods that matter less are on their way out.
fn is_awaited(snapshot: &Snapshot, pod: &Pod) -> bool {
    let place = snapshot.nominated.get(&pod.uid).and_then(|(at, _)| snapshot.places.get(*at));
    place.is_some_and(|place| place.pods.values().any(|other| other.terminating && other.priority < pod.priority))
}

/// The highest priority that goes, the sum of all, how many, then the place: upstream's order without disruption budgets.
fn cost(at: usize, victims: &[Rc<Pod>]) -> (i32, i64, usize, usize) {
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    (highest, victims.iter().map(|pod| i64::from(pod.priority)).sum(), victims.len(), at)
}

/// The fewest pods to end so that `pod` can go to the place: all that matter less, but those that can stay after all, the dearest first.
fn victims(snapshot: &mut Snapshot, pod: &Rc<Pod>, at: usize) -> Option<Vec<Rc<Pod>>> {
    let mut lesser: Vec<Rc<Pod>> = snapshot.places[at].pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return None;
    }
    lesser.sort_by_key(|other| (-i64::from(other.priority), other.created, other.uid.clone()));
    for other in &lesser {
        snapshot.remove(&other.uid);
    }
    let mut victims = Vec::new();
    let possible = passes(snapshot, pod, at);
    for other in &lesser {
        snapshot.put(at, other.clone());
        if possible && !passes(snapshot, pod, at) {
            snapshot.remove(&other.uid);
            victims.push(other.clone());
        }
    }
    for other in &victims {
        snapshot.put(at, other.clone());
    }
    (possible && !victims.is_empty()).then_some(victims)
}

fn passes(snapshot: &Snapshot, pod: &Pod, at: usize) -> bool {
    Cycle::new(snapshot, pod).check(snapshot, at).is_ok()
}
