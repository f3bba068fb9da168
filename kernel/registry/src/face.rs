//! Second faces of built-in kinds: those that show the objects of another kind in other words. An events.k8s.io Event is a core Event, and
//! an autoscaling/v1 HorizontalPodAutoscaler is the v2 one. Only the storage face is stored, cached, watched and judged;
//! a request for another face is turned into one for it at the door, and the answer back.
//!
//! Invariant: what a face cannot say is kept from the stored object when it is written through that face.

use std::sync::Arc;

use pintle_api::{ApiError, patch};
use serde_json::{Map, Value, json};

use crate::admission::Operation;
use crate::caller::Caller;
use crate::encode;
use crate::event::WatchEvent;
use crate::object::Object;
use crate::options::{Body, Patch, WriteOptions};
use crate::pipeline::{conform_value, decode_body};
use crate::registry::{Deleted, ListPage, Registry, Result, Written};
use crate::target::{ResourceInfo, Target};
use crate::update::{Edit, Source, language_of};

/// Member names of an Event in events.k8s.io/v1, and in the core group.
const EVENT_MEMBERS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// A face that is not the stored one.
#[derive(Clone)]
pub(crate) struct Face {
    shown: Arc<ResourceInfo>,
    stored: Arc<ResourceInfo>,
    words: Words,
}

#[derive(Clone, Copy)]
enum Words {
    Event,
    Autoscaler,
}

impl Registry {
    /// The target in its storage face, and the face that was asked for if it is another.
    pub(crate) fn unface(&self, target: &Target) -> Result<(Target, Option<Face>)> {
        let shown = &target.resource;
        let words = match (shown.group.as_ref(), shown.plural.as_ref()) {
            _ if shown.is_stored_face() => return Ok((target.clone(), None)),
            ("events.k8s.io", "events") => Words::Event,
            ("autoscaling", "horizontalpodautoscalers") => Words::Autoscaler,
            // Versions of custom resources are no faces: see `convert`.
            _ => return Ok((target.clone(), None)),
        };
        let stored = self.catalog.read().stored_face(&shown.key).ok_or_else(ApiError::no_route)?;
        let face = Face { shown: Arc::clone(shown), stored: Arc::clone(&stored), words };
        Ok((Target { resource: stored, ..target.clone() }, Some(face)))
    }
}

/// Writes through a face.
impl Registry {
    pub(crate) async fn create_through(
        &self,
        face: &Face,
        caller: &Caller,
        target: &Target,
        body: &Body,
        options: &WriteOptions,
    ) -> Result<Written> {
        let (value, mut warnings) = self.read_face(face, body, options)?;
        let stored = Body::Value(face.to_stored(value, None));
        let written = face.show_written(self.create_object(caller, target, stored, options).await?)?;
        warnings.extend(written.warnings);
        Ok(Written { warnings, ..written })
    }

    pub(crate) async fn update_through(
        &self,
        face: &Face,
        caller: &Caller,
        target: &Target,
        body: &Body,
        options: &WriteOptions,
    ) -> Result<Written> {
        let (value, warnings) = self.read_face(face, body, options)?;
        // An update that names no version replaces whatever is stored; one that does is held to it.
        let edit = |stored: &mut Value, _: &Object| {
            *stored = face.to_stored(value.clone(), Some(stored));
            Ok(())
        };
        self.edit_through(face, caller, target, &edit, options, warnings).await
    }

    pub(crate) async fn patch_through(
        &self,
        face: &Face,
        caller: &Caller,
        target: &Target,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Written> {
        if let Patch::Apply(text) = patch {
            let config = face.to_stored(self.read_config(&face.shown, &target.name, text, options)?.0, None);
            return face.show_written(self.apply_config(caller, target, &config, options).await?);
        }
        let (language, text) = language_of(patch)?;
        let catalog = Arc::clone(&self.catalog.read());
        let edit = |stored: &mut Value, _: &Object| {
            let mut value = patch::apply(&catalog.schema, &face.shown, language, text, &face.to_shown(stored.clone()))?;
            conform_value(&catalog, &face.shown, &mut value, options, &mut Vec::new())?;
            *stored = face.to_stored(value, Some(stored));
            Ok(())
        };
        self.edit_through(face, caller, target, &edit, options, Vec::new()).await
    }

    async fn edit_through(
        &self,
        face: &Face,
        caller: &Caller,
        target: &Target,
        edit: &Edit<'_>,
        options: &WriteOptions,
        mut warnings: Vec<String>,
    ) -> Result<Written> {
        let writing = self.writing(caller, target, Operation::Update, options.dry_run)?;
        let written = face.show_written(self.revise(writing, Source::Edit(edit), options).await?)?;
        warnings.extend(written.warnings);
        Ok(Written { warnings, ..written })
    }

    fn read_face(&self, face: &Face, body: &Body, options: &WriteOptions) -> Result<(Value, Vec<String>)> {
        let catalog = Arc::clone(&self.catalog.read());
        let mut warnings = Vec::new();
        let value = decode_body(&catalog, &face.shown, body, options, &mut warnings)?;
        Ok((value, warnings))
    }
}

impl Face {
    /// A value of this face in the words of the stored one. `old` is the stored object that it succeeds.
    pub(crate) fn to_stored(&self, mut value: Value, old: Option<&Value>) -> Value {
        match self.words {
            Words::Event => rename(&mut value, EVENT_MEMBERS),
            Words::Autoscaler => autoscaler_to_v2(&mut value, old),
        }
        self.name_type(value, &self.stored)
    }

    /// A stored value in the words of this face.
    pub(crate) fn to_shown(&self, mut value: Value) -> Value {
        match self.words {
            Words::Event => rename(&mut value, EVENT_MEMBERS.map(|(shown, stored)| (stored, shown))),
            Words::Autoscaler => autoscaler_to_v1(&mut value),
        }
        self.name_type(value, &self.shown)
    }

    pub(crate) fn show(&self, object: &Object) -> Result<Arc<Object>> {
        let value = self.to_shown(object.value().map_err(ApiError::internal)?);
        let text = encode::encode(&self.shown, &value).map_err(ApiError::internal)?;
        let made = if object.revision.0 == 0 {
            encode::unstored(&self.shown, &text)
        } else {
            encode::publish(&self.shown, &text, object.revision)
        };
        made.map(Arc::new).map_err(ApiError::internal)
    }

    pub(crate) fn show_written(&self, written: Written) -> Result<Written> {
        Ok(Written { object: self.show(&written.object)?, ..written })
    }

    pub(crate) fn show_deleted(&self, deleted: Deleted) -> Result<Deleted> {
        Ok(Deleted { object: self.show(&deleted.object)?, ..deleted })
    }

    pub(crate) fn show_page(&self, page: ListPage) -> Result<ListPage> {
        let items: Result<Vec<_>> = page.items.iter().map(|object| self.show(object)).collect();
        Ok(ListPage { items: items?, ..page })
    }

    pub(crate) fn show_event(&self, event: WatchEvent) -> Result<WatchEvent> {
        Ok(match event {
            WatchEvent::Added(object) => WatchEvent::Added(self.show(&object)?),
            WatchEvent::Modified(object) => WatchEvent::Modified(self.show(&object)?),
            WatchEvent::Deleted(object) => WatchEvent::Deleted(self.show(&object)?),
            bookmark @ WatchEvent::Bookmark { .. } => bookmark,
        })
    }

    fn name_type(&self, mut value: Value, resource: &ResourceInfo) -> Value {
        value["apiVersion"] = json!(resource.api_version());
        value["kind"] = json!(resource.kind);
        value
    }
}

fn rename<const N: usize>(value: &mut Value, members: [(&str, &str); N]) {
    let Some(map) = value.as_object_mut() else { return };
    for (from, to) in members {
        if let Some(member) = map.remove(from) {
            map.insert(to.to_owned(), member);
        }
    }
}

/// Whether an entry of `metrics` or `currentMetrics` is the processor load that v1 can say.
fn is_cpu(metric: &Value, key: &str) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" && metric["resource"][key]["averageUtilization"].is_number()
}

/// Moves a number of v1 into the list of v2, beside what else the stored object has there.
fn into_metrics(part: &mut Map<String, Value>, number: &str, list: &str, key: &str, old: Option<&Value>) {
    let load = part.remove(number).filter(Value::is_number);
    let mut metrics: Vec<Value> =
        old.and_then(Value::as_array).into_iter().flatten().filter(|metric| !is_cpu(metric, key)).cloned().collect();
    if let Some(load) = load {
        let mut target = json!({"averageUtilization": load});
        if key == "target" {
            target["type"] = json!("Utilization");
        } else {
            // v2 demands a value beside the percentage; v1 has none.
            target["averageValue"] = json!("0");
        }
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", key: target}}));
    }
    if !metrics.is_empty() {
        part.insert(list.to_owned(), Value::Array(metrics));
    }
}

fn autoscaler_to_v2(value: &mut Value, old: Option<&Value>) {
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        into_metrics(spec, "targetCPUUtilizationPercentage", "metrics", "target", old.and_then(|old| old.pointer("/spec/metrics")));
        keep(spec, "behavior", old.and_then(|old| old.pointer("/spec/behavior")));
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        into_metrics(
            status,
            "currentCPUUtilizationPercentage",
            "currentMetrics",
            "current",
            old.and_then(|old| old.pointer("/status/currentMetrics")),
        );
        keep(status, "conditions", old.and_then(|old| old.pointer("/status/conditions")));
    }
}

fn keep(part: &mut Map<String, Value>, key: &str, old: Option<&Value>) {
    if let Some(old) = old {
        part.insert(key.to_owned(), old.clone());
    }
}

fn autoscaler_to_v1(value: &mut Value) {
    let parts = [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage", "behavior"),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage", "conditions"),
    ];
    for (part, list, key, number, unsaid) in parts {
        let Some(part) = value.get_mut(part).and_then(Value::as_object_mut) else { continue };
        part.remove(unsaid);
        let metrics = part.remove(list).unwrap_or_default();
        let cpu = metrics.as_array().into_iter().flatten().find(|metric| is_cpu(metric, key));
        if let Some(cpu) = cpu {
            part.insert(number.to_owned(), cpu["resource"][key]["averageUtilization"].clone());
        }
    }
}
