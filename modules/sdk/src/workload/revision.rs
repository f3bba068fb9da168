//! The history of a template, as ControllerRevisions: what `kubectl rollout history` and `undo` read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Owned, Owner, hash};
use crate::{Action, Metadata, ObjectRef, Plan, Write};

/// Annotations of the owner that its revisions do not get.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// A revision's name is a DNS subdomain: this is left for the owner's name beside a dash and the hash.
const NAME_LENGTH_MAX: usize = 223;

/// `apps/v1` ControllerRevision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Revision {
    /// Metadata.
    pub metadata: Metadata,
    /// Grows; the newest is the one in use.
    pub revision: i64,
    /// A strategic merge patch that puts the template back.
    pub data: Value,
}

impl Owned for Revision {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn target(&self) -> ObjectRef {
        ObjectRef::of("apps", "controllerrevisions", &self.metadata)
    }
}

impl Revision {
    /// The template that it keeps.
    pub fn template(&self) -> &Value {
        &self.data["spec"]["template"]
    }
}

/// The history of one owner.
#[derive(Clone, Debug)]
pub struct Revisions<'a> {
    /// Whose.
    pub owner: Owner<'a>,
    /// The label of a revision that holds its hash.
    pub hash_label: &'static str,
    /// Revisions to keep that nothing uses.
    pub limit: usize,
    /// How often a name turned out to be taken.
    pub collisions: i64,
}

/// The revision of the template as it is now.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// Its name.
    pub name: String,
    /// What tells its pods from others'.
    pub hash: String,
    /// Its number.
    pub number: i64,
    /// What makes it so: nothing, when it is.
    pub plan: Plan,
}

impl Revisions<'_> {
    /// The revision of `template`: the newest, an old one that is taken back into use under a new number, or a new one.
    pub fn current(&self, template: &Value, history: &[Revision]) -> Current {
        let mut kept = template.clone();
        kept["$patch"] = json!("replace");
        let data = json!({"spec": {"template": kept}});
        let newest = history.iter().map(|r| r.revision).max().unwrap_or(0);
        let same = history.iter().filter(|r| r.data == data).max_by_key(|r| (r.revision, r.metadata.name.clone()));
        let Some(found) = same else { return self.create(data, template, newest + 1) };
        let mut current =
            Current { name: found.metadata.name.clone(), hash: self.hash_of(found), number: found.revision, plan: Plan::new() };
        if found.revision < newest {
            let mut body = found.metadata.precondition();
            body["revision"] = json!(newest + 1);
            current.number = newest + 1;
            current.plan.push(Write::merge(found.target(), body));
        }
        current
    }

    /// The hash that a revision's pods carry.
    pub fn hash_of(&self, revision: &Revision) -> String {
        revision.metadata.labels.get(self.hash_label).cloned().unwrap_or_default()
    }

    fn create(&self, data: Value, template: &Value, number: i64) -> Current {
        let meta = self.owner.metadata;
        let hash = hash(&template.to_string(), self.collisions);
        let mut room = meta.name.len().min(NAME_LENGTH_MAX);
        while !meta.name.is_char_boundary(room) {
            room -= 1;
        }
        let name = format!("{}-{hash}", &meta.name[..room]);
        let mut labels: BTreeMap<String, Value> =
            template["metadata"]["labels"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        labels.insert(self.hash_label.into(), json!(hash));
        let annotations: BTreeMap<&String, &String> = meta.annotations.iter().filter(|(key, _)| *key != LAST_APPLIED).collect();
        let revision = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": name, "namespace": meta.namespace, "labels": labels, "annotations": annotations,
                "ownerReferences": [self.owner.reference()],
            },
            "data": data,
            "revision": number,
        });
        let target = ObjectRef::named("apps", "controllerrevisions", &meta.namespace, &name);
        let write = Write { target, subresource: String::new(), action: Action::Create(revision) };
        Current { name, hash, number, plan: Plan::new().write(write) }
    }

    /// Deletes the oldest revisions beyond the limit. `used` are the hashes or names of those that pods or rollouts need.
    pub fn truncate(&self, history: &[Revision], used: &BTreeSet<&str>) -> Plan {
        let idle = |r: &&Revision| !used.contains(r.metadata.name.as_str()) && !used.contains(self.hash_of(r).as_str());
        let mut idle: Vec<&Revision> = history.iter().filter(idle).collect();
        idle.sort_by_key(|r| (r.revision, r.metadata.name.clone()));
        let surplus = idle.len().saturating_sub(self.limit);
        idle.into_iter().take(surplus).map(|r| Write::delete(r.target())).collect()
    }
}
