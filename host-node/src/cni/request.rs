//! What plugins are told of a pod, and what is read of their answers. Pure.
//!
//! Facts: the CNI conventions (`portMappings`, `bandwidth`, `ips`, `dns`), and the arguments that every Kubernetes runtime passes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::net::shape::Bandwidth;
use crate::pod::record::{name, namespace, uid};

/// Names the addresses that a pod asks the plugins for, separated by commas.
const ADDRESSES: &str = "pintle.dev/pod-ips";

/// CNI_ARGS.
pub fn args(pod: &Pod, container: &str) -> String {
    let (namespace, name, uid) = (namespace(pod), name(pod), uid(pod));
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}")
}

/// What the plugins may want to know of the pod, by capability. `resolv_conf` is what it will read.
///
/// # Errors
/// An annotation is nonsense.
pub fn capabilities(pod: &Pod, resolv_conf: &str) -> Result<Map<String, Value>> {
    let annotations = pod.metadata.annotations.iter().flatten();
    let annotations: Map<String, Value> = annotations.map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut all = Map::new();
    let ports = port_mappings(pod);
    if !ports.is_empty() {
        all.insert("portMappings".into(), Value::Array(ports));
    }
    let Bandwidth { ingress, egress } = Bandwidth::of(pod)?;
    let mut bandwidth = Map::new();
    for (direction, rate) in [("ingress", ingress), ("egress", egress)] {
        let Some(bits) = rate else { continue };
        bandwidth.insert(format!("{direction}Rate"), json!(bits));
        bandwidth.insert(format!("{direction}Burst"), json!(crate::net::shape::burst_bits(bits)));
    }
    if !bandwidth.is_empty() {
        all.insert("bandwidth".into(), Value::Object(bandwidth));
    }
    if let Some(text) = annotations.get(ADDRESSES).and_then(Value::as_str) {
        let bad = || Error::invalid(format!("annotation {ADDRESSES}"), format!("{text:?} is not a list of addresses"));
        let addresses = text.split(',').map(|one| one.trim().parse::<IpAddr>().map(|at| json!(at)));
        all.insert("ips".into(), addresses.collect::<Result<_, _>>().map_err(|_| bad())?);
    }
    all.insert("dns".into(), dns(resolv_conf));
    // As containerd calls it.
    all.insert("io.kubernetes.cri.pod-annotations".into(), Value::Object(annotations));
    Ok(all)
}

fn port_mappings(pod: &Pod) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mapping = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let host = port.host_port.filter(|number| *number > 0)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        let mut one = json!({ "hostPort": host, "containerPort": port.container_port, "protocol": protocol });
        if let Some(at) = port.host_ip.as_deref().filter(|at| !at.is_empty()) {
            one["hostIP"] = json!(at);
        }
        Some(one)
    };
    ports.filter_map(mapping).collect()
}

fn dns(resolv_conf: &str) -> Value {
    let of = |key: &str| {
        let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix(key)).filter(|rest| rest.starts_with([' ', '\t']));
        lines.flat_map(str::split_whitespace).collect::<Vec<_>>()
    };
    json!({ "servers": of("nameserver"), "searches": of("search"), "options": of("options") })
}

/// The addresses of the pod in the answer of the last plugin, in its order.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let address = |text: &Value| text.as_str()?.split('/').next()?.parse().ok();
    let later = result["ips"].as_array().into_iter().flatten().map(|one| &one["address"]);
    // Before version 0.3.0 there was one of each family.
    let first = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    later.chain(first).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: Value, ports: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u", "annotations": annotations },
            "spec": { "containers": [{ "name": "c", "ports": ports }] } }))
        .expect("a pod")
    }

    #[test]
    fn plugins_are_told_what_the_conventions_say() {
        let ports = json!([{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1" },
            { "containerPort": 81 }]);
        let annotations = json!({ "kubernetes.io/egress-bandwidth": "8M", "pintle.dev/pod-ips": "10.1.0.9, fd00::9" });
        let told = capabilities(&pod(annotations, ports), "nameserver 10.96.0.10\nsearch a b\noptions ndots:5\n").expect("told");
        let told = Value::Object(told);
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1" }]);
        assert_eq!(told["portMappings"], mappings);
        assert_eq!(told["bandwidth"]["egressRate"], 8_000_000);
        assert!(told["bandwidth"]["egressBurst"].as_u64() > Some(0) && told["bandwidth"]["ingressRate"].is_null());
        assert_eq!(told["ips"], json!(["10.1.0.9", "fd00::9"]));
        assert_eq!(told["dns"], json!({ "servers": ["10.96.0.10"], "searches": ["a", "b"], "options": ["ndots:5"] }));
        assert!(capabilities(&pod(json!({ "pintle.dev/pod-ips": "x" }), json!([])), "").is_err());
        assert!(args(&pod(json!({}), json!([])), "s1").ends_with("K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u"));
    }

    #[test]
    fn addresses_are_found_in_answers_of_every_version() {
        let check = |result: Value, expected: &[&str]| {
            let found: Vec<_> = addresses(&result).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{result}");
        };
        check(json!({ "ips": [{ "address": "10.1.0.2/24" }, { "address": "fd00::2/64" }] }), &["10.1.0.2", "fd00::2"]);
        check(json!({ "ip4": { "ip": "10.1.0.2/24" } }), &["10.1.0.2"]);
        check(json!({ "ips": [{ "address": 7 }] }), &[]);
        check(json!(null), &[]);
    }
}
