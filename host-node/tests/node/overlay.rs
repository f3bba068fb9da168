//! The tunnel between nodes with real packets: nodes in network namespaces of different subnets, joined by a router that knows nothing of pods'
//! addresses and lets pass none. Over version 4 and over version 6, with pods of both families.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use pintle_host_node::net::nft::wire::Socket;
use pintle_host_node::net::overlay::{Overlay, device};
use pintle_host_node::net::shape::Bandwidth;
use pintle_host_node::net::{Network, Settings};
use pintle_host_node::service::frontends::{Back, Front, Masquerade};
use pintle_host_node::service::ruleset::{Ground, Ruleset};
use pintle_values::network::Network as Range;

use crate::machine::patience;

/// Of the links between the nodes: not the usual one, so that it must have been looked for.
const UNDERLAY_MTU: u32 = 1460;
const BRIDGE: &str = "pods";

/// A network namespace by name; gone with this.
struct Place(String);

impl Place {
    fn new(test: &str, name: &str) -> Self {
        let place = Self(format!("pov-{}-{test}-{name}", std::process::id()));
        ip(&format!("netns add {}", place.0));
        place.ip("link set lo up");
        place
    }

    fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.0));
    }

    fn open(&self) -> OwnedFd {
        std::fs::File::open(format!("/run/netns/{}", self.0)).expect("a namespace").into()
    }

    /// Does something on a thread that is there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            nix::sched::setns(self.open(), nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("no panic"))
    }

    fn shows(&self, args: &str) -> String {
        let done = Command::new("ip").args(["-n", &self.0]).args(args.split(' ')).output().expect("ip runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().expect("ip runs");
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A node: its place, its network, and a runtime that drives it.
struct Node {
    place: Place,
    name: String,
    address: IpAddr,
    ranges: Vec<Range>,
    network: Network,
    runtime: tokio::runtime::Runtime,
    directory: std::path::PathBuf,
}

impl Node {
    fn join(test: &str, number: u8, v6: bool, router: &Place) -> Self {
        let place = Place::new(test, &format!("node{number}"));
        let (subnet, family) = if v6 { (format!("fd00:{number}::"), "-6") } else { (format!("10.9.{number}."), "-4") };
        let (length, more) = if v6 { (64, " nodad") } else { (24, "") };
        place.ip(&format!("link add eth0 mtu {UNDERLAY_MTU} type veth peer name n{number} mtu {UNDERLAY_MTU} netns {}", router.0));
        place.ip(&format!("address add {subnet}2/{length} dev eth0{more}"));
        router.ip(&format!("address add {subnet}1/{length} dev n{number}{more}"));
        place.ip("link set eth0 up");
        router.ip(&format!("link set n{number} up"));
        place.ip(&format!("{family} route add default via {subnet}1"));
        let address: IpAddr = format!("{subnet}2").parse().expect("an address");
        let directory = std::env::temp_dir().join(&place.0);
        let (name, ranges) = (format!("node{number}"), ranges(number));
        let (network, runtime) = open(&place, &name, address, &ranges, &directory);
        Self { place, name, address, ranges, network, runtime, directory }
    }

    /// As when its daemon starts again.
    fn restart(&mut self) {
        (self.network, self.runtime) = open(&self.place, &self.name, self.address, &self.ranges, &self.directory);
    }

    fn meet(&mut self, name: &str, ranges: &[Range], address: &[IpAddr]) {
        let (network, runtime) = (&mut self.network, &self.runtime);
        self.place.inside(move || runtime.block_on(network.set_peer(name, ranges, address))).expect("a way");
    }

    fn settle(&mut self) {
        let (network, runtime) = (&mut self.network, &self.runtime);
        self.place.inside(move || runtime.block_on(network.settle())).expect("settled");
    }

    /// A pod and its addresses.
    fn pod(&mut self, test: &str, name: &str) -> (Place, Vec<IpAddr>) {
        let pod = Place::new(test, name);
        let (network, runtime, inside) = (&mut self.network, &self.runtime, pod.open());
        let given = self.place.inside(move || runtime.block_on(network.attach(name, inside, Bandwidth::default()))).expect("plugged in");
        (pod, given)
    }

    /// What is set for other nodes in the tunnel.
    fn tunnelled(&self) -> String {
        let fdb = Command::new("bridge").args(["-n", &self.place.0, "fdb", "show", "dev", &device(BRIDGE)]).output();
        let fdb = fdb.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
        let shown = |what: &str| self.place.shows(&format!("{what} dev {}", device(BRIDGE)));
        [fdb, shown("neighbour show nud permanent"), shown("-4 route show"), shown("-6 route show proto static")].concat()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn open(place: &Place, name: &str, address: IpAddr, ranges: &[Range], directory: &std::path::Path) -> (Network, tokio::runtime::Runtime) {
    place.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let settings =
            Settings { bridge: BRIDGE.into(), node: name.into(), addresses: vec![address], overlay: Overlay::Vxlan, ..Settings::default() };
        let network = runtime.block_on(async {
            let network = Network::open(settings, directory.to_owned()).expect("netlink");
            network.set_pod_cidrs(ranges).await.expect("a network of pods");
            network
        });
        let ground = Ground {
            bridge: Some(BRIDGE.into()),
            own_pods: ranges.to_vec(),
            all_pods: ["10.244.0.0/16", "fd00:f4::/32"].map(|text| text.parse().expect("a range")).to_vec(),
            services: ["10.96.0.0/16", "fd00:60::/112"].map(|text| text.parse().expect("a range")).to_vec(),
        };
        let (_, transaction) = Ruleset::replace(&ground, fronts(), &[]);
        Socket::open().and_then(|socket| socket.commit(transaction.into_messages())).expect("rules");
        (network, runtime)
    })
}

fn ranges(number: u8) -> Vec<Range> {
    [format!("10.244.{number}.0/24"), format!("fd00:f4:0:{number}::/64")].map(|text| text.parse().expect("a range")).to_vec()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Two Services: both families, and a node's port of version 4; behind them the first pod of the second node.
fn fronts() -> BTreeMap<Front, Back> {
    let front = |at: &str, to: &str, port, masquerade| {
        let back = Back { endpoints: vec![SocketAddr::new(address(to), 80)], insiders: None, affinity: None, masquerade };
        (Front { address: address(at), protocol: 6, port }, back)
    };
    let (v4, v6) = ("10.244.2.2", "fd00:f4:0:2::2");
    [
        front("10.96.0.5", v4, 80, Masquerade::Outsiders),
        front("fd00:60::5", v6, 80, Masquerade::Outsiders),
        front("0.0.0.0", v4, 30080, Masquerade::Always),
        front("::", v6, 30080, Masquerade::Always),
    ]
    .into()
}

/// Whom a server at a socket's address sees when asked from here.
fn seen_by(to: SocketAddr) -> Result<IpAddr, std::io::ErrorKind> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, patience(5))?;
        stream.set_read_timeout(Some(patience(5)))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        said.parse().map_err(std::io::Error::other)
    };
    ask().map_err(|error: std::io::Error| error.kind())
}

/// Tells everybody whom it sees.
fn serve(pod: &Place, addresses: &[IpAddr]) {
    let sockets = pod.inside(|| addresses.iter().map(|at| TcpListener::bind((*at, 80)).expect("bound")).collect::<Vec<_>>());
    for socket in sockets {
        std::thread::spawn(move || {
            for mut stream in socket.incoming().flatten() {
                let peer = stream.peer_addr().expect("a peer").ip();
                let _ = stream.write_all(peer.to_string().as_bytes());
            }
        });
    }
}

/// Pieces that packets were cut into in a namespace.
fn pieces(place: &Place) -> u64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("counters");
    let (v4, v6) = place.inside(|| (read("snmp"), read("snmp6")));
    let [names, counts] = [0, 1].map(|line| v4.lines().filter(|l| l.starts_with("Ip:")).nth(line).expect("a line").split(' '));
    let v4 = names.zip(counts).find(|(name, _)| *name == "FragCreates").map(|(_, count)| count);
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")).map(str::trim);
    [v4, v6].into_iter().flatten().map(|count| count.parse::<u64>().expect("a number")).sum()
}

/// Sends one datagram, headers included so many bytes; into how many pieces it was cut in any of these places, or nothing if it did not come.
fn datagram(from: (&Place, IpAddr), to: (&Place, IpAddr), bytes: usize, by: &[&Place]) -> Option<u64> {
    let there = to.0.inside(|| UdpSocket::bind((to.1, 0))).expect("bound");
    there.set_read_timeout(Some(patience(5))).expect("a timeout");
    let here = from.0.inside(|| UdpSocket::bind((from.1, 0))).expect("bound");
    let headers = 8 + if from.1.is_ipv4() { 20 } else { 40 };
    let before: u64 = by.iter().map(|place| pieces(place)).sum();
    here.send_to(&vec![7; bytes - headers], there.local_addr().expect("bound")).expect("sent");
    let mut room = vec![0; 1 << 16];
    let came = there.recv(&mut room).is_ok_and(|count| count == bytes - headers);
    came.then(|| by.iter().map(|place| pieces(place)).sum::<u64>() - before)
}

/// Sends so many bytes over one connection; how many came.
fn transfer(from: &Place, to: (&Place, IpAddr), bytes: usize) -> usize {
    let there = to.0.inside(|| TcpListener::bind((to.1, 0))).expect("bound");
    let at = there.local_addr().expect("bound");
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = there.accept().expect("a connection");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("received")
    });
    let mut stream = from.inside(|| TcpStream::connect_timeout(&at, patience(5))).expect("connected");
    let block = vec![1; 1 << 20];
    (0..bytes >> 20).for_each(|_| stream.write_all(&block).expect("sent"));
    drop(stream);
    usize::try_from(receiver.join().expect("no panic")).expect("a size")
}

fn a_tunnel_carries_pods_packets(v6: bool) {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root for network namespaces");
    }
    if !std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0") {
        return println!("skipped: needs IPv6");
    }
    let test = if v6 { "v6" } else { "v4" };
    let router = Place::new(test, "router");
    router.inside(|| {
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").expect("set");
        }
    });
    let mut nodes: Vec<Node> = (1..=2).map(|number| Node::join(test, number, v6, &router)).collect();
    let addresses: Vec<IpAddr> = nodes.iter().map(|node| node.address).collect();
    let (gone, gone_at) = (ranges(3), address(if v6 { "fd00:3::2" } else { "10.9.3.2" }));
    for (node, other) in [(0, 1), (1, 0)] {
        nodes[node].meet(&format!("node{}", other + 1), &ranges(u8::try_from(other + 1).expect("small")), &[addresses[other]]);
        nodes[node].meet("node3", &gone, &[gone_at]);
    }
    let (client, from) = nodes[0].pod(test, "client");
    let (server, to) = nodes[1].pod(test, "server");
    serve(&server, &to);
    serve(&client, &from);

    for (family, (from, to)) in from.iter().zip(&to).enumerate() {
        // Both ways, and the source address stays.
        assert_eq!(client.inside(|| seen_by((*to, 80).into())), Ok(*from), "{to}");
        assert_eq!(server.inside(|| seen_by((*from, 80).into())), Ok(*to), "{from}");
        let service = address(["10.96.0.5", "fd00:60::5"][family]);
        assert_eq!(client.inside(|| seen_by((service, 80).into())), Ok(*from), "a Service from a pod");
        // What a node asks is answered through the tunnel: it is known there by its pods' gateway.
        let gateway = ranges(1)[family].nth(1);
        assert_eq!(nodes[0].place.inside(|| seen_by((*to, 80).into())), Ok(gateway), "a pod from another node");
        if addresses[0].is_ipv4() == from.is_ipv4() {
            assert_eq!(nodes[0].place.inside(|| seen_by((service, 80).into())), Ok(gateway), "a Service from a node");
            assert_eq!(router.inside(|| seen_by((addresses[0], 30080).into())), Ok(gateway), "a node's port from outside");
        }
        let longest = UNDERLAY_MTU - if v6 { 70 } else { 50 };
        let longest = usize::try_from(longest).expect("small");
        let by = [&client, &nodes[0].place, &router, &nodes[1].place];
        assert_eq!(datagram((&client, *from), (&server, *to), longest, &by), Some(0), "{longest} bytes to {to}");
        assert_eq!(datagram((&client, *from), (&server, *to), longest + 1, &by[..1]), Some(2), "a longer packet to {to}");
        let bytes = 32 << 20;
        assert_eq!(transfer(&client, (&server, *to), bytes), bytes);
    }

    // A node that goes, told now or found gone by the next daemon; a device that is another one.
    let marks = ["10.244.3.", "fd00:f4:0:3:", &gone_at.to_string()].map(str::to_owned);
    assert!(marks.iter().all(|mark| nodes[0].tunnelled().contains(mark)), "{}", nodes[0].tunnelled());
    nodes[0].meet("node3", &[], &[]);
    let left = nodes[0].tunnelled();
    assert!(!marks.iter().any(|mark| left.contains(mark)) && left.contains("10.244.2."), "{left}");
    nodes[1].restart();
    nodes[1].meet("node1", &ranges(1), &addresses[..1]);
    nodes[1].settle();
    let left = nodes[1].tunnelled();
    assert!(!marks.iter().any(|mark| left.contains(mark)) && left.contains("10.244.1."), "{left}");
    nodes[0].place.ip(&format!("link del {}", device(BRIDGE)));
    nodes[0].place.ip(&format!("link add {} type bridge", device(BRIDGE)));
    nodes[0].restart();
    // The other node has moved to another address; its pods have not.
    let moved = address(if v6 { "fd00:2::9" } else { "10.9.2.9" });
    nodes[0].meet("node2", &ranges(2), &addresses[1..]);
    let length = if v6 { "64 dev eth0 nodad" } else { "24 dev eth0" };
    nodes[1].place.ip(&format!("address add {moved}/{length}"));
    nodes[1].address = moved;
    nodes[1].restart();
    nodes[1].meet("node1", &ranges(1), &addresses[..1]);
    nodes[0].meet("node2", &ranges(2), &[moved]);
    assert!(!nodes[0].tunnelled().contains(&format!("dst {} ", addresses[1])), "{}", nodes[0].tunnelled());
    for (from, to) in from.iter().zip(&to) {
        assert_eq!(client.inside(|| seen_by((*to, 80).into())), Ok(*from), "{to} at the new address");
    }
}

#[test]
fn overlay_tunnel_over_version_4_keeps_sources_and_fills_its_packets() {
    a_tunnel_carries_pods_packets(false);
}

#[test]
fn overlay_tunnel_over_version_6_keeps_sources_and_fills_its_packets() {
    a_tunnel_carries_pods_packets(true);
}
