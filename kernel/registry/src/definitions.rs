//! CustomResourceDefinitions at work: which names each may have, what is served because of them, and the end of their
//! objects when one is deleted. One loop settles everything whenever a definition changes; it decides nothing that the
//! definitions do not say.
//!
//! Invariants:
//! 1. What is served follows from the stored definitions alone, so a restart serves the same.
//! 2. A resource is served before its definition says `Established`.
//! 3. The finalizer of a deleted definition goes only when none of its objects is left.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pintle_api::custom::{self, Version, definition};
use pintle_api::{ApiError, Schema};
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot};

use crate::admission::Operation;
use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::follower::Reshape;
use crate::kinds;
use crate::options::{DeleteOptions, DryRun, ListOptions, WriteOptions};
use crate::registry::{Registry, Result};
use crate::subscription::SubscriptionFilter;
use crate::target::{ResourceKey, Target};
use crate::update::{Edit, Source};

/// Waits for the objects of a deleted definition to be gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often the objects of a deleted definition are looked at again, milliseconds.
const CLEANUP_MILLIS: u64 = 200;
/// Pause after a failure, milliseconds.
const RETRY_MILLIS: u64 = 500;

/// What was made of the definitions last time, by name.
#[derive(Default)]
pub(crate) struct Definitions(Mutex<HashMap<String, Known>>);

struct Known {
    /// What the definition said, as far as it decides what is served.
    says: String,
    /// Whether it was on its way out.
    ending: bool,
    versions: Vec<Arc<Version>>,
    key: ResourceKey,
}

/// Settle whenever a definition changes, until the registry is gone.
pub(crate) async fn keep(registry: Weak<Registry>) {
    let Some(mut changes) =
        registry.upgrade().map(|registry| registry.subscribe(SubscriptionFilter::Resources(vec![kinds::definitions_key()])))
    else {
        return;
    };
    loop {
        let Some(strong) = registry.upgrade() else { return };
        let pause = match strong.settle_definitions().await {
            Ok(true) => None,
            Ok(false) => Some(CLEANUP_MILLIS),
            Err(err) => {
                tracing::warn!(error = %err, "custom resources could not be settled; it is tried again");
                Some(RETRY_MILLIS)
            }
        };
        drop(strong);
        let change = match pause {
            None => changes.next().await.is_some(),
            Some(millis) => tokio::time::timeout(Duration::from_millis(millis), changes.next())
                .await
                .is_ok_and(|feed| feed.is_none())
                .then_some(false)
                .unwrap_or(true),
        };
        if !change {
            return;
        }
        while changes.try_next().is_some() {}
    }
}

impl Registry {
    /// Serve what the definitions say, and tell them how they stand. False: something is still being deleted.
    pub(crate) async fn settle_definitions(&self) -> Result<bool> {
        let Some(shard) = self.fed.cache.shard(&kinds::definitions_key()) else { return Ok(true) };
        let mut objects = shard.all();
        objects.sort_by(|a, b| (&a.meta.creation_timestamp, &a.meta.name).cmp(&(&b.meta.creation_timestamp, &b.meta.name)));
        let mut values: Vec<Value> =
            objects.iter().map(|object| object.value()).collect::<std::result::Result<_, _>>().map_err(ApiError::internal)?;
        for index in 0..values.len() {
            let status = self.status_of(&values, index);
            values[index]["status"] = status;
        }
        self.serve(&values).await?;
        let mut settled = true;
        for (object, value) in objects.iter().zip(&values) {
            let name = object.meta.name.as_ref();
            self.edit_definition(name, "status", &|stored, _| {
                stored["status"] = value["status"].clone();
                Ok(())
            })
            .await?;
            if object.meta.deletion_timestamp.is_some() && object.meta.finalizers.iter().any(|finalizer| &**finalizer == FINALIZER) {
                settled &= self.clean_up(name, value).await?;
            }
        }
        Ok(settled)
    }

    async fn edit_definition(&self, name: &str, subresource: &str, edit: &Edit<'_>) -> Result<()> {
        let target = self.resolve("apiextensions.k8s.io", "v1", "customresourcedefinitions", subresource, "", name)?;
        let caller = Caller::kernel();
        let writing = self.writing(&caller, &target, Operation::Update, DryRun::No)?;
        match self.revise(writing, Source::Edit(edit), &WriteOptions::default()).await {
            Err(err) if err.code != 404 => Err(err),
            _ => Ok(()),
        }
    }

    /// Delete what is left of a definition's objects. True: nothing is, and its finalizer is gone.
    async fn clean_up(&self, name: &str, definition: &Value) -> Result<bool> {
        let key = key_of(definition);
        let left = self.fed.cache.shard(&key).map_or(0, |shard| shard.len());
        let resource = self.catalog.read().stored_face(&key);
        if let (Some(resource), true) = (resource, left > 0) {
            let target = Target { resource, subresource: String::new(), namespace: String::new(), name: String::new() };
            let selector = self.selector(&target, "", "")?;
            self.delete_selected(&Caller::kernel(), &target, &DeleteOptions::default(), &ListOptions::default(), &selector).await?;
        }
        if self.count(&key) > 0 {
            return Ok(false);
        }
        self.edit_definition(name, "", &|stored, _| {
            if let Some(finalizers) = stored["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            Ok(())
        })
        .await?;
        Ok(true)
    }

    /// Make the schema, the catalog and the cache what the established definitions say.
    pub(crate) async fn serve(&self, definitions: &[Value]) -> Result<()> {
        let mut known = self.definitions.0.lock().await;
        let mut next = HashMap::new();
        let (mut schema, mut rows, mut add, mut changed) = (Schema::builtin().clone(), Vec::new(), Vec::new(), false);
        for definition in definitions.iter().filter(|definition| has_condition(definition, "Established")) {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            let names = &definition["status"]["acceptedNames"];
            let (says, ending) = (format!("{}{names}", definition["spec"]), definition["metadata"].get("deletionTimestamp").is_some());
            let before = known.remove(name).filter(|before| before.says == says);
            let fresh = before.is_none();
            changed |= before.as_ref().is_none_or(|before| before.ending != ending);
            let compile = || {
                definition["spec"]["versions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|entry| Arc::new(Version::new(&definition["spec"], entry)))
                    .collect()
            };
            let versions: Vec<Arc<Version>> = before.map_or_else(compile, |before| before.versions);
            let (with, added) = custom::add(&schema, definition, names, &versions);
            schema = with;
            add.extend(fresh.then(|| key_of(definition)));
            rows.extend(added);
            next.insert(name.to_owned(), Known { says, ending, versions, key: key_of(definition) });
        }
        let gone: Vec<ResourceKey> =
            known.values().map(|known| known.key.clone()).filter(|key| !next.values().any(|kept| kept.key == *key)).collect();
        if !changed && gone.is_empty() {
            *known = next;
            return Ok(());
        }
        let catalog = Catalog::new(Arc::new(schema), rows);
        let add = add.iter().filter_map(|key| catalog.stored_face(key)).collect();
        let (done, told) = oneshot::channel();
        // The follower is the cache's one writer: it takes new resources in between two changes.
        self.reshape
            .send(Reshape { add, remove: gone, done })
            .await
            .map_err(|_| ApiError::service_unavailable("the registry is closing"))?;
        told.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        *self.catalog.write() = Arc::new(catalog);
        *known = next;
        Ok(())
    }

    /// How a definition stands among the others.
    fn status_of(&self, definitions: &[Value], index: usize) -> Value {
        let definition = &definitions[index];
        let mut status = definition.get("status").filter(|status| status.is_object()).cloned().unwrap_or_else(|| json!({}));
        let (accepted, conflict) = names_of(definitions, index);
        status["acceptedNames"] = accepted;
        let stored = status["storedVersions"].as_array().cloned().unwrap_or_default();
        let storage = definition["spec"]["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
        let lacking = storage.map(|version| version["name"].clone()).filter(|name| !stored.contains(name));
        status["storedVersions"] = stored.into_iter().chain(lacking).collect();
        let established = has_condition(definition, "Established");
        match conflict {
            None => {
                set(&mut status, "NamesAccepted", true, "NoConflicts", "no conflicts found");
                set(&mut status, "Established", true, "InitialNamesAccepted", "the initial names have been accepted");
            }
            Some((reason, name)) => {
                set(&mut status, "NamesAccepted", false, reason, &format!("{name:?} is already in use"));
                if !established {
                    set(&mut status, "Established", false, "NotAccepted", "not all names are accepted");
                }
            }
        }
        let annotation = definition.pointer("/metadata/annotations/api-approved.kubernetes.io").and_then(Value::as_str).unwrap_or_default();
        if definition::is_protected(definition["spec"]["group"].as_str().unwrap_or_default()) {
            let (ok, reason, message) = match definition::approval(annotation) {
                Some(true) => (true, "ApprovedAnnotation", format!("approved in {annotation}")),
                Some(false) => (false, "UnapprovedAnnotation", format!("not approved: {annotation:?}")),
                None => {
                    (false, "MissingAnnotation", "protected groups must have approval annotation \"api-approved.kubernetes.io\"".to_owned())
                }
            };
            set(&mut status, "KubernetesAPIApprovalPolicyConformant", ok, reason, &message);
        }
        if definition["metadata"].get("deletionTimestamp").is_some() {
            match self.count(&key_of(definition)) {
                0 => set(&mut status, "Terminating", false, "InstanceDeletionCompleted", "removed all instances"),
                _ => set(&mut status, "Terminating", true, "InstanceDeletionInProgress", "CustomResource deletion is in progress"),
            }
        }
        status
    }
}

fn key_of(definition: &Value) -> ResourceKey {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ResourceKey::new(text("/spec/group"), text("/spec/names/plural"))
}

fn has_condition(definition: &Value, kind: &str) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// The names that a definition may have, and the last conflict: its reason and the name. Names that others of the group
/// were accepted with are theirs.
fn names_of(definitions: &[Value], index: usize) -> (Value, Option<(&'static str, String)>) {
    let (definition, mut conflict) = (&definitions[index], None);
    let group = &definition["spec"]["group"];
    let others = || {
        let theirs = definitions.iter().enumerate().filter(move |(at, other)| *at != index && other["spec"]["group"] == *group);
        theirs.map(|(_, other)| &other["status"]["acceptedNames"])
    };
    let built_in =
        |name: &Value| pintle_api::resources().iter().any(|row| *group == *row.group && (*name == *row.plural || *name == *row.kind));
    let taken = |name: &Value, resource: bool| {
        let keys: &[&str] = if resource { &["plural", "singular"] } else { &["kind", "listKind"] };
        let short = |names: &Value| resource && names["shortNames"].as_array().is_some_and(|list| list.contains(name));
        built_in(name) || others().any(|names| keys.iter().any(|key| names[key] == *name) || short(names))
    };
    let asked = &definition["spec"]["names"];
    let mut accepted = definition.pointer("/status/acceptedNames").cloned().unwrap_or_else(|| json!({"kind": "", "plural": ""}));
    for (key, reason, resource) in [
        ("plural", "PluralConflict", true),
        ("singular", "SingularConflict", true),
        ("shortNames", "ShortNamesConflict", true),
        ("kind", "KindConflict", false),
        ("listKind", "ListKindConflict", false),
        ("categories", "", true),
    ] {
        let Some(wanted) = asked.get(key) else { continue };
        let names = wanted.as_array().map_or(std::slice::from_ref(wanted), Vec::as_slice);
        match names.iter().find(|name| key != "categories" && taken(name, resource)) {
            Some(name) => conflict = Some((reason, name.as_str().unwrap_or_default().to_owned())),
            None => accepted[key] = wanted.clone(),
        }
    }
    (accepted, conflict)
}

/// Set a condition; its time changes with its status only.
fn set(status: &mut Value, kind: &str, holds: bool, reason: &str, message: &str) {
    let text = if holds { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let mut made = json!({"type": kind, "status": text, "reason": reason, "message": message, "lastTransitionTime": kinds::now_text()});
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(old) => {
            if old["status"] == text {
                made["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = made;
        }
        None => conditions.push(made),
    }
    status["conditions"] = Value::Array(conditions);
}
