//! The tunnel to other nodes' pods, where whatever lies between the machines does not know the way to pods' addresses: a VXLAN device.
//!
//! All that it must know follows from Node objects. A node's end of the tunnel has a hardware address made from the node's name, so nobody needs to
//! be told it, and it stays when the machine's own address changes. For each other node there is one entry that says at which machine that hardware
//! address is, one neighbour for the gateway of each range of its pods, and one route for each range. Nothing is learnt from packets and nothing is
//! flooded: what is not known is not sent.
//!
//! The device bears the gateways of this node's own pods, so that what the machine itself sends to pods elsewhere is answered through the tunnel, too.
//! Facts: RFC 7348; linux/if_link.h (`IFLA_VXLAN_*`), linux/neighbour.h.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use pintle_values::network::Network as Range;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkVxlan, RouteMessageBuilder};

use super::addresses::gateway;
use super::link::{self, netlink};
use super::set;
use crate::error::{Error, Result};

/// How packets to pods of other nodes leave this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Overlay {
    /// As they are: what lies between the nodes knows the way, or nothing lies between them.
    #[default]
    None,
    /// In UDP datagrams from node to node.
    Vxlan,
}

/// Tells our tunnel from others at the same port.
const VNI: u32 = 1;
/// The port that IANA gave to VXLAN.
const PORT: u16 = 4789;

/// A hardware address.
type Mac = [u8; 6];

/// Bytes that the tunnel puts around a packet: Ethernet, VXLAN, UDP, and IP of the machines' family.
pub fn overhead(machine: IpAddr) -> u32 {
    if machine.is_ipv4() { 14 + 8 + 8 + 20 } else { 14 + 8 + 8 + 40 }
}

/// The device's name: at most 15 characters, from the bridge's, so that it is found again.
pub fn device(bridge: &str) -> String {
    let beginning: String = bridge.chars().take(12).collect();
    format!("{beginning}-vx")
}

/// The hardware address of a node's end of the tunnel: unicast, of local meaning, the rest by FNV-1a.
fn hardware_address(node: &str) -> Mac {
    let hash = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [a, b, c, d, e, f, ..] = (hash ^ hash >> 48).to_le_bytes();
    [a & 0xfc | 0x02, b, c, d, e, f]
}

/// The address of version 6 that a link with this hardware address has by itself (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

/// This node's end of the tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    device: String,
    mac: Mac,
    /// The machine's address that the tunnel begins at.
    pub(super) from: IpAddr,
    /// The device as it was last found right: its number, and how many addresses it was given.
    right: Cell<Option<(u32, usize)>>,
}

impl Tunnel {
    pub(super) fn new(bridge: &str, node: &str, from: IpAddr) -> Self {
        Self { device: device(bridge), mac: hardware_address(node), from, right: Cell::new(None) }
    }

    /// Makes the device, or replaces one of that name that is another. `own`: the ranges of this node's pods, as far as they are known.
    pub(super) async fn ensure(&self, handle: &Handle, mtu: u32, own: &[Range]) -> Result<u32> {
        let found = link::find(handle, &self.device).await?;
        let index = match found.as_ref().filter(|link| self.is(link)) {
            Some(link) if self.right.get() == Some((link.header.index, own.len())) => return Ok(link.header.index),
            Some(link) => link.header.index,
            None => {
                if let Some(other) = found {
                    tracing::warn!(device = self.device, "another device has the tunnel's name: it is replaced");
                    link::delete(handle, other.header.index).await?;
                }
                let (device, mac) = (LinkVxlan::new(&self.device, VNI).port(PORT).learning(false), self.mac.to_vec());
                let device = match self.from {
                    IpAddr::V4(from) => device.local(from),
                    IpAddr::V6(from) => device.local6(from),
                };
                let made = handle.link().add(device.address(mac).mtu(mtu).build()).execute().await;
                made.map_err(netlink(format!("making the tunnel {} from {}", self.device, self.from)))?;
                set("ipv4", &["rp_filter", "send_redirects"].map(|key| (format!("conf/{}/{key}", self.device), "0")));
                link::require(handle, &self.device).await?
            }
        };
        link::raise(handle, index, Some(mtu)).await?;
        for range in own {
            link::add_address(handle, index, gateway(*range), super::host_length(range.address())).await?;
        }
        self.right.set(Some((index, own.len())));
        Ok(index)
    }

    /// Whether a link is what [`Self::ensure`] would make, but for what can be changed.
    fn is(&self, link: &LinkMessage) -> bool {
        let mut wanted = vec![InfoVxlan::Id(VNI), InfoVxlan::Port(PORT), InfoVxlan::Learning(false)];
        wanted.push(match self.from {
            IpAddr::V4(from) => InfoVxlan::Local(from),
            IpAddr::V6(from) => InfoVxlan::Local6(from),
        });
        let data = info(link).iter().find_map(|one| if let LinkInfo::Data(InfoData::Vxlan(data)) = one { Some(data) } else { None });
        data.is_some_and(|data| wanted.iter().all(|one| data.contains(one)))
            && link.attributes.contains(&LinkAttribute::Address(self.mac.to_vec()))
    }

    /// Leads to a node's pods, by way of its machine.
    pub(super) async fn add(&self, handle: &Handle, index: u32, node: &str, at: IpAddr, ranges: &[Range]) -> Result<()> {
        let mac = hardware_address(node);
        let there = handle.neighbours().add_bridge(index, &mac).destination(at).flags(NeighbourFlags::Own).replace().execute().await;
        there.map_err(netlink(format!("tunnelling to {node} at {at}")))?;
        for range in ranges {
            let through = next(*range, mac);
            let neighbour = handle.neighbours().add(index, through).link_layer_address(&mac).replace().execute().await;
            neighbour.map_err(netlink(format!("naming {through} in the tunnel")))?;
            let added = handle.route().add(route(*range, mac, index)?).replace().execute().await;
            added.map_err(netlink(format!("routing {range} into the tunnel")))?;
        }
        Ok(())
    }

    /// Removes what leads to other nodes and ranges than these: of nodes that are gone, and what an earlier daemon left.
    pub(super) async fn keep_only(&self, handle: &Handle, index: u32, nodes: &[(&String, Vec<Range>)]) -> Result<()> {
        let mut kept = BTreeSet::new();
        for (node, ranges) in nodes {
            let mac = hardware_address(node);
            kept.insert((mac, None));
            kept.extend(ranges.iter().map(|range| (mac, Some(next(*range, mac)))));
        }
        let mut stale = Vec::new();
        for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = handle.neighbours().get().set_address_family(family).execute();
            while let Some(one) = all.try_next().await.map_err(netlink("listing neighbours"))? {
                let ours = one.header.ifindex == index && one.header.family == family && one.header.state == NeighbourState::Permanent;
                if ours && entry(&one).is_some_and(|entry| !kept.contains(&entry)) {
                    stale.push(one);
                }
            }
        }
        for one in stale {
            let removed = handle.neighbours().del(one).execute().await;
            removed.map_err(netlink("removing a neighbour from the tunnel"))?;
        }
        let wanted = nodes.iter().flat_map(|(node, ranges)| ranges.iter().map(|range| route(*range, hardware_address(node), index)));
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            let mut all = handle.route().get(asked).execute();
            let mut stale = Vec::new();
            while let Some(one) = all.try_next().await.map_err(netlink("listing routes"))? {
                let ours = one.header.protocol == RouteProtocol::Static && one.attributes.contains(&RouteAttribute::Oif(index));
                if ours && !wanted.iter().any(|wanted| place(wanted) == place(&one)) {
                    stale.push(one);
                }
            }
            for one in stale {
                handle.route().del(one).execute().await.map_err(netlink("removing a route into the tunnel"))?;
            }
        }
        Ok(())
    }
}

/// Where a route leads to: the network.
fn place(route: &RouteMessage) -> (u8, Option<&RouteAttribute>) {
    (route.header.destination_prefix_length, route.attributes.iter().find(|one| matches!(one, RouteAttribute::Destination(_))))
}

/// Whom an entry of the tunnel's is about: of a neighbour its address, of a machine none.
fn entry(one: &NeighbourMessage) -> Option<(Mac, Option<IpAddr>)> {
    let mac = one.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Mac::try_from(mac.as_slice()).ok(),
        _ => None,
    })?;
    let named = one.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(at)) => Some(IpAddr::V4(*at)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(at)) => Some(IpAddr::V6(*at)),
        _ => None,
    });
    Some((mac, named.filter(|_| one.header.family != AddressFamily::Bridge)))
}

/// The next hop to a range of another node's pods. In version 6 it is the address of the tunnel's end itself, which no route can claim.
fn next(range: Range, mac: Mac) -> IpAddr {
    if range.address().is_ipv4() { gateway(range) } else { link_local(mac).into() }
}

fn route(range: Range, mac: Mac, index: u32) -> Result<RouteMessage> {
    let through = next(range, mac);
    let fail = |_| Error::invalid("route", format!("{range} cannot lead through {through}"));
    let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(range.address(), range.length()).map_err(fail)?;
    let builder = builder.gateway(through).map_err(fail)?.output_interface(index);
    Ok(if through.is_ipv4() { builder.onlink() } else { builder }.build())
}

/// The kind of a link that only this module makes.
pub(super) fn is_tunnel(link: &LinkMessage) -> bool {
    info(link).contains(&LinkInfo::Kind(InfoKind::Vxlan))
}

/// What a link says of its kind.
fn info(link: &LinkMessage) -> &[LinkInfo] {
    link.attributes
        .iter()
        .find_map(|one| if let LinkAttribute::LinkInfo(info) = one { Some(info.as_slice()) } else { None })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_hardware_address_of_its_own_that_is_unicast_and_local() {
        let all: BTreeSet<Mac> = (0..5000).map(|n| hardware_address(&format!("node-{n}"))).collect();
        assert_eq!(all.len(), 5000);
        assert!(all.iter().all(|mac| mac[0] & 3 == 2));
    }

    #[test]
    fn the_devices_name_fits_and_differs_from_the_bridges() {
        for bridge in ["pintle-pods", "b", "a-bridge-of-15c"] {
            assert!(device(bridge).len() <= 15 && device(bridge) != bridge, "{bridge}");
        }
    }

    #[test]
    fn a_link_has_the_address_that_its_hardware_address_gives() {
        assert_eq!(link_local([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]).to_string(), "fe80::11:22ff:fe33:4455");
    }
}
