//! Nodes, leases and pods as far as this module reads them.

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// `v1` Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    /// Taints.
    pub spec: NodeSpec,
    /// Conditions.
    pub status: Status,
}

/// What is read of a node's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
}

/// The conditions of a node or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of a pod.
    pub phase: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A taint on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// What it is about.
    pub key: String,
    /// Empty for those of this module.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// Since when, for `NoExecute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Time>,
}

/// `coordination.k8s.io/v1` Lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// What it says.
    pub spec: LeaseSpec,
}

/// What is read of a lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// The last heartbeat.
    pub renew_time: Option<Time>,
}

/// `v1` Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// Tolerations.
    pub spec: PodSpec,
    /// Conditions.
    pub status: Status,
}

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodSpec {
    /// What it puts up with.
    pub tolerations: Vec<Toleration>,
}

/// What a pod puts up with, and for how long.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
    /// For ever when absent; not at all when 0 or less.
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it covers a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        effect && key && (self.operator == "Exists" || (!self.key.is_empty() && self.value == taint.value))
    }
}

impl Node {
    /// The condition of a type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }
}
