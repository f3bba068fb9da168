//! Create, start, wait and delete of a static no-op, against runc with the same root in the same run.
//!
//! `cargo run --release -p pintle-runtime-bridge --example bench_container -- --runs 50` prints one JSON object, in
//! milliseconds. `p50_ms` covers what `runc run` covers: namespaces (a sandbox with its network namespace), cgroups, root, process,
//! and the removal of all of it. `container_*` leaves the sandbox out, as for the second container of a pod. `exec_p50_ms` is a further
//! process in a running container, to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use pintle_runtime_bridge::{ContainerId, ContainerSpec, ExecSpec, ImageRef, Runtime, RuntimeConfig, SandboxId, SandboxSpec};
use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error>;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 2] = ["true", "sleep"];
const RUNS: usize = 50;

fn main() {
    pintle_runtime_bridge::helper::maybe_run();
    let arguments: Vec<String> = std::env::args().collect();
    let runs = arguments.iter().position(|a| a == "--runs").and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(RUNS).max(1);
    let done = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|tokio| tokio.block_on(bench(runs)));
    match done {
        Ok(report) => println!("{report}"),
        Err(e) => {
            eprintln!("bench_container: {e}");
            std::process::exit(1);
        }
    }
}

async fn bench(runs: usize) -> Result<serde_json::Value, Failure> {
    if !Path::new(BUSYBOX).exists() {
        return Err("needs Debian's busybox-static".into());
    }
    let dir = std::env::temp_dir().join(format!("pintle-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, runs).await;
    Runtime::purge(&dir.join("state"), None).await?;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure(dir: &Path, runs: usize) -> Result<serde_json::Value, Failure> {
    write_layout(&dir.join("layout"))?;
    let cgroup = format!("/pintle-bench-{}", std::process::id());
    let config = RuntimeConfig { cgroup_parent: cgroup, ..RuntimeConfig::new(dir.join("state")) };
    let runtime = Runtime::open(config).await?;
    let image = ImageRef::parse("localhost/no-op")?;
    runtime.import_layout(&dir.join("layout"), Some(&image)).await?;
    let bundle = runc_bundle(dir)?;
    let shared = runtime.create_sandbox(SandboxSpec::default()).await?.id;
    let lasting = lasting(&runtime, &shared).await?;
    let peer_lasting = bundle.as_ref().map(|bundle| Lasting::start(bundle)).transpose()?;
    let (mut whole, mut alone, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut execs, mut their_execs) = (Vec::new(), Vec::new());
    // Interleaved, so that whatever else the machine does meets all alike; the first round warms up.
    for round in 0..=runs {
        let start = Instant::now();
        let sandbox = runtime.create_sandbox(SandboxSpec::default()).await?.id;
        container(&runtime, &sandbox).await?;
        runtime.remove_sandbox(&sandbox).await?;
        let ours = millis(start);
        let start = Instant::now();
        container(&runtime, &shared).await?;
        let inner = millis(start);
        let peer = bundle.as_ref().map(|b| runc(b, round)).transpose()?;
        let start = Instant::now();
        exec(&runtime, &lasting).await?;
        let one_exec = millis(start);
        let their_exec = peer_lasting.as_ref().map(Lasting::exec).transpose()?;
        if round > 0 {
            execs.push(one_exec);
            their_execs.extend(their_exec);
            whole.push(ours);
            alone.push(inner);
            theirs.extend(peer);
        }
    }
    drop(peer_lasting);
    runtime.kill(&lasting).await?;
    runtime.wait(&lasting).await?;
    runtime.remove(&lasting).await?;
    runtime.remove_sandbox(&shared).await?;
    let mut report = serde_json::json!({
        "runs": runs, "p50_ms": p50(&mut whole), "min_ms": whole.first(), "max_ms": whole.last(),
        "container_p50_ms": p50(&mut alone), "container_min_ms": alone.first(), "container_max_ms": alone.last(),
        "exec_p50_ms": p50(&mut execs), "exec_min_ms": execs.first(), "exec_max_ms": execs.last(),
    });
    if !theirs.is_empty() {
        report["runc_p50_ms"] = p50(&mut theirs).into();
        report["runc_exec_p50_ms"] = p50(&mut their_execs).into();
        report["ratio"] = (p50(&mut whole) / p50(&mut theirs)).into();
    }
    Ok(report)
}

/// A container that runs until it is killed.
async fn lasting(runtime: &Runtime, sandbox: &SandboxId) -> Result<ContainerId, Failure> {
    let spec = ContainerSpec {
        sandbox: Some(sandbox.clone()),
        image: "localhost/no-op".to_owned(),
        command: ["/bin/sleep", "100000"].map(str::to_owned).to_vec(),
        ..ContainerSpec::default()
    };
    let id = runtime.create_container(spec).await?;
    runtime.start(&id).await?;
    Ok(id)
}

async fn exec(runtime: &Runtime, id: &ContainerId) -> Result<(), Failure> {
    let mut session = runtime.exec(id, ExecSpec { command: vec!["/bin/true".to_owned()], ..ExecSpec::default() }).await?;
    let exit = session.wait().await?;
    if exit.code == 0 { Ok(()) } else { Err(format!("an exec ended with {}", exit.code).into()) }
}

/// runc's container that runs until it is dropped.
struct Lasting {
    root: PathBuf,
    name: String,
}

impl Lasting {
    fn start(bundle: &Path) -> Result<Self, Failure> {
        let config = bundle.join("config.json");
        let before = std::fs::read(&config)?;
        let mut spec: serde_json::Value = serde_json::from_slice(&before)?;
        spec["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
        std::fs::write(&config, spec.to_string())?;
        let made = Self { root: bundle.join("root"), name: format!("pintle-bench-{}-lasting", std::process::id()) };
        let status = made.runc(&["run", "--detach", "--bundle"], Some(bundle)).status()?;
        std::fs::write(&config, before)?;
        if status.success() { Ok(made) } else { Err("runc did not start a container that lasts".into()) }
    }

    fn runc(&self, words: &[&str], bundle: Option<&Path>) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.root).args(words).args(bundle).arg(&self.name);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn exec(&self) -> Result<f64, Failure> {
        let start = Instant::now();
        let status = self.runc(&["exec"], None).arg("/bin/true").status()?;
        if status.success() { Ok(millis(start)) } else { Err("runc exec failed".into()) }
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force"], None).status();
    }
}

async fn container(runtime: &Runtime, sandbox: &SandboxId) -> Result<(), Failure> {
    let spec = ContainerSpec {
        sandbox: Some(sandbox.clone()),
        image: "localhost/no-op".to_owned(),
        command: vec!["/bin/true".to_owned()],
        ..ContainerSpec::default()
    };
    let id = runtime.create_container(spec).await?;
    runtime.start(&id).await?;
    let exit = runtime.wait(&id).await?;
    if exit.code != 0 {
        return Err(format!("the no-op ended with {}", exit.code).into());
    }
    runtime.remove(&id).await?;
    Ok(())
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn p50(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// A bundle for runc with the same files, or nothing where runc is not installed.
fn runc_bundle(dir: &Path) -> Result<Option<PathBuf>, Failure> {
    if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let bundle = dir.join("runc");
    std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
    for applet in APPLETS {
        std::fs::copy(BUSYBOX, bundle.join("rootfs/bin").join(applet))?;
    }
    Command::new("runc").arg("spec").current_dir(&bundle).status()?;
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["process"]["terminal"] = false.into();
    spec["root"]["readonly"] = false.into();
    std::fs::write(path, spec.to_string())?;
    Ok(Some(bundle))
}

fn runc(bundle: &Path, round: usize) -> Result<f64, Failure> {
    let name = format!("pintle-bench-{}-{round}", std::process::id());
    let root = bundle.join("root");
    let start = Instant::now();
    let status =
        Command::new("runc").arg("--root").arg(root).args(["run", "--bundle"]).arg(bundle).arg(name).stdin(Stdio::null()).status()?;
    if status.success() { Ok(millis(start)) } else { Err("runc failed".into()) }
}

fn write_layout(layout: &Path) -> Result<(), Failure> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let blob = |bytes: &[u8]| -> Result<serde_json::Value, Failure> {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(blobs.join(&hex), bytes)?;
        Ok(serde_json::json!({"digest": format!("sha256:{hex}"), "size": bytes.len()}))
    };
    let program = std::fs::read(BUSYBOX)?;
    let mut archive = tar::Builder::new(Vec::new());
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(program.len() as u64);
        archive.append_data(&mut header, format!("bin/{applet}"), &program[..])?;
    }
    let layer = blob(&archive.into_inner()?)?;
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(config.to_string().as_bytes())?;
    let manifest = blob(serde_json::json!({"config": config, "layers": [layer]}).to_string().as_bytes())?;
    std::fs::write(layout.join("index.json"), serde_json::json!({"manifests": [manifest]}).to_string())?;
    Ok(())
}
