//! Rules about everything that is neither a pod nor makes pods: services, configuration, storage, access, modules.

use serde_json::Value;

use super::{Failures, Object, Rule, list, names, text};
use crate::path::Path;
use crate::status::FieldError;

/// Bytes of a config map's or secret's data.
pub const DATA_BYTES_MAX: usize = 1 << 20;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

#[rustfmt::skip]
pub(super) static RULES: &[(&str, &[Rule])] = &[
    ("api.core.v1.ServiceSpec", &[
        Rule::OneOf("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
        Rule::OneOf("sessionAffinity", &["ClientIP", "None"]),
        Rule::OneOf("externalTrafficPolicy", &["", "Cluster", "Local"]),
        Rule::OneOf("internalTrafficPolicy", &["Cluster", "Local"]),
        Rule::OneOf("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]),
        Rule::Format("externalIPs", names::ip_address),
        Rule::Format("loadBalancerSourceRanges", names::cidr),
        Rule::Labels("selector"),
        Rule::Unique("ports", "name"),
        Rule::Check(service_ports),
        Rule::Check(service_addresses),
    ]),
    ("api.core.v1.ServicePort", &[
        Rule::Required(&["port"]),
        Rule::Port("port"),
        Rule::Port("targetPort"),
        Rule::Format("name", names::dns_label),
        Rule::OneOf("protocol", &["SCTP", "TCP", "UDP"]),
    ]),
    ("api.core.v1.EndpointAddress", &[Rule::Required(&["ip"]), Rule::Format("ip", names::ip_address)]),
    ("api.core.v1.EndpointPort", &[Rule::Port("port"), Rule::OneOf("protocol", &["SCTP", "TCP", "UDP"])]),
    ("api.discovery.v1.EndpointSlice", &[
        Rule::Required(&["addressType"]),
        Rule::OneOf("addressType", &["FQDN", "IPv4", "IPv6"]),
    ]),
    ("api.discovery.v1.Endpoint", &[Rule::Required(&["addresses"])]),
    ("api.core.v1.ConfigMap", &[Rule::Keys("data", names::config_key), Rule::Keys("binaryData", names::config_key), Rule::Check(config_map)]),
    ("api.core.v1.Secret", &[Rule::Keys("data", names::config_key), Rule::Check(secret)]),
    ("api.core.v1.NamespaceSpec", &[Rule::Format("finalizers", names::finalizer)]),
    ("api.core.v1.NodeSpec", &[Rule::Format("podCIDRs", names::cidr), Rule::Check(taints)]),
    ("api.core.v1.Taint", &[
        Rule::Required(&["key", "effect"]), Rule::Format("key", names::qualified), Rule::Format("value", names::label_value), Rule::OneOf("effect", TAINT_EFFECTS),
    ]),
    ("api.core.v1.Binding", &[Rule::Check(binding)]),
    ("api.core.v1.PersistentVolumeSpec", &[
        Rule::Required(&["accessModes", "capacity"]),
        Rule::OneOf("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"]),
        Rule::OneOf("volumeMode", &["Block", "Filesystem"]),
        Rule::Check(access_modes),
    ]),
    ("api.core.v1.PersistentVolumeClaimSpec", &[
        Rule::Required(&["accessModes"]),
        Rule::OneOf("volumeMode", &["Block", "Filesystem"]),
        Rule::Check(access_modes),
        Rule::Check(claim_request),
    ]),
    ("api.core.v1.LimitRangeItem", &[Rule::Required(&["type"])]),
    ("api.core.v1.Event", &[Rule::Check(event)]),
    ("api.coordination.v1.LeaseSpec", &[
        Rule::Range("leaseDurationSeconds", 1, i32::MAX as i64), Rule::NonNegative(&["leaseTransitions"]),
        Rule::OneOf("strategy", &["OldestEmulationVersion"]),
    ]),
    ("api.networking.v1.IngressSpec", &[Rule::Check(ingress), Rule::Format("ingressClassName", names::dns_subdomain)]),
    ("api.networking.v1.HTTPIngressRuleValue", &[Rule::Required(&["paths"])]),
    ("api.networking.v1.HTTPIngressPath", &[
        Rule::Required(&["pathType", "backend"]), Rule::OneOf("pathType", &["Exact", "ImplementationSpecific", "Prefix"]), Rule::Check(ingress_path),
    ]),
    ("api.networking.v1.IngressBackend", &[Rule::ExactlyOne(&["service", "resource"], "must specify `service` or `resource`")]),
    ("api.networking.v1.IngressServiceBackend", &[Rule::Required(&["name"]), Rule::Check(ingress_port)]),
    ("api.networking.v1.IngressClassSpec", &[Rule::Required(&["controller"]), Rule::Format("controller", names::domain_prefixed_path)]),
    ("api.networking.v1.NetworkPolicyPort", &[Rule::OneOf("protocol", &["SCTP", "TCP", "UDP"]), Rule::Port("port")]),
    ("api.networking.v1.NetworkPolicyPeer", &[Rule::Check(policy_peer)]),
    ("api.networking.v1.IPBlock", &[Rule::Required(&["cidr"]), Rule::Format("cidr", names::cidr), Rule::Format("except", names::cidr)]),
    ("api.networking.v1.ServiceCIDRSpec", &[Rule::Required(&["cidrs"]), Rule::Format("cidrs", names::cidr)]),
    ("api.node.v1.RuntimeClass", &[Rule::Required(&["handler"]), Rule::Format("handler", names::dns_label)]),
    ("api.rbac.v1.PolicyRule", &[Rule::Required(&["verbs"]), Rule::Check(policy_rule)]),
    ("api.rbac.v1.RoleRef", &[
        Rule::Required(&["kind", "name"]), Rule::OneOf("apiGroup", &["rbac.authorization.k8s.io"]), Rule::OneOf("kind", &["ClusterRole", "Role"]),
    ]),
    ("api.rbac.v1.RoleBinding", &[Rule::Required(&["roleRef"])]),
    ("api.rbac.v1.ClusterRoleBinding", &[Rule::Required(&["roleRef"])]),
    ("api.rbac.v1.Subject", &[Rule::Required(&["name"]), Rule::OneOf("kind", &["Group", "ServiceAccount", "User"])]),
    ("api.scheduling.v1.PriorityClass", &[Rule::OneOf("preemptionPolicy", &["Never", "PreemptLowerPriority"]), Rule::Check(priority)]),
    ("api.storage.v1.StorageClass", &[
        Rule::Required(&["provisioner"]), Rule::Format("provisioner", |text| names::qualified(&text.to_lowercase())),
        Rule::OneOf("reclaimPolicy", &["Delete", "Retain"]), Rule::OneOf("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]),
    ]),
    ("api.storage.v1.VolumeAttachmentSpec", &[Rule::Required(&["attacher", "nodeName"])]),
    ("api.storage.v1.VolumeAttributesClass", &[Rule::Required(&["driverName"])]),
    ("api.storage.v1.CSINodeDriver", &[Rule::Required(&["name", "nodeID"])]),
    ("api.storage.v1.CSIStorageCapacity", &[Rule::Required(&["storageClassName"])]),
    ("api.certificates.v1.CertificateSigningRequestSpec", &[
        Rule::Required(&["request", "signerName", "usages"]), Rule::Format("signerName", names::domain_prefixed_path),
        Rule::Range("expirationSeconds", 600, i32::MAX as i64),
    ]),
    ("api.certificates.v1.PodCertificateRequestSpec", &[Rule::Range("maxExpirationSeconds", 3600, 91 * 86400)]),
    ("api.authentication.v1.TokenRequestSpec", &[Rule::Range("expirationSeconds", 600, 1 << 32)]),
    ("api.admissionregistration.v1.ValidatingWebhook", WEBHOOK),
    ("api.admissionregistration.v1.MutatingWebhook", WEBHOOK),
    ("api.flowcontrol.v1.FlowSchemaSpec", &[Rule::Range("matchingPrecedence", 1, 10_000), Rule::Required(&["priorityLevelConfiguration"])]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", &[Rule::Check(definition_name), Rule::Check(crate::custom::definition::check)]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", &[
        Rule::Required(&["group", "scope", "versions", "names"]), Rule::Format("group", names::dns_subdomain), Rule::OneOf("scope", &["Cluster", "Namespaced"]),
        Rule::Unique("versions", "name"), Rule::Check(one_stored_version),
    ]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames", &[
        Rule::Required(&["plural", "kind"]), Rule::Format("plural", names::dns_1035_label), Rule::Format("singular", names::dns_1035_label),
        Rule::Format("shortNames", names::dns_1035_label), Rule::Format("categories", names::dns_1035_label),
    ]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion", &[Rule::Required(&["name"]), Rule::Format("name", names::dns_1035_label)]),
    ("kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec", &[
        Rule::Required(&["version"]), Rule::Range("groupPriorityMinimum", 1, 20_000), Rule::Range("versionPriority", 1, 1_000),
    ]),
    ("dev.pintle.v1.Module", &[Rule::Required(&["spec"])]),
    ("dev.pintle.v1.ModuleSpec", &[
        Rule::Required(&["type", "source"]),
        Rule::OneOf("type", &["admission", "controller", "scheduler", "schedulerPlugin"]),
        Rule::Format("digest", digest),
        Rule::Check(module),
    ]),
    ("dev.pintle.v1.ModuleSource", &[Rule::ExactlyOne(&["builtin", "file", "inline", "kept", "oci"], "must specify one of: `file`, `inline` or `oci`")]),
    ("dev.pintle.v1.ModulePermission", &[Rule::Required(&["resources", "verbs"]), Rule::Format("verbs", verb)]),
    ("dev.pintle.v1.ModuleController", &[Rule::Required(&["primary"]), Rule::Range("batch", 1, 1024), Rule::NonNegative(&["resyncSeconds"])]),
    ("dev.pintle.v1.ModuleWatch", &[Rule::Required(&["resource", "map"])]),
    ("dev.pintle.v1.ModuleRelated", &[Rule::Required(&["name"]), Rule::Format("when", when)]),
    ("dev.pintle.v1.ModuleAdmission", &[
        Rule::OneOf("phase", &["mutating", "validating"]), Rule::OneOf("failurePolicy", &["Fail", "Ignore"]), Rule::Range("timeoutMilliseconds", 1, 30_000),
        Rule::OneOf("reinvocationPolicy", &["Never", "IfNeeded"]),
    ]),
    ("dev.pintle.v1.ModuleRule", &[Rule::Required(&["resources", "operations"]), Rule::OneOf("scope", &["Cluster", "Namespaced", "*"])]),
    ("dev.pintle.v1.ModuleLimits", &[
        Rule::Range("memoryBytes", 1 << 16, 1 << 26), Rule::Range("callMilliseconds", 1, 30_000),
        Rule::Range("workers", 1, 1024), Rule::Range("messageBytes", 1024, 1 << 24), Rule::Range("callsPerSecond", 1, 1_000_000),
        Rule::Range("burst", 0, 1_000_000), Rule::Range("writesPerSecond", 1, 1_000_000), Rule::Range("capabilities", 0, 320),
    ]),
    ("dev.pintle.v1.ModulePlugin", &[Rule::Required(&["points"]), Rule::Range("weight", 0, 100), Rule::OneOf("failurePolicy", &["Fail", "Ignore"])]),
    ("dev.pintle.v1.ModuleShadow", &[Rule::Required(&["source"]), Rule::Format("digest", digest)]),
    ("dev.pintle.v1.ModuleTakeOver", &[Rule::Range("percent", 0, 100)]),
    ("dev.pintle.v1.ModuleRecord", &[Rule::Range("maxBytes", 4096, 1 << 32)]),
    ("dev.pintle.v1.ModulePolicy", &[Rule::Required(&["spec"])]),
    ("dev.pintle.v1.ModulePolicySpec", &[Rule::Format("digests", digest)]),
    ("dev.pintle.v1.RouteTable", &[Rule::Required(&["spec"])]),
    ("dev.pintle.v1.RouteListener", &[Rule::Required(&["name"]), Rule::Range("port", 1, 65_535), Rule::OneOf("protocol", &["HTTP", "HTTPS"])]),
    ("dev.pintle.v1.RouteMatch", &[Rule::OneOf("pathType", &["Exact", "Prefix", "RegularExpression"])]),
];

const WEBHOOK: &[Rule] = &[
    Rule::Required(&["name", "clientConfig", "sideEffects", "admissionReviewVersions"]),
    Rule::OneOf("failurePolicy", &["Fail", "Ignore"]),
    Rule::OneOf("matchPolicy", &["Equivalent", "Exact"]),
    Rule::OneOf("sideEffects", &["None", "NoneOnDryRun"]),
    Rule::Range("timeoutSeconds", 1, 30),
];

fn service_ports(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
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
        if node_port != 0 && !matches!(kind, "NodePort" | "LoadBalancer") {
            failures.push(FieldError::forbidden(at.key("nodePort"), format!("may not be used when `type` is '{kind}'")));
        }
    }
}

fn service_addresses(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
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

fn config_map(map: &Object, path: &Path<'_>, failures: &mut Failures) {
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

fn secret(secret: &Object, path: &Path<'_>, failures: &mut Failures) {
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
        if secret.get("data").and_then(|d| d.get(key)).is_none() {
            failures.push(FieldError::required(at.map_key(key), ""));
        }
    }
}

fn taints(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let taints = list(spec, "taints");
    for (index, taint) in taints.iter().enumerate() {
        if taints[..index].iter().any(|other| other["key"] == taint["key"] && other["effect"] == taint["effect"]) {
            failures.push(FieldError::duplicate(path.key("taints").index(index), taint.clone()));
        }
    }
}

fn binding(binding: &Object, path: &Path<'_>, failures: &mut Failures) {
    let target = binding.get("target").unwrap_or(&Value::Null);
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        failures.push(FieldError::not_supported(path.key("target").key("kind"), kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        failures.push(FieldError::required(path.key("target").key("name"), ""));
    }
}

fn access_modes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = path.key("accessModes");
    for mode in list(spec, "accessModes").iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        failures.push(FieldError::not_supported(at, mode, ACCESS_MODES));
    }
}

fn claim_request(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let asked = spec.get("resources").and_then(|r| r["requests"].get("storage"));
    let resources = path.key("resources");
    let at = resources.key("requests");
    match asked.and_then(Value::as_str).and_then(crate::quantity::Quantity::parse) {
        None => failures.push(FieldError::required(resources.map_key("storage"), "")),
        Some(amount) if amount.units() <= 0 => {
            failures.push(FieldError::invalid(at.map_key("storage"), asked.cloned().unwrap_or(Value::Null), "must be greater than zero"));
        }
        Some(_) => {}
    }
}

/// An event lives in the namespace of what it is about; about nothing in a namespace, in `default`.
fn event(event: &Object, path: &Path<'_>, failures: &mut Failures) {
    let about = event.get("involvedObject").map_or("", |o| o["namespace"].as_str().unwrap_or_default());
    let own = event.get("metadata").map_or("", |m| m["namespace"].as_str().unwrap_or_default());
    let fits = if about.is_empty() { own == "default" || own == "kube-system" } else { about == own };
    if !fits {
        failures.push(FieldError::invalid(path.key("involvedObject").key("namespace"), about, "does not match event.namespace"));
    }
}

fn ingress(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    if list(spec, "rules").is_empty() && !spec.contains_key("defaultBackend") {
        failures.push(FieldError::invalid(path, Value::Array(Vec::new()), "either `defaultBackend` or `rules` must be specified"));
    }
}

fn ingress_path(entry: &Object, path: &Path<'_>, failures: &mut Failures) {
    let value = text(entry, "path");
    let may_be_empty = text(entry, "pathType") == "ImplementationSpecific";
    let fits = if value.is_empty() { may_be_empty } else { value.starts_with('/') };
    if !fits {
        failures.push(FieldError::invalid(path.key("path"), value, "must be an absolute path"));
    }
}

fn ingress_port(backend: &Object, path: &Path<'_>, failures: &mut Failures) {
    let port = backend.get("port").unwrap_or(&Value::Null);
    if port["name"].as_str().unwrap_or_default().is_empty() && port["number"].as_i64().unwrap_or(0) == 0 {
        failures.push(FieldError::required(path.key("port"), "port name or number is required"));
    }
}

fn policy_peer(peer: &Object, path: &Path<'_>, failures: &mut Failures) {
    let selects = peer.contains_key("podSelector") || peer.contains_key("namespaceSelector");
    match (peer.contains_key("ipBlock"), selects) {
        (false, false) => failures.push(FieldError::required(path, "must specify a peer")),
        (true, true) => failures.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn policy_rule(rule: &Object, path: &Path<'_>, failures: &mut Failures) {
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

fn priority(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    let name = class.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    let value = class.get("value").and_then(Value::as_i64).unwrap_or(0);
    if !name.starts_with("system-") && value > 1_000_000_000 {
        failures.push(FieldError::forbidden(path.key("value"), "maximum allowed value of a user defined priority is 1000000000"));
    }
}

fn definition_name(definition: &Object, path: &Path<'_>, failures: &mut Failures) {
    let at = |pointer: &str| definition.get("spec").and_then(|s| s.pointer(pointer)).and_then(Value::as_str).unwrap_or_default().to_owned();
    let expected = format!("{}.{}", at("/names/plural"), at("/group"));
    let name = definition.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    if name != expected {
        failures.push(FieldError::invalid(path.key("metadata").key("name"), name, "must be spec.names.plural+\".\"+spec.group"));
    }
}

fn one_stored_version(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let stored = list(spec, "versions").iter().filter(|v| v["storage"] == Value::Bool(true)).count();
    if stored != 1 {
        let shown = Value::Array(list(spec, "versions").iter().map(|v| v["name"].clone()).collect());
        failures.push(FieldError::invalid(path.key("versions"), shown, "must have exactly one version marked as storage version"));
    }
}

fn when(text: &str) -> Option<String> {
    let fits = matches!(text, "always" | "deleting") || text.starts_with("found:");
    (!fits).then(|| "must be always, deleting or found:NAME".to_owned())
}

fn digest(text: &str) -> Option<String> {
    let fits = text
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    (!fits).then(|| "must be sha256: followed by 64 lower case hexadecimal digits".to_owned())
}

fn verb(text: &str) -> Option<String> {
    const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*"];
    (!VERBS.contains(&text)).then(|| format!("must be one of: {}", VERBS.join(", ")))
}

fn module(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (kind, why) in
        [("admission", "an admission module says which requests it is asked about"), ("controller", "a controller says what it is about")]
    {
        let several = kind == "controller" && spec.get("controllers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if text(spec, "type") == kind && !spec.contains_key(kind) && !several {
            failures.push(FieldError::required(path.key(kind), why));
        }
    }
}
