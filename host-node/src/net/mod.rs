//! The pods' network on this machine: a bridge, a veth pair a pod, routes to other nodes or a tunnel to them; of one family of addresses or of both.
//! By netlink only.
//!
//! The daemon works in whatever network namespace it was started in; several nodes on one machine each have their own. A pod's side
//! of the pair is moved into its namespace and configured by a netlink socket made inside it.
//!
//! Invariants: names of links are made from the pod's uid, so that what a killed daemon left behind is found again; routes are
//! only replaced or removed when they lead to a podCIDR that a Node object named.

pub mod addresses;
mod link;
pub mod nft;
pub mod overlay;
pub mod shape;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use futures::TryStreamExt;
use pintle_values::network::Network as Range;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::sync::{OnceCell, watch};

use crate::error::{Error, Result, Step};
use addresses::{Pool, gateway};
use link::{add_address, netlink, require};
use overlay::{Overlay, Tunnel};
use shape::Bandwidth;

/// The pod's side of its pair, as the pod sees it.
const POD_LINK: &str = "eth0";

/// The longest packets of pods where no interface bears the node's address.
const MTU: u32 = 1500;
/// As long as packets of a veth pair get.
const MTU_MAX: u32 = 65_535;

/// What a node's network is to be.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The bridge that pods are plugged into.
    pub bridge: String,
    /// The node's name.
    pub node: String,
    /// The node's own addresses, at most one of each family; a tunnel begins at the first.
    pub addresses: Vec<IpAddr>,
    /// How packets get to other nodes.
    pub overlay: Overlay,
    /// The longest packets of pods, bytes; 0: as long as the interface with the node's address lets them be.
    pub mtu: u32,
}

/// The pods' network. Single-threaded by design: it lives on the daemon's one thread.
pub struct Network {
    bridge: String,
    handle: Handle,
    addresses: Vec<IpAddr>,
    tunnel: Option<Tunnel>,
    mtu_asked: Option<u32>,
    mtu: OnceCell<u32>,
    /// One of each family that the node's pods have; none until they are known.
    pools: RefCell<Vec<Pool>>,
    /// The same where plugins plug pods in.
    foreign: RefCell<Vec<Range>>,
    directory: std::path::PathBuf,
    /// Of each other node: its pods' ranges, and its address that each is reached by.
    ways: RefCell<BTreeMap<String, Vec<(Range, IpAddr)>>>,
    ready: watch::Sender<bool>,
}

impl Network {
    /// Opens netlink; the bridge comes with the podCIDR.
    pub fn open(settings: Settings, directory: std::path::PathBuf) -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().step(|| "opening netlink".into())?;
        tokio::spawn(connection);
        let begin = settings.addresses.first().filter(|_| settings.overlay == Overlay::Vxlan);
        Ok(Self {
            tunnel: begin.map(|from| Tunnel::new(&settings.bridge, &settings.node, *from)),
            bridge: settings.bridge,
            handle,
            addresses: settings.addresses,
            mtu_asked: Some(settings.mtu).filter(|mtu| *mtu != 0),
            mtu: OnceCell::new(),
            pools: RefCell::default(),
            foreign: RefCell::default(),
            directory,
            ways: RefCell::default(),
            ready: watch::channel(false).0,
        })
    }

    /// The longest packets of pods, bytes.
    pub async fn mtu(&self) -> Result<u32> {
        let found = async || match (self.mtu_asked, &self.tunnel) {
            (Some(asked), _) => Ok(asked),
            (None, Some(tunnel)) => Ok(self.mtu_of(&[tunnel.from]).await? - overlay::overhead(tunnel.from)),
            (None, None) => self.mtu_of(&self.addresses).await,
        };
        self.mtu.get_or_try_init(found).await.copied()
    }

    /// The longest packets that pass by all of these addresses' interfaces.
    async fn mtu_of(&self, addresses: &[IpAddr]) -> Result<u32> {
        let mut found = Vec::new();
        for address in addresses {
            found.extend(link::mtu_of_address(&self.handle, *address).await?);
        }
        Ok(found.into_iter().min().unwrap_or(MTU).clamp(1280, MTU_MAX))
    }

    /// The node's own parts of the pods' addresses, one of each family; none until they are known.
    pub fn own_pods(&self) -> Vec<Range> {
        let own: Vec<Range> = self.pools.borrow().iter().map(Pool::network).collect();
        if own.is_empty() { self.foreign.borrow().clone() } else { own }
    }

    /// Gives the bridge another address, of this machine only.
    pub async fn add_own_address(&self, address: IpAddr) -> Result<()> {
        let index = require(&self.handle, &self.bridge).await?;
        add_address(&self.handle, index, address, host_length(address)).await
    }

    /// Turns true once addresses can be given.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Takes the node's podCIDRs: makes the bridge and opens the pools. Later, different ones are refused.
    pub async fn set_pod_cidrs(&self, ranges: &[Range]) -> Result<()> {
        let own = self.own_pods();
        if !own.is_empty() {
            return match own == ranges {
                true => Ok(()),
                false => Err(Error::invalid("podCIDRs", format!("changed from {} to {}; restart the node", shown(&own), shown(ranges)))),
            };
        }
        ranges.iter().try_for_each(|range| addresses::usable(*range).map(drop))?;
        // Pods on one machine speak through it, not beside it, so it would tell each of the shorter way.
        let machine = [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0"), ("conf/all/send_redirects", "0")];
        set("ipv4", &machine.map(|(key, value)| (key.to_owned(), value)));
        let both = ranges.iter().any(|range| range.address().is_ipv6());
        if both {
            forward_ipv6(&self.bridge);
        }
        let mtu = self.mtu().await?;
        let index = self.make_bridge(ranges, mtu).await?;
        match &self.tunnel {
            Some(tunnel) => drop(tunnel.ensure(&self.handle, mtu, ranges).await?),
            None => remove_tunnel(&self.handle, &self.bridge).await?,
        }
        if both {
            // No pod tells its machine where to send.
            set("ipv6", &[(format!("conf/{}/accept_ra", self.bridge), "0")]);
        }
        let bridge = ["send_redirects", "route_localnet"].map(|key| format!("conf/{}/{key}", self.bridge));
        set("ipv4", &bridge.into_iter().zip(["0", "1"]).collect::<Vec<_>>());
        set_bridged_packets_seen("0");
        tracing::info!(bridge = self.bridge, index, ranges = shown(ranges), mtu, tunnel = ?self.tunnel, "the pods' network is ready");
        *self.pools.borrow_mut() = ranges.iter().map(|range| Pool::open(self.directory.clone(), *range)).collect::<Result<_>>()?;
        self.ready.send_replace(true);
        Ok(())
    }

    /// Takes the node's podCIDRs where plugins plug pods in: the machine forwards, and the bridge only bears this node's own addresses.
    pub async fn set_foreign_pod_cidrs(&self, ranges: &[Range]) -> Result<()> {
        if !self.foreign.replace(ranges.to_vec()).is_empty() {
            return Ok(());
        }
        set("ipv4", &[("ip_forward".to_owned(), "1")]);
        if ranges.iter().any(|range| range.address().is_ipv6()) {
            forward_ipv6(&self.bridge);
        }
        // Plugins that bridge have pods speak to each other within the bridge, which the rules are to see.
        set_bridged_packets_seen("1");
        self.make_link(None).await?;
        tracing::info!(ranges = shown(ranges), "the pods' network is the plugins'");
        self.ready.send_replace(true);
        Ok(())
    }

    async fn make_bridge(&self, ranges: &[Range], mtu: u32) -> Result<u32> {
        let index = self.make_link(Some(mtu)).await?;
        for range in ranges {
            add_address(&self.handle, index, gateway(*range), range.length()).await?;
        }
        Ok(index)
    }

    async fn make_link(&self, mtu: Option<u32>) -> Result<u32> {
        if link::index(&self.handle, &self.bridge).await?.is_none() {
            let added = self.handle.link().add(LinkBridge::new(&self.bridge).up().build()).execute().await;
            added.map_err(netlink(format!("making bridge {}", self.bridge)))?;
        }
        let index = require(&self.handle, &self.bridge).await?;
        link::raise(&self.handle, index, mtu).await?;
        link::keep_hardware_address(&self.handle, &self.bridge).await?;
        Ok(index)
    }

    /// Gives the pod an address of each family and plugs its namespace into the bridge. Repeating it is harmless.
    pub async fn attach(&self, uid: &str, inside: OwnedFd, bandwidth: Bandwidth) -> Result<Vec<IpAddr>> {
        let mut given = Vec::new();
        for pool in self.pools.borrow_mut().iter_mut() {
            given.push((pool.allocate(uid)?, gateway(pool.network())));
        }
        if given.is_empty() {
            return Err(Error::NoPodCidr);
        }
        let name = link_name(uid);
        link::delete_named(&self.handle, &name).await?;
        let mtu = self.mtu().await?;
        let bridge = require(&self.handle, &self.bridge).await?;
        // The pod's side is born inside its namespace: moving and renaming it would cost two more grace periods of the kernel's.
        let peer = LinkUnspec::new_with_name(POD_LINK).setns_by_fd(inside.as_raw_fd()).mtu(mtu).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name.clone())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .mtu(mtu)
            .up()
            .build();
        self.handle.link().add(pair).execute().await.map_err(netlink(format!("making veth {name}")))?;
        // Whatever a pod sends goes through the machine's rules, to pods beside it too.
        let index = require(&self.handle, &name).await?;
        let port = LinkBridgePort::new(index).isolated(true).build();
        self.handle.link().set_port(port).execute().await.map_err(netlink(format!("isolating veth {name}")))?;
        if let Some(bits) = bandwidth.ingress {
            shape::limit(&self.handle, index, bits).await?;
        }
        configure_inside(inside, given.clone(), bandwidth.egress).await?;
        Ok(given.into_iter().map(|(address, _)| address).collect())
    }

    /// Unplugs the pod and frees its addresses.
    pub async fn detach(&self, uid: &str) -> Result<()> {
        link::delete_named(&self.handle, &link_name(uid)).await?;
        // What a pod holds is found by its uid, whatever the network.
        addresses::release(&self.directory, uid)
    }

    /// Leads to another node's pods by its addresses, none of them this node's own; no ranges when the node is gone. Repeating it repairs.
    pub async fn set_peer(&self, node: &str, ranges: &[Range], addresses: &[IpAddr]) -> Result<()> {
        let by = |range: &Range| {
            let beside = self.tunnel.as_ref().map_or(range.address(), |tunnel| tunnel.from);
            addresses.iter().find(|address| address.is_ipv4() == beside.is_ipv4()).map(|through| (*range, *through))
        };
        let wanted: Vec<_> = ranges.iter().filter_map(by).collect();
        let before = self.ways.borrow_mut().insert(node.to_owned(), wanted.clone()).unwrap_or_default();
        self.ways.borrow_mut().retain(|_, ways| !ways.is_empty());
        match &self.tunnel {
            Some(tunnel) => {
                if let [(_, at), ..] = wanted.as_slice() {
                    let index = tunnel.ensure(&self.handle, self.mtu().await?, &self.own_pods()).await?;
                    tunnel.add(&self.handle, index, node, *at, &wanted.iter().map(|(range, _)| *range).collect::<Vec<_>>()).await?;
                }
                let lost = before.iter().any(|(range, _)| !wanted.iter().any(|(kept, _)| kept == range));
                if lost { self.settle().await } else { Ok(()) }
            }
            None => self.set_routes(node, &before, wanted).await,
        }
    }

    /// Removes from the tunnel what leads to other nodes than those that are known, after all of them have been told.
    pub async fn settle(&self) -> Result<()> {
        let Some(tunnel) = &self.tunnel else { return Ok(()) };
        let index = tunnel.ensure(&self.handle, self.mtu().await?, &self.own_pods()).await?;
        let ways = self.ways.borrow().clone();
        let known: Vec<_> = ways.iter().map(|(node, ways)| (node, ways.iter().map(|(range, _)| *range).collect())).collect();
        tunnel.keep_only(&self.handle, index, &known).await
    }

    /// Routes a node's ranges, each through its address of that family.
    async fn set_routes(&self, node: &str, before: &[(Range, IpAddr)], wanted: Vec<(Range, IpAddr)>) -> Result<()> {
        for (range, through) in before.iter().filter(|way| !wanted.contains(way)) {
            if let Err(error) = self.handle.route().del(route(*range, *through, self.mtu_asked)?).execute().await {
                tracing::debug!(node, %range, %error, "route was gone already");
            }
        }
        // One that stands is set again, too: it goes when the link that it leads over goes down.
        for (range, through) in wanted {
            let added = self.handle.route().add(route(range, through, self.mtu_asked)?).replace().execute().await;
            added.map_err(netlink(format!("routing {range} through {through}")))?;
        }
        Ok(())
    }
}

/// Removes what [`Network`] made in this namespace: pods' links and the bridge. Used by `purge`.
pub async fn purge(bridge: &str) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().step(|| "opening netlink".into())?;
    tokio::spawn(connection);
    remove_tunnel(&handle, bridge).await?;
    let Some(bridge_index) = link::index(&handle, bridge).await? else { return Ok(()) };
    let mut links = handle.link().get().execute();
    let mut doomed = Vec::new();
    while let Some(link) = links.try_next().await.map_err(netlink("listing links"))? {
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(index) if *index == bridge_index)) {
            doomed.push(link.header.index);
        }
    }
    doomed.push(bridge_index);
    for index in doomed {
        link::delete(&handle, index).await?;
    }
    Ok(())
}

/// Removes the tunnel that went with a bridge, if there is one.
async fn remove_tunnel(handle: &Handle, bridge: &str) -> Result<()> {
    match link::find(handle, &overlay::device(bridge)).await?.filter(overlay::is_tunnel) {
        Some(tunnel) => link::delete(handle, tunnel.header.index).await,
        None => Ok(()),
    }
}

/// A TCP socket to reach an address from a network namespace (`None`: the daemon's own), not yet connected.
pub async fn tcp_socket_in(namespace: Option<OwnedFd>, to: IpAddr) -> Result<tokio::net::TcpSocket> {
    let make = move || {
        let made = if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        made.step(|| "making a socket".into())
    };
    match namespace {
        None => make(),
        Some(namespace) => inside_namespace(namespace, make).await,
    }
}

/// Runs `make` on a thread of its own that has entered the namespace: what it makes stays there, the thread does not.
async fn inside_namespace<T: Send + 'static>(namespace: OwnedFd, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let body = move || {
        let _context = runtime.enter();
        let entered = nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).step(|| "entering the pod's network".into());
        let _ = sender.send(entered.and_then(|()| make()));
    };
    std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn(body).step(|| "starting a thread".into())?;
    receiver.await.map_err(|_| Error::io("entering the pod's network", std::io::Error::other("the thread ended")))?
}

/// `given`: the pod's addresses, each with its gateway.
async fn configure_inside(namespace: OwnedFd, given: Vec<(IpAddr, IpAddr)>, egress: Option<u64>) -> Result<()> {
    let both = given.iter().any(|(address, _)| address.is_ipv6());
    let open = move || {
        if both {
            // Whatever the machine's default is; and addresses are ours to give, so nobody need be asked whether they are taken.
            let settings = [("conf/all/disable_ipv6", "0"), ("conf/lo/disable_ipv6", "0"), ("conf/eth0/disable_ipv6", "0")];
            // A pod's neighbours are reached through the machine, whatever the machine, which has no switch for it, tells of shorter ways.
            let more = [("conf/eth0/accept_dad", "0"), ("conf/eth0/accept_ra", "0"), ("conf/eth0/accept_redirects", "0")];
            set("ipv6", &[&settings[..], &more[..]].concat().iter().map(|(key, value)| ((*key).to_owned(), *value)).collect::<Vec<_>>());
        }
        rtnetlink::new_connection().step(|| "opening netlink in the pod".into())
    };
    let (connection, handle, _messages) = inside_namespace(namespace, open).await?;
    let connection = tokio::spawn(connection);
    let result = async {
        if let Some(loopback) = link::index(&handle, "lo").await? {
            link::raise(&handle, loopback, None).await?;
        }
        let index = require(&handle, POD_LINK).await?;
        if let Some(bits) = egress {
            shape::limit(&handle, index, bits).await?;
        }
        for (address, _) in &given {
            add_address(&handle, index, *address, host_length(*address)).await?;
        }
        link::raise(&handle, index, None).await?;
        for (_, gateway) in given {
            let fail = |_| Error::invalid("gateway", format!("{gateway} cannot be routed to"));
            let on_link = RouteMessageBuilder::<IpAddr>::new().destination_prefix(gateway, host_length(gateway)).map_err(fail)?;
            let on_link = on_link.output_interface(index).scope(if gateway.is_ipv4() { RouteScope::Link } else { RouteScope::Universe });
            handle.route().add(on_link.build()).replace().execute().await.map_err(netlink("the pod's route to its gateway"))?;
            let anywhere = nft::Family::of(gateway).unspecified();
            let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(anywhere, 0).and_then(|route| route.gateway(gateway));
            let route = route.map_err(fail)?.output_interface(index).build();
            handle.route().add(route).replace().execute().await.map_err(netlink("the pod's default route"))?;
        }
        Ok(())
    }
    .await;
    connection.abort();
    result
}

/// Sets what is below `/proc/sys/net/FAMILY`.
fn set(family: &str, settings: &[(String, &str)]) {
    for (key, value) in settings {
        let path = format!("/proc/sys/net/{family}/{key}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::warn!(%path, %error, "cannot set");
        }
    }
}

/// Has the machine pass packets of version 6 on. A machine that does would not listen to routers any more: the links that it has go on doing so, and
/// those to come, pods' among them, do not.
fn forward_ipv6(bridge: &str) {
    let of_all = ["all", "default", "lo", bridge].map(std::ffi::OsStr::new);
    let links = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    let listening = links.filter(|link| !of_all.contains(&link.file_name().as_os_str()));
    let listening = listening.filter(|link| std::fs::read_to_string(link.path().join("accept_ra")).is_ok_and(|said| said.trim() == "1"));
    let mut settings: Vec<_> = listening.filter_map(|link| Some((format!("conf/{}/accept_ra", link.file_name().to_str()?), "2"))).collect();
    settings.push(("conf/all/forwarding".to_owned(), "1"));
    set("ipv6", &settings);
}

/// Networks as people read them.
fn shown(ranges: &[Range]) -> String {
    ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(",")
}

/// The length of the network that is one address.
fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `mtu`: of packets that go that way, where it is not the interface's.
fn route(range: Range, through: IpAddr, mtu: Option<u32>) -> Result<RouteMessage> {
    let fail = |_| Error::invalid("route", format!("{range} cannot lead through {through}"));
    let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(range.address(), range.length()).map_err(fail)?;
    let mut route = builder.gateway(through).map_err(fail)?.build();
    route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    Ok(route)
}

/// Whether the machine's rules see what a bridge carries from port to port. On our own it goes without: what pods of one machine send each
/// other through a Service is routed then, and not rewritten within the bridge, where it would go from port to port, which isolated ports
/// refuse. Absent where the kernel cannot filter bridges.
fn set_bridged_packets_seen(value: &str) {
    for path in ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"] {
        match std::fs::write(path, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tracing::warn!(path, %error, "cannot set"),
            _ => {}
        }
    }
}

/// The host's side of a pod's veth pair: at most 15 characters, from the uid.
pub fn link_name(uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("pv{digits}h")
}

#[cfg(test)]
mod tests {
    #[test]
    fn link_names_fit_the_kernels_limit() {
        assert_eq!(super::link_name("0a1b2c3d-4e5f-6789-abcd-ef0123456789"), "pv0a1b2c3d4e5fh");
        assert!(super::link_name("0a1b2c3d-4e5f-6789-abcd-ef0123456789").len() <= 15);
    }
}
