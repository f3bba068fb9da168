//! What a few kinds demand of the mechanism beyond the API's rows. Each is told in a line, tested beside its use, and
//! there is nothing else in the registry that knows a kind's name.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::object::Object;
use crate::target::{ResourceInfo, ResourceKey};

/// The finalizer of namespaces that waits for their content to be deleted.
const NAMESPACE_FINALIZER: &str = "kubernetes";

fn is(resource: &ResourceInfo, group: &str, plural: &str) -> bool {
    resource.group == group && resource.plural == plural
}

/// Services have addresses and ports allocated.
pub(crate) fn is_service(resource: &ResourceInfo) -> bool {
    is(resource, "", "services")
}

/// Namespaces wait for their content when they are deleted.
pub(crate) fn is_namespace(resource: &ResourceInfo) -> bool {
    is(resource, "", "namespaces")
}

/// Pods have time to stop when they are deleted.
pub(crate) fn is_pod(resource: &ResourceInfo) -> bool {
    is(resource, "", "pods")
}

/// Where core Events are kept.
pub(crate) fn events_key() -> ResourceKey {
    ResourceKey::new("", "events")
}

/// Where CustomResourceDefinitions are kept.
pub(crate) fn definitions_key() -> ResourceKey {
    ResourceKey::new("apiextensions.k8s.io", "customresourcedefinitions")
}

/// The finalizer that an object gets when it is deleted: a definition waits for its objects.
pub(crate) fn deletion_finalizer(resource: &ResourceInfo) -> Option<&'static str> {
    is(resource, "apiextensions.k8s.io", "customresourcedefinitions").then_some(crate::definitions::FINALIZER)
}

/// Where there is what takes addresses and ports: Services, and what bears on their addresses.
pub(crate) const ALLOCATING: [(&str, &str); 3] =
    [("", "services"), ("networking.k8s.io", "ipaddresses"), ("networking.k8s.io", "servicecidrs")];

/// Where disruption budgets are kept.
pub(crate) fn budgets_key() -> ResourceKey {
    ResourceKey::new("policy", "poddisruptionbudgets")
}

/// A new namespace gets its finalizer; a certificate request says who made it, whatever it says itself.
pub(crate) fn prepare_create(resource: &ResourceInfo, value: &mut Value, caller: &Caller) {
    if is(resource, "certificates.k8s.io", "certificatesigningrequests")
        && let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.retain(|key, _| !["username", "uid", "groups", "extra"].contains(&key.as_str()));
        spec.extend(caller.info().as_object().cloned().unwrap_or_default());
    }
    if !is_namespace(resource) {
        return;
    }
    let finalizers = value.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == NAMESPACE_FINALIZER) {
        let mut finalizers = finalizers;
        finalizers.push(json!(NAMESPACE_FINALIZER));
        if !value.get("spec").is_some_and(Value::is_object) {
            value["spec"] = json!({});
        }
        value["spec"]["finalizers"] = Value::Array(finalizers);
    }
}

/// A Service that becomes of another type loses what only the former has, unless the write changes that too.
fn drop_type_fields(value: &mut Value, old: &Value) {
    let kind = value["spec"]["type"].as_str().unwrap_or_default().to_owned();
    if old["spec"]["type"] == kind.as_str() {
        return;
    }
    let balanced = kind == "LoadBalancer";
    let fields = [
        ("externalTrafficPolicy", balanced || kind == "NodePort"),
        ("healthCheckNodePort", balanced),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
    ];
    let Some(spec) = value["spec"].as_object_mut() else { return };
    for (field, _) in fields.into_iter().filter(|(_, kept)| !kept) {
        if spec.get(field) == old["spec"].get(field) {
            spec.remove(field);
        }
    }
}

/// A namespace's finalizers change by its `finalize` subresource only.
pub(crate) fn prepare_update(resource: &ResourceInfo, subresource: &str, value: &mut Value, old: &Value) {
    if is_service(resource) && subresource.is_empty() {
        drop_type_fields(value, old);
    }
    if !is_namespace(resource) || subresource == "finalize" {
        return;
    }
    match old.pointer("/spec/finalizers") {
        Some(finalizers) => {
            if !value.get("spec").is_some_and(Value::is_object) {
                value["spec"] = json!({});
            }
            value["spec"]["finalizers"] = finalizers.clone();
        }
        None => {
            if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("finalizers");
            }
        }
    }
}

/// Finalizers outside the metadata.
pub(crate) fn spec_finalizers(resource: &ResourceInfo, value: &Value) -> usize {
    if !is_namespace(resource) {
        return 0;
    }
    value.pointer("/spec/finalizers").and_then(Value::as_array).map_or(0, Vec::len)
}

/// Seconds that the kind gives an object to stop in when the client does not say; 0 for most. A pod that is bound to no
/// machine, or is over, has nothing to stop.
pub(crate) fn grace_seconds(resource: &ResourceInfo, object: &Object, value: &Value, asked: Option<i64>) -> i64 {
    if !is_pod(resource) {
        return 0;
    }
    let over = matches!(object.field("status.phase"), Some("Succeeded" | "Failed"));
    if object.field("spec.nodeName").is_none_or(str::is_empty) || over {
        return 0;
    }
    let own = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let seconds = asked.or(own).unwrap_or(30);
    // Upstream reads a negative period as one second.
    if seconds < 0 { 1 } else { seconds }
}

/// Now, as objects say it: RFC 3339 with seconds.
pub(crate) fn now_text() -> String {
    time_text(Timestamp::now())
}

/// A time as objects say it: RFC 3339 with seconds.
pub(crate) fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Random text for `generateName`: five characters that form no words.
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    uuid::Uuid::new_v4().as_bytes()[..5].iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}
