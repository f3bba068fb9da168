//! Which slices there should be, and what each holds.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Map, Value};

use crate::model::{Pod, Service, Slice, Zones};
use crate::plan::{Group, Groups};
use crate::topology::Hints;

/// Endpoints of one slice (upstream's default).
const ENDPOINTS_MAX: usize = 100;
/// From this try on names vary, so that a foreign object of the same name does not block for ever.
const VARY_NAMES_ATTEMPT: u32 = 3;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
/// Said of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// What endpoints are said of.
#[derive(Clone, Copy)]
pub struct Said<'a> {
    pub service: &'a Service,
    pub zones: &'a Zones,
    /// The zones that endpoints are to serve, where they are shared out.
    pub shared: Option<&'a Hints>,
}

/// Writes in two parts: those that add endpoints or change them, and those that take slices away.
pub struct Changes {
    pub gaining: Plan,
    pub losing: Vec<Write>,
}

/// Names a slice.
pub fn target(slice: &Slice) -> ObjectRef {
    ObjectRef::of("discovery.k8s.io", "endpointslices", &slice.metadata)
}

/// Brings the slices of one address family to what the groups say.
pub fn plan(attempt: u32, said: &Said<'_>, family: &str, groups: &Groups<'_>, existing: &[Slice]) -> Result<Changes> {
    let service = said.service;
    let labels = labels(service);
    let mut changes = Changes { gaining: Plan::new(), losing: Vec::new() };
    let mut left: Vec<&Slice> = existing.iter().filter(|s| s.address_type == family && !s.metadata.is_terminating()).collect();
    left.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    // A Service without endpoints has one slice without any, so that readers see that somebody looked.
    let empty = Groups::from([("[]".to_owned(), Group { ports: Vec::new(), members: Vec::new() })]);
    let groups = if groups.is_empty() { &empty } else { groups };
    for (key, group) in groups {
        let (same, others): (Vec<&Slice>, Vec<&Slice>) =
            left.into_iter().partition(|s| json!(s.ports.iter().flatten().collect::<Vec<_>>()) == json!(group.ports));
        left = others;
        for (slice, endpoints) in fill(said, group, &same) {
            match slice {
                Kept(slice) if endpoints.is_empty() && !group.members.is_empty() => changes.losing.push(Write::delete(target(slice))),
                Kept(slice) => changes.gaining.writes.extend(mend(slice, &endpoints, &labels)),
                Fresh(index) => {
                    let name = name(service, &format!("{family}{key}{index}{}", if attempt < VARY_NAMES_ATTEMPT { 0 } else { attempt }));
                    changes.gaining = changes.gaining.create(&Untyped::new(json!({
                        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                        "metadata": {
                            "name": name, "generateName": format!("{}-", service.metadata.name), "namespace": service.metadata.namespace,
                            "labels": labels, "ownerReferences": [service.metadata.as_controller("v1", "Service")],
                        },
                        "addressType": family, "endpoints": endpoints, "ports": group.ports,
                    }))?);
                }
            }
        }
    }
    changes.losing.extend(left.into_iter().map(|slice| Write::delete(target(slice))));
    Ok(changes)
}

/// A slice that is there, or the n-th that is not.
enum Place<'a> {
    Kept(&'a Slice),
    Fresh(usize),
}
use Place::{Fresh, Kept};

/// Distributes a group: who is in a slice stays there, the rest fills what has room, then new slices.
fn fill<'a>(said: &Said<'_>, group: &Group<'_>, same: &[&'a Slice]) -> Vec<(Place<'a>, Vec<Value>)> {
    let mut wanted: BTreeMap<String, Value> =
        group.members.iter().map(|(pod, at)| (pod.metadata.uid.clone(), endpoint(said, pod, at))).collect();
    let mut places: Vec<(Place<'a>, Vec<Value>)> = Vec::new();
    for slice in same {
        let uids = slice.endpoints.iter().flatten().filter_map(|e| e["targetRef"]["uid"].as_str());
        let kept = uids.filter_map(|uid| wanted.remove(uid)).take(ENDPOINTS_MAX).collect();
        places.push((Kept(slice), kept));
    }
    let mut rest = wanted.into_values();
    for (_, endpoints) in &mut places {
        let room = ENDPOINTS_MAX - endpoints.len();
        endpoints.extend(rest.by_ref().take(room));
    }
    let mut fresh = 0;
    loop {
        let endpoints: Vec<Value> = rest.by_ref().take(ENDPOINTS_MAX).collect();
        if endpoints.is_empty() && !places.is_empty() {
            return places;
        }
        // The number is that of slices there are, so that a second new one has another name than the first.
        places.push((Fresh(same.len() + fresh), endpoints));
        fresh += 1;
    }
}

/// Whether an endpoint is said to be ready.
pub fn is_ready(service: &Service, pod: &Pod) -> bool {
    service.spec.publish_not_ready_addresses || pod.is_ready() && !pod.metadata.is_terminating()
}

fn endpoint(Said { service, zones, shared }: &Said<'_>, pod: &Pod, address: &str) -> Value {
    let (ready, going) = (pod.is_ready(), pod.metadata.is_terminating());
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {
            "ready": is_ready(service, pod),
            "serving": ready, "terminating": going,
        },
        "targetRef": { "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid },
    });
    if !pod.spec.node_name.is_empty() {
        endpoint["nodeName"] = json!(pod.spec.node_name);
    }
    if let Some(zone) = zones.get(&pod.spec.node_name) {
        endpoint["zone"] = json!(zone);
    }
    let to = |name: Value| json!([{ "name": name }]);
    if let Some(zone) = shared.and_then(|shared| shared.get(&pod.metadata.uid)) {
        endpoint["hints"]["forZones"] = to(json!(zone));
    }
    let near =
        shared.is_none() && ["PreferSameNode", "PreferSameZone", "PreferClose"].contains(&service.spec.traffic_distribution.as_str());
    if near && endpoint["conditions"]["ready"] == true {
        if let Some(zone) = zones.get(&pod.spec.node_name) {
            endpoint["hints"]["forZones"] = to(json!(zone));
        }
        if service.spec.traffic_distribution == "PreferSameNode" && !pod.spec.node_name.is_empty() {
            endpoint["hints"]["forNodes"] = to(json!(pod.spec.node_name));
        }
    }
    if !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name {
        endpoint["hostname"] = json!(pod.spec.hostname);
    }
    endpoint
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

/// The write that makes a slice hold these endpoints and labels; none when it does.
fn mend(slice: &Slice, endpoints: &[Value], labels: &BTreeMap<String, String>) -> Option<Write> {
    let same = slice.endpoints.as_deref().unwrap_or(&[]) == endpoints;
    if same && slice.metadata.labels == *labels {
        return None;
    }
    let mut body = slice.metadata.precondition();
    body["endpoints"] = json!(endpoints);
    body["metadata"]["labels"] = label_patch(&slice.metadata.labels, labels);
    Some(Write::merge(target(slice), body))
}

/// A merge patch from one set of labels to another.
pub fn label_patch(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Value {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let changed = keys.into_iter().filter(|key| from.get(*key) != to.get(*key));
    Value::Object(changed.map(|key| (key.clone(), to.get(key).map_or(Value::Null, |value| json!(value)))).collect::<Map<_, _>>())
}

/// A name from the Service's and what makes the slice differ from its siblings: the same try makes the same name.
fn name(service: &Service, difference: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = service.metadata.uid.bytes().chain(difference.bytes());
    let mut hash = text.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut name: String = service.metadata.name.chars().take(240).collect();
    name.push('-');
    for _ in 0..8 {
        name.push(char::from(LETTERS[(hash % LETTERS.len() as u64) as usize]));
        hash /= LETTERS.len() as u64;
    }
    name
}
