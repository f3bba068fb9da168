//! What a node pays for its pods: starting many at once, memory, processor time while nothing happens.

use super::{Bench, REGISTRY_PORT, Row, Rows, median, number, target};
use pintle_tests::{image, registry::Registry};
use std::{error::Error, fs, net::SocketAddr, time::Duration};

/// Pods of the burst, and of the rest afterwards.
const BURST: &str = "100";
const REST: usize = 200;
/// How long nothing happens while processor time is read.
const QUIET: Duration = Duration::from_secs(30);
/// Of processor time in /proc, a second.
const TICKS: f64 = 100.0;

/// Pods on one machine.
pub fn pods(bench: &Bench) -> Rows {
    bench.cluster.down(&["--delete-data"])?;
    let registry = SocketAddr::from((bench.cluster.gateway()?, REGISTRY_PORT));
    let mirror = format!("registry.pintle.test=http://{registry}");
    bench.cluster.up(1, &["--registry-mirror", &mirror, "--node-arg=--max-pods=300"])?;
    let server = Registry::start(registry, &target().join("bench-registry"))?;
    server.push(&image::busybox("1")?, "web", "1")?;
    // One pod first: the image is there then, and what starting took has gone back.
    bench.load("pod-start", &["--count", "1"])?;
    std::thread::sleep(Duration::from_secs(2));
    let empty = bench.rss_mb("node-1")?;
    let at_once = number(&bench.load("pod-burst", &["--count", BURST, "--clients", "8"])?, "/s")?;
    bench.cluster.kubectl().run(&["delete", "pods", "--selector=load=yes", "--wait=true", "--timeout=120s"])?;
    bench.load("pod-burst", &["--count", &REST.to_string(), "--clients", "8"])?;
    std::thread::sleep(Duration::from_secs(10));
    let full = bench.rss_mb("node-1")?;
    let processes = family(bench.cluster.pid("node-1")?)?;
    let before = spent(&processes);
    std::thread::sleep(QUIET);
    let idle = (spent(&processes) - before) / QUIET.as_secs_f64() * 100.0;
    Ok(vec![
        one("pods_100_at_once_s", "s, 100 pods from the first create until all run", "-", at_once),
        one("node_rss_0_mb", "MB, the node's daemon without pods", "30 MB", empty),
        one("node_rss_200_mb", "MB, with 200 pods", "-", full),
        one("pod_overhead_kb", "KB of the daemon for a pod", "-", (full - empty) * 1024.0 / REST as f64),
        one("node_idle_percent", "% of a processor, daemon and helper, 200 pods at rest", "1 %", idle),
    ])
}

fn one(name: &'static str, unit: &'static str, aim: &'static str, value: f64) -> Row {
    median(name, unit, aim, vec![value])
}

/// The daemon, and the helper that it has started.
fn family(daemon: u32) -> Result<Vec<u32>, Box<dyn Error>> {
    let line = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let words = line(daemon)?;
    let state = words.split('\0').skip_while(|word| *word != "--state-dir").nth(1).unwrap_or_default().to_owned();
    let all = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let helper = |pid: &u32| line(*pid).is_ok_and(|words| words.starts_with("pintle-container-helper") && words.contains(&state));
    Ok(all.filter(helper).chain([daemon]).collect())
}

/// Processor time of processes so far, seconds.
fn spent(processes: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<f64> =
            text.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Some(fields.iter().sum::<f64>() / TICKS)
    };
    processes.iter().filter_map(of).sum()
}
