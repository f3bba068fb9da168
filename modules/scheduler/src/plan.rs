//! One decision a pod: filter, score, and say why not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use pintle_sdk::prelude::*;
use pintle_sdk::{Decision, Opinion};

use crate::filter::Cycle;
use crate::model::{self, Pod};
use crate::opinions::Opinions;
use crate::snapshot::Snapshot;
use crate::volumes::{self, Volumes};
use crate::{preempt, score};

/// Below this many nodes, all are looked at.
const SEARCH_ALL_BELOW: usize = 100;

/// Decides for each pod, the more important first, each decision counting for those behind it. Answers come in the order of the questions.
pub fn schedule(snapshot: &mut Snapshot, now: Time, rows: &[&[u8]], opinions: &[Opinion<'_>]) -> Vec<Decision> {
    let opinions = Opinions::new(snapshot, opinions);
    let pods: Vec<Result<Rc<Pod>>> = rows.iter().map(|row| model::pod(row).map(Rc::new)).collect();
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(pods[*i].as_ref().map_or(i32::MIN, |pod| pod.priority)));
    let mut decisions = vec![Decision::Wait(String::new()); pods.len()];
    for i in order {
        decisions[i] = match &pods[i] {
            Ok(pod) => decide(snapshot, now, pod, &opinions),
            Err(error) => Decision::Unschedulable(error.to_string()),
        };
    }
    decisions
}

fn decide(snapshot: &mut Snapshot, now: Time, pod: &Rc<Pod>, opinions: &Opinions<'_>) -> Decision {
    snapshot.forget_assumed(&pod.uid, now);
    if pod.gated {
        return Decision::Wait("Scheduling is blocked due to non-empty scheduling gates".into());
    }
    if snapshot.node_count() == 0 {
        return Decision::Unschedulable("no nodes available to schedule pods".into());
    }
    if let Err(why) = Volumes::look(snapshot, pod) {
        let nodes = snapshot.node_count();
        let help = format!("preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling.");
        return Decision::Unschedulable(format!("0/{nodes} nodes are available: {why}. {help}"));
    }
    let search = search(snapshot, pod, opinions);
    if let Some(at) = search.best {
        let node = snapshot.places[at].node.clone();
        let writes = if pod.claims.is_empty() { None } else { volumes::prepare(snapshot, pod, &node) };
        snapshot.next_start = search.next_start;
        snapshot.assume(at, pod.clone(), now);
        return writes.map_or(Decision::Node(node.name), Decision::Prepare);
    }
    if let Some(evict) = preempt::find(snapshot, pod, &search.curable) {
        return evict;
    }
    Decision::Unschedulable(search.explain(snapshot, pod))
}

#[derive(Default)]
struct Search {
    best: Option<usize>,
    reasons: BTreeMap<Cow<'static, str>, usize>,
    curable: Vec<usize>,
    next_start: usize,
}

fn search(snapshot: &Snapshot, pod: &Pod, opinions: &Opinions<'_>) -> Search {
    let cycle = Cycle::new(snapshot, pod);
    let (count, wanted) = (snapshot.places.len(), nodes_to_find(snapshot.node_count()));
    let mut found = Search::default();
    let mut feasible = Vec::new();
    for i in 0..count {
        let at = (snapshot.next_start + i) % count;
        if !snapshot.places[at].exists {
            continue;
        }
        match cycle.check(snapshot, at).and_then(|()| opinions.check(at)) {
            Ok(()) => feasible.push(at),
            Err(refusal) => {
                refusal.reasons.into_iter().for_each(|reason| *found.reasons.entry(reason).or_default() += 1);
                if refusal.curable {
                    found.curable.push(at);
                }
            }
        }
        if feasible.len() == wanted {
            found.next_start = (at + 1) % count;
            break;
        }
    }
    found.best = score::best(snapshot, &cycle, &feasible, opinions);
    found
}

/// How many nodes that can take the pod are enough to choose from: all of up to a hundred, a smaller part the larger the cluster.
fn nodes_to_find(nodes: usize) -> usize {
    if nodes < SEARCH_ALL_BELOW {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SEARCH_ALL_BELOW)
}

impl Search {
    /// Upstream's sentence: how many nodes there are, each reason with how many have it, and why preemption does not help.
    fn explain(&self, snapshot: &Snapshot, pod: &Pod) -> String {
        let nodes = snapshot.node_count();
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        let mut message = format!("0/{nodes} nodes are available: {}.", reasons.join(", "));
        if !pod.may_preempt {
            return message + " preemption: not eligible due to preemptionPolicy=Never.";
        }
        let hopeless = nodes - self.curable.len().min(nodes);
        let mut why = Vec::new();
        if !self.curable.is_empty() {
            why.push(format!("{} No preemption victims found for incoming pod", self.curable.len()));
        }
        if hopeless > 0 {
            why.push(format!("{hopeless} Preemption is not helpful for scheduling"));
        }
        why.sort();
        message.push_str(&format!(" preemption: 0/{nodes} nodes are available: {}.", why.join(", ")));
        message
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
