//! Versions of custom resources. Objects are kept as they were stored; whoever asks for another version gets them converted: by their
//! name alone, or by the webhook that the definition names.
//!
//! A write is made in the version that it is asked in, from decoding to validating admission; only its text is converted, right before it
//! is stored, and the answer back. A page of objects is converted at once.
//!
//! Facts: `k8s.io/apiextensions-apiserver/pkg/apiserver/conversion`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use pintle_api::ApiError;
use serde_json::{Map, Value, json};

use crate::encode;
use crate::event::{Event, WatchEvent};
use crate::object::Object;
use crate::registry::{Registry, Result};
use crate::selector::Selector;
use crate::target::{ResourceInfo, Target};
use crate::watchers::seen_through;

/// Converts custom resources by what their definition says (`spec.conversion` with strategy `Webhook`).
pub trait Converter: Send + Sync {
    /// `objects` in `api_version` (`group/version`), in their order. An error is text for people.
    fn convert<'a>(
        &'a self,
        conversion: &'a Value,
        api_version: &'a str,
        objects: &'a [Value],
    ) -> BoxFuture<'a, std::result::Result<Vec<Value>, String>>;
}

/// Shows the changes of a watch in the version that its client asked for.
pub(crate) struct View {
    resource: Arc<ResourceInfo>,
    selector: Selector,
    converter: Option<Arc<dyn Converter>>,
}

impl Registry {
    /// The object that a target names, in the target's version, or 404.
    pub(crate) async fn current_shown(&self, target: &Target) -> Result<Arc<Object>> {
        self.shown_one(&target.resource, self.current(target)?).await
    }

    pub(crate) async fn shown_one(&self, resource: &Arc<ResourceInfo>, object: Arc<Object>) -> Result<Arc<Object>> {
        let mut shown = self.shown(resource, vec![object]).await?;
        shown.pop().ok_or_else(|| ApiError::internal("nothing was converted"))
    }

    /// Objects in the version of `resource`.
    pub(crate) async fn shown(&self, resource: &Arc<ResourceInfo>, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>> {
        let converter = self.converter.read().clone();
        shown(converter.as_deref(), resource, objects).await
    }

    /// A text of the version `resource` as it is stored.
    pub(crate) async fn to_stored(&self, resource: &ResourceInfo, stored: &Arc<ResourceInfo>, text: Bytes) -> Result<Bytes> {
        if !resource.is_converted() || resource.version == stored.version {
            return Ok(text);
        }
        let value = serde_json::from_slice(&text).map_err(ApiError::internal)?;
        let converter = self.converter.read().clone();
        let made = converted(converter.as_deref(), stored, vec![value]).await?;
        encode::encode(stored, made.first().unwrap_or(&Value::Null)).map_err(ApiError::internal)
    }

    pub(crate) fn view(&self, resource: &Arc<ResourceInfo>, selector: Selector) -> View {
        View { resource: Arc::clone(resource), selector, converter: self.converter.read().clone() }
    }
}

impl View {
    /// What a change is to the client; `None` if it is none of its business.
    pub(crate) async fn show(&self, event: &Event) -> Result<Option<WatchEvent>> {
        let objects = std::iter::once(&event.object).chain(&event.previous).cloned().collect();
        let mut shown = shown(self.converter.as_deref(), &self.resource, objects).await?.into_iter();
        let Some(object) = shown.next() else { return Ok(None) };
        Ok(seen_through(&self.selector, &Event { object, previous: shown.next(), ..event.clone() }))
    }

    /// Whether it selects an object as it is shown.
    pub(crate) fn selects(&self, object: &Object) -> bool {
        self.selector.matches(object)
    }
}

async fn shown(converter: Option<&dyn Converter>, resource: &Arc<ResourceInfo>, mut objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>> {
    if !resource.is_converted() {
        return Ok(objects);
    }
    let others: Vec<usize> = (0..objects.len()).filter(|at| objects[*at].resource.version != resource.version).collect();
    let values: std::result::Result<Vec<Value>, _> = others.iter().map(|at| objects[*at].value()).collect();
    let made = converted(converter, resource, values.map_err(ApiError::internal)?).await?;
    for (at, value) in others.into_iter().zip(made) {
        let text = encode::encode(resource, &value).map_err(ApiError::internal)?;
        let object = encode::publish(resource, &text, objects[at].revision).map_err(ApiError::internal)?;
        objects[at] = Arc::new(Object { stale: objects[at].stale, ..object });
    }
    Ok(objects)
}

/// Values of one custom resource in the version of `resource`; none of them is in it.
async fn converted(converter: Option<&dyn Converter>, resource: &ResourceInfo, mut values: Vec<Value>) -> Result<Vec<Value>> {
    let (Some(version), Some(first)) = (&resource.custom, values.first()) else { return Ok(values) };
    let api_version = resource.api_version();
    if version.converts_by_name() {
        values.iter_mut().for_each(|value| value["apiVersion"] = json!(api_version));
    } else {
        let text = |key: &str| first[key].as_str().unwrap_or_default();
        let who = format!("conversion webhook for {}, Kind={}", text("apiVersion"), text("kind"));
        let failed = |why: String| ApiError::from_code(500, "", format!("{who} {why}"));
        let converter = converter.ok_or_else(|| failed("failed: this server calls no webhooks".into()))?;
        let mut made =
            converter.convert(version.conversion(), &api_version, &values).await.map_err(|why| failed(format!("failed: {why}")))?;
        if made.len() != values.len() {
            return Err(failed(format!("returned {} objects, expected {}", made.len(), values.len())));
        }
        for (at, (before, after)) in values.iter().zip(&mut made).enumerate() {
            settle(before, after, &api_version).map_err(|why| failed(format!("returned invalid object at index {at}: {why}")))?;
        }
        values = made;
    }
    values.iter_mut().for_each(|value| version.settle(value));
    Ok(values)
}

/// Hold what a webhook made against what it was given: of the metadata it may change labels and annotations.
fn settle(before: &Value, after: &mut Value, api_version: &str) -> std::result::Result<(), String> {
    if after["apiVersion"] != *api_version {
        return Err(format!("invalid groupVersion (expected {api_version}, received {})", after["apiVersion"]));
    }
    if after["kind"] != before["kind"] {
        return Err(format!("invalid kind (expected {}, received {})", before["kind"], after["kind"]));
    }
    for key in ["name", "namespace", "uid"] {
        let (old, new) = (&before["metadata"][key], &after["metadata"][key]);
        if old != new {
            return Err(format!("must have the same {key}: {old} != {new}"));
        }
    }
    let mut metadata = before["metadata"].as_object().cloned().unwrap_or_default();
    for key in ["labels", "annotations"] {
        match &after["metadata"][key] {
            Value::Null => metadata.remove(key),
            Value::Object(texts) if texts.values().all(Value::is_string) => metadata.insert(key.to_owned(), Value::Object(texts.clone())),
            other => return Err(format!("invalid metadata.{key} in converted object: {other}")),
        };
    }
    after["metadata"] = Value::Object(Map::from_iter(metadata));
    Ok(())
}
