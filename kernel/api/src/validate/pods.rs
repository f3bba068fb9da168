//! Rules about pods and everything inside them, wherever a pod template occurs.

use serde_json::Value;

use super::{Failures, Object, amount, list, text};
use crate::path::Path;
use crate::status::FieldError;

pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) fn container_names(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let mut seen: Vec<&str> = Vec::new();
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && seen.contains(&name) {
                failures.push(FieldError::duplicate(path.key(key).index(index).key("name"), name));
            }
            seen.push(name);
        }
    }
}

pub(super) fn mounts_have_volumes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let volumes: Vec<&str> = list(spec, "volumes").iter().filter_map(|v| v["name"].as_str()).collect();
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            let (at, mounts) = (path.key(key), container["volumeMounts"].as_array());
            for (mount_index, mount) in mounts.into_iter().flatten().enumerate() {
                let name = mount["name"].as_str().unwrap_or_default();
                if !name.is_empty() && !volumes.contains(&name) && !failures.claimed.iter().any(|claimed| claimed == name) {
                    let at = at.index(index);
                    let at = at.key("volumeMounts");
                    failures.push(FieldError::new(at.index(mount_index).key("name"), crate::FieldErrorKind::NotFound, name, ""));
                }
            }
        }
    }
}

pub(super) fn host_ports_differ(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let mut seen: Vec<(&Value, &Value, &Value)> = Vec::new();
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (port_index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            let key = (&port["hostPort"], &port["protocol"], &port["hostIP"]);
            if seen.contains(&key) {
                let (containers, ports) = (path.key("containers"), "ports");
                let at = containers.index(index);
                let shown = format!("{}/{}", port["protocol"].as_str().unwrap_or("TCP"), port["hostPort"]);
                failures.push(FieldError::duplicate(at.key(ports).index(port_index).key("hostPort"), shown));
            }
            seen.push(key);
        }
    }
}

pub(super) fn namespaces(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let set = |key: &str| spec.get(key) == Some(&Value::Bool(true));
    if set("hostPID") && set("shareProcessNamespace") {
        failures.push(FieldError::invalid(
            path.key("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    let at = path.key("containers");
    for (index, container) in list(spec, "containers").iter().enumerate().filter(|_| set("hostNetwork")) {
        let ports = container["ports"].as_array().into_iter().flatten().enumerate();
        for (port_index, port) in ports.filter(|(_, port)| !port["hostPort"].is_null() && port["hostPort"] != port["containerPort"]) {
            let at = at.index(index);
            let why = "must match `hostPort` when `hostNetwork` is true";
            failures.push(FieldError::invalid(at.key("ports").index(port_index).key("containerPort"), port["containerPort"].clone(), why));
        }
    }
}

/// Block devices, and claims, are the pod's own.
pub(super) fn devices_and_claims(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let named = |key: &str| -> Vec<&str> { list(spec, key).iter().filter_map(|item| item["name"].as_str()).collect() };
    for key in CONTAINER_LISTS {
        let at = path.key(key);
        for (index, container) in list(spec, key).iter().enumerate() {
            for (pointer, from) in [("/volumeDevices", "volumes"), ("/resources/claims", "resourceClaims")] {
                let known = named(from);
                for (place, item) in container.pointer(pointer).and_then(Value::as_array).into_iter().flatten().enumerate() {
                    let name = item["name"].as_str().unwrap_or_default();
                    if !name.is_empty() && !known.contains(&name) {
                        let field = format!("{}{}[{place}].name", at.index(index), pointer.replace('/', "."));
                        failures.push(FieldError::new(field, crate::FieldErrorKind::NotFound, name, ""));
                    }
                }
            }
        }
    }
}

/// An ephemeral container may join a container of the pod.
pub(super) fn debugged_containers(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let known: Vec<&Value> = ["initContainers", "containers"].iter().flat_map(|key| list(spec, key)).map(|c| &c["name"]).collect();
    for (index, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let target = &container["targetContainerName"];
        if target.as_str().is_some_and(|name| !name.is_empty()) && !known.contains(&target) {
            let at = path.key("ephemeralContainers");
            failures.push(FieldError::new(at.index(index).key("targetContainerName"), crate::FieldErrorKind::NotFound, target.clone(), ""));
        }
    }
}

/// What the downward API can say of a pod.
pub(super) fn downward_field(selector: &Object, path: &Path<'_>, failures: &mut Failures) {
    #[rustfmt::skip]
    const FIELDS: &[&str] = &[
        "metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations", "spec.nodeName",
        "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
    ];
    let field = text(selector, "fieldPath");
    let keyed = ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| field.starts_with(prefix) && field.ends_with("']"));
    if !field.is_empty() && !keyed && !FIELDS.contains(&field) {
        failures.push(FieldError::not_supported(path.key("fieldPath"), field, FIELDS));
    }
}

/// What the downward API can say of a container's resources.
pub(super) fn downward_resource(selector: &Object, path: &Path<'_>, failures: &mut Failures) {
    const RESOURCES: &[&str] =
        &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
    let resource = text(selector, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if !resource.is_empty() && !huge && !RESOURCES.contains(&resource) {
        failures.push(FieldError::not_supported(path.key("resource"), resource, RESOURCES));
    }
}

pub(super) fn dns_config_for_none(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let servers = spec.get("dnsConfig").and_then(|c| c["nameservers"].as_array()).map_or(0, Vec::len);
    if text(spec, "dnsPolicy") == "None" && servers == 0 {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        failures.push(FieldError::required(path.key("dnsConfig").key("nameservers"), why));
    }
}

/// Only init containers may have a restart policy, and probes only with it.
pub(super) fn init_container_policies(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = path.key("initContainers");
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let restarts = container["restartPolicy"] == "Always";
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !restarts && container.get(field).is_some() {
                failures.push(FieldError::forbidden(
                    at.index(index).key(field),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
    }
}

pub(super) fn image(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    let image = text(container, "image");
    if image.is_empty() {
        failures.push(FieldError::required(path.key("image"), ""));
    } else if image.trim() != image {
        failures.push(FieldError::invalid(path.key("image"), image, "must not have leading or trailing whitespace"));
    }
}

pub(super) fn probe_thresholds(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    for probe in ["livenessProbe", "startupProbe"] {
        let Some(value) = container.get(probe).map(|p| &p["successThreshold"]).filter(|v| v.as_i64().is_some_and(|n| n != 1)) else {
            continue;
        };
        failures.push(FieldError::invalid(path.key(probe).key("successThreshold"), value.clone(), "must be 1"));
    }
}

pub(super) fn no_ports_or_probes(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if container.contains_key(field) {
            failures.push(FieldError::forbidden(path.key(field), "cannot be set for an Ephemeral Container"));
        }
    }
    if container.get("resources").and_then(Value::as_object).is_some_and(|r| !r.is_empty()) {
        failures.push(FieldError::forbidden(path.key("resources"), "cannot be set for an Ephemeral Container"));
    }
}

pub(super) fn host_port(port: &Object, path: &Path<'_>, failures: &mut Failures) {
    if let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| !(0..=65535).contains(n)) {
        failures.push(FieldError::invalid(path.key("hostPort"), number, "must be between 1 and 65535, inclusive"));
    }
}

pub(super) fn env_value_or_source(env: &Object, path: &Path<'_>, failures: &mut Failures) {
    if env.contains_key("valueFrom") && !text(env, "value").is_empty() {
        failures.push(FieldError::invalid(path.key("valueFrom"), "", "may not be specified when `value` is not empty"));
    }
}

pub(super) fn sub_path(mount: &Object, path: &Path<'_>, failures: &mut Failures) {
    for field in ["subPath", "subPathExpr"] {
        relative(text(mount, field), &path.key(field), failures);
    }
    if text(mount, "mountPath").contains(':') {
        failures.push(FieldError::invalid(path.key("mountPath"), text(mount, "mountPath"), "must not contain ':'"));
    }
}

pub(super) fn relative(value: &str, path: &Path<'_>, failures: &mut Failures) {
    if value.starts_with('/') {
        failures.push(FieldError::invalid(path, value, "must be a relative path"));
    } else if value.split('/').any(|step| step == "..") {
        failures.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

pub(super) fn resources(resources: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = path.key("requests");
    for (name, request) in resources.get("requests").and_then(Value::as_object).into_iter().flatten() {
        let limit = resources.get("limits").and_then(|limits| limits.get(name));
        let (Some(asked), Some(most)) = (amount(request), limit.and_then(amount)) else { continue };
        if asked.compare(most).is_gt() {
            let why = format!("must be less than or equal to {name} limit of {}", most.canonical());
            failures.push(FieldError::invalid(at, request.clone(), why));
        }
    }
}

pub(super) fn escalation(context: &Object, path: &Path<'_>, failures: &mut Failures) {
    let set = |key: &str, value: bool| context.get(key) == Some(&Value::Bool(value));
    if set("allowPrivilegeEscalation", false) && set("privileged", true) {
        failures.push(FieldError::invalid(
            path,
            Value::Object(context.clone()),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ));
    }
}

pub(super) fn toleration(toleration: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    if key.is_empty() && operator != "Exists" {
        failures.push(FieldError::invalid(
            path.key("operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ));
    }
    if operator == "Exists" && !text(toleration, "value").is_empty() {
        failures.push(FieldError::invalid(
            path.key("operator"),
            text(toleration, "value"),
            "value must be empty when `operator` is 'Exists'",
        ));
    }
    if toleration.contains_key("tolerationSeconds") && text(toleration, "effect") != "NoExecute" {
        failures.push(FieldError::invalid(
            path.key("effect"),
            text(toleration, "effect"),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ));
    }
}

pub(super) fn requirement_values(requirement: &Object, path: &Path<'_>, failures: &mut Failures) {
    let count = list(requirement, "values").len();
    let at = path.key("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if count == 0 => failures.push(FieldError::required(at, "must be specified when `operator` is 'In' or 'NotIn'")),
        "Exists" | "DoesNotExist" if count > 0 => {
            failures.push(FieldError::forbidden(at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
        }
        "Gt" | "Lt" if count != 1 => {
            failures.push(FieldError::required(at, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
        }
        _ => {}
    }
}

pub(super) fn template_metadata(template: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = path.key("metadata");
    let labels = template.get("metadata").and_then(|m| m.get("labels"));
    super::metadata::check_labels(labels, &at.key("labels"), failures);
}
