//! Measures the module host and prints JSON: `bench_host [ADMISSION.wasm]`.
//!
//! `admission_p50_us`, `admission_p99_us`: one verdict on a 4 KB pod through the same code that the registry calls (building the message, the
//! call, JSON parsed in the guest, reading the verdict). `swap_pause_ms`: the longest verdict while the module is swapped under load;
//! `swap_lost`: verdicts that failed meanwhile. `recorded_p50_us`, `shadowed_p50_us`: the same verdict while the module is recorded, and while a shadow of
//! the same code is asked, too. `plugin_us`: what a scheduler plugin costs a pod at 5,000 nodes, its snapshot kept. `cold_ms`: a module from its bytes to compiled code, nothing cached. `load_ms`: ten modules from a warm code cache to Running.

use bytes::Bytes;
use capnp::{message, serialize, traits::HasTypeId};
use pintle_host::{
    Generation, Host, HostConfig, ModuleId,
    engine::{Answers, Engine, Mirror, MirrorSettings},
};
use pintle_registry::{
    Admission, AdmissionRequest, Body, Caller, DryRun, Operation, Patch, Registry, RegistryConfig, Target, WriteOptions,
};
use pintle_store::{Options, RedbStore};
use pintle_wit::{module_capnp::module as module_wire, scheduler_capnp::scheduler_plugin as plugin_wire};
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
const NODES: u32 = 5_000;

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
    let Verdicts { p50, p99, recorded, shadowed, pause, lost } = admission(wasm, scratch).await?;
    let plugin = plugin(&wasm.with_file_name("module_scheduler_plugin.wasm")).await?;
    let load = load(wasm, scratch).await?;
    let cold = cold(wasm).await?;
    Ok(json!({
        "cold_ms": cold, "admission_p50_us": p50, "admission_p99_us": p99, "recorded_p50_us": recorded, "shadowed_p50_us": shadowed,
        "swap_pause_ms": pause, "swap_lost": lost, "load_ms": load, "plugin_us": plugin,
    }))
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

/// What verdicts cost, in microseconds, and what a swap costs them.
struct Verdicts {
    p50: f64,
    p99: f64,
    recorded: f64,
    shadowed: f64,
    pause: f64,
    lost: u64,
}

async fn admission(wasm: &Path, scratch: &Path) -> Outcome<Verdicts> {
    let registry = registry().await?;
    let folder = wasm.parent().ok_or("no folder")?.to_owned();
    let config = HostConfig {
        cache_dir: Some(scratch.join("cache")),
        record_dir: Some(scratch.join("records")),
        status_interval: Duration::from_millis(50),
        source_dirs: vec![folder],
        ..HostConfig::new(registry.clone())
    };
    let host = Host::start(config).await?;
    let target = registry.resolve("pintle.dev", "", "modules", "", "", "")?;
    registry.create(&Caller::kernel(), &target, Body::Value(module("bench", Some(wasm))), &WriteOptions::default()).await?;
    while host.stats().modules.iter().all(|m| m.state != "Running") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let judges = host.admission();
    let pods = registry.resolve("", "", "pods", "", "default", "")?;
    let object = pod();
    let (p50, p99) = timed(&*judges, &pods, &object).await?;
    asked_beside(&registry, json!({"record": {"maxBytes": 1 << 30}}), "record").await?;
    let (recorded, _) = timed(&*judges, &pods, &object).await?;
    asked_beside(&registry, json!({"record": null, "shadow": {"source": {"file": wasm}}}), "shadow").await?;
    let (shadowed, _) = timed(&*judges, &pods, &object).await?;
    asked_beside(&registry, json!({"shadow": null}), "").await?;
    let (pause, lost) = swaps(&host, &registry, &judges, &pods, &object).await?;
    Ok(Verdicts { p50, p99, recorded, shadowed, pause, lost })
}

/// Changes who watches the module, and waits until its status has it.
async fn asked_beside(registry: &Arc<Registry>, spec: Value, field: &str) -> Outcome<()> {
    let target = registry.resolve("pintle.dev", "", "modules", "", "", "bench")?;
    registry.patch(&Caller::kernel(), &target, Patch::Merge(json!({"spec": spec}).to_string().into()), &WriteOptions::default()).await?;
    let begin = Instant::now();
    loop {
        let object = registry.get_cached(target.resource.key(), "", "bench").ok_or("the module is gone")?;
        let status = object.value()?["status"].clone();
        let there = |name: &str| !status[name].is_null() && (name != "shadow" || status[name]["state"] == "Running");
        if ["record", "shadow"].iter().all(|name| there(name) == (*name == field)) {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(20) {
            return Err(format!("{field:?} does not watch: {status}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Median and 99th percentile of verdicts, in microseconds.
async fn timed(judges: &dyn Admission, pods: &Target, object: &Bytes) -> Outcome<(f64, f64)> {
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..CALLS + 500 {
        let (took, allowed) = verdict(judges, pods, object).await;
        if !allowed {
            return Err("the pod was refused".into());
        }
        if call >= 500 {
            times.push(took);
        }
    }
    times.sort_unstable();
    let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    Ok((micros(50), micros(99)))
}

/// The median of what the example's plugin takes for a pod that it has an opinion of, at `NODES` nodes, in microseconds.
async fn plugin(wasm: &Path) -> Outcome<f64> {
    let wasm = fs::read(wasm).map_err(|e| format!("{}: {e}; build it with `cargo xtask bench`", wasm.display()))?;
    let code = Engine::new(None)?.load(wasm.into()).await?;
    let mut hello = message::Builder::new_default();
    hello.init_root::<module_wire::start_params::Builder<'_>>().init_hello();
    let mut sync = message::Builder::new_default();
    let mut delta = sync.init_root::<plugin_wire::sync_params::Builder<'_>>().init_delta();
    delta.set_generation(1);
    let mut nodes = delta.init_nodes(NODES);
    for n in 0..NODES {
        let node = json!({"metadata": {"name": format!("node-{n:05}"), "labels": {"licences": (n % 5).to_string()}}});
        nodes.set(n, node.to_string().as_bytes());
    }
    let mut evaluate = message::Builder::new_default();
    let mut params = evaluate.init_root::<plugin_wire::evaluate_params::Builder<'_>>();
    params.set_generation(1);
    params.set_pod(json!({"metadata": {"name": "p", "labels": {"licence": "cad"}}, "spec": {}}).to_string().as_bytes());
    let settings = MirrorSettings { answers: Answers::Hot, memory_bytes: 64 << 20, deadline: Duration::from_secs(5) };
    let (hello, sync) = (serialize::write_message_to_words(&hello), serialize::write_message_to_words(&sync));
    let evaluate = serialize::write_message_to_words(&evaluate);
    let asked = async {
        let mut plugin = Mirror::start(&code, ModuleId::new("plugin"), Generation(1), settings, &hello).await?;
        plugin.ask(plugin_wire::Client::TYPE_ID, 0, &sync).await;
        let mut times = Vec::new();
        for _ in 0..2_000 {
            let started = Instant::now();
            let answer = plugin.ask(plugin_wire::Client::TYPE_ID, 3, &evaluate).await;
            times.push(started.elapsed());
            if !matches!(answer, pintle_record::Outcome::Answer(_)) {
                return Err(format!("{answer:?}").into());
            }
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_secs_f64() * 1e6)
    };
    tokio::task::LocalSet::new().run_until(asked).await
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
