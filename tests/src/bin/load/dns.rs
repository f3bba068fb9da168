//! The cluster's resolver under load, asked from where this program runs: `ip netns exec` puts it beside a node's pods.

use pintle_tests::Error;
use serde_json::{Value, json};
use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use crate::{Options, summary};

const RESOLVER: &str = "10.96.0.10:53";
const NAMES: [&str; 2] = ["kubernetes.default.svc.cluster.local", "kube-dns.kube-system.svc.cluster.local"];
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions for addresses of Services, by `--clients` who each wait for the answer, for `--seconds`: answers a second, milliseconds.
pub fn dns(options: &Options) -> Result<Value, Error> {
    let (length, began) = (options.duration(), Instant::now());
    let threads: Vec<_> = (0..options.clients).map(|number| std::thread::spawn(move || ask(number, length))).collect();
    let mut sample = Vec::new();
    for thread in threads {
        let panicked = || Error::Http { what: "dns".into(), reason: "a client panicked".into() };
        sample.extend(thread.join().map_err(|_| panicked())?.map_err(Error::io(RESOLVER))?);
    }
    let per_s = sample.len() as f64 / began.elapsed().as_secs_f64();
    Ok(json!({ "per_s": per_s, "ms": summary(sample) }))
}

fn ask(number: usize, length: Duration) -> std::io::Result<Vec<f64>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut sample, mut block, began) = (Vec::new(), [0; 512], Instant::now());
    let mut id = number as u16;
    while began.elapsed() < length {
        id = id.wrapping_add(1);
        let asked = Instant::now();
        socket.send(&question(id, NAMES[usize::from(id) % NAMES.len()]))?;
        let count = socket.recv(&mut block)?;
        // Of the answer's head: its id, no error, an answer at least.
        if count < 12 || block[..2] != id.to_be_bytes() || block[3] & 15 != 0 || block[6..8] == [0, 0] {
            return Err(std::io::Error::other(format!("no answer: {:?}", &block[..count.min(12)])));
        }
        sample.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    Ok(sample)
}

/// A question for the IPv4 addresses of a name: RFC 1035, section 4.1.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}
