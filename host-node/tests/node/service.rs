//! The rules of the Service proxy with real packets: a network namespace with clients and endpoints as addresses of its loopback device.
//! A pod that meets itself needs a bridge and is in the whole-system tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use pintle_host_node::net::nft::wire::Socket;
use pintle_host_node::net::nft::{self, Family, Transaction, conntrack};
use pintle_host_node::service::frontends::{Back, Front, Masquerade};
use pintle_host_node::service::ruleset::{CLIENTS, Ground, Ruleset, TABLE};

use crate::machine::patience;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 9);
const TCP: u8 = 6;

/// The same in version 6.
const CLUSTER_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, 5);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xf4, 0, 9, 0, 0, 0, 9);

/// Runs a test in a namespace where `10.244.0.1` to `10.244.0.4`, the same in version 6 and the clients are local and everything else is routed to
/// loopback.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root for a network namespace");
    }
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        ip("link set lo up");
        (1..=4).map(|n| endpoint(Family::V4, n)).chain([CLIENT.into()]).for_each(|address| ip(&format!("address add {address}/32 dev lo")));
        ip("route add default dev lo");
        if has_ipv6() {
            (1..=4)
                .map(|n| endpoint(Family::V6, n))
                .chain([CLIENT_V6.into()])
                .for_each(|at| ip(&format!("address add {at}/128 dev lo nodad")));
            ip("-6 route add default dev lo");
        }
        test();
    };
    // Children of this thread, `ip` among them, are born into its namespace.
    std::thread::spawn(body).join().expect("the test passes");
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().expect("ip runs");
    assert!(done.success(), "ip {args}");
}

/// Whether this machine knows version 6; without it tests of it are skipped.
fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

/// The address of an endpoint.
fn endpoint(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0xf4, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

fn ground() -> Ground {
    let both = |v4: &str, v6: &str| {
        [Some(v4), has_ipv6().then_some(v6)].into_iter().flatten().map(|text| text.parse().expect("a network")).collect()
    };
    Ground {
        bridge: Some("pods".into()),
        own_pods: both("10.244.0.0/24", "fd00:f4::/64"),
        all_pods: both("10.244.0.0/16", "fd00:f4::/32"),
        services: both("10.96.0.0/16", "fd00:60::/112"),
    }
}

fn front(address: impl Into<IpAddr>, protocol: u8, port: u16) -> Front {
    Front { address: address.into(), protocol, port }
}

fn back(endpoints: impl IntoIterator<Item = u8>, affinity: Option<u64>) -> Back {
    back_of(Family::V4, endpoints, affinity)
}

fn back_of(family: Family, endpoints: impl IntoIterator<Item = u8>, affinity: Option<u64>) -> Back {
    let endpoints = endpoints.into_iter().map(|n| (endpoint(family, n), 8080).into()).collect();
    Back { endpoints, insiders: None, affinity, masquerade: Masquerade::Never }
}

/// An endpoint that tells its number and whom it sees.
fn serve(number: u8) {
    serve_at(Family::V4, number);
}

fn serve_at(family: Family, number: u8) {
    let listener = TcpListener::bind((endpoint(family, number), 8080)).expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, peer) = (stream.try_clone().expect("a stream"), stream.peer_addr().expect("a peer"));
            let _ = stream.write_all(format!("{number} {}\n", peer.ip()).as_bytes());
        }
    });
}

/// Connects from an address; what the endpoint says, or the error's kind.
fn ask(from: impl Into<IpAddr>, to: impl Into<SocketAddr>) -> Result<String, std::io::ErrorKind> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let to = to.into();
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from.into(), 0))).expect("bound");
    let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    connected.map_err(|errno| std::io::Error::from(errno).kind())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience(5))).expect("a timeout");
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(|error| error.kind())?;
    Ok(said.trim().to_owned())
}

struct Proxy {
    socket: Socket,
    ruleset: Ruleset,
}

impl Proxy {
    fn with(fronts: BTreeMap<Front, Back>) -> Self {
        let socket = Socket::open().expect("a socket");
        let read = |family| (family, nft::lasting_elements(&socket, family, TABLE, CLIENTS).expect("what affinity remembers"));
        let clients: Vec<_> = ground().families().into_iter().map(read).collect();
        let (ruleset, transaction) = Ruleset::replace(&ground(), fronts, &clients);
        socket.commit(transaction.into_messages()).expect("the rules are accepted");
        Self { socket, ruleset }
    }

    fn change(&mut self, front: Front, back: Option<Back>) {
        let mut transaction = Transaction::on(TABLE);
        self.ruleset.change(&ground(), [(front, back)].into(), &mut transaction);
        self.socket.commit(transaction.into_messages()).expect("the change is accepted");
    }
}

fn answers<A: Copy + Into<IpAddr>>(count: usize, from: A, to: (A, u16)) -> BTreeSet<String>
where
    (A, u16): Into<SocketAddr>,
{
    (0..count).map(|_| ask(from, to).expect("an answer")).collect()
}

#[test]
fn connections_to_a_service_spread_over_what_stands_behind_it_now() {
    in_namespace(|| {
        (1..=3).for_each(serve);
        let web = front(CLUSTER_IP, TCP, 80);
        let mut proxy = Proxy::with([(web, back(1..=3, None))].into());
        let said: BTreeSet<String> = (1..=3).map(|n| format!("{n} {CLIENT}")).collect();
        assert_eq!(answers(60, CLIENT, (CLUSTER_IP, 80)), said);
        proxy.change(web, Some(back([2], None)));
        assert_eq!(answers(20, CLIENT, (CLUSTER_IP, 80)), [format!("2 {CLIENT}")].into());
        proxy.change(web, Some(back([1, 2], None)));
        assert_eq!(answers(40, CLIENT, (CLUSTER_IP, 80)).len(), 2);
        proxy.change(web, None);
        assert_eq!(ask(CLIENT, (CLUSTER_IP, 80)), Err(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(ask(CLIENT, (CLUSTER_IP, 81)), Err(std::io::ErrorKind::ConnectionRefused));
        assert!(proxy.ruleset.is_empty());
    });
}

#[test]
fn a_connection_that_stands_lives_through_every_change_of_the_rules() {
    in_namespace(|| {
        let listener = TcpListener::bind("10.244.0.1:8080").expect("bound");
        let web = front(CLUSTER_IP, TCP, 80);
        let mut proxy = Proxy::with([(web, back([1], None))].into());
        let mut client = TcpStream::connect((CLUSTER_IP, 80)).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        let mut exchange = || {
            client.write_all(b"x").expect("sent");
            let mut byte = [0];
            server.read_exact(&mut byte).expect("received");
        };
        exchange();
        proxy.change(web, Some(back([2], None)));
        exchange();
        let _anew = Proxy::with(BTreeMap::new());
        exchange();
    });
}

#[test]
fn a_client_with_affinity_stays_until_its_endpoint_is_gone() {
    in_namespace(|| {
        (1..=4).for_each(serve);
        let web = front(CLUSTER_IP, TCP, 80);
        let mut proxy = Proxy::with([(web, back(1..=4, Some(100)))].into());
        for _ in 0..3 {
            let first = answers(20, CLIENT, (CLUSTER_IP, 80));
            assert_eq!(first.len(), 1, "{first:?}");
            let number: u8 = first.first().and_then(|said| said[..1].parse().ok()).expect("a number");
            proxy.change(web, Some(back((1..=4).filter(|n| *n != number), Some(100))));
            let second = answers(20, CLIENT, (CLUSTER_IP, 80));
            assert_eq!(second.len(), 1, "{second:?}");
            assert_ne!(first, second);
            proxy.change(web, Some(back(1..=4, Some(100))));
        }
    });
}

#[test]
fn affinity_is_remembered_when_the_rules_are_set_anew() {
    in_namespace(|| {
        (1..=4).for_each(serve);
        let fronts = || [(front(CLUSTER_IP, TCP, 80), back(1..=4, Some(100)))].into();
        let mut proxy = Proxy::with(fronts());
        let first = answers(5, CLIENT, (CLUSTER_IP, 80));
        for _ in 0..6 {
            drop(proxy);
            proxy = Proxy::with(fronts());
            assert_eq!(answers(3, CLIENT, (CLUSTER_IP, 80)), first);
        }
    });
}

/// A machine beside the namespace of the test, as 192.0.2.2 behind 192.0.2.1: `ask`s there.
fn from_beside(ask: impl FnOnce() -> Result<String, std::io::ErrorKind> + Send + 'static) -> Result<String, std::io::ErrorKind> {
    let (born, birth) = std::sync::mpsc::channel();
    let (joined, join) = std::sync::mpsc::channel::<()>();
    let beside = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        born.send(nix::unistd::gettid()).expect("told");
        join.recv().expect("joined");
        ip("address add 192.0.2.2/24 dev far");
        ip("link set far up");
        ip("route add default via 192.0.2.1");
        ask()
    });
    let other = birth.recv().expect("a namespace");
    ip(&format!("link add near type veth peer name far netns {other}"));
    ip("address add 192.0.2.1/24 dev near");
    ip("link set near up");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
    joined.send(()).expect("told");
    beside.join().expect("an answer")
}

#[test]
fn a_port_for_the_outside_that_stays_on_its_node_leads_elsewhere_for_those_inside() {
    in_namespace(|| {
        (1..=2).for_each(serve);
        let stays = Back { insiders: Some(vec![(endpoint(Family::V4, 2), 8080).into()]), ..back([1], None) };
        let _proxy = Proxy::with([(front(Ipv4Addr::UNSPECIFIED, TCP, 30_080), stays)].into());
        assert_eq!(from_beside(|| ask(Ipv4Addr::new(192, 0, 2, 2), (Ipv4Addr::new(192, 0, 2, 1), 30_080))), Ok("1 192.0.2.2".into()));
        assert_eq!(ask(CLIENT, (Ipv4Addr::new(192, 0, 2, 1), 30_080)), Ok(format!("2 {CLIENT}")));
    });
}

#[test]
fn ports_of_the_machine_lead_to_endpoints_and_hide_the_client_when_they_must() {
    in_namespace(|| {
        serve(1);
        let port = front(Ipv4Addr::UNSPECIFIED, TCP, 30_080);
        let proxy = |masquerade| Proxy::with([(port, Back { masquerade, ..back([1], None) })].into());
        let node = Ipv4Addr::new(10, 244, 0, 2);
        proxy(Masquerade::Never);
        assert_eq!(ask(CLIENT, (node, 30_080)), Ok(format!("1 {CLIENT}")));
        proxy(Masquerade::Always);
        assert_ne!(ask(CLIENT, (node, 30_080)), Ok(format!("1 {CLIENT}")));
        let outside = Ipv4Addr::new(192, 0, 2, 1);
        ip(&format!("address add {outside}/32 dev lo"));
        proxy(Masquerade::Outsiders);
        assert_eq!(ask(CLIENT, (node, 30_080)), Ok(format!("1 {CLIENT}")));
        assert_ne!(ask(outside, (node, 30_080)), Ok(format!("1 {outside}")));
    });
}

#[test]
fn a_stream_of_udp_follows_when_its_endpoint_goes() {
    in_namespace(|| {
        let receiver = |n: u8| {
            let socket = UdpSocket::bind((endpoint(Family::V4, n), 8080)).expect("bound");
            socket.set_read_timeout(Some(patience(5))).expect("a timeout");
            socket
        };
        let (one, two) = (receiver(1), receiver(2));
        let dns = front(CLUSTER_IP, conntrack::UDP, 53);
        let mut proxy = Proxy::with([(dns, back([1], None))].into());
        let client = UdpSocket::bind((CLIENT, 5353)).expect("bound");
        let mut block = [0; 8];
        client.send_to(b"first", (CLUSTER_IP, 53)).expect("sent");
        assert_eq!(one.recv(&mut block).expect("received"), 5);
        proxy.change(dns, Some(back([2], None)));
        let gone = Ipv4Addr::new(10, 244, 0, 1);
        let forgotten = conntrack::forget(&proxy.socket, |asked, answering| {
            asked.destination == (CLUSTER_IP, 53).into() && answering.source == (gone, 8080).into()
        });
        assert_eq!(forgotten.expect("forgotten"), 1);
        client.send_to(b"second", (CLUSTER_IP, 53)).expect("sent");
        assert_eq!(two.recv(&mut block).expect("received"), 6);
    });
}

#[test]
fn version_6_is_served_by_a_table_of_the_same_shape() {
    in_namespace(|| {
        if !has_ipv6() {
            return println!("skipped: this machine has no IPv6");
        }
        (1..=3).for_each(|n| serve_at(Family::V6, n));
        serve(1);
        let back = |all: &[u8], affinity| back_of(Family::V6, all.iter().copied(), affinity);
        let (web, port, four) = (front(CLUSTER_IP_V6, TCP, 80), front(Ipv6Addr::UNSPECIFIED, TCP, 30_080), front(CLUSTER_IP, TCP, 80));
        let hidden = Back { masquerade: Masquerade::Always, ..back(&[1], None) };
        let mut proxy = Proxy::with([(web, back(&[1, 2, 3], None)), (port, hidden), (four, back_of(Family::V4, [1], None))].into());
        let said = |n: u8| format!("{n} {CLIENT_V6}");
        assert_eq!(answers(60, CLIENT_V6, (CLUSTER_IP_V6, 80)), (1..=3).map(said).collect());
        assert_eq!(answers(5, CLIENT, (CLUSTER_IP, 80)), [format!("1 {CLIENT}")].into(), "beside version 4");
        proxy.change(web, Some(back(&[2], None)));
        assert_eq!(answers(20, CLIENT_V6, (CLUSTER_IP_V6, 80)), [said(2)].into());
        let node = match endpoint(Family::V6, 2) {
            IpAddr::V6(node) => node,
            IpAddr::V4(_) => unreachable!("an address of version 6"),
        };
        let through = ask(CLIENT_V6, (node, 30_080)).expect("an answer");
        assert!(through.starts_with("1 ") && through != said(1), "a port of the machine hides the client: {through}");
        proxy.change(web, Some(back(&[1, 2, 3], Some(100))));
        let first = answers(20, CLIENT_V6, (CLUSTER_IP_V6, 80));
        assert_eq!(first.len(), 1, "a client with affinity stays: {first:?}");
        let _anew = Proxy::with([(web, back(&[1, 2, 3], Some(100)))].into());
        assert_eq!(answers(5, CLIENT_V6, (CLUSTER_IP_V6, 80)), first, "and when the rules are set anew");
        let number: u8 = first.first().and_then(|said| said[..1].parse().ok()).expect("a number");
        let rest: Vec<u8> = (1..=3).filter(|n| *n != number).collect();
        let _fewer = Proxy::with([(web, back(&rest, Some(100)))].into());
        assert_ne!(answers(5, CLIENT_V6, (CLUSTER_IP_V6, 80)), first, "until its endpoint is gone");
        let _none = Proxy::with(BTreeMap::new());
        assert_eq!(ask(CLIENT_V6, (CLUSTER_IP_V6, 80)), Err(std::io::ErrorKind::ConnectionRefused));
    });
}

#[test]
fn a_stream_of_udp_in_version_6_is_forgotten_too() {
    in_namespace(|| {
        if !has_ipv6() {
            return println!("skipped: this machine has no IPv6");
        }
        let receiver = UdpSocket::bind((endpoint(Family::V6, 1), 8080)).expect("bound");
        receiver.set_read_timeout(Some(patience(5))).expect("a timeout");
        let proxy = Proxy::with([(front(CLUSTER_IP_V6, conntrack::UDP, 53), back_of(Family::V6, [1], None))].into());
        let client = UdpSocket::bind((CLIENT_V6, 5353)).expect("bound");
        client.send_to(b"first", (CLUSTER_IP_V6, 53)).expect("sent");
        assert_eq!(receiver.recv(&mut [0; 8]).expect("received"), 5);
        let of_ours = |asked: &conntrack::Tuple, answering: &conntrack::Tuple| {
            asked.destination == (CLUSTER_IP_V6, 53).into() && answering.source == (endpoint(Family::V6, 1), 8080).into()
        };
        assert_eq!(conntrack::forget(&proxy.socket, of_ours).expect("forgotten"), 1);
        assert_eq!(conntrack::forget(&proxy.socket, of_ours).expect("nothing"), 0);
    });
}

/// Opens an association as far as its first packet goes: RFC 9260, an INIT chunk behind the common header.
fn sctp_init(port: u16) -> Vec<u8> {
    let mut packet =
        [&[0x30, 0x39][..], &port.to_be_bytes(), &[0; 8], &[1, 0, 0, 20], &[0, 0, 0, 7], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]]
            .concat();
    // CRC32c, low byte first.
    let sum = packet
        .iter()
        .fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }));
    packet[8..12].copy_from_slice(&(!sum).to_le_bytes());
    packet
}

#[test]
fn sctp_is_led_to_endpoints_like_the_others() {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, sendto, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    in_namespace(|| {
        const SCTP: u8 = 132;
        let _proxy = Proxy::with([(front(CLUSTER_IP, SCTP, 36_412), back([3], None))].into());
        // Packets of the protocol as they are: this needs no SCTP in the machine's kernel but for the tracking of connections.
        let raw = |address: Ipv4Addr| {
            let made = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp).expect("a raw socket");
            bind(made.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(address, 0))).expect("bound");
            setsockopt(&made, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0)).expect("a timeout");
            made
        };
        let (endpoint, client) = (raw(Ipv4Addr::new(10, 244, 0, 3)), raw(CLIENT));
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(CLUSTER_IP, 0));
        sendto(client.as_raw_fd(), &sctp_init(36_412), &to, MsgFlags::empty()).expect("sent");
        let mut block = [0; 128];
        let count = recv(endpoint.as_raw_fd(), &mut block, MsgFlags::empty()).expect("the packet comes to the endpoint");
        // Behind the header of IP: the ports.
        let ports = &block[20..24];
        assert_eq!((count >= 44, u16::from_be_bytes([ports[2], ports[3]])), (true, 8080));
    });
}
