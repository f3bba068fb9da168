//! StatefulSets and volume claims as far as this module reads them.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{Pod, Strategy};
use serde::{Deserialize, Serialize};

/// The label of a pod that names its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of a revision that holds its hash.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// `apps/v1` StatefulSet.
#[derive(Clone, Debug, Deserialize)]
pub struct StatefulSet {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: Spec,
    /// What was last said.
    #[serde(default)]
    pub status: Status,
}

/// What a StatefulSet asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    replicas: Option<usize>,
    /// Which pods.
    pub selector: Selector,
    /// What the pods are made from.
    pub template: Value,
    /// One claim of each for each pod.
    pub volume_claim_templates: Option<Vec<Value>>,
    service_name: Option<String>,
    #[serde(default)]
    pod_management_policy: String,
    #[serde(default)]
    update_strategy: Strategy,
    revision_history_limit: Option<usize>,
    #[serde(default)]
    min_ready_seconds: u64,
    /// What becomes of claims.
    #[serde(default)]
    pub persistent_volume_claim_retention_policy: Option<Retention>,
    ordinals: Option<Ordinals>,
}

/// `spec.persistentVolumeClaimRetentionPolicy`: `Retain` or `Delete`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// When the set goes.
    pub when_deleted: String,
    /// When a pod is scaled away.
    pub when_scaled: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ordinals {
    start: usize,
}

/// `.status` of a StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "as the API has them")]
pub struct Status {
    pub observed_generation: i64,
    pub replicas: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub current_replicas: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: usize,
    pub available_replicas: usize,
    pub current_revision: String,
    pub update_revision: String,
    pub collision_count: i64,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Deserialize)]
pub struct Claim {
    /// Metadata.
    pub metadata: Metadata,
}

impl StatefulSet {
    /// Pods asked for.
    pub fn replicas(&self) -> usize {
        self.spec.replicas.unwrap_or(1)
    }

    /// The number of the first pod.
    pub fn first(&self) -> usize {
        self.spec.ordinals.as_ref().map_or(0, |ordinals| ordinals.start)
    }

    /// The numbers that pods should have.
    pub fn ordinals(&self) -> std::ops::Range<usize> {
        self.first()..self.first() + self.replicas()
    }

    /// One step at a time, each after the one before has worked.
    pub fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy != "Parallel"
    }

    /// Old pods are replaced by this module, not by whoever deletes them.
    pub fn rolls(&self) -> bool {
        self.spec.update_strategy.r#type != "OnDelete"
    }

    /// Pods below this number keep the old template.
    pub fn partition(&self) -> Option<usize> {
        self.spec.update_strategy.rolling_update.as_ref().and_then(|update| update.partition)
    }

    /// How long a pod must be ready to be available.
    pub fn min_ready(&self) -> Duration {
        Duration::from_secs(self.spec.min_ready_seconds)
    }

    /// Old revisions to keep.
    pub fn history_limit(&self) -> usize {
        self.spec.revision_history_limit.unwrap_or(10)
    }

    /// Whether claims go with `Delete` by this part of the policy.
    pub fn deletes_claims(&self, when: fn(&Retention) -> &String) -> bool {
        self.spec.persistent_volume_claim_retention_policy.as_ref().is_some_and(|policy| when(policy) == "Delete")
    }

    /// The number in a pod's name, if it is one of this set.
    pub fn ordinal_of(&self, name: &str) -> Option<usize> {
        let text = name.strip_prefix(&self.metadata.name)?.strip_prefix('-')?;
        text.parse().ok().filter(|ordinal: &usize| ordinal.to_string() == text)
    }

    /// The name of a pod.
    pub fn pod_name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.metadata.name)
    }

    /// The claims of a pod: `(template, name)`.
    pub fn claims(&self, ordinal: usize) -> impl Iterator<Item = (&Value, String)> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates.map(move |template| {
            let base = template["metadata"]["name"].as_str().unwrap_or_default();
            (template, format!("{base}-{}", self.pod_name(ordinal)))
        })
    }

    /// Gives a template what makes its pod this one: name, number, host name and volumes.
    pub fn personalize(&self, template: &mut pintle_sdk::workload::Template, ordinal: usize, revision: &str) {
        let name = self.pod_name(ordinal);
        let labels = &mut template.metadata.labels;
        labels.extend(
            [(POD_NAME, name.clone()), (POD_INDEX, ordinal.to_string()), (REVISION_LABEL, revision.to_owned())]
                .map(|(key, value)| (key.to_owned(), value)),
        );
        template.spec["hostname"] = json!(name);
        if let Some(service) = &self.spec.service_name {
            template.spec["subdomain"] = json!(service);
        }
        let own: Vec<Value> = self
            .claims(ordinal)
            .map(|(template, claim)| json!({"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        if !own.is_empty() {
            let others = template.spec["volumes"].as_array().cloned().unwrap_or_default();
            let others = others.into_iter().filter(|volume| own.iter().all(|mine| mine["name"] != volume["name"]));
            template.spec["volumes"] = others.chain(own.clone()).collect();
        }
    }

    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("apps", "statefulsets", &self.metadata)
    }
}

/// The revision that a pod was made from, by its name.
pub fn revision_of(pod: &Pod) -> &str {
    pod.label(REVISION_LABEL).unwrap_or_default()
}
