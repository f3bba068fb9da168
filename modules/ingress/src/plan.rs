//! What is written for an Ingress: its table, and where it is reached.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

use crate::Config;
use crate::model::{Class, Ingress, Named, Node, Table};
use crate::translate;

/// The controller's name in IngressClasses.
pub const CONTROLLER: &str = "pintle.dev/ingress";
/// The class that is ours without an IngressClass.
const CLASS: &str = "pintle";
const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// What stands around an Ingress.
pub struct Around {
    pub classes: Vec<Class>,
    /// Of its namespace.
    pub secrets: Vec<Named>,
    /// The one of its name.
    pub table: Option<Table>,
    pub nodes: Vec<Node>,
}

/// Whether the Ingress is ours to serve.
pub fn is_ours(ingress: &Ingress, classes: &[Class]) -> bool {
    let of_class = |name: &str| match classes.iter().find(|class| class.metadata.name == name) {
        Some(class) => class.spec.controller == CONTROLLER,
        None => name == CLASS,
    };
    let legacy = ingress.metadata.annotations.get(LEGACY_CLASS);
    match (ingress.spec.ingress_class_name.as_deref(), legacy) {
        (Some(name), _) => of_class(name),
        (None, Some(name)) => of_class(name),
        (None, None) => classes.iter().any(|class| {
            class.spec.controller == CONTROLLER && class.metadata.annotations.get(DEFAULT_CLASS).is_some_and(|value| value == "true")
        }),
    }
}

/// Keeps the table and the status of one Ingress.
pub fn plan(config: &Config, ingress: &Ingress, around: &Around) -> Result<Plan> {
    let meta = &ingress.metadata;
    let own = around.table.as_ref().filter(|table| table.metadata.is_controlled_by(&meta.uid));
    if meta.is_terminating() || !is_ours(ingress, &around.classes) {
        let Some(table) = own else { return Ok(Plan::new()) };
        // It was ours: what we showed of it is void, too.
        let plan = Plan::new().delete(ObjectRef::of("pintle.dev", "routetables", &table.metadata));
        return Ok(if meta.is_terminating() { plan } else { plan.then(show(ingress, &[])) });
    }
    let wanted = translate::table(config, ingress, &around.secrets);
    let mut plan = match (own, &around.table) {
        (Some(table), _) if table.spec == wanted || table.metadata.is_terminating() => Plan::new(),
        (Some(table), _) => {
            let mut body = table.metadata.precondition();
            body["spec"] = wanted;
            Plan::new().patch(ObjectRef::of("pintle.dev", "routetables", &table.metadata), body)
        }
        (None, Some(_)) => {
            return Ok(Plan::new().warning("TableTaken", format!("RouteTable {:?} exists and is not this Ingress's", meta.name)));
        }
        (None, None) => {
            let table = json!({
                "apiVersion": "pintle.dev/v1",
                "kind": "RouteTable",
                "metadata": {
                    "name": meta.name,
                    "namespace": meta.namespace,
                    "ownerReferences": [meta.as_controller("networking.k8s.io/v1", "Ingress")],
                },
                "spec": wanted,
            });
            Plan::new().create(&Untyped::new(table)?)
        }
    };
    if !plan.writes.is_empty() {
        for (reason, message) in translate::complaints(ingress, &around.secrets) {
            plan = plan.warning(reason, message);
        }
    }
    Ok(plan.then(show(ingress, &addresses(config, &around.nodes))))
}

/// Where Ingresses are reached: as configured, or at every ready node.
fn addresses(config: &Config, nodes: &[Node]) -> Vec<Value> {
    let shown = |text: &str| match text.parse::<std::net::IpAddr>() {
        Ok(_) => json!({"ip": text}),
        Err(_) => json!({"hostname": text}),
    };
    if !config.addresses.is_empty() {
        return config.addresses.iter().map(|address| shown(address)).collect();
    }
    let ready = |node: &&Node| node.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
    let of = |node: &Node, kind: &str| node.status.addresses.iter().find(|a| a.r#type == kind).map(|a| a.address.clone());
    let mut all: Vec<String> =
        nodes.iter().filter(ready).filter_map(|node| of(node, "ExternalIP").or_else(|| of(node, "InternalIP"))).collect();
    all.sort();
    all.dedup();
    all.iter().map(|address| shown(address)).collect()
}

/// `status.loadBalancer`, if it says something else.
fn show(ingress: &Ingress, addresses: &[Value]) -> Plan {
    let shown = ingress.status["loadBalancer"]["ingress"].as_array().map_or(&[][..], Vec::as_slice);
    if shown == addresses {
        return Plan::new();
    }
    let value = if addresses.is_empty() { Value::Null } else { addresses.into() };
    let target = ObjectRef::of("networking.k8s.io", "ingresses", &ingress.metadata);
    Plan::new().patch_status(target, json!({"loadBalancer": {"ingress": value}}))
}

#[cfg(test)]
mod tests;
