//! Nodes, leases and pods as far as this module reads them.

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
pub use pintle_sdk::workload::{Taint, Toleration};
use serde::Deserialize;

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

impl Node {
    /// The condition of a type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }
}
