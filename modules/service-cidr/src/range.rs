//! A ServiceCIDR: ready while it stands, and held back while it is deleted and an address is in no other.

use std::net::IpAddr;

use pintle_sdk::network::Network;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

use crate::GROUP;
use crate::address::{self, Named};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How soon a range that is held back is looked at again.
const AGAIN: Duration = Duration::from_secs(5);
const READY: &str = "Kubernetes Service CIDR is ready";
const HELD: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    metadata: Metadata,
    spec: RangeSpec,
    status: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RangeSpec {
    cidrs: Vec<String>,
}

/// Looks at one range.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(range) = request.object::<Range>()? else { return Ok(Plan::new()) };
    let held = range.metadata.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if !range.metadata.is_terminating() {
        let plan = ready(now, &range, ("True", "", READY));
        let plan = if held { plan } else { plan.write(finalizers(&range, true)) };
        return Ok(plan.then(address::missing(request.related("services")?, &request.related::<Named>("addresses")?)?));
    }
    let others: Vec<Range> = request.related::<Range>("ranges")?.into_iter().filter(|other| !other.metadata.is_terminating()).collect();
    let mut addresses = request.related::<Named>("addresses")?.into_iter().filter_map(|named| named.metadata.name.parse::<IpAddr>().ok());
    let alone = |ip: IpAddr| contains(&range, ip) && !others.iter().any(|other| contains(other, ip));
    Ok(match (addresses.any(alone), held) {
        (true, _) => ready(now, &range, ("False", "Terminating", HELD)).requeue_after(AGAIN),
        (false, true) => Plan::new().write(finalizers(&range, false)),
        (false, false) => Plan::new(),
    })
}

/// A write that puts our finalizer there or takes it away.
fn finalizers(range: &Range, wanted: bool) -> Write {
    let others = range.metadata.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let all: Vec<String> = others.chain(wanted.then(|| FINALIZER.to_owned())).collect();
    let mut body = range.metadata.precondition();
    body["metadata"]["finalizers"] = json!(all);
    Write::merge(ObjectRef::of(GROUP, "servicecidrs", &range.metadata), body)
}

/// The condition, if it says something else.
fn ready(now: Time, range: &Range, (status, reason, message): (&str, &str, &str)) -> Plan {
    let conditions = range.status["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().find(|condition| condition["type"] == "Ready");
    if old.is_some_and(|old| old["status"] == status && old["reason"] == reason) {
        return Plan::new();
    }
    let mut all: Vec<Value> = conditions.iter().filter(|condition| condition["type"] != "Ready").cloned().collect();
    all.push(json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now}));
    Plan::new().patch_status(ObjectRef::of(GROUP, "servicecidrs", &range.metadata), json!({"conditions": all}))
}

fn contains(range: &Range, ip: IpAddr) -> bool {
    range.spec.cidrs.iter().filter_map(|cidr| cidr.parse::<Network>().ok()).any(|network| network.contains(ip))
}
