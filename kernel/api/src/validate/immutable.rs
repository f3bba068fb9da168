//! What an update may not change: `fixed` and `once-set` in schema/resources.rows where that is all there is to say; functions, named there, where it depends.

use serde_json::{Value, json};

use super::Failures;
use crate::resource::Resource;
use crate::status::FieldError;

pub(super) const FIXED: &str = "field is immutable";

/// What `new` must keep of `old`, or may only change in some way.
pub(crate) type Succession = fn(&Value, &Value, &mut Failures);

/// Checks that the status of `new` may follow that of `old`.
pub(super) fn check_status(resource: &Resource, new: &Value, old: &Value, failures: &mut Failures) {
    resource.facts().update_status.into_iter().for_each(|check| check(new, old, failures));
}

/// Checks that `new`, as a write to the subresource `part`, keeps of `old` what it must.
pub(super) fn check_part(resource: &Resource, part: &str, new: &Value, old: &Value, failures: &mut Failures) {
    resource.facts().part(part).and_then(|part| part.check).into_iter().for_each(|check| check(new, old, failures));
}

/// Ephemeral containers stay, and stay as they are.
pub(crate) fn ephemeral_containers(new: &Value, old: &Value, failures: &mut Failures) {
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let now = list(new);
    for before in list(old) {
        let name = &before["name"];
        let why = match now.iter().find(|container| container["name"] == *name) {
            None => format!("existing ephemeral containers {name} may not be removed\n"),
            Some(same) if *same != before => format!("existing ephemeral containers {name} may not be changed\n"),
            Some(_) => continue,
        };
        failures.push(FieldError::forbidden("spec.ephemeralContainers", why));
    }
}

/// A resize changes what containers ask for of processor and memory, not what kind of pod it is.
pub(crate) fn resize(new: &Value, old: &Value, failures: &mut Failures) {
    let amounts = ["requests", "limits"].map(|kind| ["cpu", "memory"].map(|name| format!("resources/{kind}/{name}")));
    let mut mutable: Vec<String> = vec!["/resources".to_owned()];
    for list in ["containers", "initContainers"] {
        mutable.push(format!("/{list}/*/resizePolicy"));
        mutable.extend(amounts.iter().flatten().map(|amount| format!("/{list}/*/{amount}")));
    }
    let mutable: Vec<&str> = mutable.iter().map(String::as_str).collect();
    let fixed = |pod: &Value| {
        let mut spec = without(&pod["spec"], &mutable);
        ["requests", "limits"].iter().for_each(|kind| drop_empty(&mut spec, kind));
        spec
    };
    if fixed(new) != fixed(old) {
        failures.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
    }
    let class = crate::pod::qos_class(&new["spec"]);
    if class != crate::pod::qos_class(&old["spec"]) {
        failures.push(FieldError::invalid("spec", class, "Pod QOS Class may not change as a result of resizing"));
    }
}

/// Removes the empty maps `kind` of containers' resources.
fn drop_empty(spec: &mut Value, kind: &str) {
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if let Some(resources) = container["resources"].as_object_mut() {
                resources.retain(|key, amounts| key != kind || amounts.as_object().is_none_or(|map| !map.is_empty()));
            }
        }
    }
}

/// Checks that `new` keeps of `old` what objects of `resource` must keep.
pub(super) fn check(resource: &Resource, new: &Value, old: &Value, failures: &mut Failures) {
    let facts = resource.facts();
    facts.fixed.iter().for_each(|pointer| keep(pointer, new, old, failures));
    let had = |pointer: &str| old.pointer(pointer).is_some_and(|value| value.as_str() != Some(""));
    for pointer in facts.once_set.iter().filter(|pointer| had(pointer) && new.pointer(pointer) != old.pointer(pointer)) {
        failures.push(FieldError::forbidden(pointer.trim_start_matches('/').replace('/', "."), "may not change once it has a value"));
    }
    facts.update.into_iter().for_each(|check| check(new, old, failures));
}

fn keep(pointer: &str, new: &Value, old: &Value, failures: &mut Failures) {
    if new.pointer(pointer) != old.pointer(pointer) {
        let path = pointer.trim_start_matches('/').replace('/', ".");
        let shown = new.pointer(pointer).cloned().unwrap_or(Value::Null);
        let why = if path == "roleRef" { "cannot change roleRef" } else { FIXED };
        failures.push(FieldError::invalid(path, shown, why));
    }
}

/// A copy of `value` without the fields at `pointers`; `*` stands for every element of a list.
fn without(value: &Value, pointers: &[&str]) -> Value {
    let mut copy = value.clone();
    for pointer in pointers {
        let keys: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
        remove(&mut copy, &keys);
    }
    copy
}

fn remove(value: &mut Value, keys: &[&str]) {
    match (keys, value) {
        ([last], Value::Object(map)) => {
            map.remove(*last);
        }
        (["*", rest @ ..], Value::Array(list)) => list.iter_mut().for_each(|item| remove(item, rest)),
        ([first, rest @ ..], Value::Object(map)) => {
            if let Some(inner) = map.get_mut(*first) {
                remove(inner, rest);
            }
        }
        _ => {}
    }
}

/// Of a pod only a few fields may change: images, the deadline, more tolerations; its gates may open.
pub(crate) fn pod(new: &Value, old: &Value, failures: &mut Failures) {
    const MUTABLE: &[&str] =
        &["/containers/*/image", "/initContainers/*/image", "/activeDeadlineSeconds", "/tolerations", "/schedulingGates"];
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if new[list].as_array().map_or(0, Vec::len) != old[list].as_array().map_or(0, Vec::len) {
            return failures.push(FieldError::forbidden(format!("spec.{list}"), "pod updates may not add or remove containers"));
        }
    }
    let gates = |spec: &Value| spec["schedulingGates"].as_array().cloned().unwrap_or_default();
    let (was, mut mutable) = (gates(old), MUTABLE.to_vec());
    if !was.is_empty() {
        mutable.extend(["/nodeSelector", "/affinity"]);
    }
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) && new["terminationGracePeriodSeconds"] == 1 {
        mutable.push("/terminationGracePeriodSeconds");
    }
    for (index, gate) in gates(new).iter().enumerate().filter(|(_, gate)| !was.contains(gate)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate["name"].as_str().unwrap_or_default());
        failures.push(FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), why));
    }
    if old["nodeSelector"].as_object().into_iter().flatten().any(|(key, value)| !was.is_empty() && new["nodeSelector"][key] != *value) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        failures.push(FieldError::invalid("spec.nodeSelector", new["nodeSelector"].clone(), why));
    }
    if without(new, &mutable) != without(old, &mutable) {
        failures.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
             `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    if old["nodeName"].is_string() && new["nodeName"] != old["nodeName"] {
        failures.push(FieldError::forbidden("spec.nodeName", "a pod stays on its node"));
    }
    let keeps = old["tolerations"].as_array().into_iter().flatten().all(|old| {
        let same = |a: &Value| without(a, &["/tolerationSeconds"]) == without(old, &["/tolerationSeconds"]);
        new["tolerations"].as_array().into_iter().flatten().any(same)
    });
    if !keeps {
        failures.push(FieldError::forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"));
    }
    let deadline = |spec: &Value| spec["activeDeadlineSeconds"].as_i64();
    if let Some(before) = deadline(old)
        && deadline(new).is_none_or(|now| now > before)
    {
        let shown = new["activeDeadlineSeconds"].clone();
        failures.push(FieldError::invalid(
            "spec.activeDeadlineSeconds",
            shown,
            format!("must be less than or equal to previous value: {before}"),
        ));
    }
}

/// A config map or secret that says `immutable: true` stays as it is.
pub(crate) fn frozen(new: &Value, old: &Value, failures: &mut Failures) {
    if old["immutable"] != json!(true) {
        return;
    }
    if new["immutable"] != json!(true) {
        failures.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for key in ["data", "binaryData"] {
        if new.get(key) != old.get(key) {
            failures.push(FieldError::forbidden(key, "field is immutable when `immutable` is set"));
        }
    }
}

pub(crate) fn service(new: &Value, old: &Value, failures: &mut Failures) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    let address = |service: &Value| service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    if external(new) || external(old) || address(old).is_empty() {
        return;
    }
    if address(new) != address(old) {
        failures.push(FieldError::invalid("spec.clusterIPs[0]", json!([address(new)]), "may not change once set"));
    } else if address(old) != "None" {
        kept_in_order(new, old, "/spec/clusterIPs", failures);
        kept_in_order(new, old, "/spec/ipFamilies", failures);
    }
}

/// Of a list for one or both families: what both have, they have alike. The second may come and go.
pub(crate) fn kept_in_order(new: &Value, old: &Value, pointer: &str, failures: &mut Failures) {
    let all = |object: &Value| object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(at) = all(new).iter().zip(all(old)).position(|(new, old)| *new != old) {
        let field = format!("{}[{at}]", pointer[1..].replace('/', "."));
        failures.push(FieldError::invalid(&field, Value::Array(all(new)), "may not change once set"));
    }
}

pub(crate) fn claim(new: &Value, old: &Value, failures: &mut Failures) {
    let mut mutable = vec!["/volumeName"];
    if new["status"]["phase"] == "Bound" {
        mutable.extend(["/resources/requests", "/volumeAttributesClassName"]);
    }
    if old["spec"]["storageClassName"].is_null() {
        mutable.push("/storageClassName");
    }
    let size = |claim: &Value, at: &str| claim.pointer(at).and_then(super::amount);
    if let [Some(now), Some(was)] = [new, old].map(|claim| size(claim, "/spec/resources/requests/storage"))
        && now.compare(was).is_lt()
        && size(old, "/status/capacity/storage").is_some_and(|had| now.compare(had).is_le())
    {
        failures.push(FieldError::forbidden("spec.resources.requests.storage", "field can not be less than status.capacity"));
    }
    if without(&new["spec"], &mutable) != without(&old["spec"], &mutable) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        failures.push(FieldError::forbidden("spec", why));
    }
}

pub(crate) fn volume(new: &Value, old: &Value, failures: &mut Failures) {
    #[rustfmt::skip]
    let mutable = [
        "/capacity", "/volumeMode", "/accessModes", "/claimRef", "/persistentVolumeReclaimPolicy", "/storageClassName", "/mountOptions", "/volumeAttributesClassName", "/nodeAffinity",
    ];
    if without(&new["spec"], &mutable) != without(&old["spec"], &mutable) {
        failures.push(FieldError::forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation"));
    }
}

pub(crate) fn stateful_set(new: &Value, old: &Value, failures: &mut Failures) {
    #[rustfmt::skip]
    let mutable = [
        "/replicas", "/ordinals", "/template", "/updateStrategy", "/revisionHistoryLimit", "/persistentVolumeClaimRetentionPolicy", "/minReadySeconds",
    ];
    if without(&new["spec"], &mutable) != without(&old["spec"], &mutable) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
                   'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        failures.push(FieldError::forbidden("spec", why));
    }
}

/// A job's template may change only while it is suspended and has not started.
pub(crate) fn job(new: &Value, old: &Value, failures: &mut Failures) {
    let suspended = old["spec"]["suspend"] == json!(true) && old["status"]["startTime"].is_null();
    if !suspended {
        keep("/spec/template", new, old, failures);
    }
    let indexed = new["spec"]["completionMode"] == "Indexed";
    if !indexed || new["spec"]["completions"] != new["spec"]["parallelism"] {
        keep("/spec/completions", new, old, failures);
    }
}
