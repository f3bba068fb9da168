//! `cargo xtask bench [ROW...]`: measures, prints a table, and writes `target/bench.json`.
//!
//! Every ratio's two sides are measured in the same run, on the same machine, one after the other. A row that cannot be measured
//! here says why instead of a number.

mod machinery;
mod modules;
mod network;
mod node;
mod peer;

use crate::{Outcome, compile, needs};
use pintle_tests::cluster::Cluster;
use serde_json::{Value, json};
use std::{
    error::Error,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// One measured number, as it goes into `target/bench.json`.
struct Row {
    name: &'static str,
    unit: &'static str,
    aim: &'static str,
    value: f64,
    min: f64,
    max: f64,
    runs: usize,
    peer: Option<f64>,
    ratio: Option<f64>,
}

type Rows = Result<Vec<Row>, Box<dyn Error>>;

/// What can be measured: a name to select it by, and how.
const GROUPS: &[(&str, fn(&Bench) -> Rows)] = &[
    ("store", store),
    ("admission", modules::admission),
    ("judged", modules::judged),
    ("languages", modules::languages),
    ("epochs", modules::epochs),
    ("container", container),
    ("ready", ready),
    ("api", api),
    ("lists", machinery::lists),
    ("fan-out", machinery::fan_out),
    ("patches", machinery::patches),
    ("pods-memory", machinery::pods),
    ("bind", bind),
    ("memory", memory),
    ("hostile", hostile),
    ("network", network::network),
    ("dns", network::dns),
    ("pod", node::start),
    ("pull", node::pull),
    ("node", node::pods),
];

const PORT: u16 = 26443;
const REGISTRY_PORT: u16 = 5090;

/// Where the benches keep their cluster.
struct Bench {
    cluster: Cluster,
}

impl Bench {
    /// A fresh kernel without nodes, started a second time: its code cache is warm.
    fn kernel(&self) -> Outcome {
        let modules = format!("--kernel-arg=--module-dir={}", compile::example_modules().display());
        self.cluster.down(&["--delete-data"])?;
        self.cluster.up(0, &[&modules])?;
        self.load("ready", &[])?;
        self.cluster.kill("kernel")?;
        self.cluster.up(0, &[&modules])?;
        Ok(())
    }

    /// The load generator's numbers.
    fn load(&self, what: &str, more: &[&str]) -> Result<Value, Box<dyn Error>> {
        let data = self.cluster.data_dir().display().to_string();
        let mut args = vec![what, "--data-dir", &data];
        let port = PORT.to_string();
        args.extend(["--port", &port]);
        args.extend(more);
        output_json(Command::new(pintle_tests::programs().join("pintle-load")).args(args))
    }

    fn rss_mb(&self, process: &str) -> Result<f64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.cluster.pid(process)?))?;
        let kb = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok(kb.parse::<f64>()? / 1024.0)
    }
}

/// Measures the named groups, or all.
pub fn bench(names: &[String]) -> Outcome {
    needs::packages(needs::FOR_UP)?;
    needs::packages(needs::FOR_BENCH)?;
    needs::wasm_target()?;
    compile::everything()?;
    compile::modules()?;
    compile::examples()?;
    compile::guests()?;
    let bench = Bench { cluster: Cluster::new(target().join("bench-cluster"), PORT) };
    let mut rows = Vec::new();
    for (name, measure) in GROUPS.iter().filter(|(n, _)| names.is_empty() || names.iter().any(|w| w == n)) {
        eprintln!("measuring {name} ...");
        match measure(&bench) {
            Ok(more) => rows.extend(more),
            Err(error) => eprintln!("  {name} was not measured: {error}"),
        }
    }
    bench.cluster.down(&["--delete-data"])?;
    print(&rows);
    let list: Vec<Value> = rows.iter().map(Row::json).collect();
    let path = target().join("bench.json");
    fs::write(&path, serde_json::to_string_pretty(&list)?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

impl Row {
    fn json(&self) -> Value {
        json!({"name": self.name, "value": self.value, "unit": self.unit, "min": self.min, "max": self.max,
            "runs": self.runs, "peer": self.peer, "ratio": self.ratio})
    }
}

fn print(rows: &[Row]) {
    println!("{:<24} {:>12} {:>12} {:>12} {:>5} {:>12} {:>7}  {:<10} aim", "row", "value", "min", "max", "runs", "peer", "ratio", "unit");
    for r in rows {
        let optional = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
        println!(
            "{:<24} {:>12.3} {:>12.3} {:>12.3} {:>5} {:>12} {:>7}  {:<10} {}",
            r.name,
            r.value,
            r.min,
            r.max,
            r.runs,
            optional(r.peer),
            optional(r.ratio),
            r.unit,
            r.aim
        );
    }
}

fn target() -> PathBuf {
    pintle_tests::programs().with_file_name("")
}

fn output_json(command: &mut Command) -> Result<Value, Box<dyn Error>> {
    let text = pintle_tests::run(command)?;
    let last = text.lines().rfind(|l| l.starts_with('{')).ok_or_else(|| format!("no JSON in {text:?}"))?;
    Ok(serde_json::from_str(last)?)
}

fn example(name: &str, args: &[&str]) -> Result<Value, Box<dyn Error>> {
    output_json(Command::new(pintle_tests::programs().join("examples").join(name)).args(args))
}

fn number(value: &Value, pointer: &str) -> Result<f64, Box<dyn Error>> {
    value.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| format!("no number at {pointer} of {value}").into())
}

/// A row from several runs of one number; its value is the median.
fn median(name: &'static str, unit: &'static str, aim: &'static str, mut sample: Vec<f64>) -> Row {
    sample.sort_by(f64::total_cmp);
    let (min, max) = (sample.first().copied().unwrap_or(f64::NAN), sample.last().copied().unwrap_or(f64::NAN));
    let value = sample.get(sample.len() / 2).copied().unwrap_or(f64::NAN);
    Row { name, unit, aim, value, min, max, runs: sample.len(), peer: None, ratio: None }
}

fn repeat(runs: usize, mut one: impl FnMut() -> Result<f64, Box<dyn Error>>) -> Result<Vec<f64>, Box<dyn Error>> {
    (0..runs).map(|_| one()).collect()
}

/// A throughput row against a peer's: the ratio is ours over theirs.
fn against(mut row: Row, peer: f64) -> Row {
    row.peer = Some(peer);
    row.ratio = Some(row.value / peer);
    row
}

/// The clients that etcd's own check runs with at the load asked for below.
const ETCD_CLIENTS: &str = "1000";

/// etcd's own load tool against a fresh etcd on this disk, in puts a second.
fn etcd_puts() -> Result<f64, Box<dyn Error>> {
    let dir = target().join("bench-etcd");
    let _ = fs::remove_dir_all(&dir);
    let client = "http://127.0.0.1:23790";
    let mut etcd: Child = Command::new("etcd")
        .arg("--data-dir")
        .arg(&dir)
        .args(["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", "http://127.0.0.1:23800"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let etcdctl = |args: &[&str]| {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", client]).args(args);
        command
    };
    let measured = pintle_tests::eventually("etcd answers", std::time::Duration::from_secs(20), || {
        pintle_tests::run(&mut etcdctl(&["endpoint", "health"])).map_err(|e| e.to_string())
    })
    .map_err(Into::into)
    .and_then(|_| {
        // It fails its own thresholds on a small machine; the figure is printed all the same.
        let output = etcdctl(&["check", "perf", "--load=xl"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.contains("hroughput")).ok_or_else(|| format!("no throughput in {text:?}"))?;
        let number = line.split_whitespace().find_map(|w| w.parse::<f64>().ok()).ok_or("no number")?;
        Ok::<f64, Box<dyn Error>>(number)
    });
    etcd.kill()?;
    etcd.wait()?;
    let _ = fs::remove_dir_all(&dir);
    measured
}

fn store(bench: &Bench) -> Rows {
    let peer = etcd_puts()?;
    let puts = repeat(3, || {
        number(&example("bench_store", &["--writers", ETCD_CLIENTS, "--seconds", "3", "--value-bytes", "2300"])?, "/puts_per_s")
    })?;
    bench.kernel()?;
    let creates = repeat(3, || number(&bench.load("creates", &["--clients", "64", "--seconds", "4"])?, "/per_s"))?;
    Ok(vec![
        against(median("store_vs_etcd", "puts/s, ratio ours/etcd", "3x etcd", puts), peer),
        against(median("create_vs_etcd", "creates/s, ratio ours/etcd", "as many as etcd's puts", creates), peer),
    ])
}

fn container(_: &Bench) -> Rows {
    let measured = example("bench_container", &["--runs", "40"])?;
    let mut row = median("container_vs_runc", "ms, ratio ours/runc's time", "0.5", vec![number(&measured, "/p50_ms")?]);
    (row.min, row.max, row.runs) = (number(&measured, "/min_ms")?, number(&measured, "/max_ms")?, 40);
    let mut exec = median("exec_vs_runc", "ms, ratio ours/runc's time", "0.5", vec![number(&measured, "/exec_p50_ms")?]);
    (exec.min, exec.max, exec.runs) = (number(&measured, "/exec_min_ms")?, number(&measured, "/exec_max_ms")?, 40);
    Ok(vec![against(row, number(&measured, "/peer_p50_ms")?), against(exec, number(&measured, "/peer_exec_p50_ms")?)])
}

fn ready(bench: &Bench) -> Rows {
    bench.kernel()?;
    bench.cluster.kill("kernel")?;
    let starts = repeat(7, || {
        let data = bench.cluster.data_dir().join("kernel");
        let mut kernel = Command::new(pintle_tests::programs().join("pintle"))
            .arg("kernel")
            .arg("--data-dir")
            .arg(&data)
            .args(["--listen", &format!("127.0.0.1:{PORT}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let measured = bench.load("ready", &[]);
        let value = number(&measured?, "/ms");
        kernel.kill()?;
        kernel.wait()?;
        value
    });
    Ok(vec![median("ready_ms", "ms", "100 ms", starts?)])
}

fn api(bench: &Bench) -> Rows {
    bench.kernel()?;
    let creates = repeat(3, || number(&bench.load("creates", &["--clients", "16", "--seconds", "4"])?, "/per_s"))?;
    let gets = repeat(3, || number(&bench.load("gets", &["--clients", "16", "--seconds", "4"])?, "/per_s"))?;
    let watches: Vec<Value> = (0..3).map(|_| bench.load("watch", &["--count", "1000", "--seconds", "4"])).collect::<Result<_, _>>()?;
    let all = |pointer: &str| watches.iter().map(|v| number(v, pointer)).collect::<Result<Vec<_>, _>>();
    Ok(vec![
        median("creates_per_s", "creates/s", "3,000", creates),
        median("gets_per_s", "gets/s", "20,000", gets),
        median("watch_p50_ms", "ms", "1 ms", all("/ms/p50")?),
        median("watch_p99_ms", "ms", "5 ms", all("/ms/p99")?),
        median("watch_writes_per_s", "writes/s", "1,000 while measuring", all("/per_s")?),
    ])
}

fn bind(bench: &Bench) -> Rows {
    bench.kernel()?;
    let measured = bench.load("bind", &["--count", "100"])?;
    let mut row = median("bind_100_s", "s", "0.2 s", vec![number(&measured, "/s/p50")?]);
    (row.min, row.max, row.runs) = (number(&measured, "/s/min")?, number(&measured, "/s/max")?, 5);
    Ok(vec![row])
}

fn memory(bench: &Bench) -> Rows {
    bench.kernel()?;
    // What starting took has gone back to the system by then.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let idle = bench.rss_mb("kernel")?;
    bench.load("fill", &["--count", "8000"])?;
    let full = bench.rss_mb("kernel")?;
    Ok(vec![median("kernel_rss_mb", "MB", "80 MB", vec![idle]), median("kernel_rss_8000_mb", "MB", "under 400 MB", vec![full])])
}

/// A steady load of gets and creates, alone and beside a hostile module for each sin, in turns.
fn hostile(bench: &Bench) -> Rows {
    bench.kernel()?;
    let p99 = || number(&bench.load("steady", &["--clients", "8", "--count", "400", "--seconds", "5"])?, "/ms/p99");
    let kubectl = bench.cluster.kubectl();
    let sins = ["loop", "grow", "trap", "malformed", "steady-flood"];
    p99()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        alone.push(p99()?);
        for sin in sins {
            let module = json!({
                "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": format!("sinner-{sin}")},
                "spec": {
                    "type": "controller", "source": {"file": "host_test_guest.wasm"}, "config": {"mode": sin},
                    "permissions": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
                    "limits": {"callsPerSecond": 200}, "controller": {"primary": "/configmaps"},
                },
            });
            kubectl.apply(&module.to_string())?;
        }
        beside.push(p99()?);
        let traps = |sin: &str| {
            Ok::<u64, Box<dyn Error>>(kubectl.get(&["module", &format!("sinner-{sin}")])?["status"]["traps"].as_u64().unwrap_or(0))
        };
        for sin in sins {
            if traps(sin)? == 0 {
                return Err(format!("{sin} did not sin").into());
            }
            kubectl.run(&["delete", "module", &format!("sinner-{sin}"), "--timeout=30s"])?;
        }
    }
    let peer = median("hostile_p99_ratio", "", "", alone).value;
    Ok(vec![against(median("hostile_p99_ratio", "ms, ratio beside five hostile modules/alone", "2", beside), peer)])
}
