//! Pulling and unpacking one image by our own runtime, and by another one through its CRI socket, in turns.
//!
//! `bench_pull --socket /run/containerd/containerd.sock --image registry.test/big:1 --mirror registry.test=127.0.0.1:5000 --runs 5` prints one JSON
//! object with both lists of seconds. The other runtime has its own configuration of registries. The image is removed between, and what was written
//! is on the disk before the next one begins.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use pintle_cri::{Cri, CriConfig};
use pintle_runtime_bridge::{ImageRef, Mirror, PullOptions, Runtime, RuntimeConfig};

type Failure = Box<dyn std::error::Error>;

fn main() {
    pintle_runtime_bridge::helper::maybe_run();
    let arguments: Vec<String> = std::env::args().collect();
    let given = |option: &str| arguments.iter().position(|a| a == option).and_then(|at| arguments.get(at + 1)).map(String::as_str);
    let done = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|tokio| tokio.block_on(bench(given)));
    match done {
        Ok(report) => println!("{report}"),
        Err(e) => {
            eprintln!("bench_pull: {e}");
            std::process::exit(1);
        }
    }
}

async fn bench<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<serde_json::Value, Failure> {
    let missing = "needs --socket, --image and --mirror HOST=ENDPOINT";
    let (socket, image) = (given("--socket").ok_or(missing)?, ImageRef::parse(given("--image").ok_or(missing)?)?);
    let (registry, endpoint) = given("--mirror").and_then(|text| text.split_once('=')).ok_or(missing)?;
    let runs: usize = given("--runs").unwrap_or("3").parse()?;
    let mirror = Mirror { registry: registry.to_owned(), endpoint: endpoint.to_owned() };
    let options = PullOptions { mirrors: vec![mirror], plain_http: vec![endpoint.to_owned()], ..PullOptions::default() };
    let dir = Path::new(socket).with_file_name(format!("pull-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, socket, &image, &options, runs).await;
    Runtime::purge(&dir.join("state"), None).await?;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure(dir: &Path, socket: &str, image: &ImageRef, options: &PullOptions, runs: usize) -> Result<serde_json::Value, Failure> {
    let cgroup_parent = format!("/pintle-pull-{}", std::process::id());
    let ours = Runtime::open(RuntimeConfig { cgroup_parent: cgroup_parent.clone(), ..RuntimeConfig::new(dir.join("state")) }).await?;
    let theirs = Cri::open(CriConfig { socket: socket.into(), state_dir: dir.join("cri"), cgroup_parent }).await?;
    let (mut our_s, mut their_s) = (Vec::new(), Vec::new());
    // The first round warms up: the registry's files are in memory from then on.
    for round in 0..=runs {
        quiet()?;
        let start = Instant::now();
        let id = ours.pull(image, options.clone(), |_| {}).await?;
        our_s.push(start.elapsed().as_secs_f64());
        quiet()?;
        ours.remove_image(id.as_str()).await?;
        quiet()?;
        let start = Instant::now();
        let id = theirs.pull(image, PullOptions::default()).await?;
        their_s.push(start.elapsed().as_secs_f64());
        quiet()?;
        theirs.remove_image(id.as_str()).await?;
        eprintln!("round {round}: ours {:.2} s, theirs {:.2} s", our_s[round], their_s[round]);
    }
    Ok(serde_json::json!({ "ours_s": our_s[1..], "theirs_s": their_s[1..] }))
}

/// Has everything on the disk.
fn quiet() -> Result<(), Failure> {
    if Command::new("sync").status()?.success() { Ok(()) } else { Err("sync failed".into()) }
}
