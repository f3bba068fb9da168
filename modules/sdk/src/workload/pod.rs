//! A pod as its controllers see it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Owned;
use crate::{Condition, Metadata, ObjectRef, Time};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod, as far as its controllers read it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: PodSpec,
    /// What was last said.
    pub status: PodStatus,
}

/// `.spec` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it runs; empty until it is scheduled.
    pub node_name: String,
    /// `Always`, `OnFailure` or `Never`.
    pub restart_policy: String,
}

/// `.status` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Ready and others.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub conditions: Vec<Condition>,
    /// One for each container.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub container_statuses: Vec<ContainerStatus>,
    /// One for each init container.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// What a container says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Of the container.
    pub name: String,
    /// How often it was started again.
    pub restart_count: u32,
    /// How it is.
    pub state: ContainerState,
}

/// How a container is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Set when it has ended.
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// 0: well.
    pub exit_code: i32,
    /// When.
    pub finished_at: Option<Time>,
}

impl Owned for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn target(&self) -> ObjectRef {
        ObjectRef::of("", "pods", &self.metadata)
    }
}

impl Pod {
    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        Owned::target(self)
    }

    /// Whether its containers will not run again.
    pub fn is_finished(&self) -> bool {
        self.has_failed() || self.has_succeeded()
    }

    /// Whether it ended badly.
    pub fn has_failed(&self) -> bool {
        self.status.phase == "Failed"
    }

    /// Whether it ended well.
    pub fn has_succeeded(&self) -> bool {
        self.status.phase == "Succeeded"
    }

    /// Whether it runs or is going to.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_terminating()
    }

    /// Whether it is being stopped.
    pub fn is_stopping(&self) -> bool {
        !self.is_finished() && self.metadata.is_terminating()
    }

    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }

    /// When it last became ready, if it is.
    pub fn ready_since(&self) -> Option<Time> {
        let ready = self.condition("Ready").filter(|c| c.status == "True")?;
        Some(ready.last_transition_time.unwrap_or_default())
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.ready_since().is_some()
    }

    /// Whether it has been ready for `least`.
    pub fn is_available(&self, now: Time, least: Duration) -> bool {
        self.ready_since().is_some_and(|since| least.is_zero() || now.since(since) >= least)
    }

    /// When time alone will make it available.
    pub fn available_in(&self, now: Time, least: Duration) -> Option<Duration> {
        let since = self.ready_since().filter(|_| !self.is_available(now, least))?;
        Some(now.until(since.after(least)))
    }

    /// The restarts of the container that restarted most.
    pub fn restarts(&self) -> u32 {
        self.status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }

    /// Oldest first; by name among those of one second.
    pub fn age(&self) -> (Time, &str) {
        (self.metadata.creation_timestamp.unwrap_or_default(), &self.metadata.name)
    }

    fn cheapness(&self, neighbours: usize) -> Cheapness {
        let phase = match self.status.phase.as_str() {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        };
        let cost = self.annotation(DELETION_COST).and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
        let ready = self.ready_since();
        (
            !self.spec.node_name.is_empty(),
            phase,
            ready.is_some(),
            cost.into(),
            Reverse(neighbours),
            Reverse(ready.unwrap_or_default()),
            Reverse(self.restarts()),
            Reverse(self.metadata.creation_timestamp.unwrap_or_default()),
            self.metadata.name.clone(),
        )
    }
}

/// What a pod's loss costs; the cheapest goes first. In this order: not on a node, not running, not ready, a lower deletion cost, on a
/// node with more of its siblings, ready for less long, restarted more often, younger; then by name.
pub type Cheapness = (bool, u8, bool, i64, Reverse<usize>, Reverse<Time>, Reverse<u32>, Reverse<Time>, String);

/// Sorts pods of one owner by what their loss costs.
pub fn cheapest_first(pods: &mut [Pod]) {
    let mut neighbours: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.iter() {
        *neighbours.entry(pod.spec.node_name.clone()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| pod.cheapness(neighbours.get(&pod.spec.node_name).copied().unwrap_or(0)));
}
