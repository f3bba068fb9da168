//! What is read of Ingresses and of what stands around them.

use pintle_sdk::serde_json::Value;
use pintle_sdk::{Condition, prelude::*};
use serde::Deserialize;

/// An Ingress.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ingress {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Value,
}

/// `spec` of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub ingress_class_name: Option<String>,
    pub default_backend: Option<Backend>,
    pub tls: Vec<Tls>,
    pub rules: Vec<Rule>,
}

/// Hosts and the Secret with their certificate.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    pub hosts: Vec<String>,
    pub secret_name: String,
}

/// Paths of a host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    pub host: String,
    pub http: Option<Http>,
}

/// `http` of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Http {
    pub paths: Vec<Path>,
}

/// A path and who answers there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Path {
    pub path: String,
    pub path_type: String,
    pub backend: Backend,
}

/// A port of a Service; a `resource` in its place is not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Backend {
    pub service: Option<Service>,
}

/// Which Service, which port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub name: String,
    pub port: Port,
}

/// By number or by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    pub number: u16,
    pub name: String,
}

/// An IngressClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Class {
    pub metadata: Metadata,
    pub spec: ClassSpec,
}

/// `spec` of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClassSpec {
    pub controller: String,
}

/// An object of which only the metadata matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub metadata: Metadata,
}

/// A RouteTable.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Table {
    pub metadata: Metadata,
    pub spec: Value,
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Metadata,
    pub status: NodeStatus,
}

/// `status` of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub addresses: Vec<Address>,
    pub conditions: Vec<Condition>,
}

/// An address of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    pub r#type: String,
    pub address: String,
}
