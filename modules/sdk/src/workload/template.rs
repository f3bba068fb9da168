//! What pods are made from.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{Action, Error, Metadata, ObjectRef, OwnerReference, Result, Write};

/// `v1` PodTemplateSpec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Template {
    /// What the pods get besides a name and an owner.
    pub metadata: TemplateMetadata,
    /// Of the pods.
    pub spec: Value,
}

/// The part of a template's metadata that pods get.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "as in every object's metadata")]
pub struct TemplateMetadata {
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub finalizers: Vec<String>,
}

impl Template {
    /// From the text of `spec.template`; without one, an empty template.
    pub fn parse(text: Option<&RawValue>) -> Result<Self> {
        let text = text.map_or("{}", RawValue::get);
        serde_json::from_str(text).map_err(|source| Error::Shape { what: "spec.template".into(), source })
    }

    /// From `spec.template` as a value.
    pub fn read(value: &Value) -> Result<Self> {
        Template::deserialize(value).map_err(|source| Error::Shape { what: "spec.template".into(), source })
    }

    /// The creation of a pod. `generate_name` tells that the name is one of many; empty when it means something.
    pub fn create(&self, namespace: &str, name: &str, generate_name: &str, owner: OwnerReference) -> Write {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": Metadata {
                name: name.into(),
                generate_name: generate_name.into(),
                namespace: namespace.into(),
                labels: self.metadata.labels.clone(),
                annotations: self.metadata.annotations.clone(),
                finalizers: self.metadata.finalizers.clone(),
                owner_references: vec![owner],
                ..Metadata::default()
            },
            "spec": self.spec,
        });
        Write { target: ObjectRef::named("", "pods", namespace, name), subresource: String::new(), action: Action::Create(pod) }
    }
}
