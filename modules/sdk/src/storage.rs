//! Claims, volumes and classes: what of them decides who gets which, for the controllers that bind, the scheduler and provisioners.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::workload::{NodeTerm, units};
use crate::{Metadata, ObjectRef, Selector};

/// On a claim: whoever binds has finished.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: a controller chose the other side, not a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is asked to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The name that older provisioners look for.
pub const PROVISIONER_BEFORE: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node that its volume must be reachable from.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The API group of snapshots.
pub const SNAPSHOTS: &str = "snapshot.storage.k8s.io";
/// What a snapshot is.
pub const SNAPSHOT_KIND: &str = "VolumeSnapshot";
/// The provisioner of classes whose volumes nobody makes.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: ClaimSpec,
    /// What came of it.
    pub status: ClaimStatus,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// Who may mount it, and how often.
    pub access_modes: Vec<String>,
    /// Which volumes will do; all when absent.
    pub selector: Option<Selector>,
    /// How large.
    pub resources: Amounts,
    /// The volume it is bound to, or wants to be.
    pub volume_name: String,
    /// Empty: volumes without a class.
    pub storage_class_name: String,
    /// `Filesystem` or `Block`.
    pub volume_mode: Option<String>,
    /// What its volume begins with.
    pub data_source: Option<DataSource>,
    /// The same, in its newer spelling.
    pub data_source_ref: Option<DataSource>,
}

/// What a volume begins with, as a claim names it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataSource {
    /// Absent or empty: the core group.
    pub api_group: Option<String>,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Absent or empty: the claim's.
    pub namespace: Option<String>,
}

impl DataSource {
    /// Whether it is of this kind of this group.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.api_group.as_deref().unwrap_or_default() == group && self.kind == kind
    }
}

/// `resources` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// By name; `storage` is the one there is.
    pub requests: BTreeMap<String, String>,
}

/// What came of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    /// `Pending`, `Bound` or `Lost`.
    pub phase: String,
    /// Of its volume.
    pub access_modes: Vec<String>,
    /// Of its volume.
    pub capacity: BTreeMap<String, String>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Metadata.
    pub metadata: Metadata,
    /// What it is.
    pub spec: VolumeSpec,
    /// How it is.
    pub status: VolumeStatus,
}

/// What a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// How large.
    pub capacity: BTreeMap<String, String>,
    /// Who may mount it, and how often.
    pub access_modes: Vec<String>,
    /// Whose it is, or is meant to be.
    pub claim_ref: Option<ClaimRef>,
    /// `Retain`, `Delete` or `Recycle`.
    pub persistent_volume_reclaim_policy: String,
    /// May be empty.
    pub storage_class_name: String,
    /// `Filesystem` or `Block`.
    pub volume_mode: Option<String>,
    /// Where it can be reached; everywhere when absent.
    pub node_affinity: Option<NodeAffinity>,
    /// Of a storage driver.
    pub csi: Option<CsiSource>,
}

/// What a storage driver calls a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSource {
    /// The driver.
    pub driver: String,
    /// The driver's own name of it.
    pub volume_handle: String,
}

impl CsiSource {
    /// As Nodes name it in `volumesInUse` and `volumesAttached`.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.volume_handle)
    }
}

/// How a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
    pub phase: String,
    /// Why.
    pub message: String,
}

/// Names a claim from a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    /// Of the claim; a snapshot's where the volume stands for one.
    pub kind: String,
    /// Of the claim.
    pub namespace: String,
    /// Of the claim.
    pub name: String,
    /// Empty until it is bound: a user wrote the name.
    pub uid: String,
}

/// Where a volume can be reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    required: NodeTerms,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeTerms {
    node_selector_terms: Vec<NodeTerm>,
}

/// A StorageClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClass {
    /// Metadata.
    pub metadata: Metadata,
    /// Who makes its volumes.
    pub provisioner: String,
    /// `Delete` or `Retain`.
    pub reclaim_policy: Option<String>,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
    /// Whether its volumes may grow.
    pub allow_volume_expansion: bool,
    /// For mounts of its volumes.
    pub mount_options: Vec<String>,
    /// Where its volumes can be; everywhere when empty.
    pub allowed_topologies: Vec<Topology>,
}

/// One alternative of a class's topologies.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    match_label_expressions: Vec<TopologyLabel>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TopologyLabel {
    key: String,
    values: Vec<String>,
}

/// Bytes of `storage`.
pub fn storage(amounts: &BTreeMap<String, String>) -> i64 {
    amounts.get("storage").map_or(0, |text| units(text))
}

impl Claim {
    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("", "persistentvolumeclaims", &self.metadata)
    }

    /// What its volume begins with, in whichever spelling.
    pub fn source(&self) -> Option<&DataSource> {
        self.spec.data_source_ref.as_ref().or(self.spec.data_source.as_ref())
    }

    /// Bytes asked for.
    pub fn wanted(&self) -> i64 {
        storage(&self.spec.resources.requests)
    }

    /// Whether a controller has bound it to the end.
    pub fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.annotations.contains_key(BIND_COMPLETED)
    }

    /// An annotation, empty when there is none.
    pub fn annotation(&self, key: &str) -> &str {
        self.metadata.annotations.get(key).map_or("", String::as_str)
    }
}

impl Volume {
    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("", "persistentvolumes", &self.metadata)
    }

    /// Bytes.
    pub fn capacity(&self) -> i64 {
        storage(&self.spec.capacity)
    }

    /// Whether it is, or is meant to be, this claim's.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|to| {
            to.kind != SNAPSHOT_KIND
                && to.namespace == claim.metadata.namespace
                && to.name == claim.metadata.name
                && (to.uid.is_empty() || to.uid == claim.metadata.uid)
        })
    }

    /// Whether the provisioner of this name made it.
    pub fn is_made_by(&self, provisioner: &str) -> bool {
        self.metadata.annotations.get(PROVISIONED_BY).is_some_and(|by| by == provisioner)
    }

    /// Whether it stands for a snapshot, and is nobody's to mount.
    pub fn is_snapshot(&self) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|to| to.kind == SNAPSHOT_KIND)
    }

    /// Whether it is what a claim's volume is to begin with: the snapshot that the claim names, or the volume of the claim that it names.
    pub fn is_source_of(&self, claim: &Claim) -> bool {
        let named = |source: &DataSource| {
            let namespace = source.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&claim.metadata.namespace);
            let kind = if self.is_snapshot() { source.is(SNAPSHOTS, SNAPSHOT_KIND) } else { source.is("", "PersistentVolumeClaim") };
            kind && self.spec.claim_ref.as_ref().is_some_and(|to| to.name == source.name && to.namespace == namespace)
        };
        claim.source().is_some_and(named)
    }

    /// Whether it can be reached from the node of this name with these labels.
    pub fn is_reachable(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        let terms = self.spec.node_affinity.as_ref().map(|affinity| &affinity.required.node_selector_terms);
        terms.is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }

    /// What of it a claim does not accept, in upstream's words.
    pub fn misfit(&self, claim: &Claim) -> Option<&'static str> {
        let mode = |mode: &Option<String>| mode.as_deref().unwrap_or("Filesystem").to_owned();
        if self.capacity() < claim.wanted() {
            Some("requested PV is too small")
        } else if self.spec.storage_class_name != claim.spec.storage_class_name {
            Some("storageClassName does not match")
        } else if mode(&self.spec.volume_mode) != mode(&claim.spec.volume_mode) {
            Some("incompatible volumeMode")
        } else if !claim.spec.access_modes.iter().all(|mode| self.spec.access_modes.contains(mode)) {
            Some("incompatible accessMode")
        } else {
            None
        }
    }

    /// Whether a claim may be given it unasked: it is free, and what the claim wants.
    pub fn suits(&self, claim: &Claim) -> bool {
        self.spec.claim_ref.is_none()
            && self.status.phase == "Available"
            && !self.metadata.is_terminating()
            && claim.spec.selector.as_ref().is_none_or(|selector| selector.matches(&self.metadata.labels))
            && self.misfit(claim).is_none()
    }
}

/// The volume that a claim is best served with: one that is meant for it, else the smallest that suits it.
pub fn best<'a>(claim: &Claim, volumes: impl IntoIterator<Item = &'a Volume>) -> Option<&'a Volume> {
    let rank = |volume: &&Volume| (!volume.is_for(claim), volume.capacity(), volume.metadata.name.clone());
    volumes.into_iter().filter(|volume| volume.is_for(claim) || volume.suits(claim)).min_by_key(rank)
}

impl StorageClass {
    /// Whether its volumes wait for the pod that uses them.
    pub fn waits(&self) -> bool {
        self.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }

    /// Whether somebody makes its volumes.
    pub fn provisions(&self) -> bool {
        self.provisioner != NO_PROVISIONER
    }

    /// Whether its volumes can be made for a node with these labels.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |label: &TopologyLabel| labels.get(&label.key).is_some_and(|value| label.values.contains(value));
        self.allowed_topologies.is_empty() || self.allowed_topologies.iter().any(|t| t.match_label_expressions.iter().all(holds))
    }
}
