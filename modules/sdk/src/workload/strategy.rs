//! How a workload's pods are replaced when its template changes.

use serde::Deserialize;
use serde_json::Value;

/// `spec.strategy` of a Deployment, `spec.updateStrategy` of DaemonSets and StatefulSets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate`, `Recreate` or `OnDelete`, as the kind has it.
    pub r#type: String,
    /// Bounds of a rolling update.
    pub rolling_update: Option<RollingUpdate>,
}

/// Bounds of a rolling update; each kind knows some of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// A number or a percentage of pods.
    pub max_unavailable: Option<Value>,
    /// A number or a percentage of pods.
    pub max_surge: Option<Value>,
    /// Of a StatefulSet: pods below this ordinal keep their revision.
    pub partition: Option<usize>,
}
