//! Where a pod may be: taints and what puts up with them, and terms about nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Requirement, Time};

/// A taint on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// What it is about.
    pub key: String,
    /// May be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// Since when, for `NoExecute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Time>,
}

/// What a pod puts up with, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Empty: every taint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal` (or empty) or `Exists`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// What `Equal` compares with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Empty: every effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// For ever when absent; not at all when 0 or less.
    #[serde(skip_serializing_if = "Option::is_none")]
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

/// One alternative of a node selector. An empty one matches nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// About labels.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// About `metadata.name`, the one field there is.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub match_fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether the node of this name with these labels is meant.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let by_labels = self.match_expressions.iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str)));
        let by_fields = self.match_fields.iter().all(|r| r.holds((r.key == "metadata.name").then_some(name)));
        !(self.match_expressions.is_empty() && self.match_fields.is_empty()) && by_labels && by_fields
    }
}
