//! How long the Service rules take: `cargo run --release -p pintle-host-node --example services`, as root.
//!
//! In a network namespace of its own, at 10, 1,000 and 10,000 Services of three endpoints: setting all of them, changing one endpoint, and
//! connecting through a cluster address against connecting directly. From a decoded endpoint change to the kernel's acknowledgement.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use pintle_host_node::net::nft::Transaction;
use pintle_host_node::net::nft::wire::Socket;
use pintle_host_node::service::frontends::{Back, Front, Masquerade};
use pintle_host_node::service::ruleset::{Ground, Ruleset, TABLE};

const CHANGES: u32 = 500;
const CONNECTIONS: u32 = 5_000;

fn main() {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
        return eprintln!("needs root, for a network namespace");
    }
    for args in ["link set lo up", "address add 10.244.0.1/32 dev lo", "route add default dev lo"] {
        assert!(Command::new("ip").args(args.split(' ')).status().is_ok_and(|s| s.success()), "ip {args}");
    }
    let listener = TcpListener::bind("10.244.0.1:8080").expect("bound");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    println!("services  set all ms  change us p50  p99  connect us direct  through");
    for count in [10, 1_000, 10_000] {
        measure(count);
    }
}

fn measure(count: u32) {
    let cidr = |text: &str| vec![text.parse().expect("a network")];
    let ground = Ground {
        bridge: Some("pods".into()),
        own_pods: cidr("10.244.0.0/24"),
        all_pods: cidr("10.244.0.0/16"),
        services: cidr("10.96.0.0/12"),
    };
    let front = |n: u32| Front { address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + n).into(), protocol: 6, port: 80 };
    let back = |last: u32| {
        let endpoint = |n: u32| SocketAddr::from((Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 16, 0)) + n), 8080));
        Back {
            endpoints: vec![endpoint(1), endpoint(2), endpoint(3 + last)],
            affinity: None,
            masquerade: Masquerade::Outsiders,
            insiders: None,
        }
    };
    let mut all: BTreeMap<Front, Back> = (1..count).map(|n| (front(n), back(n))).collect();
    all.insert(front(0), Back { endpoints: vec![SocketAddr::from(([10, 244, 0, 1], 8080))], ..back(0) });
    let socket = Socket::open().expect("a socket");
    let began = Instant::now();
    let (mut ruleset, transaction) = Ruleset::replace(&ground, all, &[]);
    socket.commit(transaction.into_messages()).expect("accepted");
    let whole = began.elapsed();
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|n| {
            let began = Instant::now();
            let mut transaction = Transaction::on(TABLE);
            ruleset.change(&ground, [(front(1 + n % (count - 1)), Some(back(count + n)))].into(), &mut transaction);
            socket.commit(transaction.into_messages()).expect("accepted");
            began.elapsed()
        })
        .collect();
    times.sort();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let (p50, p99) = (micros(times[times.len() / 2]), micros(times[times.len() * 99 / 100]));
    let (direct, through) = (connect((Ipv4Addr::new(10, 244, 0, 1), 8080)), connect((front(0).address, 80)));
    println!("{count:>8}  {:>10.1}  {p50:>13.0}  {p99:>4.0}  {direct:>17.1}  {through:>7.1}", whole.as_secs_f64() * 1e3);
}

/// Microseconds of a connection, on average.
fn connect(to: impl Into<SocketAddr>) -> f64 {
    let to = to.into();
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        drop(TcpStream::connect(to).expect("connected"));
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(CONNECTIONS)
}
