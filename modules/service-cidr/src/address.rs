//! The IPAddress of an address: made for the Service that has it, gone with it.

use std::net::IpAddr;

use pintle_sdk::prelude::*;
use serde::Deserialize;

use crate::GROUP;

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    metadata: Metadata,
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
    let holder = request.related::<Named>("services")?.into_iter().next().map(|service| ParentRef {
        resource: "services".into(),
        namespace: service.metadata.namespace,
        name: service.metadata.name,
        ..ParentRef::default()
    });
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
    let labels = json!({ FAMILY: if ip.is_ipv4() { "IPv4" } else { "IPv6" }, MANAGED_BY.0: MANAGED_BY.1 });
    let parent = json!({ "group": "", "resource": holder.resource, "namespace": holder.namespace, "name": holder.name });
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": { "name": ip.to_string(), "labels": labels },
        "spec": { "parentRef": parent },
    });
    Untyped::of_resource("ipaddresses", object)
}
