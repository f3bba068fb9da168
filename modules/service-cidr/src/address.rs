//! The IPAddress of an address: made for the Service that has it, gone with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pintle_sdk::network::family;
use pintle_sdk::prelude::*;
use serde::Deserialize;

use crate::GROUP;

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// An address object, by its name alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub metadata: Metadata,
}

/// A Service and its addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    /// One of each family; empty in rows that were written before there were two.
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
}

impl Service {
    fn addresses(&self) -> Vec<String> {
        if self.spec.cluster_ips.is_empty() { vec![self.spec.cluster_ip.clone()] } else { self.spec.cluster_ips.clone() }
    }
}

impl From<Service> for ParentRef {
    fn from(Service { metadata, .. }: Service) -> Self {
        ParentRef { resource: "services".into(), namespace: metadata.namespace, name: metadata.name, ..ParentRef::default() }
    }
}

/// Addresses that no object shows, though Services have them: those of Services that were there before this module.
pub fn missing(services: Vec<Service>, shown: &[Named]) -> Result<Plan> {
    let shown: BTreeSet<&str> = shown.iter().map(|named| named.metadata.name.as_str()).collect();
    let mut plan = Plan::new();
    for service in services {
        let addresses = service.addresses();
        let holder = ParentRef::from(service);
        for ip in addresses.iter().filter(|text| !shown.contains(text.as_str())).filter_map(|text| text.parse().ok()) {
            plan = plan.create(&made(ip, &holder)?);
        }
    }
    Ok(plan)
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    metadata: Metadata,
    spec: AddressSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AddressSpec {
    parent_ref: ParentRef,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct ParentRef {
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// Looks at one address; the key is its text, whether or not there is an object.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    let text = &request.target.name;
    // Headless Services are keys, too, by what they say in place of an address.
    let Ok(ip) = text.parse::<IpAddr>() else { return Ok(Plan::new()) };
    let second = request.related::<Service>("seconds")?;
    let holder = request.related::<Service>("services")?.into_iter().chain(second).next().map(ParentRef::from);
    let old = request.object::<Address>()?;
    Ok(match (old, holder) {
        (None, Some(holder)) => Plan::new().create(&made(ip, &holder)?),
        (Some(old), holder) if is_ours(&old) && !old.metadata.is_terminating() && holder.as_ref() != Some(&old.spec.parent_ref) => {
            // Whose it is cannot be changed: what is deleted is made anew for whoever has it now.
            Plan::new().delete(ObjectRef::of(GROUP, "ipaddresses", &old.metadata))
        }
        (Some(old), Some(holder)) if !is_ours(&old) && old.spec.parent_ref != holder => {
            let ParentRef { namespace, name, .. } = holder;
            Plan::new().warning("AddressTaken", format!("Service {namespace}/{name} has this address, too"))
        }
        _ => Plan::new(),
    })
}

fn is_ours(address: &Address) -> bool {
    address.metadata.labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
}

fn made(ip: IpAddr, holder: &ParentRef) -> Result<Untyped> {
    let labels = json!({ FAMILY: family(ip), MANAGED_BY.0: MANAGED_BY.1 });
    let parent = json!({ "group": "", "resource": holder.resource, "namespace": holder.namespace, "name": holder.name });
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": { "name": ip.to_string(), "labels": labels },
        "spec": { "parentRef": parent },
    });
    Untyped::of_resource("ipaddresses", object)
}
