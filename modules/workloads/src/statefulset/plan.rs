//! From a StatefulSet, its pods and their claims to what should be written. Pure.
//!
//! A pod has a number and keeps its name, so there is never a second one: a pod is made again only when its predecessor is gone. An ordered
//! set does one thing at a time, upwards to start and downwards to stop or update, and waits until the pod that it did last works.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::workload::{Claimed, Current, Owner, Pod, Revision, Revisions, Template, claim};
use pintle_sdk::{Action, OwnerReference};

use super::model::{Claim, HASH_LABEL, StatefulSet, Status, revision_of};
use crate::status_change;

/// Pods created or deleted in one go at most.
const BURST_MAX: usize = 250;
const COLLISION_ATTEMPT: u32 = 3;
const EVENTS_MAX: usize = 16;

/// What to do about one StatefulSet.
pub fn plan(now: Time, attempt: u32, set: &StatefulSet, mut pods: Vec<Pod>, claims: &[Claim], history: Vec<Revision>) -> Result<Plan> {
    if set.spec.selector.is_empty() {
        return Ok(Plan::new().warning("SelectingAll", "This stateful set is selecting all pods. A non-empty selector is required."));
    }
    let owner =
        Owner { metadata: &set.metadata, api_version: "apps/v1", kind: "StatefulSet", selector: &set.spec.selector, finalizer: None };
    // Only pods with a name of this set can be its own.
    pods.retain(|pod| set.ordinal_of(&pod.metadata.name).is_some() || pod.metadata.is_controlled_by(&set.metadata.uid));
    let Claimed { mut writes, ours } = claim(&owner, pods);
    let revisions = claim(&owner, history);
    writes.extend(revisions.writes);
    if !writes.is_empty() {
        return Ok(writes.into_iter().collect());
    }
    let book = Revisions { owner, hash_label: HASH_LABEL, limit: set.history_limit(), collisions: set.status.collision_count };
    let update = book.current(&set.spec.template, &revisions.ours);
    if !update.plan.is_empty() && attempt >= COLLISION_ATTEMPT {
        return Ok(Plan::new().patch_status(set.target(), json!({"collisionCount": set.status.collision_count + 1})));
    }
    let known = revisions.ours.iter().find(|r| r.metadata.name == set.status.current_revision);
    let work = Work {
        now,
        set,
        claims,
        owner: owner.reference(),
        pods: ours.iter().filter_map(|pod| Some((set.ordinal_of(&pod.metadata.name)?, pod))).collect(),
        old_template: known.map(|r| Template::read(r.template())).transpose()?,
        current_name: known.map_or_else(|| update.name.clone(), |r| r.metadata.name.clone()),
        update: &update,
    };
    let status = work.status();
    let mut plan = if set.metadata.is_terminating() { Plan::new() } else { update.plan.clone() };
    if let Some(body) = status_change(&set.status, &status) {
        plan.push(Write::merge(set.target(), body).to("status"));
    }
    if set.metadata.is_terminating() {
        return Ok(plan);
    }
    plan = plan.then(work.keep_claims()).then(work.change(&status)?);
    if let Some(wait) = ours.iter().filter_map(|pod| pod.available_in(now, set.min_ready())).min() {
        plan.wake_after(wait);
    }
    let used: BTreeSet<&str> =
        ours.iter().map(revision_of).chain([update.name.as_str(), &work.current_name, &status.current_revision]).collect();
    plan = plan.then(book.truncate(&revisions.ours, &used));
    plan.events.truncate(EVENTS_MAX);
    Ok(plan)
}

struct Work<'a> {
    now: Time,
    set: &'a StatefulSet,
    claims: &'a [Claim],
    owner: OwnerReference,
    pods: BTreeMap<usize, &'a Pod>,
    /// What pods of the revision before this one are made from; none when there is no such revision any more.
    old_template: Option<Template>,
    current_name: String,
    update: &'a Current,
}

impl Work<'_> {
    fn works(&self, pod: &Pod) -> bool {
        pod.status.phase == "Running" && !pod.metadata.is_terminating() && pod.is_available(self.now, self.set.min_ready())
    }

    fn status(&self) -> Status {
        let pods = || self.pods.values();
        let count = |wanted: &dyn Fn(&Pod) -> bool| pods().filter(|pod| wanted(pod)).count();
        let of = |revision: &str| count(&|pod| !pod.metadata.is_terminating() && revision_of(pod) == revision);
        let running = |pod: &Pod| pod.status.phase == "Running" && pod.is_ready();
        let mut status = Status {
            observed_generation: self.set.metadata.generation,
            replicas: self.pods.len(),
            ready_replicas: count(&running),
            available_replicas: count(&|pod| running(pod) && pod.is_available(self.now, self.set.min_ready())),
            current_replicas: of(&self.current_name),
            updated_replicas: of(&self.update.name),
            current_revision: self.current_name.clone(),
            update_revision: self.update.name.clone(),
            collision_count: self.set.status.collision_count,
        };
        let complete = self.set.rolls() && status.updated_replicas == status.replicas && status.ready_replicas == status.replicas;
        if complete && status.replicas == self.set.replicas() {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&self.update.name);
        }
        status
    }

    /// Starts, stops and updates pods. An ordered set takes one step.
    fn change(&self, status: &Status) -> Result<Plan> {
        let (set, ordered) = (self.set, self.set.is_ordered());
        let mut plan = Plan::new();
        for ordinal in set.ordinals() {
            if plan.writes.len() >= BURST_MAX {
                return Ok(plan);
            }
            let step = match self.pods.get(&ordinal) {
                None => self.create(ordinal, status)?,
                Some(pod) if pod.is_finished() && !pod.metadata.is_terminating() => {
                    let message = format!(
                        "StatefulSet {}/{} is recreating failed Pod {}",
                        set.metadata.namespace, set.metadata.name, pod.metadata.name
                    );
                    self.delete(pod).warning("RecreatingFailedPod", message)
                }
                Some(pod) if ordered && !self.works(pod) => return Ok(plan),
                Some(_) => continue,
            };
            plan = plan.then(step);
            if ordered {
                return Ok(plan);
            }
        }
        let condemned = self.pods.iter().rev().filter(|(ordinal, _)| !set.ordinals().contains(ordinal));
        // Of those to be stopped, the first that does not work may go; one that works waits for it.
        let unwell = self.pods.iter().find(|(_, pod)| !self.works(pod)).map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in condemned {
            if pod.metadata.is_terminating() {
                if ordered {
                    return Ok(plan);
                }
                continue;
            }
            if ordered && !self.works(pod) && unwell != Some(*ordinal) {
                return Ok(plan);
            }
            plan = plan.then(self.delete(pod));
            if ordered {
                return Ok(plan);
            }
        }
        if !plan.writes.is_empty() || !set.rolls() {
            return Ok(plan);
        }
        Ok(self.roll())
    }

    /// Replaces the highest pod that is not up to date, when all above it work.
    fn roll(&self) -> Plan {
        let from = self.set.partition().unwrap_or(0).max(self.set.first());
        for ordinal in self.set.ordinals().rev().filter(|ordinal| *ordinal >= from) {
            let Some(pod) = self.pods.get(&ordinal) else { return Plan::new() };
            if revision_of(pod) != self.update.name && !pod.metadata.is_terminating() {
                return self.delete(pod);
            }
            if !self.works(pod) {
                return Plan::new();
            }
        }
        Plan::new()
    }

    fn delete(&self, pod: &Pod) -> Plan {
        let (set, name) = (&self.set.metadata.name, &pod.metadata.name);
        Plan::new().delete(pod.target()).event("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {set} successful"))
    }

    /// Whether a pod of this number is still made from the template before.
    fn is_old(&self, ordinal: usize, status: &Status) -> bool {
        let below = self.set.partition().unwrap_or(if self.set.rolls() { status.current_replicas } else { 0 });
        self.set.rolls() && ordinal < self.set.first() + below
    }

    fn create(&self, ordinal: usize, status: &Status) -> Result<Plan> {
        let (set, name) = (self.set, self.set.pod_name(ordinal));
        let namespace = &set.metadata.namespace;
        let old = self.old_template.as_ref().filter(|_| self.is_old(ordinal, status));
        let (mut template, revision) = match old {
            Some(template) => (template.clone(), &self.current_name),
            None => (Template::read(&set.spec.template)?, &self.update.name),
        };
        set.personalize(&mut template, ordinal, revision);
        let mut plan = Plan::new();
        for (claim, claim_name) in set.claims(ordinal) {
            if self.claims.iter().any(|known| known.metadata.name == claim_name) {
                continue;
            }
            let mut body = claim.clone();
            (body["apiVersion"], body["kind"]) = (json!("v1"), json!("PersistentVolumeClaim"));
            body["metadata"]["name"] = json!(claim_name);
            body["metadata"]["namespace"] = json!(namespace);
            for (key, value) in &set.spec.selector.match_labels {
                body["metadata"]["labels"][key] = json!(value);
            }
            if set.deletes_claims(|policy| &policy.when_deleted) {
                let owner = OwnerReference { controller: false, block_owner_deletion: false, ..self.owner.clone() };
                body["metadata"]["ownerReferences"] = json!([owner]);
            }
            if let Some(members) = body.as_object_mut() {
                members.remove("status");
            }
            let target = ObjectRef::named("", "persistentvolumeclaims", namespace, &claim_name);
            plan.push(Write { target, subresource: String::new(), action: Action::Create(body) });
            let message = format!("create Claim {claim_name} Pod {name} in StatefulSet {} success", set.metadata.name);
            plan = plan.event("SuccessfulCreate", message);
        }
        let message = format!("create Pod {name} in StatefulSet {} successful", set.metadata.name);
        Ok(plan
            .write(template.create(namespace, &name, &format!("{}-", set.metadata.name), self.owner.clone()))
            .event("SuccessfulCreate", message))
    }

    /// Claims of pods that are scaled away belong to these pods, where the policy deletes them so; the claims of others do not.
    fn keep_claims(&self) -> Plan {
        if !self.set.deletes_claims(|policy| &policy.when_scaled) {
            return Plan::new();
        }
        let mut plan = Plan::new();
        for (ordinal, pod) in &self.pods {
            let names: BTreeSet<String> = self.set.claims(*ordinal).map(|(_, name)| name).collect();
            for claim in self.claims.iter().filter(|claim| names.contains(&claim.metadata.name)) {
                let owners = &claim.metadata.owner_references;
                let condemned = !self.set.ordinals().contains(ordinal);
                let owned = owners.iter().any(|owner| owner.uid == pod.metadata.uid);
                if condemned == owned {
                    continue;
                }
                let mut wanted: Vec<OwnerReference> = owners.iter().filter(|owner| owner.kind != "Pod").cloned().collect();
                if condemned {
                    let owner = pod.metadata.as_controller("v1", "Pod");
                    wanted.push(OwnerReference { controller: false, block_owner_deletion: false, ..owner });
                }
                let mut body = claim.metadata.precondition();
                body["metadata"]["ownerReferences"] = json!(wanted);
                plan.push(Write::merge(ObjectRef::of("", "persistentvolumeclaims", &claim.metadata), body));
            }
        }
        plan
    }
}
