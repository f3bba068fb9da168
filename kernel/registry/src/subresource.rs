//! Subresources that are more than a part of their object: scale, binding and eviction. Each turns into an ordinary write
//! of the object, through the same pipeline.

use std::sync::Arc;

use pintle_api::resource::kind_type;
use pintle_api::selector::LabelSelector;
use pintle_api::{ApiError, FieldError, Schema, apply, decode, patch, proto};
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::caller::Caller;
use crate::encode;
use crate::kinds;
use crate::object::Object;
use crate::options::{Body, DeleteOptions, DryRun, Patch, WriteOptions};
use crate::registry::{Index, Registry, Result, Written};
use crate::target::{ResourceInfo, Target};
use crate::update::{Source, language_of};

const SCALE_KIND: &str = "Scale";
const SCALE_VERSION: &str = "autoscaling/v1";

impl Registry {
    /// The autoscaling/v1 Scale of an object.
    pub(crate) fn scale_of(&self, object: &Object) -> Result<Arc<Object>> {
        let scale = scale_value(&object.resource, &object.value().map_err(ApiError::internal)?)?;
        let face = Arc::new(ResourceInfo::scale(&object.resource));
        let stored = encode::encode(&face, &scale).map_err(ApiError::internal)?;
        encode::publish(&face, &stored, object.revision).map(Arc::new).map_err(ApiError::internal)
    }

    pub(crate) async fn update_scale(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let scale = parse_body(&body, ("autoscaling", "v1", SCALE_KIND))?;
        self.set_scale(caller, target, &move |_| Ok(scale.clone()), options).await
    }

    pub(crate) async fn patch_scale(&self, caller: &Caller, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written> {
        if let Patch::Apply(text) = patch {
            return self.apply_scale(caller, target, text, options).await;
        }
        let (language, text) = language_of(patch)?;
        let schema = self.schema();
        let resource = Arc::clone(&target.resource);
        self.set_scale(caller, target, &move |current| patch::apply(&schema, &resource, language, text, current), options).await
    }

    /// Apply a scale: to the object it is the wish for its replicas and nothing else.
    async fn apply_scale(&self, caller: &Caller, target: &Target, text: &[u8], options: &WriteOptions) -> Result<Written> {
        let (scale, _) = apply::read_version(SCALE_VERSION, text)?;
        let replicas = wanted_replicas(target, &scale)?;
        let resource = &target.resource;
        let mut config = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": target.name}});
        if let Some(version) = scale.pointer("/metadata/resourceVersion") {
            config["metadata"]["resourceVersion"] = version.clone();
        }
        if scale.pointer("/spec/replicas").is_some() {
            put_at(&mut config, &replicas_path(resource), json!(replicas));
        }
        let written = self.apply_config(caller, target, &config, options).await?;
        Ok(Written { object: self.scale_of(&written.object)?, ..written })
    }

    /// Store the replicas of the scale that `make` makes of the current one.
    async fn set_scale(
        &self,
        caller: &Caller,
        target: &Target,
        make: &(dyn Fn(&Value) -> Result<Value> + Send + Sync),
        options: &WriteOptions,
    ) -> Result<Written> {
        let edit = |value: &mut Value, current: &Object| {
            let scale = make(&scale_value(&target.resource, value)?)?;
            let replicas = wanted_replicas(target, &scale)?;
            let asked = scale.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
            if !asked.is_empty() && asked != current.revision.to_string() {
                return Err(ApiError::stale(&target.resource, &target.name));
            }
            put_at(value, &replicas_path(&target.resource), json!(replicas));
            Ok(())
        };
        let writing = self.writing(caller, target, Operation::Update, options.dry_run)?;
        let written = self.revise(writing, Source::Edit(&edit), options).await?;
        Ok(Written { object: self.scale_of(&written.object)?, ..written })
    }

    /// `POST bindings`: the body names the pod.
    pub(crate) async fn bind_by_body(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let binding = parse_body(&body, ("", "v1", "Binding"))?;
        let name = binding.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let pod = self.resolve("", "v1", "pods", "binding", &target.namespace, name)?;
        if name.is_empty() {
            return Err(ApiError::bad_request("the binding names no pod"));
        }
        self.bind(caller, &pod, Body::Value(binding), options).await
    }

    /// Bind a pod to a machine: 409 if it is bound, or being deleted.
    pub(crate) async fn bind(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let binding = name_type(parse_body(&body, ("", "v1", "Binding"))?, "v1", "Binding", target);
        let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or_default();
        if node.is_empty() || !matches!(kind, "" | "Node") {
            let field = if node.is_empty() {
                FieldError::required("target.name", "")
            } else {
                FieldError::not_supported("target.kind", kind, &["Node"])
            };
            return Err(ApiError::invalid_kind("", "Binding", &target.name, &[field]));
        }
        let uid = binding.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
        let now = kinds::now_text();
        let edit = |pod: &mut Value, current: &Object| {
            check_bindable(target, current, uid)?;
            pod["spec"]["nodeName"] = json!(node);
            if !annotations.is_empty() && !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            for (key, value) in &annotations {
                pod["metadata"]["annotations"][key] = value.clone();
            }
            set_condition(pod, "PodScheduled", &now);
            Ok(())
        };
        // The pod as a whole changes, status included; judges see the creation of a binding.
        let mut writing = self.writing(caller, target, Operation::Create, options.dry_run)?;
        writing.admit_posted(&binding).await?;
        let written = self.revise(writing.admitted(), Source::Edit(&edit), options).await?;
        Ok(Written { created: true, ..written })
    }

    /// Evict a pod: delete it, unless a disruption budget has nothing left.
    pub(crate) async fn evict(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let eviction = name_type(parse_body(&body, ("policy", "v1", "Eviction"))?, "policy/v1", "Eviction", target);
        let pod = self.current(target)?;
        let ask = eviction.get("deleteOptions").cloned().unwrap_or_default();
        let text = |pointer: &str| ask.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry = options.dry_run == DryRun::All || ask.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let delete = DeleteOptions {
            grace_period_seconds: ask.get("gracePeriodSeconds").and_then(Value::as_i64),
            precondition_uid: text("/preconditions/uid"),
            precondition_resource_version: text("/preconditions/resourceVersion"),
            propagation: None,
            dry_run: if dry { DryRun::All } else { DryRun::No },
        };
        self.writing(caller, target, Operation::Create, delete.dry_run)?.admit_posted(&eviction).await?;
        self.charge_budget(caller, &pod, delete.dry_run).await?;
        if delete.dry_run == DryRun::No && delete.precondition_resource_version.is_none() {
            self.note_disruption(caller, target).await?;
        }
        let deleted = self.delete_object(caller, &target.subresource(""), &delete).await?;
        Ok(Written { object: deleted.object, created: true, warnings: deleted.warnings })
    }

    /// A pod says that it was evicted: its owner may look on that otherwise than on a failure of its own.
    async fn note_disruption(&self, caller: &Caller, target: &Target) -> Result<()> {
        let target = target.subresource("status");
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "lastTransitionTime": kinds::now_text(),
        });
        let edit = |value: &mut Value, _: &Object| {
            let mut conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|known| known["type"] != condition["type"]);
            conditions.push(condition.clone());
            value["status"]["conditions"] = json!(conditions);
            Ok(())
        };
        let writing = self.writing(caller, &target, Operation::Update, DryRun::No)?.admitted();
        self.revise(writing, Source::Edit(&edit), &WriteOptions::default()).await.map(drop)
    }

    /// Take a disruption off the budget that covers the pod: 429 when it has none left. A pod that is over, or already going, disrupts
    /// nothing.
    async fn charge_budget(&self, caller: &Caller, pod: &Object, dry_run: DryRun) -> Result<()> {
        let over = matches!(pod.field("status.phase"), Some("Succeeded" | "Failed" | "Pending"));
        if over || pod.meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        let (budgets, _) = self.list_index(&kinds::budgets_key(), &Index::Namespace, &pod.meta.namespace);
        let mut covering = Vec::new();
        for budget in budgets {
            let value = budget.value().map_err(ApiError::internal)?;
            if LabelSelector::from_object(&value["spec"]["selector"])?.matches_with(|key| pod.meta.label(key)) {
                covering.push(budget);
            }
        }
        let budget = match covering.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::internal(why));
            }
        };
        if !is_ready(pod)? && spares_unhealthy(&budget.value().map_err(ApiError::internal)?) {
            return Ok(());
        }
        let target = self.resolve("policy", "v1", "poddisruptionbudgets", "status", &budget.meta.namespace, &budget.meta.name)?;
        let now = kinds::now_text();
        let edit = |value: &mut Value, current: &Object| {
            check_budget(&current.meta.name, value)?;
            let left = value["status"]["disruptionsAllowed"].as_i64().unwrap_or_default();
            value["status"]["disruptionsAllowed"] = json!(left - 1);
            if !value["status"]["disruptedPods"].is_object() {
                value["status"]["disruptedPods"] = json!({});
            }
            value["status"]["disruptedPods"][&*pod.meta.name] = json!(now);
            Ok(())
        };
        let writing = self.writing(caller, &target, Operation::Update, dry_run)?;
        self.revise(writing, Source::Edit(&edit), &WriteOptions::default()).await.map(drop)
    }
}

fn is_ready(pod: &Object) -> Result<bool> {
    let pod = pod.value().map_err(ApiError::internal)?;
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    Ok(conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
}

/// Whether pods that are not ready may go without being charged: always, or while enough others are healthy.
fn spares_unhealthy(budget: &Value) -> bool {
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or_default();
    let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || needs > 0 && has >= needs
}

/// 429 when a budget allows no disruption, or does not know yet.
fn check_budget(name: &str, budget: &Value) -> Result<()> {
    let status = &budget["status"];
    let number = |key: &str| status[key].as_i64().unwrap_or_default();
    let (seconds, why) = if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or_default() {
        (10, format!("The disruption budget {name} is still being processed by the server."))
    } else if number("disruptionsAllowed") <= 0 {
        let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
        (0, format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"))
    } else {
        return Ok(());
    };
    let refusal = ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", seconds);
    Err(refusal.because("DisruptionBudget", &why, ""))
}

/// What is posted to a subresource, as a whole object: clients may leave out what the path says.
fn name_type(mut posted: Value, api_version: &str, kind: &str, target: &Target) -> Value {
    posted["apiVersion"] = json!(api_version);
    posted["kind"] = json!(kind);
    if !posted["metadata"].is_object() {
        posted["metadata"] = json!({});
    }
    posted["metadata"]["name"] = json!(target.name);
    posted["metadata"]["namespace"] = json!(target.namespace);
    posted
}

/// Where a resource's objects have their wanted replicas.
fn replicas_path(resource: &ResourceInfo) -> String {
    let scale = resource.custom.as_ref().and_then(|version| version.scale());
    scale.map_or("/spec/replicas".to_owned(), |at| at.spec_replicas)
}

impl ResourceInfo {
    /// The face under which a resource's scale is shown.
    fn scale(of: &ResourceInfo) -> Self {
        let mut row = (**of).clone();
        row.group = "autoscaling".into();
        row.version = "v1".into();
        row.kind = SCALE_KIND.into();
        ResourceInfo::new(row)
    }
}

/// A small body of a kind that is only posted to a subresource.
fn parse_body(body: &Body, (group, version, kind): (&str, &str, &str)) -> Result<Value> {
    let (bytes, format) = match body {
        Body::Json(bytes) => (bytes, decode::Format::Json),
        Body::Yaml(bytes) => (bytes, decode::Format::Yaml),
        Body::Value(value) => return Ok(value.clone()),
        Body::Protobuf(bytes) => {
            let view = kind_type(group, version, kind).and_then(|id| Schema::builtin().get(id));
            let view = view.ok_or_else(|| ApiError::unsupported_media_type(&["application/json", "application/yaml"]))?;
            return proto::decode_kind(view, bytes);
        }
    };
    let (value, _) = decode::parse(bytes, format)?;
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request("the body is not an object")) }
}

/// Put a value at a JSON pointer of members, with the objects on the way.
fn put_at(value: &mut Value, pointer: &str, what: Value) {
    let mut place = value;
    for member in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[member];
    }
    *place = what;
}

fn scale_value(resource: &ResourceInfo, object: &Value) -> Result<Value> {
    let metadata = &object["metadata"];
    let mut shown = serde_json::Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(key) {
            shown.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(paths) = resource.custom.as_ref().and_then(|version| version.scale()) {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
        let missing = || ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.spec_replicas.replace('/', ".")));
        let spec = number(&paths.spec_replicas).ok_or_else(missing)?;
        let mut status = json!({"replicas": number(&paths.status_replicas).unwrap_or_default()});
        if let Some(selector) = object.pointer(&paths.selector).and_then(Value::as_str).filter(|_| !paths.selector.is_empty()) {
            status["selector"] = json!(selector);
        }
        return Ok(
            json!({"kind": SCALE_KIND, "apiVersion": SCALE_VERSION, "metadata": shown, "spec": {"replicas": spec}, "status": status}),
        );
    }
    let selector = match &object["spec"]["selector"] {
        Value::Object(map) if map.contains_key("matchLabels") || map.contains_key("matchExpressions") => {
            LabelSelector::from_object(&object["spec"]["selector"]).ok()
        }
        Value::Object(_) => Some(LabelSelector::from_map(&object["spec"]["selector"])),
        _ => None,
    };
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or_default()});
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status["selector"] = json!(selector.to_string());
    }
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or_default();
    Ok(json!({"kind": SCALE_KIND, "apiVersion": SCALE_VERSION, "metadata": shown, "spec": {"replicas": replicas}, "status": status}))
}

fn wanted_replicas(target: &Target, scale: &Value) -> Result<i64> {
    let invalid = |error: FieldError| ApiError::invalid_kind("autoscaling", SCALE_KIND, &target.name, &[error]);
    let name = scale.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !name.is_empty() && name != target.name {
        return Err(ApiError::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", target.name)));
    }
    let kind = scale.get("kind").and_then(Value::as_str).unwrap_or(SCALE_KIND);
    if kind != SCALE_KIND {
        return Err(ApiError::bad_request(format!("the kind in the data ({kind}) does not match the expected kind (Scale)")));
    }
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().ok_or_else(|| ApiError::bad_request("spec.replicas is not an integer"))?,
    };
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        return Err(invalid(FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0")));
    }
    Ok(replicas)
}

fn check_bindable(target: &Target, pod: &Object, uid: &str) -> Result<()> {
    let refuse = |why: &str| Err(ApiError::conflict(&target.resource, &target.name, why));
    if !uid.is_empty() && *pod.meta.uid != *uid {
        return refuse(&format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", pod.meta.uid));
    }
    if pod.meta.deletion_timestamp.is_some() {
        return refuse(&format!("pod {} is being deleted, cannot be assigned to a host", target.name));
    }
    match pod.field("spec.nodeName") {
        None | Some("") => Ok(()),
        Some(node) => refuse(&format!("pod {} is already assigned to node {node:?}", target.name)),
    }
}

/// Set a condition to True.
fn set_condition(pod: &mut Value, kind: &str, now: &str) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let made = json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != kind);
        conditions.push(made);
    }
}
