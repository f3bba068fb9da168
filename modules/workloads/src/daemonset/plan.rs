//! From a DaemonSet, the nodes and its pods to what should be written. Pure.
//!
//! Nodes are decided on one by one: which daemons go, and whether one is made. An update then takes old daemons away, or puts new ones
//! beside them, on as many nodes at once as the strategy allows; a node without an available daemon counts against that.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::workload::{Claimed, Current, Names, Owner, Pod, Revision, Revisions, Template, claim};

use super::model::{DaemonSet, Fit, HASH_LABEL, Node, Placement, Status};
use crate::status_change;

/// Pods created or deleted in one go at most.
const BURST_MAX: usize = 250;
const VARY_NAMES_ATTEMPT: u32 = 3;
/// Failed tries after which a revision's name counts as taken by someone else.
const COLLISION_ATTEMPT: u32 = 3;
const EVENTS_MAX: usize = 16;
/// How old a daemon must be to be replaced because it failed: one that fails at once does not fail a hundred times a second.
const FAILED_AGE_MIN: Duration = Duration::from_secs(1);

/// What to do about one DaemonSet.
pub fn plan(now: Time, attempt: u32, set: &DaemonSet, nodes: &[Node], pods: Vec<(Pod, Placement)>, history: Vec<Revision>) -> Result<Plan> {
    if set.spec.selector.is_empty() {
        return Ok(Plan::new().warning("SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required."));
    }
    let owner = Owner { metadata: &set.metadata, api_version: "apps/v1", kind: "DaemonSet", selector: &set.spec.selector, finalizer: None };
    let homes: BTreeMap<String, String> = pods
        .iter()
        .map(|(pod, placement)| {
            let node = if pod.spec.node_name.is_empty() { placement.named_node().unwrap_or_default() } else { &pod.spec.node_name };
            (pod.metadata.uid.clone(), node.to_owned())
        })
        .collect();
    let Claimed { mut writes, ours } = claim(&owner, pods.into_iter().map(|(pod, _)| pod).collect());
    let revisions = claim(&owner, history);
    writes.extend(revisions.writes);
    if !writes.is_empty() {
        return Ok(writes.into_iter().collect());
    }
    let mut daemons: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for pod in ours {
        let node = homes.get(&pod.metadata.uid).cloned().unwrap_or_default();
        daemons.entry(node).or_default().push(pod);
    }
    let book = Revisions { owner, hash_label: HASH_LABEL, limit: set.history_limit(), collisions: set.status.collision_count.unwrap_or(0) };
    if set.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    let current = book.current(&set.spec.template, &revisions.ours);
    if !current.plan.is_empty() && attempt >= COLLISION_ATTEMPT {
        let collisions = set.status.collision_count.unwrap_or(0) + 1;
        return Ok(Plan::new().patch_status(set.target(), json!({"collisionCount": collisions})));
    }
    let work =
        Work { now, attempt, set, nodes, daemons: &daemons, current: &current, placement: Placement::read(&set.spec.template["spec"]) };
    let mut plan = current.plan.clone().then(work.status()).then(work.change(&owner)?);
    let used: BTreeSet<&str> = daemons.values().flatten().filter_map(|pod| pod.label(HASH_LABEL)).chain([current.hash.as_str()]).collect();
    plan = plan.then(book.truncate(&revisions.ours, &used));
    plan.events.truncate(EVENTS_MAX);
    Ok(plan)
}

struct Work<'a> {
    now: Time,
    attempt: u32,
    set: &'a DaemonSet,
    nodes: &'a [Node],
    daemons: &'a BTreeMap<String, Vec<Pod>>,
    current: &'a Current,
    placement: Placement,
}

impl Work<'_> {
    fn on(&self, node: &Node) -> &[Pod] {
        self.daemons.get(&node.metadata.name).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.label(HASH_LABEL) == Some(self.current.hash.as_str())
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.now, self.set.min_ready())
    }

    fn status(&self) -> Plan {
        let mut next = Status {
            observed_generation: self.set.metadata.generation,
            collision_count: self.set.status.collision_count,
            ..Status::default()
        };
        let mut plan = Plan::new();
        for node in self.nodes {
            let daemons = self.on(node);
            match (self.placement.fit(node), daemons.is_empty()) {
                (Fit::Run, empty) => {
                    next.desired_number_scheduled += 1;
                    if empty {
                        continue;
                    }
                    next.current_number_scheduled += 1;
                    let oldest = daemons.iter().filter(|pod| !pod.metadata.is_terminating()).min_by_key(|pod| pod.age());
                    let Some(pod) = oldest else { continue };
                    if pod.is_ready() {
                        next.number_ready += 1;
                    }
                    next.number_available += usize::from(self.is_available(pod));
                    next.updated_number_scheduled += usize::from(self.is_new(pod));
                    if let Some(wait) = pod.available_in(self.now, self.set.min_ready()) {
                        plan.wake_after(wait);
                    }
                }
                (_, false) => next.number_misscheduled += 1,
                (_, true) => {}
            }
        }
        next.number_unavailable = next.desired_number_scheduled - next.number_available;
        match status_change(&self.set.status, &next) {
            Some(body) => plan.write(Write::merge(self.set.target(), body).to("status")),
            None => plan,
        }
    }

    fn change(&self, owner: &Owner<'_>) -> Result<Plan> {
        let (mut plan, mut going, mut wanting) = (Plan::new(), Vec::new(), Vec::new());
        let known: BTreeSet<&str> = self.nodes.iter().map(|node| node.metadata.name.as_str()).collect();
        let homeless = self.daemons.iter().filter(|(node, _)| !known.contains(node.as_str())).flat_map(|(_, daemons)| daemons);
        going.extend(homeless);
        for node in self.nodes {
            let (fit, daemons) = (self.placement.fit(node), self.on(node));
            if fit == Fit::Leave {
                going.extend(daemons);
                continue;
            }
            if daemons.is_empty() && fit == Fit::Run {
                wanting.push(node.metadata.name.as_str());
            }
            let (over, alive): (Vec<&Pod>, Vec<&Pod>) = daemons.iter().partition(|pod| pod.is_finished());
            for pod in over {
                let ripe = pod.metadata.creation_timestamp.unwrap_or_default().after(FAILED_AGE_MIN);
                if ripe > self.now {
                    plan.wake_after(self.now.until(ripe));
                    continue;
                }
                let (reason, what) = if pod.has_failed() { ("FailedDaemonPod", "failed") } else { ("SucceededDaemonPod", "succeeded") };
                let at = &node.metadata.name;
                let message =
                    format!("Found {what} daemon pod {}/{} on node {at}, will try to kill it", pod.metadata.namespace, pod.metadata.name);
                plan = if pod.has_failed() { plan.warning(reason, message) } else { plan.event(reason, message) };
                going.push(pod);
            }
            going.extend(self.doubles(alive));
        }
        let desired = self.nodes.iter().filter(|node| self.placement.fit(node) == Fit::Run).count();
        if self.set.rolls() {
            self.roll(desired, &mut going, &mut wanting);
        }
        going.retain(|pod| !pod.metadata.is_terminating());
        going.sort_by_key(|pod| &pod.metadata.uid);
        going.dedup_by_key(|pod| &pod.metadata.uid);
        for pod in going.iter().take(BURST_MAX) {
            plan = plan.delete(pod.target()).event("SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name));
        }
        Ok(plan.then(self.create(owner, &wanting)?))
    }

    /// Of several daemons on a node the oldest stays; while an update puts new ones beside old ones, one of each.
    fn doubles<'p>(&self, mut alive: Vec<&'p Pod>) -> Vec<&'p Pod> {
        alive.retain(|pod| !pod.metadata.is_terminating());
        alive.sort_by_key(|pod| (pod.spec.node_name.is_empty(), pod.age()));
        if self.set.max_surge(self.nodes.len()) == 0 {
            return alive.into_iter().skip(1).collect();
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = alive.into_iter().partition(|pod| self.is_new(pod));
        let replaced = new.first().is_some_and(|pod| self.is_available(pod));
        let lost = new.first().is_some() && old.first().is_some_and(|pod| !self.is_available(pod));
        new.into_iter().skip(1).chain(old.into_iter().skip(usize::from(!replaced && !lost))).collect()
    }

    fn roll<'p>(&'p self, desired: usize, going: &mut Vec<&'p Pod>, wanting: &mut Vec<&'p str>) {
        let (most_surge, most_unavailable) = (self.set.max_surge(desired), self.set.max_unavailable(desired));
        let (mut unavailable, mut surging) = (0, 0);
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for node in self.nodes.iter().filter(|node| self.placement.fit(node) == Fit::Run) {
            let alive = self.on(node).iter().filter(|pod| pod.is_active());
            let (new, old): (Vec<&Pod>, Vec<&Pod>) = alive.partition(|pod| self.is_new(pod));
            match (new.as_slice(), old.as_slice()) {
                ([], [pod]) if !self.is_available(pod) => {
                    unavailable += 1;
                    broken.push((node, *pod));
                }
                ([], [pod]) => candidates.push((node, *pod)),
                ([pod], []) => unavailable += usize::from(!self.is_available(pod)),
                ([_], [_]) => surging += 1,
                _ => unavailable += 1,
            }
        }
        if most_surge == 0 {
            let room = most_unavailable.saturating_sub(unavailable);
            going.extend(broken.into_iter().chain(candidates.into_iter().take(room)).map(|(_, pod)| pod));
        } else {
            let room = most_surge.saturating_sub(surging);
            let beside = broken.into_iter().chain(candidates.into_iter().take(room));
            wanting.extend(beside.map(|(node, _)| node.metadata.name.as_str()));
        }
    }

    fn create(&self, owner: &Owner<'_>, nodes: &[&str]) -> Result<Plan> {
        if nodes.is_empty() {
            return Ok(Plan::new());
        }
        let meta = &self.set.metadata;
        let mut template = Template::read(&self.set.spec.template)?;
        template.metadata.labels.insert(HASH_LABEL.into(), self.current.hash.clone());
        template.spec["tolerations"] = json!(self.placement.tolerations());
        let seen: BTreeSet<String> = self.daemons.values().flatten().map(|pod| pod.metadata.name.clone()).collect();
        let variation = if self.attempt >= VARY_NAMES_ATTEMPT { self.attempt.to_string() } else { String::new() };
        let mut plan = Plan::new();
        for node in nodes.iter().take(BURST_MAX) {
            // The name follows from the node, its daemons and the set as it was seen: the same view makes no second one.
            let there = self.daemons.get(*node).into_iter().flatten().map(|pod| pod.metadata.uid.as_str());
            let facts = [meta.uid.as_str(), &meta.resource_version, node, self.current.hash.as_str(), &variation].into_iter().chain(there);
            let Some(name) = Names::new(&meta.name, facts, seen.clone()).next() else { continue };
            let mut template = template.clone();
            let pinned = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
            template.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = pinned;
            plan.push(template.create(&meta.namespace, &name, &format!("{}-", meta.name), owner.reference()));
            plan = plan.event("SuccessfulCreate", format!("Created pod: {name}"));
        }
        Ok(plan)
    }
}
