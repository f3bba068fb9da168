//! The downward API: fields of the pod and resources of a container, as text.
//!
//! Pure. What a path may name is a closed list; anything else is refused, as the API server's validation does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::quantity;
use crate::error::{Error, Result};

/// What only the node knows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The pod's addresses.
    pub pod_addresses: Vec<IpAddr>,
    /// The node's InternalIPs.
    pub host_addresses: Vec<IpAddr>,
    /// The node's allocatable CPU, in thousandths: the limit of who has none.
    pub allocatable_cpu_millis: i64,
    /// The node's allocatable memory.
    pub allocatable_memory_bytes: i64,
    /// The node's allocatable ephemeral storage.
    pub allocatable_storage_bytes: i64,
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let first = |all: &[IpAddr]| all.first().map(IpAddr::to_string);
    let list = |all: &[IpAddr]| Some(all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","));
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
        "status.podIP" => first(&facts.pod_addresses),
        "status.podIPs" => list(&facts.pod_addresses),
        "status.hostIP" => first(&facts.host_addresses),
        "status.hostIPs" => list(&facts.host_addresses),
        other => {
            let keyed = |prefix: &str| other.strip_prefix(prefix).and_then(|r| r.strip_prefix("['")).and_then(|r| r.strip_suffix("']"));
            if let Some(key) = keyed("metadata.labels") {
                meta.labels.as_ref().and_then(|l| l.get(key)).cloned()
            } else if let Some(key) = keyed("metadata.annotations") {
                meta.annotations.as_ref().and_then(|a| a.get(key)).cloned()
            } else {
                return Err(Error::ContainerConfig(format!("unsupported fieldPath: {other}")));
            }
        }
    };
    Ok(text.unwrap_or_default())
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`; `container` is who asks, unless the reference names another.
pub fn resource(pod: &Pod, container: Option<&Container>, reference: &ResourceFieldSelector, facts: &Facts) -> Result<String> {
    let named = reference.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => crate::pod::record::all_containers(pod).find(|c| c.name == name),
        None => container,
    };
    let container = container.ok_or_else(|| Error::ContainerConfig("resourceFieldRef names no container of the pod".into()))?;
    let unsupported = || Error::ContainerConfig(format!("unsupported container resource : {}", reference.resource));
    let (kind, name) = reference.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let map = match kind {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let set = map.and_then(|m| m.get(name));
    let millis = match (set, kind, name) {
        (Some(set), ..) => quantity::millis(set).ok_or_else(unsupported)?,
        (None, "requests", _) => 0,
        (None, _, "cpu") => facts.allocatable_cpu_millis,
        (None, _, "memory") => facts.allocatable_memory_bytes.saturating_mul(1000),
        (None, _, "ephemeral-storage") => facts.allocatable_storage_bytes.saturating_mul(1000),
        _ => return Err(unsupported()),
    };
    let divisor = reference.divisor.as_ref().filter(|d| !matches!(d.0.as_str(), "" | "0"));
    let divisor = divisor.map_or(Some(1000), quantity_millis).filter(|d| *d > 0).ok_or_else(unsupported)?;
    // Rounded up, as the kubelet does.
    Ok((i128::from(millis) + i128::from(divisor) - 1).div_euclid(i128::from(divisor)).to_string())
}

fn quantity_millis(quantity: &Quantity) -> Option<i64> {
    quantity::millis(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "labels": { "a": "1", "b": "x\"y" }, "annotations": { "k/e": "v" } },
            "spec": { "nodeName": "n1", "serviceAccountName": "sa", "containers": [
                { "name": "c", "resources": { "limits": { "cpu": "250m", "memory": "64Mi" }, "requests": { "cpu": "100m" } } },
            ] },
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_are_told_as_the_kubelet_tells_them() {
        let facts = Facts {
            pod_addresses: vec![[10, 0, 0, 5].into(), std::net::Ipv6Addr::LOCALHOST.into()],
            host_addresses: vec![[1, 2, 3, 4].into()],
            ..Facts::default()
        };
        let check = |path: &str, expected: Option<&str>| assert_eq!(field(&pod(), path, &facts).ok().as_deref(), expected, "{path}");
        check("metadata.name", Some("p"));
        check("metadata.labels", Some("a=\"1\"\nb=\"x\\\"y\""));
        check("metadata.labels['a']", Some("1"));
        check("metadata.annotations['k/e']", Some("v"));
        check("metadata.annotations['none']", Some(""));
        check("spec.nodeName", Some("n1"));
        check("spec.serviceAccountName", Some("sa"));
        check("status.podIP", Some("10.0.0.5"));
        check("status.podIPs", Some("10.0.0.5,::1"));
        check("status.hostIPs", Some("1.2.3.4"));
        check("status.hostIP", Some("1.2.3.4"));
        check("spec.containers", None);
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let facts = Facts { allocatable_cpu_millis: 2000, allocatable_memory_bytes: 1 << 30, ..Facts::default() };
        let check = |resource: &str, divisor: &str, expected: Option<&str>| {
            let reference = ResourceFieldSelector {
                container_name: Some("c".into()),
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
            };
            assert_eq!(super::resource(&pod(), None, &reference, &facts).ok().as_deref(), expected, "{resource} / {divisor}");
        };
        check("limits.cpu", "1", Some("1"));
        check("limits.cpu", "1m", Some("250"));
        check("limits.cpu", "0", Some("1"));
        check("limits.memory", "1Mi", Some("64"));
        check("requests.cpu", "1m", Some("100"));
        check("requests.memory", "1", Some("0"));
        check("limits.ephemeral-storage", "1", Some("0"));
        check("limits.gpu", "1", None);
        check("cpu", "1", None);
    }
}
