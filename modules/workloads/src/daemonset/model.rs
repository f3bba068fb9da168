//! DaemonSets and nodes as far as this module reads them.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{NodeTerm, Rounding, Strategy, Taint, Toleration, amount};
use serde::{Deserialize, Serialize};

/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// `apps/v1` DaemonSet.
#[derive(Clone, Debug, Deserialize)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: Spec,
    /// What was last said.
    #[serde(default)]
    pub status: Status,
}

/// What a DaemonSet asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Which pods.
    pub selector: Selector,
    /// What the pods are made from.
    pub template: Value,
    #[serde(default)]
    update_strategy: Strategy,
    #[serde(default)]
    min_ready_seconds: u64,
    revision_history_limit: Option<usize>,
}

/// `.status` of a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "as the API has them")]
pub struct Status {
    pub observed_generation: i64,
    pub desired_number_scheduled: usize,
    pub current_number_scheduled: usize,
    pub number_misscheduled: usize,
    pub number_ready: usize,
    pub updated_number_scheduled: usize,
    pub number_available: usize,
    pub number_unavailable: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
}

/// `v1` Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    /// Taints.
    pub spec: NodeSpec,
}

/// What is read of a node's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Taints.
    pub taints: Vec<Taint>,
}

/// What a template says about nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    node_name: String,
    node_selector: Option<BTreeMap<String, String>>,
    tolerations: Option<Vec<Toleration>>,
    affinity: Option<Affinity>,
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    node_selector_terms: Vec<NodeTerm>,
}

/// Whether a node takes a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// One should run there.
    Run,
    /// One that runs there may stay, a new one does not start.
    Stay,
    /// None may be there.
    Leave,
}

impl Placement {
    /// What a template, or a pod, says.
    pub fn read(spec: &Value) -> Self {
        Placement::deserialize(spec).unwrap_or_default()
    }

    fn terms(&self) -> Option<&Vec<NodeTerm>> {
        let required = &self.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution;
        required.as_ref().map(|selector| &selector.node_selector_terms)
    }

    /// The one node that the terms name.
    pub fn named_node(&self) -> Option<&str> {
        let fields = self.terms()?.iter().flat_map(|term| &term.match_fields);
        fields.filter(|r| r.key == "metadata.name" && r.operator == "In").find_map(|r| r.values.first()).map(String::as_str)
    }

    /// What daemons put up with besides what the template says: a node in trouble keeps its daemons.
    pub fn tolerations(&self) -> Vec<Toleration> {
        let network = self.host_network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
        let always = [
            ("node.kubernetes.io/not-ready", "NoExecute"),
            ("node.kubernetes.io/unreachable", "NoExecute"),
            ("node.kubernetes.io/disk-pressure", "NoSchedule"),
            ("node.kubernetes.io/memory-pressure", "NoSchedule"),
            ("node.kubernetes.io/pid-pressure", "NoSchedule"),
            ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ];
        let mut all = self.tolerations.clone().unwrap_or_default();
        for (key, effect) in always.into_iter().chain(network) {
            let toleration = Toleration { key: key.into(), operator: "Exists".into(), effect: effect.into(), ..Toleration::default() };
            if !all.contains(&toleration) {
                all.push(toleration);
            }
        }
        all
    }

    /// Whether a node takes a daemon made from this.
    pub fn fit(&self, node: &Node) -> Fit {
        let (name, labels) = (&node.metadata.name, &node.metadata.labels);
        let named = self.node_name.is_empty() || self.node_name == *name;
        let selected = self.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
        let affine = self.terms().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)));
        if !named || !selected || !affine {
            return Fit::Leave;
        }
        let tolerations = self.tolerations();
        let untolerated = |effect: &str| {
            let taints = node.spec.taints.iter().filter(|taint| taint.effect == effect);
            taints.into_iter().any(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
        };
        match (untolerated("NoExecute"), untolerated("NoSchedule")) {
            (true, _) => Fit::Leave,
            (false, true) => Fit::Stay,
            (false, false) => Fit::Run,
        }
    }
}

impl DaemonSet {
    /// Old pods are replaced by this module, not by whoever deletes them.
    pub fn rolls(&self) -> bool {
        self.spec.update_strategy.r#type != "OnDelete"
    }

    /// Nodes that may have two daemons during an update.
    pub fn max_surge(&self, nodes: usize) -> usize {
        let surge = self.spec.update_strategy.rolling_update.as_ref().and_then(|update| update.max_surge.as_ref());
        count(surge, nodes).unwrap_or(0)
    }

    /// Nodes that may have none.
    pub fn max_unavailable(&self, nodes: usize) -> usize {
        let unavailable = self.spec.update_strategy.rolling_update.as_ref().and_then(|update| update.max_unavailable.as_ref());
        match count(unavailable, nodes) {
            Some(0) if self.max_surge(nodes) == 0 => 1,
            Some(most) => most,
            None => usize::from(self.max_surge(nodes) == 0),
        }
    }

    /// How long a pod must be ready to be available.
    pub fn min_ready(&self) -> Duration {
        Duration::from_secs(self.spec.min_ready_seconds)
    }

    /// Old revisions to keep.
    pub fn history_limit(&self) -> usize {
        self.spec.revision_history_limit.unwrap_or(10)
    }

    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("apps", "daemonsets", &self.metadata)
    }
}

fn count(value: Option<&Value>, nodes: usize) -> Option<usize> {
    let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
    amount(value, nodes, Rounding::Up).map(|count| usize::try_from(count).unwrap_or(0))
}
