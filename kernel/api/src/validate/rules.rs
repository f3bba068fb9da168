//! Rules about everything that is neither a pod nor makes pods: services, configuration, storage, access, modules.

use serde_json::Value;

use super::{Failures, Object, formats, list, names, text};
use crate::path::Path;
use crate::status::FieldError;

/// Bytes of a config map's or secret's data.
pub const DATA_BYTES_MAX: usize = 1 << 20;

pub(super) fn service_ports(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (ports, at) = (list(spec, "ports"), path.key("ports"));
    let kind = text(spec, "type");
    if ports.is_empty() && kind != "ExternalName" && text(spec, "clusterIP") != "None" {
        failures.push(FieldError::required(at, ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        if ports.len() > 1 && port["name"].as_str().unwrap_or_default().is_empty() {
            failures.push(FieldError::required(at.key("name"), ""));
        }
        if ports[..index].iter().any(|other| other["port"] == port["port"] && other["protocol"] == port["protocol"]) {
            failures.push(FieldError::duplicate(at, serde_json::json!({"port": port["port"], "protocol": port["protocol"]})));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0
            && ports[..index].iter().any(|other| other["nodePort"] == port["nodePort"] && other["protocol"] == port["protocol"])
        {
            failures.push(FieldError::duplicate(at.key("nodePort"), node_port));
        }
        if node_port != 0 && kind == "ClusterIP" {
            failures.push(FieldError::forbidden(at.key("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
}

pub(super) fn service_addresses(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (kind, address) = (text(spec, "type"), text(spec, "clusterIP"));
    if kind == "ExternalName" {
        match text(spec, "externalName") {
            "" => failures.push(FieldError::required(path.key("externalName"), "")),
            name => {
                if let Some(why) = names::dns_subdomain(name.trim_end_matches('.')) {
                    failures.push(FieldError::invalid(path.key("externalName"), name, why));
                }
            }
        }
        if !address.is_empty() && address != "None" {
            failures.push(FieldError::forbidden(path.key("clusterIPs"), "may not be set for ExternalName services"));
        }
        return;
    }
    if !matches!(address, "" | "None")
        && let Some(why) = names::ip_address(address)
    {
        failures.push(FieldError::invalid(path.key("clusterIPs").index(0), address, why));
    }
    if address == "None" && matches!(kind, "NodePort" | "LoadBalancer") {
        failures.push(FieldError::invalid(
            path.key("clusterIPs").index(0),
            address,
            format!("may not be set to 'None' for {kind} services"),
        ));
    }
}

fn data_bytes(value: Option<&Value>) -> usize {
    value.and_then(Value::as_object).into_iter().flatten().map(|(_, v)| v.as_str().unwrap_or_default().len()).sum()
}

pub(super) fn config_map(map: &Object, path: &Path<'_>, failures: &mut Failures) {
    // Bytes travel as base64: four characters for three of them.
    if data_bytes(map.get("data")) + data_bytes(map.get("binaryData")) / 4 * 3 > DATA_BYTES_MAX {
        failures.push(FieldError::too_long("", DATA_BYTES_MAX));
    }
    let binary = map.get("binaryData").and_then(Value::as_object);
    for key in map.get("data").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys) {
        if binary.is_some_and(|b| b.contains_key(key)) {
            failures.push(FieldError::invalid(path.key("data").map_key(key), key.as_str(), "duplicate of key present in binaryData"));
        }
    }
}

pub(super) fn secret(secret: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = path.key("data");
    if data_bytes(secret.get("data")) / 4 * 3 > DATA_BYTES_MAX {
        failures.push(FieldError::too_long(at, DATA_BYTES_MAX));
    }
    let required: &[&str] = match text(secret, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        let value = secret.get("data").and_then(|data| data[*key].as_str());
        if value.is_none_or(|value| value.is_empty() && *key == "ssh-privatekey") {
            failures.push(FieldError::required(at.map_key(key), ""));
        } else if key.starts_with(".docker") && !value.is_some_and(is_json) {
            failures.push(FieldError::invalid(at.map_key(key), "<secret contents redacted>", "must be a JSON object"));
        }
    }
}

/// Whether the base64 is that of a JSON object.
fn is_json(encoded: &str) -> bool {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    serde_json::from_slice::<std::collections::HashMap<String, serde::de::IgnoredAny>>(&bytes).is_ok()
}

pub(super) fn taints(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let taints = list(spec, "taints");
    for (index, taint) in taints.iter().enumerate() {
        if taints[..index].iter().any(|other| other["key"] == taint["key"] && other["effect"] == taint["effect"]) {
            failures.push(FieldError::duplicate(path.key("taints").index(index), taint.clone()));
        }
    }
}

pub(super) fn binding(binding: &Object, path: &Path<'_>, failures: &mut Failures) {
    let target = binding.get("target").unwrap_or(&Value::Null);
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        failures.push(FieldError::not_supported(path.key("target").key("kind"), kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        failures.push(FieldError::required(path.key("target").key("name"), ""));
    }
}

/// An event lives in the namespace of what it is about; about nothing in a namespace, in `default`.
pub(super) fn event(event: &Object, path: &Path<'_>, failures: &mut Failures) {
    let about = event.get("involvedObject").or_else(|| event.get("regarding")).map_or("", |o| o["namespace"].as_str().unwrap_or_default());
    let own = event.get("metadata").map_or("", |m| m["namespace"].as_str().unwrap_or_default());
    let fits = if about.is_empty() { own == "default" || own == "kube-system" } else { about == own };
    if !fits {
        failures.push(FieldError::invalid(path.key("involvedObject").key("namespace"), about, "does not match event.namespace"));
    }
}

pub(super) fn ingress(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    if list(spec, "rules").is_empty() && !spec.contains_key("defaultBackend") {
        failures.push(FieldError::invalid(path, Value::Array(Vec::new()), "either `defaultBackend` or `rules` must be specified"));
    }
}

pub(super) fn ingress_path(entry: &Object, path: &Path<'_>, failures: &mut Failures) {
    let value = text(entry, "path");
    let wrong = match text(entry, "pathType") {
        "Exact" | "Prefix" => formats::plain_steps(value),
        _ => formats::absolute_path(value).filter(|_| !value.is_empty()),
    };
    if let Some(why) = wrong {
        failures.push(FieldError::invalid(path.key("path"), value, why));
    }
}

pub(super) fn ingress_port(backend: &Object, path: &Path<'_>, failures: &mut Failures) {
    let port = backend.get("port").unwrap_or(&Value::Null);
    if port["name"].as_str().unwrap_or_default().is_empty() && port["number"].as_i64().unwrap_or(0) == 0 {
        failures.push(FieldError::required(path.key("port"), "port name or number is required"));
    }
}

pub(super) fn policy_peer(peer: &Object, path: &Path<'_>, failures: &mut Failures) {
    let selects = peer.contains_key("podSelector") || peer.contains_key("namespaceSelector");
    match (peer.contains_key("ipBlock"), selects) {
        (false, false) => failures.push(FieldError::required(path, "must specify a peer")),
        (true, true) => failures.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
    }
}

pub(super) fn policy_rule(rule: &Object, path: &Path<'_>, failures: &mut Failures) {
    if !list(rule, "nonResourceURLs").is_empty() {
        if !list(rule, "apiGroups").is_empty() || !list(rule, "resources").is_empty() {
            failures.push(FieldError::invalid(
                path.key("nonResourceURLs"),
                rule["nonResourceURLs"].clone(),
                "rules cannot apply to both regular resources and non-resource URLs",
            ));
        }
        return;
    }
    for (field, why) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if list(rule, field).is_empty() {
            failures.push(FieldError::required(path.key(field), why));
        }
    }
}

pub(super) fn priority(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    let name = class.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    let value = class.get("value").and_then(Value::as_i64).unwrap_or(0);
    if !name.starts_with("system-") && value > 1_000_000_000 {
        failures.push(FieldError::forbidden(path.key("value"), "maximum allowed value of a user defined priority is 1000000000"));
    }
}

/// The name is made of two texts of the spec.
pub(super) fn named_after(object: &Object, path: &Path<'_>, pointers: &[&str], failures: &mut Failures) {
    let at =
        |pointer: &&str| object.get("spec").and_then(|spec| spec.pointer(pointer)).and_then(Value::as_str).unwrap_or_default().to_owned();
    let expected = pointers.iter().map(at).collect::<Vec<_>>().join(".");
    let name = object.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    if name != expected {
        let why = format!("must be spec{}", pointers.join("+\".\"+spec").replace('/', "."));
        failures.push(FieldError::invalid(path.key("metadata").key("name"), name, why));
    }
}

pub(super) fn one_stored_version(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let stored = list(spec, "versions").iter().filter(|v| v["storage"] == Value::Bool(true)).count();
    if stored != 1 {
        let shown = Value::Array(list(spec, "versions").iter().map(|v| v["name"].clone()).collect());
        failures.push(FieldError::invalid(path.key("versions"), shown, "must have exactly one version marked as storage version"));
    }
}

pub(super) fn when(text: &str) -> Option<String> {
    let fits = matches!(text, "always" | "deleting" | "present") || text.starts_with("found:");
    (!fits).then(|| "must be always, deleting, present or found:NAME".to_owned())
}

pub(super) fn digest(text: &str) -> Option<String> {
    let fits = text
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    (!fits).then(|| "must be sha256: followed by 64 lower case hexadecimal digits".to_owned())
}

pub(super) fn verb(text: &str) -> Option<String> {
    const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*"];
    (!VERBS.contains(&text)).then(|| format!("must be one of: {}", VERBS.join(", ")))
}

pub(super) fn module(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (kind, why) in
        [("admission", "an admission module says which requests it is asked about"), ("controller", "a controller says what it is about")]
    {
        let several = kind == "controller" && spec.get("controllers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if text(spec, "type") == kind && !spec.contains_key(kind) && !several {
            failures.push(FieldError::required(path.key(kind), why));
        }
    }
}
