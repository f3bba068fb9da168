//! What is read of Services, pods, EndpointSlices and Endpoints.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Metadata,
    pub spec: ServiceSpec,
}

/// What is read of a Service's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    pub r#type: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    pub selector: Option<BTreeMap<String, String>>,
    pub ports: Vec<ServicePort>,
    pub ip_families: Vec<String>,
    pub publish_not_ready_addresses: bool,
    pub traffic_distribution: String,
}

/// A node, for its zone and its processors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Metadata,
    pub status: NodeStatus,
}

/// What is read of a node's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub allocatable: Allocatable,
    pub conditions: Vec<Value>,
}

/// What pods may have of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Allocatable {
    pub cpu: String,
}

impl Node {
    /// Whether its Ready condition holds.
    pub fn is_ready(&self) -> bool {
        holds(&self.status.conditions, "Ready")
    }
}

fn holds(conditions: &[Value], kind: &str) -> bool {
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Zones of nodes by their names.
pub type Zones = BTreeMap<String, String>;

/// The zones that nodes say they are in.
pub fn zones(nodes: &[Node]) -> Zones {
    let zone = |node: &Node| Some((node.metadata.name.clone(), node.metadata.labels.get("topology.kubernetes.io/zone")?.clone()));
    nodes.iter().filter_map(zone).filter(|(_, zone)| !zone.is_empty()).collect()
}

/// A Service's port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    /// A number, a container port's name, or absent: then it is `port`.
    pub target_port: Value,
    pub app_protocol: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: PodStatus,
}

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: String,
    pub hostname: String,
    pub subdomain: String,
    pub containers: Vec<Container>,
}

/// A container, for its named ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub ports: Vec<ContainerPort>,
}

/// A container's port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: String,
    pub protocol: String,
    pub container_port: u16,
}

/// What is read of a pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<Value>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

/// An EndpointSlice of ours.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Slice {
    pub metadata: Metadata,
    pub address_type: String,
    pub endpoints: Option<Vec<Value>>,
    pub ports: Option<Vec<Value>>,
}

/// The Service's Endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub metadata: Metadata,
    pub subsets: Option<Vec<Value>>,
}

impl Service {
    /// Whether this controller says where it leads.
    pub fn is_selecting(&self) -> bool {
        self.spec.r#type != "ExternalName" && self.spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    }

    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }
}

impl Pod {
    /// Its first address of the family.
    pub fn address(&self, family: &str) -> Option<&str> {
        let of_family = |ip: &&str| ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
        self.status.pod_ips.iter().map(|ip| ip.ip.as_str()).find(of_family)
    }

    /// Whether it may ever serve (again).
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether its Ready condition holds.
    pub fn is_ready(&self) -> bool {
        holds(&self.status.conditions, "Ready")
    }

    /// The number that a Service's port leads to in this pod; `None` when it names a port that the pod does not have.
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        match &port.target_port {
            Value::Number(number) if number.as_u64() != Some(0) => u16::try_from(number.as_u64()?).ok(),
            Value::String(name) if !name.is_empty() => {
                let mut ports = self.spec.containers.iter().flat_map(|container| &container.ports);
                let same = |p: &&ContainerPort| p.name == *name && protocol(&p.protocol) == protocol(&port.protocol);
                ports.find(same).map(|p| p.container_port)
            }
            _ => Some(port.port),
        }
    }
}

/// TCP when nothing is said.
pub fn protocol(said: &str) -> &str {
    if said.is_empty() { "TCP" } else { said }
}
