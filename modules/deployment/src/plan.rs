//! From a Deployment and the ReplicaSets around it to what should be written. Pure.
//!
//! A rollout goes one step a plan: the set of the newest template grows, or the others shrink, and the ReplicaSets' own news bring the next
//! look. Each step is computed from what was seen alone.

use pintle_sdk::Action;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{Claimed, Owner, claim};

use crate::conditions::{self, Newest};
use crate::model::{DESIRED, Deployment, HASH_LABEL, MAX, REVISION, REVISION_HISTORY, ReplicaSet};
use crate::{scale, template};

/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN_ANNOTATIONS: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];
/// `deployment.kubernetes.io/revision-history` is cut at its beginning beyond this many bytes.
const REVISION_HISTORY_BYTES_MAX: usize = 2_000;
/// Failed tries after which a name that cannot be created counts as taken by someone else.
const COLLISION_ATTEMPT: u32 = 3;

/// What to do about one Deployment.
pub fn plan(now: Time, attempt: u32, deployment: &Deployment, related: Vec<ReplicaSet>) -> Result<Plan> {
    if deployment.spec.selector.is_empty() {
        return Ok(Plan::new().warning("SelectingAll", "This deployment is selecting all pods. A non-empty selector is required."));
    }
    let (metadata, selector) = (&deployment.metadata, &deployment.spec.selector);
    let Claimed { writes, ours: sets } =
        claim(&Owner { metadata, api_version: "apps/v1", kind: "Deployment", selector, finalizer: None }, related);
    if !writes.is_empty() {
        // An adopted set counts from the next look on, when its resourceVersion is known.
        return Ok(writes.into_iter().collect());
    }
    let rollout = Rollout { now, attempt, deployment, newest: template::find(&sets, &deployment.spec.template), sets: &sets };
    rollout.plan()
}

struct Rollout<'a> {
    now: Time,
    attempt: u32,
    deployment: &'a Deployment,
    sets: &'a [ReplicaSet],
    newest: Option<&'a ReplicaSet>,
}

impl<'a> Rollout<'a> {
    fn plan(&self) -> Result<Plan> {
        let deployment = self.deployment;
        if deployment.metadata.is_terminating() {
            return Ok(self.status(Newest::None));
        }
        if deployment.spec.paused || scale::is_due(deployment, self.sets) {
            let sizes = scale::proportional(deployment, self.sets, self.newest);
            let plan = sizes.iter().fold(Plan::new(), |plan, (set, size)| plan.then(self.resize(set, *size)));
            let history = if deployment.spec.paused { self.forget_old() } else { Plan::new() };
            return Ok(plan.then(history).then(self.status(Newest::None)));
        }
        if deployment.is_recreate() { self.recreate() } else { self.roll() }
    }

    fn roll(&self) -> Result<Plan> {
        let Some(newest) = self.newest else { return self.create_newest() };
        let size = scale::newest_size(self.deployment, self.sets, newest.replicas());
        let step = if size != newest.replicas() {
            self.resize(newest, size)
        } else {
            let old = self.old();
            let sizes = scale::shrink_old(self.deployment, self.sets, newest, &old);
            sizes.iter().fold(Plan::new(), |plan, (set, size)| plan.then(self.resize(set, *size)))
        };
        Ok(self.keep_books(newest, step).then(self.forget_old()).then(self.status(Newest::Found(&newest.metadata.name))))
    }

    fn recreate(&self) -> Result<Plan> {
        let old = self.old();
        let shrink = old.iter().filter(|set| set.replicas() > 0).fold(Plan::new(), |plan, set| plan.then(self.resize(set, 0)));
        let still_there = |set: &&ReplicaSet| {
            set.status.replicas > 0 || set.status.terminating_replicas > 0 || set.status.observed_generation < set.metadata.generation
        };
        if !shrink.writes.is_empty() || old.iter().any(still_there) {
            return Ok(shrink.then(self.status(Newest::None)));
        }
        let Some(newest) = self.newest else { return self.create_newest() };
        let step = self.resize(newest, self.deployment.replicas());
        Ok(self.keep_books(newest, step).then(self.forget_old()).then(self.status(Newest::Found(&newest.metadata.name))))
    }

    fn old(&self) -> Vec<&'a ReplicaSet> {
        let newest = self.newest.map(|set| set.metadata.uid.as_str());
        self.sets.iter().filter(|set| Some(set.metadata.uid.as_str()) != newest).collect()
    }

    fn create_newest(&self) -> Result<Plan> {
        let deployment = self.deployment;
        let hash = template::hash(&deployment.spec.template, deployment.status.collision_count);
        let name = format!("{}-{hash}", deployment.metadata.name);
        let taken = self.sets.iter().any(|set| set.metadata.name == name) || self.attempt >= COLLISION_ATTEMPT;
        if taken {
            let collisions = deployment.status.collision_count.unwrap_or(0) + 1;
            return Ok(Plan::new().patch_status(deployment.target(), json!({"collisionCount": collisions})));
        }
        let size = if deployment.is_recreate() { deployment.replicas() } else { scale::newest_size(deployment, self.sets, 0) };
        let revision = self.last_revision() + 1;
        let plan = Plan::new().write(Write {
            target: ObjectRef::named("apps", "replicasets", &deployment.metadata.namespace, &name),
            subresource: String::new(),
            action: Action::Create(self.replica_set(&name, &hash, size, revision)),
        });
        let plan = if size > 0 { plan.event("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {size}")) } else { plan };
        Ok(plan.then(self.note_revision(revision)).then(self.status(Newest::Created(&name))))
    }

    fn replica_set(&self, name: &str, hash: &str, size: i64, revision: i64) -> Value {
        let deployment = self.deployment;
        let mut template = deployment.spec.template.clone();
        if !template["metadata"].is_object() {
            template["metadata"] = json!({});
        }
        if !template["metadata"]["labels"].is_object() {
            template["metadata"]["labels"] = json!({});
        }
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = deployment.spec.selector.clone();
        selector.match_labels.insert(HASH_LABEL.into(), hash.into());
        let mut annotations = self.annotations();
        annotations[REVISION] = json!(revision.to_string());
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": deployment.metadata.namespace,
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [deployment.metadata.as_controller("apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": size,
                "minReadySeconds": deployment.spec.min_ready_seconds,
                "selector": selector,
                "template": template,
            },
        })
    }

    /// The annotations that the newest set shares with the Deployment, and the sizes that later scaling starts from.
    fn annotations(&self) -> Value {
        let own = self.deployment.metadata.annotations.iter().filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()));
        let mut annotations: Value = own.map(|(key, value)| (key.clone(), json!(value))).collect();
        annotations[DESIRED] = json!(self.deployment.replicas().to_string());
        annotations[MAX] = json!((self.deployment.replicas() + self.deployment.max_surge()).to_string());
        annotations
    }

    fn last_revision(&self) -> i64 {
        self.old().iter().map(|set| set.revision()).max().unwrap_or(0)
    }

    /// Keeps the newest set's annotations and `minReadySeconds`, and the Deployment's revision, in step. They travel with a resize when there
    /// is one: two writes with the same precondition would fail each other.
    fn keep_books(&self, newest: &ReplicaSet, mut step: Plan) -> Plan {
        let revision = (self.last_revision() + 1).max(newest.revision());
        let mut wanted = self.annotations();
        wanted[REVISION] = json!(revision.to_string());
        if newest.revision() != 0 && newest.revision() != revision {
            wanted[REVISION_HISTORY] = json!(history(newest));
        }
        let differs = wanted
            .as_object()
            .is_some_and(|map| map.iter().any(|(key, value)| newest.metadata.annotations.get(key).map(String::as_str) != value.as_str()));
        if differs || newest.spec.min_ready_seconds != self.deployment.spec.min_ready_seconds {
            let at = step.writes.iter().position(|write| write.target == newest.target());
            let at = at.unwrap_or_else(|| {
                step.push(Write::merge(newest.target(), newest.metadata.precondition()));
                step.writes.len() - 1
            });
            if let Action::Patch(_, body) = &mut step.writes[at].action {
                body["metadata"]["annotations"] = wanted;
                body["spec"]["minReadySeconds"] = json!(self.deployment.spec.min_ready_seconds);
            }
        }
        step.then(self.note_revision(revision))
    }

    fn note_revision(&self, revision: i64) -> Plan {
        let revision = revision.to_string();
        if self.deployment.metadata.annotations.get(REVISION) == Some(&revision) {
            return Plan::new();
        }
        Plan::new().patch(self.deployment.target(), json!({"metadata": {"annotations": {REVISION: revision}}}))
    }

    /// Asks a set for another number of pods, if the set is still as it was seen.
    fn resize(&self, set: &ReplicaSet, size: i64) -> Plan {
        let (desired, max) = (self.deployment.replicas(), self.deployment.replicas() + self.deployment.max_surge());
        let noted = set.number(DESIRED) == Some(desired) && set.number(MAX) == Some(max);
        if size == set.replicas() && (noted || size == 0) {
            return Plan::new();
        }
        let mut body = set.metadata.precondition();
        body["metadata"]["annotations"] = json!({DESIRED: desired.to_string(), MAX: max.to_string()});
        body["spec"] = json!({"replicas": size});
        let plan = Plan::new().patch(set.target(), body);
        let way = if size > set.replicas() { "up" } else { "down" };
        if size == set.replicas() {
            return plan;
        }
        plan.event("ScalingReplicaSet", format!("Scaled {way} replica set {} from {} to {size}", set.metadata.name, set.replicas()))
    }

    /// Deletes the oldest revisions beyond the history limit, once a rollout is complete.
    fn forget_old(&self) -> Plan {
        let status = conditions::observe(self.now, self.deployment, self.sets, self.newest, Newest::None).0;
        if !conditions::is_complete(self.deployment, &status) && !self.deployment.spec.paused {
            return Plan::new();
        }
        let mut old = self.old();
        old.retain(|set| !set.metadata.is_terminating());
        old.sort_by_key(|set| set.revision());
        let surplus = old.len().saturating_sub(self.deployment.history_limit());
        let empty = |set: &&&ReplicaSet| {
            set.replicas() == 0 && set.status.replicas == 0 && set.status.observed_generation >= set.metadata.generation
        };
        old.iter().take(surplus).filter(empty).fold(Plan::new(), |plan, set| plan.delete(set.target()))
    }

    fn status(&self, made: Newest<'_>) -> Plan {
        let (status, wake) = conditions::observe(self.now, self.deployment, self.sets, self.newest, made);
        let mut plan = Plan::new();
        if status != self.deployment.status {
            plan = plan.patch_status(self.deployment.target(), json!(status));
        }
        if let Some(wake) = wake {
            plan.wake_after(wake);
        }
        plan
    }
}

/// The revisions that a set taken back into use has been, with the last one added.
fn history(set: &ReplicaSet) -> String {
    let old = set.metadata.annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
    let mut entries: Vec<String> = old.split(',').filter(|entry| !entry.is_empty()).map(str::to_owned).collect();
    entries.push(set.revision().to_string());
    while entries.len() > 1 && entries.join(",").len() > REVISION_HISTORY_BYTES_MAX {
        entries.remove(0);
    }
    entries.join(",")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
