//! What a node pays for its pods: starting one and many at once, images, memory, processor time while nothing happens.

use super::{Bench, REGISTRY_PORT, Row, Rows, against, example, median, number, peer::Containerd, target};
use pintle_tests::{image, registry::Registry};
use std::{error::Error, fs, net::SocketAddr, time::Duration};

/// Pods of the burst, and of the rest afterwards.
const BURST: &str = "100";
const REST: usize = 200;
/// How long nothing happens while processor time is read.
const QUIET: Duration = Duration::from_secs(30);
/// Of processor time in /proc, a second.
const TICKS: f64 = 100.0;

/// Pods started one after the other, for each side.
const STARTS: usize = 30;
/// The image that is pulled: 200 MB.
const LAYERS: usize = 5;
const FILES_OF_LAYER: usize = 4000;
const PULLS: usize = 5;

/// From a pod's create to Running: by our own runtime, then on the same node by containerd with runc, its pods plugged into the same network.
pub fn start(bench: &Bench) -> Rows {
    bench.cluster.down(&["--delete-data"])?;
    let registry = SocketAddr::from((bench.cluster.gateway()?, REGISTRY_PORT));
    bench.cluster.up(1, &["--registry-mirror", &format!("registry.pintle.test=http://{registry}")])?;
    let server = Registry::start(registry, &target().join("bench-registry"))?;
    server.push(&image::busybox("1")?, "web", "1")?;
    server.push(&image::pause()?, "pause", "1")?;
    let rss = bench.rss_mb("node-1")?;
    let ours = starts(bench)?;
    bench.cluster.kill("node-1")?;
    let theirs = beside(bench, registry)?;
    let mut row = ours;
    row.peer = Some(theirs.value);
    row.ratio = Some(row.value / theirs.value);
    eprintln!("containerd: {:.1} to {:.1} ms", theirs.min, theirs.max);
    Ok(vec![row, one("node_rss_mb", "MB", "30 MB", rss)])
}

fn starts(bench: &Bench) -> Result<Row, Box<dyn Error>> {
    let measured = bench.load("pod-start", &["--count", &STARTS.to_string()])?;
    let mut row = one("pod_start_p50_ms", "ms, ratio ours/containerd's time", "150 ms; 0.33", number(&measured, "/ms/p50")?);
    (row.min, row.max, row.runs) = (number(&measured, "/ms/min")?, number(&measured, "/ms/max")?, STARTS);
    Ok(row)
}

/// The same on containerd, which takes the place of the runtime of the node that was just ended.
fn beside(bench: &Bench, registry: SocketAddr) -> Result<Row, Box<dyn Error>> {
    let containerd = Containerd::start(&bench.cluster.inside_node("node-1")?, registry)?;
    bench.cluster.up(1, &[&format!("--node-arg=--runtime=cri://{}", containerd.socket().display())])?;
    let row = starts(bench);
    bench.cluster.kill("node-1")?;
    row
}

/// An image of many files pulled and unpacked, by our own runtime and by containerd in turns.
pub fn pull(_: &Bench) -> Rows {
    let registry = SocketAddr::from(([127, 0, 0, 1], REGISTRY_PORT));
    let server = Registry::start(registry, &target().join("bench-registry"))?;
    server.push(&image::many_files(LAYERS, FILES_OF_LAYER)?, "big", "1")?;
    let containerd = Containerd::start(&["env".to_owned()], registry)?;
    let (socket, mirror) = (containerd.socket().display().to_string(), format!("registry.pintle.test={registry}"));
    let runs = PULLS.to_string();
    let seen =
        example("bench_pull", &["--socket", &socket, "--image", "registry.pintle.test/big:1", "--mirror", &mirror, "--runs", &runs])?;
    let all = |side: &str| seen[side].as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64).collect::<Vec<_>>();
    let theirs = median("", "", "", all("theirs_s"));
    eprintln!("containerd: {:.2} to {:.2} s", theirs.min, theirs.max);
    Ok(vec![against(median("pull_vs_containerd", "s, ratio ours/containerd's time", "1", all("ours_s")), theirs.value)])
}

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
    let processes = family(bench.cluster.pid("node-1")?)?;
    let (empty, whole) = (bench.rss_mb("node-1")?, resident(&processes));
    let at_once = number(&bench.load("pod-burst", &["--count", BURST, "--clients", "8"])?, "/s")?;
    bench.cluster.kubectl().run(&["delete", "pods", "--selector=load=yes", "--wait=true", "--timeout=120s"])?;
    bench.load("pod-burst", &["--count", &REST.to_string(), "--clients", "8"])?;
    std::thread::sleep(Duration::from_secs(10));
    let (full, overhead) = (bench.rss_mb("node-1")?, resident(&processes) - whole);
    let before = spent(&processes);
    std::thread::sleep(QUIET);
    let idle = (spent(&processes) - before) / QUIET.as_secs_f64() * 100.0;
    Ok(vec![
        one("pods_100_at_once_s", "s, 100 pods from the first create until all run", "-", at_once),
        one("node_rss_0_mb", "MB, the node's daemon without pods", "30 MB", empty),
        one("node_rss_200_mb", "MB, with 200 pods", "-", full),
        one("pod_overhead_kb", "KB of daemon and helper for a pod", "-", overhead / REST as f64),
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

/// Resident memory of processes, KB.
fn resident(processes: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok())
    };
    processes.iter().filter_map(of).sum()
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
