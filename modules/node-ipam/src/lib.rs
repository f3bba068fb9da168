//! Gives every node a range of pod addresses of its own, cut from the cluster's; where the cluster has one of each family, so has the node.
//!
//! Not here: addresses of single pods (the machines hand those out from their range).
//! Invariant: no range is given to two nodes, and a node keeps what it has. One node is looked at at a time, on a view that shows all; a range
//! given a moment ago counts even when the view does not show it yet.

mod plan;

use pintle_sdk::network::{FAMILIES, Network};
use pintle_sdk::prelude::*;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    /// The range to cut from, or one of each family with a comma between; the cluster's when empty.
    cluster_cidr: String,
    /// Prefix length of a node's part; 24 when 0.
    node_prefix_length: u8,
    /// The same of version 6; 64 when 0.
    node_prefix_length_v6: u8,
}

/// The allocator, and what it has given since it started.
pub struct NodeIpam {
    /// One of each family.
    pools: Vec<plan::Pool>,
}

impl Controller for NodeIpam {
    fn start(start: &Start) -> Result<Self> {
        let config: Config = start.config()?;
        let cidrs = [config.cluster_cidr.as_str(), &start.cluster.pod_cidr, "10.244.0.0/16"];
        let cidr = cidrs.into_iter().find(|cidr| !cidr.is_empty()).unwrap_or_default();
        let ranges = Network::list(cidr).map_err(Error::undecided)?;
        let or = |said: u8, usual: u8| if said == 0 { usual } else { said };
        let lengths = [or(config.node_prefix_length, 24), or(config.node_prefix_length_v6, 64)];
        let pool = |range: Network| plan::Pool::new(range, lengths[usize::from(range.family() == FAMILIES[1])]);
        Ok(NodeIpam { pools: ranges.into_iter().map(pool).collect::<Result<_>>()? })
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(node) = request.object::<plan::Node>()? else {
            self.pools.iter_mut().for_each(|pool| pool.forget(&request.target.name));
            return Ok(Plan::new());
        };
        if !node.spec.pod_cidr.is_empty() || node.metadata.is_terminating() {
            return Ok(Plan::new());
        }
        Ok(plan::plan(&mut self.pools, &node, &request.related("nodes")?))
    }
}

pintle_sdk::controller!(NodeIpam);
