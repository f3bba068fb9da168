//! Create, start, wait and delete of a static no-op, against another runtime (runc unless `--peer` says which) with the same root in the same run.
//!
//! `cargo run --release -p pintle-runtime-bridge --example bench_container -- --runs 50 --peer crun` prints one JSON object, in
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
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let runs = option("--runs").and_then(|runs| runs.parse().ok()).unwrap_or(RUNS).max(1);
    let peer = option("--peer").map_or("runc", String::as_str);
    let done = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|tokio| tokio.block_on(bench(runs, peer)));
    match done {
        Ok(report) => println!("{report}"),
        Err(e) => {
            eprintln!("bench_container: {e}");
            std::process::exit(1);
        }
    }
}

async fn bench(runs: usize, peer: &str) -> Result<serde_json::Value, Failure> {
    if !Path::new(BUSYBOX).exists() {
        return Err("needs Debian's busybox-static".into());
    }
    let dir = std::env::temp_dir().join(format!("pintle-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, runs, peer).await;
    Runtime::purge(&dir.join("state"), None).await?;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure(dir: &Path, runs: usize, program: &str) -> Result<serde_json::Value, Failure> {
    write_layout(&dir.join("layout"))?;
    let cgroup = format!("/pintle-bench-{}", std::process::id());
    let config = RuntimeConfig { cgroup_parent: cgroup, ..RuntimeConfig::new(dir.join("state")) };
    let runtime = Runtime::open(config).await?;
    let image = ImageRef::parse("localhost/no-op")?;
    runtime.import_layout(&dir.join("layout"), Some(&image)).await?;
    let peer = Peer::find(dir, program)?;
    let shared = runtime.create_sandbox(SandboxSpec::default()).await?.id;
    let lasting = lasting(&runtime, &shared).await?;
    let peer_lasting = peer.as_ref().map(Lasting::start).transpose()?;
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
        let their_run = peer.as_ref().map(|peer| peer.run(round)).transpose()?;
        let start = Instant::now();
        exec(&runtime, &lasting).await?;
        let one_exec = millis(start);
        let their_exec = peer_lasting.as_ref().map(Lasting::exec).transpose()?;
        if round > 0 {
            execs.push(one_exec);
            their_execs.extend(their_exec);
            whole.push(ours);
            alone.push(inner);
            theirs.extend(their_run);
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
        report["peer"] = program.into();
        report["peer_p50_ms"] = p50(&mut theirs).into();
        (report["peer_min_ms"], report["peer_max_ms"]) = (theirs.first().copied().into(), theirs.last().copied().into());
        report["peer_exec_p50_ms"] = p50(&mut their_execs).into();
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

/// Another runtime, with a bundle of the same files.
struct Peer {
    program: String,
    bundle: PathBuf,
}

impl Peer {
    /// Makes the bundle; nothing where the program is not installed.
    fn find(dir: &Path, program: &str) -> Result<Option<Self>, Failure> {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let bundle = dir.join("peer");
        std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
        for applet in APPLETS {
            std::fs::copy(BUSYBOX, bundle.join("rootfs/bin").join(applet))?;
        }
        Command::new(program).arg("spec").current_dir(&bundle).status()?;
        let path = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["args"] = serde_json::json!(["/bin/true"]);
        spec["process"]["terminal"] = false.into();
        spec["root"]["readonly"] = false.into();
        std::fs::write(path, spec.to_string())?;
        Ok(Some(Self { program: program.to_owned(), bundle }))
    }

    /// A call about the container with this name.
    fn call(&self, words: &[&str], with_bundle: bool, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.join("root")).args(words);
        if with_bundle {
            command.arg("--bundle").arg(&self.bundle);
        }
        command.arg(name).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&self, round: usize) -> Result<f64, Failure> {
        let name = format!("pintle-bench-{}-{round}", std::process::id());
        let start = Instant::now();
        let status = self.call(&["run"], true, &name).status()?;
        if status.success() { Ok(millis(start)) } else { Err(format!("{} failed", self.program).into()) }
    }
}

/// The other runtime's container that runs until it is dropped.
struct Lasting<'a> {
    peer: &'a Peer,
    name: String,
}

impl<'a> Lasting<'a> {
    fn start(peer: &'a Peer) -> Result<Self, Failure> {
        let config = peer.bundle.join("config.json");
        let before = std::fs::read(&config)?;
        let mut spec: serde_json::Value = serde_json::from_slice(&before)?;
        spec["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
        std::fs::write(&config, spec.to_string())?;
        let made = Self { peer, name: format!("pintle-bench-{}-lasting", std::process::id()) };
        let status = peer.call(&["run", "--detach"], true, &made.name).status()?;
        std::fs::write(&config, before)?;
        if status.success() { Ok(made) } else { Err(format!("{} did not start a container that lasts", peer.program).into()) }
    }

    fn exec(&self) -> Result<f64, Failure> {
        let start = Instant::now();
        let status = self.peer.call(&["exec"], false, &self.name).arg("/bin/true").status()?;
        if status.success() { Ok(millis(start)) } else { Err(format!("{} exec failed", self.peer.program).into()) }
    }
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        let _ = self.peer.call(&["delete", "--force"], false, &self.name).status();
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
