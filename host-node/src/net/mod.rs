//! The pods' network on this machine: a bridge, a veth pair a pod, routes to other nodes. By netlink only.
//!
//! The daemon works in whatever network namespace it was started in; several nodes on one machine each have their own. A pod's side
//! of the pair is moved into its namespace and configured by a netlink socket made inside it.
//!
//! Invariants: names of links are made from the pod's uid, so that what a killed daemon left behind is found again; routes are
//! only replaced or removed when they lead to a podCIDR that a Node object named.

pub mod addresses;
pub mod nft;
pub mod shape;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::sync::watch;

use crate::error::{Error, Result, Step};
use addresses::{Cidr, Pool};
use shape::Bandwidth;

/// The pod's side of its pair, as the pod sees it.
const POD_LINK: &str = "eth0";

/// The pods' network. Single-threaded by design: it lives on the daemon's one thread.
pub struct Network {
    bridge: String,
    handle: Handle,
    pool: RefCell<Option<Pool>>,
    foreign: Cell<Option<Cidr>>,
    directory: std::path::PathBuf,
    routes: RefCell<BTreeMap<String, (Cidr, Ipv4Addr)>>,
    ready: watch::Sender<bool>,
}

impl Network {
    /// Opens netlink; the bridge comes with the podCIDR.
    pub fn open(bridge: &str, directory: std::path::PathBuf) -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().step(|| "opening netlink".into())?;
        tokio::spawn(connection);
        Ok(Self {
            bridge: bridge.to_owned(),
            handle,
            pool: RefCell::new(None),
            foreign: Cell::new(None),
            directory,
            routes: RefCell::default(),
            ready: watch::channel(false).0,
        })
    }

    /// The node's own part of the pods' addresses, once it is known.
    pub fn own_pods(&self) -> Option<Cidr> {
        self.pool.borrow().as_ref().map(Pool::cidr).or(self.foreign.get())
    }

    /// Gives the bridge another address, of this machine only.
    pub async fn add_own_address(&self, address: Ipv4Addr) -> Result<()> {
        let index = require(&self.handle, &self.bridge).await?;
        add_address(&self.handle, index, address, 32).await
    }

    /// Turns true once addresses can be given.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Takes the node's podCIDR: makes the bridge and opens the pool. A later, different one is refused.
    pub async fn set_pod_cidr(&self, cidr: Cidr) -> Result<()> {
        if let Some(pool) = &*self.pool.borrow() {
            return match pool.cidr() == cidr {
                true => Ok(()),
                false => Err(Error::invalid("podCIDR", format!("changed from {} to {cidr}; restart the node", pool.cidr()))),
            };
        }
        // Pods on one machine speak through it, not beside it, so it would tell each of the shorter way.
        let machine = [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0"), ("conf/all/send_redirects", "0")];
        set_ipv4(&machine.map(|(key, value)| (key.to_owned(), value)));
        let index = self.make_bridge(cidr).await?;
        let bridge = ["send_redirects", "route_localnet"].map(|key| format!("conf/{}/{key}", self.bridge));
        set_ipv4(&bridge.into_iter().zip(["0", "1"]).collect::<Vec<_>>());
        set_bridged_packets_seen("0");
        tracing::info!(bridge = self.bridge, index, %cidr, "the pods' network is ready");
        *self.pool.borrow_mut() = Some(Pool::open(self.directory.clone(), cidr)?);
        self.ready.send_replace(true);
        Ok(())
    }

    /// Takes the node's podCIDR where plugins plug pods in: the machine forwards, and the bridge only bears this node's own addresses.
    pub async fn set_foreign_pod_cidr(&self, cidr: Cidr) -> Result<()> {
        if self.foreign.replace(Some(cidr)).is_some() {
            return Ok(());
        }
        set_ipv4(&[("ip_forward".to_owned(), "1")]);
        // Plugins that bridge have pods speak to each other within the bridge, which the rules are to see.
        set_bridged_packets_seen("1");
        self.make_link().await?;
        tracing::info!(%cidr, "the pods' network is the plugins'");
        self.ready.send_replace(true);
        Ok(())
    }

    async fn make_bridge(&self, cidr: Cidr) -> Result<u32> {
        let index = self.make_link().await?;
        add_address(&self.handle, index, cidr.gateway(), cidr.prefix).await?;
        Ok(index)
    }

    async fn make_link(&self) -> Result<u32> {
        if link_index(&self.handle, &self.bridge).await?.is_none() {
            let added = self.handle.link().add(LinkBridge::new(&self.bridge).up().build()).execute().await;
            added.map_err(netlink(format!("making bridge {}", self.bridge)))?;
        }
        let index = require(&self.handle, &self.bridge).await?;
        let up = self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        up.map_err(netlink(format!("raising bridge {}", self.bridge)))?;
        Ok(index)
    }

    /// Gives the pod an address and plugs its namespace into the bridge. Repeating it is harmless.
    pub async fn attach(&self, uid: &str, inside: OwnedFd, bandwidth: Bandwidth) -> Result<Ipv4Addr> {
        let (address, cidr) = {
            let mut pool = self.pool.borrow_mut();
            let pool = pool.as_mut().ok_or(Error::NoPodCidr)?;
            (pool.allocate(uid)?, pool.cidr())
        };
        let name = link_name(uid);
        self.remove_link(&name).await?;
        let bridge = require(&self.handle, &self.bridge).await?;
        // The pod's side is born inside its namespace: moving and renaming it would cost two more grace periods of the kernel's.
        let peer = LinkUnspec::new_with_name(POD_LINK).setns_by_fd(inside.as_raw_fd()).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name.clone())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
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
        configure_inside(inside, address, cidr, bandwidth.egress).await?;
        Ok(address)
    }

    /// Unplugs the pod and frees its address.
    pub async fn detach(&self, uid: &str) -> Result<()> {
        self.remove_link(&link_name(uid)).await?;
        match self.pool.borrow_mut().as_mut() {
            Some(pool) => pool.release(uid),
            None => Pool::open(self.directory.clone(), Cidr { network: Ipv4Addr::UNSPECIFIED, prefix: 8 })?.release(uid),
        }
    }

    async fn remove_link(&self, name: &str) -> Result<()> {
        match link_index(&self.handle, name).await? {
            Some(index) => delete_link(&self.handle, index).await,
            None => Ok(()),
        }
    }

    /// Routes another node's podCIDR through its address; `None` when the node is gone.
    pub async fn set_route(&self, node: &str, target: Option<(Cidr, Ipv4Addr)>) -> Result<()> {
        let known = self.routes.borrow().get(node).copied();
        if known == target {
            return Ok(());
        }
        if let Some((cidr, gateway)) = known {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(cidr.network, cidr.prefix).gateway(gateway).build();
            if let Err(error) = self.handle.route().del(route).execute().await {
                tracing::debug!(node, %cidr, %error, "route was gone already");
            }
            self.routes.borrow_mut().remove(node);
        }
        if let Some((cidr, gateway)) = target {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(cidr.network, cidr.prefix).gateway(gateway).build();
            let added = self.handle.route().add(route).replace().execute().await;
            added.map_err(netlink(format!("routing {cidr} through {gateway}")))?;
            self.routes.borrow_mut().insert(node.to_owned(), (cidr, gateway));
        }
        Ok(())
    }
}

/// Removes what [`Network`] made in this namespace: pods' links and the bridge. Used by `purge`.
pub async fn purge(bridge: &str) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().step(|| "opening netlink".into())?;
    tokio::spawn(connection);
    let Some(bridge_index) = link_index(&handle, bridge).await? else { return Ok(()) };
    let mut links = handle.link().get().execute();
    let mut doomed = Vec::new();
    while let Some(link) = links.try_next().await.map_err(netlink("listing links"))? {
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(index) if *index == bridge_index)) {
            doomed.push(link.header.index);
        }
    }
    doomed.push(bridge_index);
    for index in doomed {
        delete_link(&handle, index).await?;
    }
    Ok(())
}

/// A TCP socket that lives in a network namespace (`None`: the daemon's own), not yet connected.
pub async fn tcp_socket_in(namespace: Option<OwnedFd>) -> Result<tokio::net::TcpSocket> {
    let make = || tokio::net::TcpSocket::new_v4().step(|| "making a socket".into());
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

async fn configure_inside(namespace: OwnedFd, address: Ipv4Addr, cidr: Cidr, egress: Option<u64>) -> Result<()> {
    let open = || rtnetlink::new_connection().step(|| "opening netlink in the pod".into());
    let (connection, handle, _messages) = inside_namespace(namespace, open).await?;
    let connection = tokio::spawn(connection);
    let result = async {
        if let Some(loopback) = link_index(&handle, "lo").await? {
            let up = handle.link().set(LinkUnspec::new_with_index(loopback).up().build()).execute().await;
            up.map_err(netlink("raising lo in the pod"))?;
        }
        let index = require(&handle, POD_LINK).await?;
        if let Some(bits) = egress {
            shape::limit(&handle, index, bits).await?;
        }
        add_address(&handle, index, address, 32).await?;
        let up = handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        up.map_err(netlink("raising eth0 in the pod"))?;
        let on_link = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(cidr.gateway(), 32).output_interface(index);
        let on_link = on_link.scope(RouteScope::Link).build();
        handle.route().add(on_link).replace().execute().await.map_err(netlink("the pod's route to its gateway"))?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(cidr.gateway()).output_interface(index).build();
        handle.route().add(route).replace().execute().await.map_err(netlink("the pod's default route"))
    }
    .await;
    connection.abort();
    result
}

fn set_ipv4(settings: &[(String, &str)]) {
    for (key, value) in settings {
        let path = format!("/proc/sys/net/ipv4/{key}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::warn!(%path, %error, "cannot set");
        }
    }
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

async fn add_address(handle: &Handle, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
    let added = handle.address().add(index, IpAddr::V4(address), prefix).replace().execute().await;
    added.map_err(netlink(format!("adding address {address}/{prefix}")))
}

async fn link_index(handle: &Handle, name: &str) -> Result<Option<u32>> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|l| l.header.index)),
        Err(error) if is_no_device(&error) => Ok(None),
        Err(source) => Err(Error::Netlink { step: format!("looking for link {name}"), source }),
    }
}

/// Deletes a link; one that went by itself meanwhile (with its peer's namespace) is fine.
async fn delete_link(handle: &Handle, index: u32) -> Result<()> {
    match handle.link().del(index).execute().await {
        Err(error) if !is_no_device(&error) => Err(Error::Netlink { step: format!("removing link {index}"), source: error }),
        _ => Ok(()),
    }
}

fn is_no_device(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(inner) if inner.raw_code().abs() == nix::errno::Errno::ENODEV as i32)
}

async fn require(handle: &Handle, name: &str) -> Result<u32> {
    let missing = || Error::io(format!("looking for link {name}"), nix::errno::Errno::ENODEV);
    link_index(handle, name).await?.ok_or_else(missing)
}

fn netlink(step: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let step = step.into();
    move |source| Error::Netlink { step, source }
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
