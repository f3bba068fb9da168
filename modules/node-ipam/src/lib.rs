//! Gives every node a range of pod addresses of its own, cut from the cluster's.
//!
//! Not here: addresses of single pods (the machines hand those out from their range).
//! Invariant: no range is given to two nodes, and a node keeps what it has. One node is looked at at a time, on a view that shows all; a range
//! given a moment ago counts even when the view does not show it yet.

mod plan;

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    /// The range to cut from; the cluster's when empty.
    cluster_cidr: String,
    /// Prefix length of a node's part; 24 when 0.
    node_prefix_length: u8,
}

/// The allocator, and what it has given since it started.
pub struct NodeIpam {
    pool: plan::Pool,
    given: BTreeMap<u32, String>,
}

impl Controller for NodeIpam {
    fn start(start: &Start) -> Result<Self> {
        let config: Config = start.config()?;
        let cidrs = [config.cluster_cidr.as_str(), &start.cluster.pod_cidr, "10.244.0.0/16"];
        let cidr = cidrs.into_iter().find(|cidr| !cidr.is_empty()).unwrap_or_default();
        let prefix_length = if config.node_prefix_length == 0 { 24 } else { config.node_prefix_length };
        Ok(NodeIpam { pool: plan::Pool::new(cidr, prefix_length)?, given: BTreeMap::new() })
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(node) = request.object::<plan::Node>()? else {
            self.given.retain(|_, name| *name != request.target.name);
            return Ok(Plan::new());
        };
        if !node.spec.pod_cidr.is_empty() || node.metadata.is_terminating() {
            return Ok(Plan::new());
        }
        Ok(plan::plan(&self.pool, &mut self.given, &node, &request.related("nodes")?))
    }
}

pintle_sdk::controller!(NodeIpam);
