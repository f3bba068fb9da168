//! The Endpoints object of a Service: the same said once more, in the old shape.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

use crate::model::{Endpoints, Pod, Service};
use crate::plan::Groups;
use crate::slices::{HEADLESS, label_patch};

/// Addresses of one object; what is beyond is left out and said so (upstream's limit).
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// Whether this controller made it.
pub fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
}

/// Creates or mends the Endpoints of a Service that selects.
pub fn plan(service: &Service, groups: &Groups<'_>, old: Option<Endpoints>) -> Result<Plan> {
    let (subsets, truncated) = subsets(service, groups);
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let annotations: BTreeMap<String, String> = truncated.then(|| (OVER_CAPACITY.to_owned(), "truncated".to_owned())).into_iter().collect();
    let Some(old) = old else {
        let metadata =
            json!({ "name": service.metadata.name, "namespace": service.metadata.namespace, "labels": labels, "annotations": annotations });
        let made = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets });
        return Ok(Plan::new().create(&Untyped::of_resource("endpoints", made)?));
    };
    let said = old.metadata.annotations.get(OVER_CAPACITY).is_some();
    if old.subsets.as_deref().unwrap_or(&[]) == subsets && old.metadata.labels == labels && said == truncated {
        return Ok(Plan::new());
    }
    let mut body = old.metadata.precondition();
    body["subsets"] = json!(subsets);
    body["metadata"]["labels"] = label_patch(&old.metadata.labels, &labels);
    body["metadata"]["annotations"] = json!({ OVER_CAPACITY: annotations.get(OVER_CAPACITY) });
    Ok(Plan::new().patch(ObjectRef::of("", "endpoints", &old.metadata), body))
}

fn subsets(service: &Service, groups: &Groups<'_>) -> (Vec<Value>, bool) {
    let (mut subsets, mut room, mut truncated) = (Vec::new(), ADDRESSES_MAX, false);
    let unready_too = service.spec.publish_not_ready_addresses;
    for group in groups.values().filter(|group| !group.ports.is_empty() || service.is_headless()) {
        let (mut ready, mut unready) = (Vec::new(), Vec::new());
        for (pod, address) in group.members.iter().filter(|(pod, _)| unready_too || !pod.metadata.is_terminating()) {
            if room == 0 {
                truncated = true;
                break;
            }
            room -= 1;
            let list = if unready_too || pod.is_ready() { &mut ready } else { &mut unready };
            list.push(self::address(service, pod, address));
        }
        let mut subset = json!({});
        let lists = [("addresses", ready), ("notReadyAddresses", unready), ("ports", group.ports.iter().map(port).collect())];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            subset[key] = Value::Array(list);
        }
        if subset.get("addresses").is_some() || subset.get("notReadyAddresses").is_some() {
            subsets.push(subset);
        }
    }
    (subsets, truncated)
}

/// An unnamed port has no name here.
fn port(of_slice: &Value) -> Value {
    let mut port = of_slice.clone();
    if let (Some(object), true) = (port.as_object_mut(), of_slice["name"] == "") {
        object.remove("name");
    }
    port
}

fn address(service: &Service, pod: &Pod, address: &str) -> Value {
    let mut entry = json!({
        "ip": address,
        "targetRef": { "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid },
    });
    if !pod.spec.node_name.is_empty() {
        entry["nodeName"] = json!(pod.spec.node_name);
    }
    if !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name {
        entry["hostname"] = json!(pod.spec.hostname);
    }
    entry
}
