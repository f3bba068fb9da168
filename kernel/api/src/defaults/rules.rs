//! Defaults that look at other fields: functions by type.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::Compute;

/// (type, function that looks at other fields). Run before the constants, in this order.
pub(super) static COMPUTED: &[(&str, Compute)] = &[
    ("api.core.v1.PodSpec", host_network_ports),
    ("api.core.v1.PodSpec", service_account_names),
    ("api.core.v1.Container", requests_from_limits),
    ("api.core.v1.Container", |map| pull_policy(map, "image", "imagePullPolicy")),
    ("api.core.v1.EphemeralContainer", |map| pull_policy(map, "image", "imagePullPolicy")),
    ("api.core.v1.ImageVolumeSource", |map| pull_policy(map, "reference", "pullPolicy")),
    ("api.core.v1.Probe", probe),
    ("api.core.v1.Volume", empty_dir),
    ("api.core.v1.Namespace", namespace_name_label),
    ("api.core.v1.Secret", string_data),
    ("api.core.v1.PodStatus", pod_addresses),
    ("api.core.v1.NodeSpec", |node| mirror(node, "podCIDR", "podCIDRs", |text| json!(text), |first| first.as_str())),
    ("api.core.v1.ServiceSpec", service_spec),
    ("api.core.v1.NodeStatus", allocatable),
    ("api.core.v1.ReplicationController", replication_controller),
    ("api.core.v1.LimitRangeItem", limit_range),
    ("api.core.v1.PersistentVolumeClaim", pending),
    ("api.apps.v1.DeploymentStrategy", rolling_update),
    ("api.apps.v1.StatefulSetUpdateStrategy", rolling_update),
    ("api.apps.v1.DaemonSetUpdateStrategy", rolling_update),
    ("api.batch.v1.JobSpec", job),
    ("api.batch.v1.Job", labels_from_template),
    ("api.autoscaling.v2.HorizontalPodAutoscalerSpec", autoscaler),
    ("api.networking.v1.NetworkPolicySpec", policy_types),
    ("api.rbac.v1.RoleRef", role_ref),
    ("api.rbac.v1.Subject", subject),
    ("api.resource.v1.ExactDeviceRequest", device_count),
    ("api.resource.v1.DeviceSubRequest", device_count),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames", definition_names),
    ("dev.pintle.v1.ModuleSpec", module),
    ("dev.pintle.v1.ModuleAdmission", module_phase),
];

type Object = Map<String, Value>;

fn text<'a>(map: &'a Object, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn set(map: &mut Object, key: &str, value: Value) {
    map.entry(key).or_insert(value);
}

fn list<'a>(map: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// On the host's network a container's port is the host's.
fn host_network_ports(spec: &mut Object) {
    if spec.get("hostNetwork") != Some(&json!(true)) {
        return;
    }
    for key in ["containers", "initContainers"] {
        for container in list(spec, key) {
            for port in list(container, "ports") {
                if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                    && let Some(number) = port.get("containerPort").cloned()
                {
                    port.insert("hostPort".into(), number);
                }
            }
        }
    }
}

/// The old and the new name of the service account are kept equal.
fn service_account_names(spec: &mut Object) {
    for (from, to) in [("serviceAccount", "serviceAccountName"), ("serviceAccountName", "serviceAccount")] {
        let name = text(spec, from).to_owned();
        if text(spec, to).is_empty() && !name.is_empty() {
            spec.insert(to.into(), json!(name));
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty()).cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        limits.into_iter().for_each(|(name, amount)| set(requests, &name, amount));
    }
}

/// An image that is `latest`, said or unsaid, is pulled always; one with another tag or a digest when it is missing.
fn pull_policy(map: &mut Object, image: &str, policy: &str) {
    if !text(map, policy).is_empty() {
        return;
    }
    let image = text(map, image);
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !last.contains('@') && (last.split_once(':').is_none_or(|(_, tag)| tag == "latest"));
    map.insert(policy.into(), json!(if latest { "Always" } else { "IfNotPresent" }));
}

/// A probe's numbers are set when they are not zero.
fn probe(probe: &mut Object) {
    let unset = |key: &str| matches!(key, "timeoutSeconds" | "periodSeconds" | "successThreshold" | "failureThreshold");
    probe.retain(|key, value| !unset(key) || *value != json!(0));
}

fn empty_dir(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
}

/// Every namespace carries its name as a label, so that selectors can name it.
fn namespace_name_label(namespace: &mut Object) {
    let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    }
}

fn service_spec(spec: &mut Object) {
    let kind = match text(spec, "type") {
        "" => "ClusterIP".to_owned(),
        kind => kind.to_owned(),
    };
    for port in list(spec, "ports") {
        let absent = matches!(port.get("targetPort"), None | Some(Value::Null))
            || port.get("targetPort") == Some(&json!(0))
            || text(port, "targetPort").is_empty() && port.get("targetPort").is_some_and(Value::is_string);
        if absent && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    match text(spec, "sessionAffinity") {
        "ClientIP" => set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}})),
        // Who no longer wants to stay with an endpoint need not take back for how long.
        "" | "None" => drop(spec.remove("sessionAffinityConfig")),
        _ => {}
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

fn allocatable(status: &mut Object) {
    if let Some(capacity) = status.get("capacity").cloned() {
        set(status, "allocatable", capacity);
    }
}

/// `stringData` is a way to write `data` without base64; it is never read back.
fn string_data(secret: &mut Object) {
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    if let Some(data) = secret.entry("data").or_insert_with(|| json!({})).as_object_mut() {
        for (key, text) in texts {
            let bytes = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, json!(bytes));
        }
    }
}

fn pod_addresses(status: &mut Object) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        mirror(status, one, all, |ip| json!({"ip": ip}), |first| first["ip"].as_str());
    }
}

/// An older field for one value and a newer list whose first element it is: whichever is unset follows the other.
fn mirror(map: &mut Object, one: &str, all: &str, wrap: fn(&str) -> Value, unwrap: fn(&Value) -> Option<&str>) {
    let single = text(map, one).to_owned();
    let first = map.get(all).and_then(|list| list.get(0)).and_then(unwrap).map(str::to_owned);
    match (single.is_empty(), first) {
        (false, None) => {
            map.insert(all.to_owned(), json!([wrap(&single)]));
        }
        (true, Some(first)) => {
            map.insert(one.to_owned(), json!(first));
        }
        _ => {}
    }
}

/// A replication controller's labels and selector default to its template's labels.
fn replication_controller(controller: &mut Object) {
    let labels = template_labels(controller);
    if let (Some(labels), Some(spec)) = (labels, controller.get_mut("spec").and_then(Value::as_object_mut)) {
        set(spec, "selector", labels);
    }
    labels_from_template(controller);
}

fn labels_from_template(object: &mut Object) {
    let labels = template_labels(object);
    if let (Some(labels), Some(metadata)) = (labels, object.get_mut("metadata").and_then(Value::as_object_mut)) {
        set(metadata, "labels", labels);
    }
}

fn template_labels(object: &Object) -> Option<Value> {
    let labels = object.get("spec")?.pointer("/template/metadata/labels")?;
    labels.as_object().is_some_and(|map| !map.is_empty()).then(|| labels.clone())
}

/// Unset defaults and requests of a limit range follow from each other.
fn limit_range(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(source) = item.get(from).and_then(Value::as_object).cloned() else { continue };
        if let Some(target) = item.entry(to).or_insert_with(|| json!({})).as_object_mut() {
            source.into_iter().for_each(|(name, amount)| set(target, &name, amount));
        }
    }
}

fn pending(claim: &mut Object) {
    let status = claim.entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        set(status, "phase", json!("Pending"));
    }
}

fn rolling_update(strategy: &mut Object) {
    if matches!(text(strategy, "type"), "" | "RollingUpdate") {
        set(strategy, "rollingUpdate", json!({}));
    }
}

fn job(spec: &mut Object) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec.insert("completions".into(), json!(1));
    }
    set(spec, "parallelism", json!(1));
    let indexed = spec.get("backoffLimitPerIndex").is_some();
    set(spec, "backoffLimit", if indexed { json!(i32::MAX) } else { json!(6) });
    // With a failure policy only pods that are gone are replaced.
    if spec.get("podFailurePolicy").is_some() {
        set(spec, "podReplacementPolicy", json!("Failed"));
    }
}

fn autoscaler(spec: &mut Object) {
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        spec.insert("metrics".into(), cpu);
    }
}

fn policy_types(spec: &mut Object) {
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec.insert("policyTypes".into(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn role_ref(reference: &mut Object) {
    if text(reference, "apiGroup").is_empty() {
        reference.insert("apiGroup".into(), json!(RBAC));
    }
}

fn subject(subject: &mut Object) {
    if matches!(text(subject, "kind"), "User" | "Group") && text(subject, "apiGroup").is_empty() {
        subject.insert("apiGroup".into(), json!(RBAC));
    }
}

fn device_count(request: &mut Object) {
    if matches!(text(request, "allocationMode"), "" | "ExactCount") {
        set(request, "count", json!(1));
    }
}

fn definition_names(names: &mut Object) {
    let kind = text(names, "kind").to_owned();
    if kind.is_empty() {
        return;
    }
    if text(names, "singular").is_empty() {
        names.insert("singular".into(), json!(kind.to_lowercase()));
    }
    if text(names, "listKind").is_empty() {
        names.insert("listKind".into(), json!(format!("{kind}List")));
    }
}

fn module(spec: &mut Object) {
    if matches!(text(spec, "type"), "scheduler" | "schedulerPlugin") {
        set(spec, "schedulerName", json!("default-scheduler"));
    }
}

fn module_phase(admission: &mut Object) {
    if admission.get("phases").is_none() {
        set(admission, "phase", json!("validating"));
    }
}
