//! Which range a node gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

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
}

/// The cluster's range, cut into equal parts.
#[derive(Clone, Debug)]
pub struct Pool {
    base: u32,
    prefix_length: u8,
    parts: u32,
}

impl Pool {
    /// Cuts an IPv4 range.
    pub fn new(cidr: &str, prefix_length: u8) -> Result<Self> {
        let bad = || Error::undecided(format!("{cidr:?} cannot be cut into parts of prefix length {prefix_length}"));
        let (address, whole) = cidr.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let whole: u8 = whole.parse().map_err(|_| bad())?;
        if whole == 0 || prefix_length < whole || prefix_length > 30 {
            return Err(bad());
        }
        let base = u32::from(address) & (u32::MAX << (32 - whole));
        Ok(Pool { base, prefix_length, parts: 1 << (prefix_length - whole) })
    }

    fn part(&self, index: u32) -> String {
        format!("{}/{}", Ipv4Addr::from(self.base + (index << (32 - self.prefix_length))), self.prefix_length)
    }

    /// Which parts a range lies on; more than one when it is larger than a part.
    fn parts_of(&self, cidr: &str) -> Vec<u32> {
        let parsed = cidr.split_once('/').and_then(|(a, p)| Some((u32::from(a.parse::<Ipv4Addr>().ok()?), p.parse::<u8>().ok()?)));
        let Some((address, prefix_length)) = parsed.filter(|(_, p)| (1..=32).contains(p)) else { return Vec::new() };
        let first = address & (u32::MAX << (32 - prefix_length));
        let last = first | !(u32::MAX << (32 - prefix_length));
        let size = 32 - self.prefix_length;
        let end = self.base + (self.parts << size).wrapping_sub(1);
        if last < self.base || first > end {
            return Vec::new();
        }
        let index = |address: u32| (address.clamp(self.base, end) - self.base) >> size;
        (index(first)..=index(last)).collect()
    }
}

/// Gives the lowest free part to a node that has none.
pub fn plan(pool: &Pool, given: &mut BTreeMap<u32, String>, node: &Node, nodes: &[Node]) -> Plan {
    let name = &node.metadata.name;
    let mut taken: BTreeSet<u32> = nodes.iter().flat_map(|node| pool.parts_of(&node.spec.pod_cidr)).collect();
    taken.extend(given.iter().filter(|(_, to)| *to != name).map(|(index, _)| *index));
    let again = given.iter().find(|(index, to)| *to == name && !taken.contains(index)).map(|(index, _)| *index);
    let Some(index) = again.or_else(|| (0..pool.parts).find(|index| !taken.contains(index))) else {
        return Plan::new()
            .warning("CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"))
            .requeue_after(Duration::from_secs(60));
    };
    given.insert(index, name.clone());
    let part = pool.part(index);
    let mut body = node.metadata.precondition();
    body["spec"] = json!({"podCIDR": part, "podCIDRs": [part]});
    Plan::new().patch(ObjectRef::of("", "nodes", &node.metadata), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeIpam;
    use pintle_sdk::testing::FakeKernel;

    fn ipam(cidr: &str) -> Result<NodeIpam> {
        Ok(NodeIpam { pool: Pool::new(cidr, 24)?, given: BTreeMap::new() })
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
        for (cidr, prefix_length) in [("x", 24), ("10.0.0.0/25", 24), ("10.0.0.0/0", 24), ("10.0.0.0/8", 31), ("10.0.0.0", 24)] {
            assert!(Pool::new(cidr, prefix_length).is_err(), "{cidr}");
        }
    }
}
