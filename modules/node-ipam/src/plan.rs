//! Which range a node gets.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::network::{Network, address};
use pintle_sdk::prelude::*;
use serde::Deserialize;

/// A node, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    /// Its range.
    pub spec: NodeSpec,
}

/// What is read of a node's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Empty until it is given.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Of each family; the first is `podCIDR`.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// A range of the cluster, cut into equal parts, and who was given which since the start.
#[derive(Clone, Debug)]
pub struct Pool {
    whole: Network,
    prefix_length: u8,
    /// Bits of the number of a part.
    bits: u8,
    given: BTreeMap<u32, String>,
}

impl Pool {
    /// Cuts a range into a million parts at most.
    pub fn new(whole: Network, prefix_length: u8) -> Result<Self> {
        let bad = || Error::undecided(format!("{whole} cannot be cut into parts of prefix length {prefix_length}"));
        let most = if whole.address().is_ipv4() { 30 } else { 126 };
        let bits = prefix_length.checked_sub(whole.length()).filter(|bits| *bits <= 20 && prefix_length <= most).ok_or_else(bad)?;
        Ok(Pool { whole, prefix_length, bits, given: BTreeMap::new() })
    }

    /// A node is gone.
    pub fn forget(&mut self, node: &str) {
        self.given.retain(|_, name| name != node);
    }

    /// Bits of the addresses of a part.
    fn size(&self) -> u8 {
        (if self.whole.address().is_ipv4() { 32 } else { 128 }) - self.prefix_length
    }

    fn part(&self, index: u32) -> String {
        let first = self.whole.first() + (u128::from(index) << self.size());
        format!("{}/{}", address(first), self.prefix_length)
    }

    /// Which parts a range lies on; more than one when it is larger than a part.
    fn parts_of(&self, cidr: &str) -> Vec<u32> {
        let Ok(range) = cidr.parse::<Network>() else { return Vec::new() };
        if range.last() < self.whole.first() || range.first() > self.whole.last() {
            return Vec::new();
        }
        let place = |number: u128| (number.clamp(self.whole.first(), self.whole.last()) - self.whole.first()) >> self.size();
        let index = |number: u128| u32::try_from(place(number)).unwrap_or(u32::MAX);
        (index(range.first())..=index(range.last())).collect()
    }

    /// The part that the node was given a moment ago, or the lowest free one.
    fn choose(&self, name: &str, nodes: &[Node]) -> Option<u32> {
        let ranges = nodes.iter().flat_map(|node| node.spec.pod_cidrs.iter().chain([&node.spec.pod_cidr]));
        let mut taken: BTreeSet<u32> = ranges.flat_map(|cidr| self.parts_of(cidr)).collect();
        taken.extend(self.given.iter().filter(|(_, to)| *to != name).map(|(index, _)| *index));
        let again = self.given.iter().find(|(index, to)| *to == name && !taken.contains(index)).map(|(index, _)| *index);
        again.or_else(|| (0..1 << self.bits).find(|index| !taken.contains(index)))
    }
}

/// Gives a free part of each range to a node that has none.
pub fn plan(pools: &mut [Pool], node: &Node, nodes: &[Node]) -> Plan {
    let name = &node.metadata.name;
    let Some(chosen) = pools.iter().map(|pool| pool.choose(name, nodes)).collect::<Option<Vec<u32>>>() else {
        return Plan::new()
            .warning("CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"))
            .requeue_after(Duration::from_secs(60));
    };
    let parts: Vec<String> = pools.iter().zip(&chosen).map(|(pool, index)| pool.part(*index)).collect();
    for (pool, index) in pools.iter_mut().zip(chosen) {
        pool.given.insert(index, name.clone());
    }
    let mut body = node.metadata.precondition();
    body["spec"] = json!({"podCIDR": parts.first(), "podCIDRs": parts});
    Plan::new().patch(ObjectRef::of("", "nodes", &node.metadata), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeIpam;
    use pintle_sdk::testing::FakeKernel;

    fn ipam(cidr: &str) -> Result<NodeIpam> {
        let pool = |range: Network| Pool::new(range, if range.address().is_ipv4() { 24 } else { 64 });
        Ok(NodeIpam { pools: Network::list(cidr).map_err(Error::undecided)?.into_iter().map(pool).collect::<Result<_>>()? })
    }

    fn kernel(nodes: &[(&str, &str)]) -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        for (name, cidr) in nodes {
            let spec = if cidr.is_empty() { json!({}) } else { json!({"podCIDR": cidr}) };
            kernel.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}))?;
        }
        Ok(kernel)
    }

    fn ranges(kernel: &FakeKernel) -> Vec<String> {
        kernel.list("/nodes").iter().map(|node| node["spec"]["podCIDR"].as_str().unwrap_or("").to_owned()).collect()
    }

    #[test]
    fn each_node_gets_the_lowest_free_part() -> Result<()> {
        let mut kernel = kernel(&[("a", ""), ("b", "10.244.0.0/24"), ("c", "")])?;
        kernel.settle(&mut ipam("10.244.0.0/16")?)?;
        assert_eq!(ranges(&kernel), ["10.244.1.0/24", "10.244.0.0/24", "10.244.2.0/24"]);
        assert_eq!(kernel.get("/nodes", "", "a").map(|n| n["spec"]["podCIDRs"].clone()), Some(json!(["10.244.1.0/24"])));
        Ok(())
    }

    #[test]
    fn a_node_gets_a_part_of_each_family() -> Result<()> {
        let mut kernel = kernel(&[("a", ""), ("b", "10.244.0.0/24"), ("c", "")])?;
        kernel.settle(&mut ipam("10.244.0.0/16,fd00:10:244::/48")?)?;
        let all = |name: &str| kernel.get("/nodes", "", name).map(|node| node["spec"]["podCIDRs"].clone());
        assert_eq!(all("a"), Some(json!(["10.244.1.0/24", "fd00:10:244::/64"])));
        assert_eq!(all("c"), Some(json!(["10.244.2.0/24", "fd00:10:244:1::/64"])));
        Ok(())
    }

    #[test]
    fn an_old_view_gives_no_part_twice() -> Result<()> {
        let mut kernel = kernel(&[("a", ""), ("b", ""), ("c", "")])?;
        let mut ipam = ipam("10.244.0.0/16")?;
        kernel.freeze_view();
        kernel.round(&mut ipam)?;
        kernel.round(&mut ipam)?;
        assert_eq!(ranges(&kernel), ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        Ok(())
    }

    #[test]
    fn when_all_parts_are_given_the_node_is_told_and_a_freed_part_is_given_again() -> Result<()> {
        let mut kernel = kernel(&[("a", ""), ("b", ""), ("c", "")])?;
        let mut ipam = ipam("10.0.0.0/23")?;
        kernel.settle(&mut ipam)?;
        assert_eq!(ranges(&kernel), ["10.0.0.0/24", "10.0.1.0/24", ""]);
        assert!(kernel.events.iter().any(|event| event.reason == "CIDRNotAvailable"));
        kernel.remove("/nodes", "", "a");
        kernel.settle(&mut ipam)?;
        assert_eq!(ranges(&kernel), ["10.0.1.0/24", "10.0.0.0/24"]);
        Ok(())
    }

    #[test]
    fn a_larger_range_that_someone_gave_by_hand_is_respected() -> Result<()> {
        let mut kernel = kernel(&[("a", "10.244.0.0/22"), ("b", "")])?;
        kernel.settle(&mut ipam("10.244.0.0/16")?)?;
        assert_eq!(ranges(&kernel)[1], "10.244.4.0/24");
        Ok(())
    }

    #[test]
    fn nonsense_ranges_do_not_start() {
        for (cidr, prefix_length) in [("10.0.0.0/25", 24), ("10.0.0.0/0", 24), ("10.0.0.0/16", 31), ("fd00::/32", 64)] {
            assert!(cidr.parse().map_err(Error::undecided).and_then(|whole| Pool::new(whole, prefix_length)).is_err(), "{cidr}");
        }
    }
}
