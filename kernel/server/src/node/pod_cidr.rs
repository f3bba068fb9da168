//! A range of pod addresses for each node, out of the cluster's: given when a node registers without one.
//!
//! Upstream leaves this to a controller; here it is a counter like the registry's for Services, and a machine cannot start pods without it.
//! A range that some node holds is never given twice; nodes that are deleted give theirs back.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use pintle_api::ApiError;
use pintle_registry::{Caller, ListOptions, Patch, Target, WriteOptions};
use serde_json::{Value, json};

use crate::server::Shared;

/// Prefix length of a node's range.
const NODE_PREFIX: u32 = 24;

/// Give the node a range if it has none.
pub(super) async fn assign(shared: &Shared, node: &Target) -> Result<(), ApiError> {
    // One at a time: two nodes that register together must not be given the same range.
    let _one = shared.pod_cidrs.lock().await;
    let all = Target { name: String::new(), ..node.clone() };
    let nodes = shared.registry.list(&all, &ListOptions::default()).await?.items;
    let mut taken = BTreeSet::new();
    for object in nodes {
        let value = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        let range = value.pointer("/spec/podCIDR").and_then(Value::as_str).filter(|range| !range.is_empty()).map(str::to_owned);
        match range {
            Some(_) if *object.meta().name == *node.name => return Ok(()),
            Some(range) => drop(taken.insert(range)),
            None => {}
        }
    }
    let free = ranges(&shared.cluster.pod_cidr).find(|range| !taken.contains(range));
    let range = free.ok_or_else(|| ApiError::service_unavailable("no range of pod addresses is free"))?;
    let patch = json!({ "spec": { "podCIDR": range, "podCIDRs": [range] } }).to_string();
    shared.registry.patch(&Caller::kernel(), node, Patch::Merge(patch.into()), &WriteOptions::default()).await?;
    Ok(())
}

/// The ranges of a cluster's range, in order; none when it cannot be read.
fn ranges(cluster: &str) -> impl Iterator<Item = String> + use<> {
    let parsed = cluster.split_once('/').and_then(|(base, prefix)| Some((base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?)));
    let (base, count) = match parsed {
        Some((base, prefix)) if prefix <= NODE_PREFIX => (u32::from(base), 1_u32 << (NODE_PREFIX - prefix.max(8))),
        _ => (0, 0),
    };
    (0..count).map(move |index| format!("{}/{NODE_PREFIX}", Ipv4Addr::from(base.wrapping_add(index << (32 - NODE_PREFIX)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_24s_of_the_clusters() {
        let all: Vec<String> = ranges("10.244.0.0/16").collect();
        assert_eq!((all.len(), all[0].as_str(), all[255].as_str()), (256, "10.244.0.0/24", "10.244.255.0/24"));
        assert_eq!(ranges("10.0.0.0/24").collect::<Vec<_>>(), ["10.0.0.0/24"]);
        assert_eq!(ranges("nonsense").count() + ranges("10.0.0.0/25").count(), 0);
    }
}
