//! Measures the module host and prints JSON: `bench_host [ADMISSION.wasm]`.
//!
//! `admission_p50_us`, `admission_p99_us`: one verdict on a 4 KB pod through the same code that the registry calls (building the message, the
//! call, JSON parsed in the guest, reading the verdict). `swap_pause_ms`: the longest verdict while the module is swapped under load;
//! `swap_lost`: verdicts that failed meanwhile. `cold_ms`: a module from its bytes to compiled code, nothing cached. `load_ms`: ten modules from a warm code cache to Running.

use bytes::Bytes;
use pintle_host::{Host, HostConfig, engine::Engine};
use pintle_registry::{
    Admission, AdmissionRequest, Body, Caller, DryRun, Operation, Patch, Registry, RegistryConfig, Target, WriteOptions,
};
use pintle_store::{Options, RedbStore};
use serde_json::{Value, json};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const CALLS: usize = 20_000;
const SWAPS: usize = 20;
const MODULES: usize = 10;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let wasm = match std::env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?
            .parent()
            .and_then(Path::parent)
            .ok_or("no target folder")?
            .join("example-modules/module_admission.wasm"),
    };
    let wasm = fs::canonicalize(&wasm).map_err(|e| format!("{}: {e}; build it with `cargo xtask modules`", wasm.display()))?;
    let scratch = std::env::temp_dir().join(format!("bench-host-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let measured = measure(&wasm, &scratch).await;
    fs::remove_dir_all(&scratch)?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(wasm: &Path, scratch: &Path) -> Outcome<Value> {
    let (p50, p99, pause, lost) = admission(wasm, scratch).await?;
    let load = load(wasm, scratch).await?;
    let cold = cold(wasm).await?;
    Ok(
        json!({"cold_ms": cold, "admission_p50_us": p50, "admission_p99_us": p99, "swap_pause_ms": pause, "swap_lost": lost, "load_ms": load}),
    )
}

async fn registry() -> Outcome<Arc<Registry>> {
    let registry = Registry::open(Arc::new(RedbStore::in_memory(Options::default())?), RegistryConfig::default()).await?;
    registry.bootstrap().await?;
    Ok(registry)
}

fn module(name: &str, wasm: Option<&Path>) -> Value {
    json!({
        "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name},
        "spec": {
            "type": "admission", "source": wasm.map(|w| json!({"file": w})),
            "admission": {"phases": ["validating"], "rules": [{"apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"], "operations": ["CREATE"]}]},
        },
    })
}

/// A pod of 4 KB, as a deployment tool writes it.
fn pod() -> Bytes {
    let containers: Vec<Value> = (0..8)
        .map(|n| {
            json!({
                "name": format!("container-{n}"), "image": format!("registry.example/team/application-{n}:1.2.{n}"),
                "env": (0..4).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": format!("value-{e}-of-container-{n}")})).collect::<Vec<_>>(),
                "ports": [{"containerPort": 8080 + n, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            })
        })
        .collect();
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "labels": {"app": "bench"}}, "spec": {"containers": containers}});
    let mut text = pod.to_string();
    while text.len() < 4096 {
        text.push(' ');
    }
    text.into()
}

async fn admission(wasm: &Path, scratch: &Path) -> Outcome<(f64, f64, f64, u64)> {
    let registry = registry().await?;
    let folder = wasm.parent().ok_or("no folder")?.to_owned();
    let config = HostConfig { cache_dir: Some(scratch.join("cache")), source_dirs: vec![folder], ..HostConfig::new(registry.clone()) };
    let host = Host::start(config).await?;
    let target = registry.resolve("pintle.dev", "", "modules", "", "", "")?;
    registry.create(&Caller::kernel(), &target, Body::Value(module("bench", Some(wasm))), &WriteOptions::default()).await?;
    while host.stats().modules.iter().all(|m| m.state != "Running") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let judges = host.admission();
    let pods = registry.resolve("", "", "pods", "", "default", "")?;
    let object = pod();
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..CALLS + 500 {
        let (took, allowed) = verdict(&*judges, &pods, &object).await;
        if !allowed {
            return Err("the pod was refused".into());
        }
        if call >= 500 {
            times.push(took);
        }
    }
    times.sort_unstable();
    let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    let (pause, lost) = swaps(&host, &registry, &judges, &pods, &object).await?;
    Ok((micros(50), micros(99), pause, lost))
}

async fn verdict(judges: &dyn Admission, target: &Target, object: &Bytes) -> (Duration, bool) {
    let caller = Caller::user("bench", ["system:masters"]);
    let request =
        AdmissionRequest { operation: Operation::Create, target, caller: &caller, object: object.clone(), old: None, dry_run: DryRun::No };
    let started = Instant::now();
    let verdict = judges.validate(&request).await;
    (started.elapsed(), verdict.refused.is_none())
}

/// The longest verdict in milliseconds, and the failed ones, while the module is replaced again and again.
async fn swaps(host: &Host, registry: &Arc<Registry>, judges: &Arc<dyn Admission>, pods: &Target, object: &Bytes) -> Outcome<(f64, u64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (judges, pods, object, stopped) = (judges.clone(), pods.clone(), object.clone(), stop.clone());
    let load = tokio::spawn(async move {
        let (mut longest, mut lost) = (Duration::ZERO, 0);
        while !stopped.load(Ordering::Relaxed) {
            let (took, allowed) = verdict(&*judges, &pods, &object).await;
            longest = longest.max(took);
            lost += u64::from(!allowed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (longest, lost)
    });
    let target = registry.resolve("pintle.dev", "", "modules", "", "", "bench")?;
    let generation = || host.stats().modules.first().map_or(0, |m| m.generation);
    for swap in 0..SWAPS {
        let before = generation();
        let patch = Patch::Merge(json!({"spec": {"config": {"swap": swap}}}).to_string().into());
        registry.patch(&Caller::kernel(), &target, patch, &WriteOptions::default()).await?;
        while generation() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (longest, lost) = load.await?;
    Ok((longest.as_secs_f64() * 1e3, lost))
}

/// From bytes to code, compiled, in milliseconds: the median of five.
async fn cold(wasm: &Path) -> Outcome<f64> {
    let wasm = Bytes::from(fs::read(wasm)?);
    let mut times = Vec::new();
    for _ in 0..5 {
        let engine = Engine::new(None)?;
        let started = Instant::now();
        engine.load(wasm.clone()).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[2].as_secs_f64() * 1e3)
}

/// Ten different modules from a warm cache, in milliseconds.
async fn load(wasm: &Path, scratch: &Path) -> Outcome<f64> {
    let builtins = scratch.join("builtins");
    fs::create_dir_all(&builtins)?;
    for n in 0..MODULES {
        let mut bytes = fs::read(wasm)?;
        // A custom section: another digest, the same code.
        bytes.extend([0, 4, 1, b'n', b'0' + u8::try_from(n / 10)?, b'0' + u8::try_from(n % 10)?]);
        fs::write(builtins.join(format!("module-{n}.wasm")), bytes)?;
        fs::write(builtins.join(format!("module-{n}.json")), module(&format!("module-{n}"), None).to_string())?;
    }
    let registry = registry().await?;
    let config = HostConfig { cache_dir: Some(scratch.join("cache")), builtin_dir: Some(builtins), ..HostConfig::new(registry) };
    let mut best = Duration::MAX;
    for _ in 0..4 {
        let started = Instant::now();
        let host = Host::start(config.clone()).await?;
        host.ready().await;
        if host.stats().compiled == 0 {
            best = best.min(started.elapsed());
        }
    }
    Ok(best.as_secs_f64() * 1e3)
}
