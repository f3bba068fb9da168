//! The objects of a [`FakeKernel`](super::FakeKernel), and what a write does to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{Action, DeleteOptions, Error, ObjectRef, PatchKind, Propagation, Result, Time, Write, plural};

/// Where an object is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `group/resource`, e.g. `/pods`.
    pub resource: String,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key by its parts.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// The key of a reference.
    pub fn of(target: &ObjectRef) -> Self {
        Key::new(&format!("{}/{}", target.group, target.resource), &target.namespace, &target.name)
    }
}

/// Why a write was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404.
    #[error("not found")]
    NotFound,
    /// 409 on create.
    #[error("already exists")]
    AlreadyExists,
    /// 409: a uid or resourceVersion precondition does not hold.
    #[error("conflict")]
    Conflict,
    /// 403, because the test asked for it.
    #[error("forbidden")]
    Forbidden,
    /// The kit does not know this kind of write.
    #[error("the kit cannot do this: {0}")]
    Unsupported(&'static str),
    /// The body is not an object with a kind.
    #[error("malformed")]
    Malformed,
}

/// Objects, a clock and a revision.
#[derive(Clone, Debug)]
pub struct Store {
    /// What the clock says.
    pub now: Time,
    /// Grows with each change.
    pub revision: u64,
    objects: BTreeMap<Key, Value>,
}

impl Store {
    pub(super) fn new(now: Time) -> Self {
        Store { now, revision: 0, objects: BTreeMap::new() }
    }

    /// One object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&Key::new(resource, namespace, name))
    }

    pub(super) fn get_key(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// All objects of a resource, in order of their names.
    pub fn list<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |(key, _)| key.resource == resource).map(|(_, object)| object)
    }

    /// Everything.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    pub(super) fn put(&mut self, mut object: Value) -> Result<ObjectRef> {
        let api_version = text(&object, "/apiVersion").to_owned();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = text(&object, "/kind").to_owned();
        if kind.is_empty() || text(&object, "/metadata/name").is_empty() {
            return Err(Error::Missing { what: "the object".into(), field: "kind or metadata.name" });
        }
        let resource = format!("{group}/{}", plural(&kind));
        let key = Key::new(&resource, text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        match self.objects.get(&key).cloned() {
            Some(old) => {
                let key = key.clone();
                object["metadata"]["uid"] = old["metadata"]["uid"].clone();
                object["metadata"]["creationTimestamp"] = old["metadata"]["creationTimestamp"].clone();
                object["metadata"]["generation"] = next_generation(&old, &object);
                self.store(key, object);
            }
            None => self.insert(key.clone(), object),
        }
        Ok(self.objects.get(&key).map(|object| reference(&resource, object)).unwrap_or_default())
    }

    pub(super) fn edit(&mut self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = Key::new(resource, namespace, name);
        if let Some(old) = self.objects.get(&key).cloned() {
            let mut new = old.clone();
            change(&mut new);
            new["metadata"]["generation"] = next_generation(&old, &new);
            if new != old {
                self.store(key, new);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        self.revision += 1;
        self.objects.remove(key)
    }

    /// Carries out one write. Gives the object back when it is gone by it.
    pub(super) fn apply(&mut self, write: &Write) -> Result<Option<Value>, Refusal> {
        let key = Key::of(&write.target);
        if let Action::Create(object) = &write.action {
            return self.create(key, object.clone()).map(|()| None);
        }
        let old = self.objects.get(&key).cloned().ok_or(Refusal::NotFound)?;
        if !write.target.uid.is_empty() && text(&old, "/metadata/uid") != write.target.uid {
            return Err(Refusal::Conflict);
        }
        match &write.action {
            Action::Create(_) => Ok(None),
            Action::Update(new) => self.replace(key, &old, new.clone(), &write.subresource),
            Action::Patch(kind @ (PatchKind::Merge | PatchKind::Strategic), body) => {
                let mut new = old.clone();
                merge(&mut new, body);
                if *kind == PatchKind::Strategic {
                    merge_conditions(&mut new, &old);
                }
                if body.pointer("/metadata/resourceVersion").is_none() {
                    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                }
                self.replace(key, &old, new, &write.subresource)
            }
            Action::Patch(..) => Err(Refusal::Unsupported("only merge patches, and strategic ones of conditions")),
            Action::Delete(options) => self.delete(key, old, options),
        }
    }

    fn create(&mut self, mut key: Key, mut object: Value) -> Result<(), Refusal> {
        if key.name.is_empty() {
            key.name = format!("{}{:05}", text(&object, "/metadata/generateName"), self.revision);
            object["metadata"]["name"] = json!(key.name);
        }
        if text(&object, "/kind").is_empty() {
            return Err(Refusal::Malformed);
        }
        if self.objects.contains_key(&key) {
            return Err(Refusal::AlreadyExists);
        }
        self.insert(key, object);
        Ok(())
    }

    fn insert(&mut self, key: Key, mut object: Value) {
        let uid = format!("uid-{}", self.revision + 1);
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(uid);
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(self.now);
        }
        meta["generation"] = json!(1);
        self.store(key, object);
    }

    fn store(&mut self, key: Key, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.objects.insert(key, object);
    }

    fn replace(&mut self, key: Key, old: &Value, mut new: Value, subresource: &str) -> Result<Option<Value>, Refusal> {
        let version = text(&new, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(old, "/metadata/resourceVersion") {
            return Err(Refusal::Conflict);
        }
        match subresource {
            "status" => {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            "finalize" => {
                let finalizers = new["spec"]["finalizers"].take();
                new = old.clone();
                new["spec"]["finalizers"] = finalizers;
            }
            "" => set_or_remove(&mut new, "status", old.get("status")),
            _ => return Err(Refusal::Unsupported("this subresource")),
        }
        for kept in ["uid", "creationTimestamp", "deletionTimestamp", "resourceVersion"] {
            set_or_remove(&mut new["metadata"], kept, old["metadata"].get(kept));
        }
        if subresource.is_empty() {
            new["metadata"]["generation"] = next_generation(old, &new);
        }
        let stopping = new["kind"] == "Pod" && !text(&new, "/spec/nodeName").is_empty();
        if is_terminating(&new) && !holds_back(&new) && !stopping {
            return Ok(self.remove(&key));
        }
        if new != *old {
            self.store(key, new);
        }
        Ok(None)
    }

    fn delete(&mut self, key: Key, mut object: Value, options: &DeleteOptions) -> Result<Option<Value>, Refusal> {
        if !options.resource_version.is_empty() && options.resource_version != text(&object, "/metadata/resourceVersion") {
            return Err(Refusal::Conflict);
        }
        let before = object.clone();
        let finalizer = match options.propagation {
            Propagation::Foreground => Some("foregroundDeletion"),
            Propagation::Orphan => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            if !list.iter().any(|f| f == finalizer) {
                object["metadata"]["finalizers"] = list.into_iter().chain([json!(finalizer)]).collect();
            }
        }
        let graceful = key.resource == "/pods" && !text(&object, "/spec/nodeName").is_empty() && options.grace_period_seconds != Some(0);
        let phase = text(&object, "/status/phase");
        let graceful = graceful && phase != "Failed" && phase != "Succeeded";
        if !graceful && !holds_back(&object) {
            return Ok(self.remove(&key));
        }
        if !is_terminating(&object) {
            object["metadata"]["deletionTimestamp"] = json!(self.now);
            if key.resource == "/namespaces" {
                object["status"]["phase"] = json!("Terminating");
            }
        }
        if object != before {
            self.store(key, object);
        }
        Ok(None)
    }
}

fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn holds_back(object: &Value) -> bool {
    let full = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    full(&object["metadata"]["finalizers"]) || object["kind"] == "Namespace" && full(&object["spec"]["finalizers"])
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<&Value>) {
    match (value, object.as_object_mut()) {
        (Some(value), Some(map)) => {
            map.insert(field.into(), value.clone());
        }
        (None, Some(map)) => {
            map.remove(field);
        }
        _ => {}
    }
}

fn next_generation(old: &Value, new: &Value) -> Value {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
    json!(if old["spec"] == new["spec"] { generation } else { generation + 1 })
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in members {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(map)) => {
                map.remove(name);
            }
            (value, Some(map)) => merge(map.entry(name.clone()).or_insert(Value::Null), value),
            _ => {}
        }
    }
}

/// What a strategic merge patch does to `status.conditions`, the one keyed list that the kit knows: those not in the patch stay.
fn merge_conditions(new: &mut Value, old: &Value) {
    let (Some(patched), Some(before)) = (new["status"]["conditions"].as_array().cloned(), old["status"]["conditions"].as_array()) else {
        return;
    };
    let mut conditions = before.clone();
    for condition in patched {
        match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
            Some(known) => merge(known, &condition),
            None => conditions.push(condition),
        }
    }
    new["status"]["conditions"] = Value::Array(conditions);
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn reference(resource: &str, object: &Value) -> ObjectRef {
    let (group, plural) = resource.split_once('/').unwrap_or(("", resource));
    let field = |pointer| text(object, pointer);
    ObjectRef::named(group, plural, field("/metadata/namespace"), field("/metadata/name")).with_uid(field("/metadata/uid"))
}
