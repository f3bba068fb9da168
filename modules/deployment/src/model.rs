//! Deployments and ReplicaSets as far as this module reads them, and the arithmetic of a rollout's limits.

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{Owned, Rounding, Strategy, amount};
use serde::{Deserialize, Serialize};

/// The revision of a ReplicaSet, and the newest of a Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that this ReplicaSet has been, when it has been taken back into use.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's `replicas` when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same and the surge.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";

/// `apps/v1` Deployment.
#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: Spec,
    /// What was last said.
    #[serde(default)]
    pub status: Status,
}

/// What a Deployment asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    replicas: Option<i64>,
    /// Which pods.
    pub selector: Selector,
    /// What the pods are made from.
    pub template: Value,
    #[serde(default)]
    strategy: Strategy,
    /// How long a pod must be ready to be available.
    #[serde(default)]
    pub min_ready_seconds: i64,
    revision_history_limit: Option<i64>,
    /// No rollout is to go on.
    #[serde(default)]
    pub paused: bool,
    /// How long a rollout may stand still before it counts as stuck.
    pub progress_deadline_seconds: Option<u64>,
}

/// `.status` of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Of which spec this is the status.
    pub observed_generation: i64,
    /// Pods of every template.
    pub replicas: i64,
    /// Pods of the newest template.
    pub updated_replicas: i64,
    /// Pods that are ready.
    pub ready_replicas: i64,
    /// Pods that have been ready for long enough.
    pub available_replicas: i64,
    /// Pods that are missing.
    pub unavailable_replicas: i64,
    /// Pods on their way out.
    pub terminating_replicas: i64,
    /// Names of ReplicaSets that turned out to be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
    /// Available, Progressing.
    pub conditions: Vec<Condition>,
}

/// `apps/v1` ReplicaSet.
#[derive(Clone, Debug, Deserialize)]
pub struct ReplicaSet {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: ReplicaSetSpec,
    /// What was last said.
    #[serde(default)]
    pub status: ReplicaSetStatus,
}

/// What a ReplicaSet asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    replicas: Option<i64>,
    /// How long a pod must be ready to be available.
    #[serde(default)]
    pub min_ready_seconds: i64,
    /// What the pods are made from.
    #[serde(default)]
    pub template: Value,
}

/// What a ReplicaSet says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "as in the Deployment's status")]
pub struct ReplicaSetStatus {
    pub replicas: i64,
    pub ready_replicas: i64,
    pub available_replicas: i64,
    pub terminating_replicas: i64,
    pub observed_generation: i64,
}

impl ReplicaSet {
    /// Pods asked for.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }

    /// The number in an annotation.
    pub fn number(&self, annotation: &str) -> Option<i64> {
        self.metadata.annotations.get(annotation)?.parse().ok()
    }

    /// Its revision; 0 before it has one.
    pub fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("apps", "replicasets", &self.metadata)
    }

    /// When it was made, oldest first; by name among those of one second.
    pub fn age(&self) -> (Time, &str) {
        (self.metadata.creation_timestamp.unwrap_or_default(), &self.metadata.name)
    }
}

impl Owned for ReplicaSet {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn target(&self) -> ObjectRef {
        ReplicaSet::target(self)
    }
}

impl Deployment {
    /// Pods asked for.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }

    /// Old ReplicaSets to keep.
    pub fn history_limit(&self) -> usize {
        usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX)
    }

    /// All old pods go before new ones come.
    pub fn is_recreate(&self) -> bool {
        self.spec.strategy.r#type == "Recreate"
    }

    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("apps", "deployments", &self.metadata)
    }

    /// `(maxSurge, maxUnavailable)` in pods: percentages round so that a rollout can go on, and both cannot be zero.
    fn fenceposts(&self) -> (i64, i64) {
        let update = self.spec.strategy.rolling_update.clone().unwrap_or_default();
        let quarter = json!("25%");
        let pods = |value: Option<Value>, rounding| amount(Some(&value.unwrap_or(quarter.clone())), self.replicas(), rounding).unwrap_or(0);
        let surge = pods(update.max_surge, Rounding::Up);
        let unavailable = pods(update.max_unavailable, Rounding::Down);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    /// Pods beyond `replicas` that a rollout may ask for.
    pub fn max_surge(&self) -> i64 {
        if self.is_recreate() { 0 } else { self.fenceposts().0 }
    }

    /// Pods that may be missing during a rollout.
    pub fn max_unavailable(&self) -> i64 {
        if self.is_recreate() || self.replicas() == 0 { 0 } else { self.fenceposts().1.min(self.replicas()) }
    }
}
