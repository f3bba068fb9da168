//! The part of a Module manifest that decides what a controller is shown, and the rules that choose related objects.

use serde::Deserialize;
use serde_json::{Value, json};

use super::store::{Key, Store, reference, text};
use crate::{Error, ObjectRef, Result, Selector};

/// A Module, as far as the kit reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    controller: Option<ControllerManifest>,
    #[serde(default)]
    controllers: Vec<ControllerManifest>,
}

/// `spec.controller` of a Module, or one of its `spec.controllers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerManifest {
    /// `group/resource`, or `*/*` for the metadata of everything.
    pub primary: String,
    /// Labels that primaries must have: `key=value` or `key`, by commas.
    #[serde(default)]
    pub selector: String,
    /// What the controller is shown beside the primary.
    #[serde(default)]
    pub related: Vec<RelatedRule>,
}

/// One entry of `related`.
#[derive(Clone, Debug, Deserialize)]
pub struct RelatedRule {
    /// What the controller asks for it by.
    pub name: String,
    /// `group/resource`, or `*/*`.
    pub resource: String,
    /// Which objects of it.
    pub by: String,
    /// Only in this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Only these parts of them, as JSON pointers.
    #[serde(default)]
    pub fields: Vec<String>,
    /// `deleting`: only when the primary is on its way out; `present`: only when it is there.
    #[serde(default)]
    pub when: Option<String>,
}

const EVERYTHING: &str = "*/*";

impl Manifest {
    pub(super) fn parse(manifest: &str) -> Result<Self> {
        serde_json::from_str(manifest).map_err(|source| Error::Shape { what: "the manifest".into(), source })
    }

    fn all(&self) -> impl Iterator<Item = &ControllerManifest> {
        self.spec.controller.iter().chain(&self.spec.controllers)
    }

    fn of(&self, resource: &str) -> Option<&ControllerManifest> {
        self.all().find(|controller| controller.is_about(resource))
    }

    pub(super) fn controls(&self, resource: &str) -> bool {
        self.of(resource).is_some()
    }

    pub(super) fn primaries(&self, store: &Store) -> Vec<ObjectRef> {
        let of_one = |controller: &ControllerManifest| -> Vec<ObjectRef> {
            let about =
                store.iter().filter(|(key, object)| controller.is_about(&key.resource) && labels_match(&controller.selector, object));
            about.map(|(key, object)| reference(&key.resource, object)).collect()
        };
        self.all().flat_map(of_one).collect()
    }

    pub(super) fn object(&self, store: &Store, target: &ObjectRef) -> Option<Value> {
        let object =
            store.get_key(&Key::of(target)).filter(|object| target.uid.is_empty() || text(object, "/metadata/uid") == target.uid)?;
        let everything = self.of(&Key::of(target).resource).is_some_and(|controller| controller.primary == EVERYTHING);
        Some(if everything { project(object, &["/metadata".into()]) } else { object.clone() })
    }

    pub(super) fn related(&self, store: &Store, target: &ObjectRef, object: Option<&Value>) -> Vec<(String, Vec<Value>)> {
        let deleting = object.is_some_and(|object| object.pointer("/metadata/deletionTimestamp").is_some());
        let rules = self.of(&Key::of(target).resource).map_or(&[][..], |controller| &controller.related);
        let due = |rule: &&RelatedRule| match rule.when.as_deref() {
            Some("deleting") => deleting,
            Some("present") => object.is_some(),
            _ => true,
        };
        let rules = rules.iter().filter(due);
        rules
            .map(|rule| {
                let chosen = store.iter().filter(|(key, candidate)| rule.chooses(key, candidate, target, object));
                (rule.name.clone(), chosen.map(|(_, candidate)| rule.row(candidate)).collect())
            })
            .collect()
    }
}

impl ControllerManifest {
    fn is_about(&self, resource: &str) -> bool {
        self.primary == resource || self.primary == EVERYTHING
    }
}

impl RelatedRule {
    fn chooses(&self, key: &Key, candidate: &Value, target: &ObjectRef, object: Option<&Value>) -> bool {
        let of_resource = self.resource == EVERYTHING || self.resource == key.resource;
        let in_namespace = self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        of_resource && in_namespace && self.relates(key, candidate, target, object)
    }

    fn relates(&self, key: &Key, candidate: &Value, target: &ObjectRef, object: Option<&Value>) -> bool {
        let owned = |by: &str| owners(candidate).iter().any(|owner| owner["controller"] == true && owner["uid"] == by);
        match self.by.as_str() {
            "all" => true,
            "name" => key.name == target.name,
            "namespace" if target.namespace.is_empty() => key.namespace == target.name,
            "namespace" => key.namespace == target.namespace,
            "owner" => owned(&target.uid),
            "ownerOrSelector" => {
                let orphan = !owners(candidate).iter().any(|owner| owner["controller"] == true);
                owned(&target.uid) || key.namespace == target.namespace && orphan && selects(object, candidate)
            }
            "selector" => key.namespace == target.namespace && selects(object, candidate),
            "dependents" => owners(candidate).iter().any(|owner| owner["uid"] == target.uid.as_str()),
            "owners" => object.is_some_and(|object| owners(object).iter().any(|owner| owner["uid"] == candidate["metadata"]["uid"])),
            by if by.starts_with("ref:") => object.is_some_and(|object| refers(object, &by[4..], &target.namespace, key)),
            by => by.strip_prefix("field:").is_some_and(|path| text(candidate, &format!("/{}", path.replace('.', "/"))) == target.name),
        }
    }

    fn row(&self, object: &Value) -> Value {
        match (self.resource.as_str(), self.fields.is_empty()) {
            (EVERYTHING, true) => project(object, &["/metadata".into()]),
            (_, true) => object.clone(),
            _ => project(object, &self.fields),
        }
    }
}

/// Whether the object reference (or the bare name of a neighbour) at `path` names what is kept under `key`.
fn refers(object: &Value, path: &str, beside: &str, key: &Key) -> bool {
    let at = object.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null);
    let name = at.as_str().or_else(|| at["name"].as_str()).unwrap_or_default();
    let namespace = at["namespace"].as_str().unwrap_or(beside);
    !name.is_empty() && key.name == name && (key.namespace == namespace || key.namespace.is_empty())
}

fn owners(object: &Value) -> &[Value] {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A selector in either spelling: a LabelSelector, or a plain map as Services have.
fn selects(primary: Option<&Value>, candidate: &Value) -> bool {
    let selector = primary.and_then(|primary| {
        let stored = primary.pointer("/spec/selector")?;
        let structured = stored.get("matchLabels").is_some() || stored.get("matchExpressions").is_some();
        serde_json::from_value::<Selector>(if structured { stored.clone() } else { json!({ "matchLabels": stored }) }).ok()
    });
    let labels = candidate.pointer("/metadata/labels").and_then(|labels| serde_json::from_value(labels.clone()).ok()).unwrap_or_default();
    selector.is_some_and(|selector| !selector.is_empty() && selector.matches(&labels))
}

pub(super) fn labels_match(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        match term.split_once('=') {
            Some((key, value)) => label(key) == Some(value),
            None => label(term).is_some(),
        }
    })
}

/// Keeps `apiVersion`, `kind` and what the pointers name.
fn project(object: &Value, fields: &[String]) -> Value {
    let mut row = json!({"apiVersion": object["apiVersion"], "kind": object["kind"]});
    for pointer in fields {
        let Some(value) = object.pointer(pointer) else { continue };
        let mut at = &mut row;
        for segment in pointer.split('/').skip(1) {
            at = &mut at[segment];
        }
        *at = value.clone();
    }
    row
}
