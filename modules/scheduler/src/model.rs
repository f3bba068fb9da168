//! Pods and nodes as the scheduler reads them: rows are parsed once, into what the filters and scores compare.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json;
pub use pintle_sdk::workload::{NodeTerm, Taint, Toleration};
use serde::Deserialize;

use pintle_sdk::workload::{milli, units};

pub type Labels = BTreeMap<String, String>;

/// What scores take a container without requests to use: a tenth of a core and 200 MB.
const USUAL_CPU_MILLI: i64 = 100;
const USUAL_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources: cpu in thousandths of a core, all else in whole units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    /// Ephemeral storage and extended resources, by name.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    fn read(quantities: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Resources::default();
        for (name, Quantity(text)) in quantities {
            match name.as_str() {
                "cpu" => resources.cpu = milli(text),
                "memory" => resources.memory = units(text),
                "pods" => {}
                _ => {
                    resources.others.insert(name.clone(), units(text));
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.merge(other, |a, b| a.saturating_add(b));
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.merge(other, |a, b| a.saturating_sub(b));
    }

    fn at_least(&mut self, other: &Resources) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Resources, merge: fn(i64, i64) -> i64) {
        self.cpu = merge(self.cpu, other.cpu);
        self.memory = merge(self.memory, other.memory);
        for (name, amount) in &other.others {
            match self.others.get_mut(name) {
                Some(have) => *have = merge(*have, *amount),
                None => {
                    self.others.insert(name.clone(), merge(0, *amount));
                }
            }
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
}

/// A pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: Labels,
    /// The same for pods that belong together: namespace and labels. Empty without labels.
    pub kin: String,
    /// It has run to its end and takes no room any more.
    pub finished: bool,
    pub node: String,
    pub terminating: bool,
    pub created: Time,
    pub priority: i32,
    pub may_preempt: bool,
    pub gated: bool,
    pub requests: Resources,
    /// The same with the usual amounts where nothing is asked for: `(cpu, memory)`, for scores.
    pub usual: (i64, i64),
    pub ports: Vec<HostPort>,
    pub selector: Labels,
    /// Alternatives; `None`: any node will do.
    pub required_nodes: Option<Vec<NodeTerm>>,
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<Spread>,
    pub affinity: PodTerms,
    pub anti_affinity: PodTerms,
    pub claims: Vec<ClaimName>,
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimName {
    pub name: String,
    /// It is made for this pod.
    pub is_ephemeral: bool,
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    address: String,
    protocol: String,
    port: i64,
}

impl HostPort {
    pub fn clashes(&self, other: &HostPort) -> bool {
        let wild = |port: &HostPort| port.address.is_empty() || port.address == "0.0.0.0";
        let same_address = wild(self) || wild(other) || self.address == other.address;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    when_unsatisfiable: String,
    label_selector: Option<Selector>,
    match_label_keys: Vec<String>,
    pub min_domains: Option<i64>,
    node_affinity_policy: Option<String>,
    node_taints_policy: Option<String>,
}

impl Spread {
    pub fn is_hard(&self) -> bool {
        self.when_unsatisfiable != "ScheduleAnyway"
    }

    pub fn honors_affinity(&self) -> bool {
        self.node_affinity_policy.as_deref() != Some("Ignore")
    }

    pub fn honors_taints(&self) -> bool {
        self.node_taints_policy.as_deref() == Some("Honor")
    }

    /// Whether a pod with these labels counts, seen from the pod that has the constraint.
    pub fn counts(&self, own: &Labels, labels: &Labels) -> bool {
        let keys = self.match_label_keys.iter().all(|key| own.get(key).is_none_or(|value| labels.get(key) == Some(value)));
        keys && self.label_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// Affinity or anti-affinity to other pods.
#[derive(Clone, Debug, Default)]
pub struct PodTerms {
    pub required: Vec<PodTerm>,
    pub preferred: Vec<(i64, PodTerm)>,
}

/// One term of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    label_selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    match_label_keys: Vec<String>,
    mismatch_label_keys: Vec<String>,
    pub topology_key: String,
}

impl PodTerm {
    /// Whether `other` is meant by the term of `own`.
    pub fn means(&self, own: &Pod, other: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let value = |pod: &Pod, key: &str| pod.labels.get(key).cloned();
        let same = self.match_label_keys.iter().all(|key| value(own, key).is_none() || value(own, key) == value(other, key));
        let other_value = self.mismatch_label_keys.iter().all(|key| value(own, key).is_none() || value(own, key) != value(other, key));
        self.in_namespace(own, &other.namespace, namespaces)
            && self.label_selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
            && same
            && other_value
    }

    fn in_namespace(&self, own: &Pod, namespace: &str, namespaces: &BTreeMap<String, Labels>) -> bool {
        if self.namespaces.is_empty() && self.namespace_selector.is_none() {
            return own.namespace == namespace;
        }
        let none = Labels::new();
        let labels = namespaces.get(namespace).unwrap_or(&none);
        self.namespaces.iter().any(|n| n == namespace) || self.namespace_selector.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// Reads a node row.
pub fn node(row: &[u8]) -> Result<Node> {
    let raw: RawNode = serde_json::from_slice(row).map_err(|source| Error::Shape { what: "a node".into(), source })?;
    Ok(Node {
        name: raw.metadata.name,
        labels: raw.metadata.labels,
        taints: raw.spec.taints,
        unschedulable: raw.spec.unschedulable,
        pods_max: raw.status.allocatable.get("pods").map_or(0, |pods| units(&pods.0)),
        allocatable: Resources::read(&raw.status.allocatable),
    })
}

/// Reads a pod row.
pub fn pod(row: &[u8]) -> Result<Pod> {
    let raw: RawPod = serde_json::from_slice(row).map_err(|source| Error::Shape { what: "a pod".into(), source })?;
    let (meta, spec) = (raw.metadata, raw.spec);
    let (requests, usual) = requests(&spec);
    let terms = |raw: Option<RawPodAffinity>| raw.map(RawPodAffinity::terms).unwrap_or_default();
    let affinity = spec.affinity.unwrap_or_default();
    let nodes = affinity.node_affinity.unwrap_or_default();
    let own = |volume: &RawVolume| ClaimName { name: format!("{}-{}", meta.name, volume.name), is_ephemeral: true };
    let claim = |volume: &RawVolume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimName { name: claim.claim_name.clone(), is_ephemeral: false }),
        (None, Some(_)) => Some(own(volume)),
        (None, None) => None,
    };
    Ok(Pod {
        claims: spec.volumes.iter().filter_map(claim).collect(),
        kin: kin(&meta),
        finished: matches!(raw.status.phase.as_str(), "Succeeded" | "Failed"),
        terminating: meta.is_terminating(),
        created: meta.creation_timestamp.unwrap_or_default(),
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        labels: meta.labels,
        node: spec.node_name,
        priority: spec.priority,
        may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
        gated: !spec.scheduling_gates.is_empty(),
        requests,
        usual,
        ports: host_ports(&spec.containers, spec.host_network),
        selector: spec.node_selector,
        required_nodes: nodes.required.map(|required| required.node_selector_terms),
        preferred_nodes: nodes.preferred.into_iter().map(|p| (p.weight, p.preference)).collect(),
        tolerations: spec.tolerations,
        spread: spec.topology_spread_constraints,
        affinity: terms(affinity.pod_affinity),
        anti_affinity: terms(affinity.pod_anti_affinity),
    })
}

/// Labels that tell pods of one owner apart.
const INDIVIDUAL_LABELS: [&str; 3] =
    ["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "batch.kubernetes.io/job-completion-index"];

/// Pods of one owner are known by their labels: upstream finds them by the selectors of services and owners, which comes to the same.
fn kin(meta: &Metadata) -> String {
    let shared = meta.labels.iter().filter(|(key, _)| !INDIVIDUAL_LABELS.contains(&key.as_str()));
    let labels: String = shared.flat_map(|(key, value)| [key.as_str(), "=", value.as_str(), ","]).collect();
    if labels.is_empty() { labels } else { format!("{}/{labels}", meta.namespace) }
}

/// A pod's demand: its containers and side-cars together, or the neediest moment of its start if that is more, and the overhead.
fn requests(spec: &RawPodSpec) -> (Resources, (i64, i64)) {
    let mut total = Resources::default();
    let mut usual = (0, 0);
    let mut count = |total: &mut Resources, container: &RawContainer| {
        let request = Resources::read(&container.resources.requests);
        usual.0 += if request.cpu > 0 { request.cpu } else { USUAL_CPU_MILLI };
        usual.1 += if request.memory > 0 { request.memory } else { USUAL_MEMORY_BYTES };
        total.add(&request);
    };
    for container in &spec.containers {
        count(&mut total, container);
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in &spec.init_containers {
        let request = Resources::read(&container.resources.requests);
        if container.restart_policy.as_deref() == Some("Always") {
            count(&mut total, container);
            sidecars.add(&request);
            starting.at_least(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&request);
            starting.at_least(&moment);
        }
    }
    total.at_least(&starting);
    // Requests of the pod as a whole stand for those of its containers.
    let whole = Resources::read(&spec.resources.requests);
    for (own, total) in [(whole.cpu, &mut total.cpu), (whole.memory, &mut total.memory)] {
        if own > 0 {
            *total = own;
        }
    }
    let overhead = Resources::read(&spec.overhead);
    total.add(&overhead);
    let usual = (usual.0.max(total.cpu) + overhead.cpu, usual.1.max(total.memory) + overhead.memory);
    (total, usual)
}

fn host_ports(containers: &[RawContainer], host_network: bool) -> Vec<HostPort> {
    let ports = containers.iter().flat_map(|container| &container.ports);
    ports
        .map(|port| HostPort {
            address: port.host_ip.clone(),
            protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
            port: if port.host_port == 0 && host_network { port.container_port } else { port.host_port },
        })
        .filter(|port| port.port > 0)
        .collect()
}

/// A quantity as it stands in JSON: text, or a bare number.
struct Quantity(String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Quantity(text)),
            other => Ok(Quantity(other.to_string())),
        }
    }
}

#[derive(Deserialize)]
struct RawNode {
    metadata: Metadata,
    #[serde(default)]
    spec: RawNodeSpec,
    #[serde(default)]
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    taints: Vec<Taint>,
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    allocatable: BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
struct RawPod {
    metadata: Metadata,
    #[serde(default)]
    spec: RawPodSpec,
    #[serde(default)]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodStatus {
    phase: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: String,
    host_network: bool,
    priority: i32,
    preemption_policy: Option<String>,
    scheduling_gates: Vec<serde::de::IgnoredAny>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
    resources: RawRequirements,
    overhead: BTreeMap<String, Quantity>,
    node_selector: Labels,
    affinity: Option<RawAffinity>,
    tolerations: Vec<Toleration>,
    topology_spread_constraints: Vec<Spread>,
    volumes: Vec<RawVolume>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawVolume {
    name: String,
    persistent_volume_claim: Option<RawClaim>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClaim {
    claim_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    restart_policy: Option<String>,
    resources: RawRequirements,
    ports: Vec<RawPort>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRequirements {
    requests: BTreeMap<String, Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
    host_port: i64,
    container_port: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinity {
    node_affinity: Option<RawNodeAffinity>,
    pod_affinity: Option<RawPodAffinity>,
    pod_anti_affinity: Option<RawPodAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RawNodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<RawPreference>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeSelector {
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPreference {
    weight: i64,
    preference: NodeTerm,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Vec<PodTerm>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<RawWeighted>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawWeighted {
    weight: i64,
    pod_affinity_term: PodTerm,
}

impl RawPodAffinity {
    fn terms(self) -> PodTerms {
        PodTerms { required: self.required, preferred: self.preferred.into_iter().map(|w| (w.weight, w.pod_affinity_term)).collect() }
    }
}
