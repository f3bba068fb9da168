//! What the pods' network costs: `cargo xtask bench network`, as root. Prints one JSON object.
//!
//! Two machines, each a network namespace, joined by a veth; pods are namespaces, plugged in as the daemon does it. Measured are the
//! plugging in of a pod, a change of an endpoint with 10, 1,000 and 10,000 Services, connections and round trips to a pod beside, by its own
//! address and through a cluster address, and the stream from a pod to one of the other machine against a bare veth.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use pintle_host_node::net::nft::Transaction;
use pintle_host_node::net::nft::wire::Socket;
use pintle_host_node::net::shape::Bandwidth;
use pintle_host_node::net::{Network, Settings};
use pintle_host_node::service::frontends::{Back, Front, Masquerade};
use pintle_host_node::service::ruleset::{Ground, Ruleset, TABLE};

const PODS: usize = 60;
const CHANGES: u32 = 500;
const ROUNDS: usize = 5;
const CONNECTIONS: u32 = 1_000;
const ROUND_TRIPS: u32 = 4_000;
const STREAM: Duration = Duration::from_secs(2);
const PORT: u16 = 8080;
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 0);

fn main() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("needs root, for network namespaces");
    }
    let directory = std::env::temp_dir().join(format!("bench-network-{}", std::process::id()));
    let (one, two) = (namespace(), namespace());
    join(&one, &two, "192.0.2");
    let setup_ms = inside(&one, {
        let directory = directory.join("setup");
        move || plugging_in(&directory)
    });
    let (client, beside) = inside(&one, {
        let directory = directory.join("one");
        move || machine(&directory, 0, 2)
    });
    let far = inside(&two, {
        let directory = directory.join("two");
        move || machine(&directory, 1, 1).0
    });
    let services: serde_json::Map<String, serde_json::Value> =
        [10, 1_000, 10_000].map(|count| (count.to_string(), through_services(&one, &client, &beside, count))).into_iter().collect();
    let (bare_one, bare_two) = (namespace(), namespace());
    join(&bare_one, &bare_two, "198.51.100");
    let far_address = SocketAddr::new(far.address, PORT);
    let (mut across, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        across.push(stream(&client.namespace, &far.namespace, far_address));
        bare.push(stream(&bare_one, &bare_two, SocketAddr::from(([198, 51, 100, 2], PORT))));
    }
    let _ = std::fs::remove_dir_all(&directory);
    let found = serde_json::json!({ "pod_network_ms": setup_ms, "services": services, "across_gbit": across, "bare_gbit": bare });
    println!("{found}");
}

/// A pod of the measurement.
struct Pod {
    namespace: OwnedFd,
    address: IpAddr,
}

/// A network namespace of its own.
fn namespace() -> OwnedFd {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        let file = std::fs::File::open("/proc/thread-self/ns/net").expect("its file");
        ip("link set lo up");
        OwnedFd::from(file)
    };
    std::thread::spawn(make).join().expect("made")
}

/// Runs in a namespace, on a thread of its own.
fn inside<T: Send + 'static>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> T {
    thread_in(namespace, work).join().expect("done")
}

fn thread_in<T: Send + 'static>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let namespace = namespace.try_clone().expect("a handle");
    std::thread::spawn(move || {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
        work()
    })
}

fn ip(args: &str) {
    assert!(Command::new("ip").args(args.split(' ')).status().is_ok_and(|status| status.success()), "ip {args}");
}

/// A veth from one namespace (address `.1`) to the other (`.2`).
fn join(one: &OwnedFd, two: &OwnedFd, network: &'static str) {
    let other = format!("/proc/{}/fd/{}", std::process::id(), two.as_raw_fd());
    inside(one, move || {
        ip(&format!("link add link0 type veth peer name link0 netns {other}"));
        ip(&format!("address add {network}.1/24 dev link0"));
        ip("link set link0 up");
    });
    inside(two, move || {
        ip(&format!("address add {network}.2/24 dev link0"));
        ip("link set link0 up");
    });
}

fn cidr<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a network")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Milliseconds to plug in each of some pods, in a row.
fn plugging_in(directory: &std::path::Path) -> Vec<f64> {
    let pods: Vec<OwnedFd> = (0..PODS).map(|_| namespace()).collect();
    block_on(async {
        let network = Network::open(Settings { bridge: "trial".into(), ..Settings::default() }, directory.to_owned()).expect("netlink");
        network.set_pod_cidrs(&[cidr("10.250.0.0/24")]).await.expect("a bridge");
        let mut times = Vec::new();
        for (number, pod) in pods.into_iter().enumerate() {
            let began = Instant::now();
            network.attach(&format!("trial{number}"), pod, Bandwidth::default()).await.expect("plugged in");
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        for number in 0..PODS {
            network.detach(&format!("trial{number}")).await.expect("unplugged");
        }
        times
    })
}

/// A machine's bridge, its route to the other one, its rules, and its first pods (the first and the last of them are given).
fn machine(directory: &std::path::Path, number: u8, count: usize) -> (Pod, Pod) {
    let mut pods = block_on(async {
        let network = Network::open(Settings { bridge: "pods".into(), ..Settings::default() }, directory.to_owned()).expect("netlink");
        network.set_pod_cidrs(&[cidr(&format!("10.244.{number}.0/24"))]).await.expect("a bridge");
        let other = 1 - number;
        let gateway = Ipv4Addr::new(192, 0, 2, other + 1);
        network.set_peer("other", &[cidr(&format!("10.244.{other}.0/24"))], &[gateway.into()]).await.expect("a route");
        let mut pods = Vec::new();
        for index in 0..count {
            let namespace = namespace();
            let handle = namespace.try_clone().expect("a handle");
            let given = network.attach(&format!("pod{number}{index}"), handle, Bandwidth::default()).await.expect("plugged in");
            let address = *given.first().expect("an address");
            pods.push(Pod { namespace, address });
        }
        pods
    });
    let (_, transaction) = Ruleset::replace(&ground(number), BTreeMap::new(), &[]);
    Socket::open().and_then(|socket| socket.commit(transaction.into_messages())).expect("accepted");
    let last = pods.pop().expect("a pod");
    let first = pods.pop().unwrap_or_else(|| Pod { namespace: last.namespace.try_clone().expect("a handle"), address: last.address });
    (first, last)
}

fn ground(number: u8) -> Ground {
    let own_pods = vec![cidr(&format!("10.244.{number}.0/24"))];
    Ground { bridge: Some("pods".into()), own_pods, all_pods: vec![cidr("10.244.0.0/16")], services: vec![cidr("10.96.0.0/12")] }
}

/// With so many Services on a machine: microseconds of a change, connections a second and round trips by both ways.
fn through_services(machine: &OwnedFd, client: &Pod, beside: &Pod, count: u32) -> serde_json::Value {
    let server = beside.address;
    let changes = inside(machine, move || rules(server, count));
    let serving = serve(&beside.namespace);
    let (direct, through) = (SocketAddr::new(server, PORT), SocketAddr::from((CLUSTER_IP, 80)));
    let measured = inside(&client.namespace, move || {
        connect(direct);
        let mut all = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (which, found) in [connect(direct), connect(through), round_trip(direct), round_trip(through)].into_iter().enumerate() {
                all[which].push(found);
            }
        }
        stop(direct);
        all
    });
    serving.join().expect("served");
    let [direct_per_s, through_per_s, direct_us, through_us] = measured;
    serde_json::json!({ "change_us": changes, "direct_per_s": direct_per_s, "through_per_s": through_per_s, "direct_us": direct_us, "through_us": through_us })
}

/// Sets the rules of so many Services, the first of which leads to `server`; microseconds of single changes of others.
fn rules(server: IpAddr, count: u32) -> Vec<f64> {
    let front = |n: u32| Front { address: Ipv4Addr::from(u32::from(CLUSTER_IP) + n).into(), protocol: 6, port: 80 };
    let back = |last: u32| {
        let endpoint = |n: u32| SocketAddr::from((Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 16, 0)) + n), PORT));
        Back {
            endpoints: vec![endpoint(1), endpoint(2), endpoint(3 + last)],
            affinity: None,
            masquerade: Masquerade::Outsiders,
            insiders: None,
        }
    };
    let mut all: BTreeMap<Front, Back> = (1..count).map(|n| (front(n), back(n))).collect();
    all.insert(front(0), Back { endpoints: vec![SocketAddr::new(server, PORT)], ..back(0) });
    let socket = Socket::open().expect("a socket");
    let (mut ruleset, transaction) = Ruleset::replace(&ground(0), all, &[]);
    socket.commit(transaction.into_messages()).expect("accepted");
    let change = |n: u32| {
        let began = Instant::now();
        let mut transaction = Transaction::on(TABLE);
        ruleset.change(&ground(0), [(front(1 + n % (count - 1)), Some(back(count + n)))].into(), &mut transaction);
        socket.commit(transaction.into_messages()).expect("accepted");
        began.elapsed().as_secs_f64() * 1e6
    };
    (0..CHANGES).map(change).collect()
}

/// Sends back every byte, one connection after the other, until one says `Q`.
fn serve(namespace: &OwnedFd) -> std::thread::JoinHandle<()> {
    let (bound, binding) = std::sync::mpsc::channel();
    let thread = thread_in(namespace, move || {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("bound");
        bound.send(()).expect("told");
        for mut peer in listener.incoming().flatten() {
            peer.set_nodelay(true).expect("set");
            let mut byte = [0];
            while let Ok(1) = peer.read(&mut byte) {
                if byte == *b"Q" {
                    return;
                }
                let _ = peer.write_all(&byte);
            }
        }
    });
    binding.recv().expect("bound");
    thread
}

fn stop(to: SocketAddr) {
    TcpStream::connect(to).and_then(|mut peer| peer.write_all(b"Q")).expect("told");
}

/// Connections a second, one after the other, each used for one byte there and back.
fn connect(to: SocketAddr) -> f64 {
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut peer = TcpStream::connect(to).expect("connected");
        peer.write_all(b"x").and_then(|()| peer.read_exact(&mut [0])).expect("answered");
        // Closed by a reset: ports that wait for stragglers would be in the way of later rounds.
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&peer, nix::sys::socket::sockopt::Linger, &at_once).expect("set");
    }
    f64::from(CONNECTIONS) / began.elapsed().as_secs_f64()
}

/// Microseconds of a byte there and back on a connection that stands.
fn round_trip(to: SocketAddr) -> f64 {
    let mut peer = TcpStream::connect(to).expect("connected");
    peer.set_nodelay(true).expect("set");
    let began = Instant::now();
    for _ in 0..ROUND_TRIPS {
        peer.write_all(b"x").and_then(|()| peer.read_exact(&mut [0])).expect("answered");
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUND_TRIPS)
}

/// Gigabits a second from one namespace to an address in the other.
fn stream(from: &OwnedFd, to: &OwnedFd, address: SocketAddr) -> f64 {
    let (bound, binding) = std::sync::mpsc::channel();
    let reader = thread_in(to, move || {
        let listener = TcpListener::bind(("0.0.0.0", address.port())).expect("bound");
        bound.send(()).expect("told");
        let (mut peer, _) = listener.accept().expect("a peer");
        let (mut block, mut bytes, began) = (vec![0; 256 << 10], 0_u64, Instant::now());
        while let Ok(count @ 1..) = peer.read(&mut block) {
            bytes += count as u64;
        }
        bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9
    });
    binding.recv().expect("bound");
    inside(from, move || {
        let mut peer = TcpStream::connect(address).expect("connected");
        let (block, began) = (vec![0; 256 << 10], Instant::now());
        while began.elapsed() < STREAM {
            peer.write_all(&block).expect("sent");
        }
    });
    reader.join().expect("read")
}
