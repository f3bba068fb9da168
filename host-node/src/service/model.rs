//! What is read of Services and EndpointSlices, and by which name they go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

/// Namespace and name.
pub type Key = (String, String);

/// A Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Service {
    /// Names and labels.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: ServiceSpec,
    /// Where it is reached from outside.
    pub status: ServiceStatus,
}

/// Names an object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Metadata {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What is read of a Service's spec.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    pub r#type: String,
    /// An address, `None` for headless ones, or empty.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All of them.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// More addresses that lead to it.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// What an ExternalName stands for.
    pub external_name: String,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// How long affinity lasts.
    pub session_affinity_config: Option<AffinityConfig>,
    /// `Local` or `Cluster`.
    pub internal_traffic_policy: String,
    /// `Local` or `Cluster`.
    pub external_traffic_policy: String,
    /// Where balancers ask whether this node has endpoints; 0 for nowhere.
    pub health_check_node_port: u16,
    /// Names lead to endpoints that are not ready too.
    pub publish_not_ready_addresses: bool,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityConfig {
    /// By the client's address.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIp>,
}

/// `clientIP` of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIp {
    /// Seconds; 10,800 when it is not said.
    pub timeout_seconds: Option<u64>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, empty when there is one port only.
    pub name: String,
    /// TCP when it is not said.
    pub protocol: String,
    /// On the Service's addresses.
    pub port: u16,
    /// On every node; 0 for none.
    pub node_port: u16,
    /// What is spoken there, as `kubernetes.io/h2c`.
    pub app_protocol: String,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Given by whoever balances.
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    pub ingress: Vec<Ingress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// The address.
    pub ip: String,
    /// `Proxy`: packets must go through the balancer itself.
    pub ip_mode: String,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Slice {
    /// Names and labels.
    pub metadata: Metadata,
    /// IPv4, IPv6 or FQDN.
    pub address_type: String,
    /// Who serves.
    pub endpoints: Vec<Endpoint>,
    /// On which ports.
    pub ports: Vec<SlicePort>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; the first counts.
    pub addresses: Vec<String>,
    /// How it is.
    pub conditions: Conditions,
    /// Its own name below the Service's.
    pub hostname: String,
    /// Where it runs.
    pub node_name: String,
    /// Who should rather use it.
    pub hints: Hints,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Nodes of these zones.
    pub for_zones: Vec<Named>,
    /// These nodes.
    pub for_nodes: Vec<Named>,
}

/// A name in a list.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Named {
    /// It.
    pub name: String,
}

/// `conditions` of an endpoint; what is not said is well.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SlicePort {
    /// Which of the Service's.
    pub name: Option<String>,
    /// TCP when it is not said.
    pub protocol: Option<String>,
    /// The number at the endpoint.
    pub port: Option<u16>,
}

impl Service {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        (self.metadata.namespace.clone(), self.metadata.name.clone())
    }

    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }

    /// Its own addresses.
    pub fn cluster_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let one = self.spec.cluster_ips.is_empty().then_some(&self.spec.cluster_ip);
        self.spec.cluster_ips.iter().chain(one).filter_map(|ip| ip.parse().ok())
    }

    /// For how long a client stays with its endpoint, seconds.
    pub fn affinity_seconds(&self) -> Option<u64> {
        let config = self.spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
        (self.spec.session_affinity == "ClientIP").then(|| config.unwrap_or(10_800))
    }
}

impl Slice {
    /// The Service that it belongs to.
    pub fn service(&self) -> Option<Key> {
        let name = self.metadata.labels.get("kubernetes.io/service-name")?;
        Some((self.metadata.namespace.clone(), name.clone()))
    }
}

impl Endpoint {
    /// Its address.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first()?.parse().ok()
    }
}

impl Conditions {
    /// To be sent to.
    pub fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    /// Would answer, but goes: to be sent to when nobody is ready.
    pub fn is_last_resort(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready()) && self.terminating == Some(true)
    }
}

/// The number of a protocol by its name: TCP when nothing is said.
pub fn protocol(name: &str) -> Option<u8> {
    match name {
        "" | "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}
