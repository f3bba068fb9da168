//! Measures the module host and prints JSON: `bench_host [ADMISSION.wasm]`; `bench_host rule MODULE.json MODULE.wasm` for one admission rule of any
//! language: its verdicts on a 4 KB pod, and its memory; `bench_host plugin` for the scheduler plugin alone; `bench_host epochs` for what deadlines cost.
//!
//! `admission_p50_us`, `admission_p99_us`: one verdict on a 4 KB pod through the same code that the registry calls (building the message, the
//! call, JSON parsed in the guest, reading the verdict). `swap_pause_ms`: the longest verdict while the module is swapped under load;
//! `swap_lost`: verdicts that failed meanwhile. `recorded_p50_us`, `shadowed_p50_us`: the same verdict while the module is recorded, and while a shadow of
//! the same code is asked, too. `steady_p99_ms`, `swap_p99_ms`: verdicts asked for a thousand times a second, alone and while the module is swapped.
//! `recovery_p50_ms`, `recovery_p99_ms`: from a trap to the first answer of the next instance, but for the pause that policy sets before it. `idle_kb`: what the
//! process grows by for one more idle controller. `reconciles_per_s`, `writes_per_s`: a controller that finds all as it should be, and one that has
//! an object to write for each. `plugin_us`: what a scheduler plugin costs a pod at 5,000 nodes, its snapshot kept. `cold_ms`: a module from its bytes to compiled code, nothing cached. `load_ms`: ten modules from a warm code cache to Running.

mod epochs;

use bytes::Bytes;
use capnp::{message, serialize, traits::HasTypeId};
use pintle_host::{
    Generation, Host, HostConfig, ModuleId,
    engine::{Answers, Engine, Mirror, MirrorSettings},
};
use pintle_registry::{
    Admission, AdmissionRequest, Body, Caller, DryRun, ListOptions, Operation, Patch, Registry, RegistryConfig, Target, WriteOptions,
};
use pintle_store::{Options, RedbStore};
use pintle_wit::{
    admission_capnp::admission as judge_wire, module_capnp::module as module_wire, scheduler_capnp::scheduler_plugin as plugin_wire,
};
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
/// Instances that die and come back; idle controllers; objects to reconcile.
const RECOVERIES: usize = 500;
const IDLE: usize = 40;
const OBJECTS: usize = 2_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// `Module.start`.
const START: u16 = 0;
/// `SchedulerPlugin.sync` and `SchedulerPlugin.evaluate`.
const SYNC: u16 = 0;
const EVALUATE: u16 = 3;

#[tokio::main]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let built = std::env::current_exe()?.parent().and_then(Path::parent).ok_or("no target folder")?.join("example-modules");
    let (admission, plugin) = (built.join("module_admission.wasm"), built.join("module_scheduler_plugin.wasm"));
    let measured = match &words[..] {
        ["rule", manifest, wasm] => rule(Path::new(manifest), &fs::canonicalize(wasm)?).await?,
        ["plugin"] => json!({"plugin_us": plugin_us(&plugin).await?}),
        ["epochs"] => {
            let (sync, evaluate) = plugin_asked();
            let verdict = epochs::epochs(&read(&admission)?, &[], &reviewed())?;
            json!({"verdict": verdict, "plugin": epochs::epochs(&read(&plugin)?, &[sync], &evaluate)?})
        }
        words => {
            let wasm = words.first().map_or(admission, PathBuf::from);
            let wasm = fs::canonicalize(&wasm).map_err(|e| format!("{}: {e}; build it with `cargo xtask modules`", wasm.display()))?;
            let scratch = std::env::temp_dir().join(format!("bench-host-{}", std::process::id()));
            fs::create_dir_all(&scratch)?;
            let measured = measure(&wasm, &scratch).await;
            fs::remove_dir_all(&scratch)?;
            measured?
        }
    };
    println!("{measured}");
    Ok(())
}

fn read(wasm: &Path) -> Outcome<Vec<u8>> {
    Ok(fs::read(wasm).map_err(|e| format!("{}: {e}; build it with `cargo xtask bench`", wasm.display()))?)
}

/// A call on the hot lane: interface, method, parameters.
type Asked = (u64, u16, Vec<u8>);

/// A verdict on the pod.
fn reviewed() -> Asked {
    let mut review = message::Builder::new_default();
    review.init_root::<judge_wire::review_params::Builder<'_>>().init_review().set_object(&pod());
    (judge_wire::Client::TYPE_ID, 0, serialize::write_message_to_words(&review))
}

/// A snapshot of `NODES` nodes, and a pod that the example's plugin has an opinion of.
fn plugin_asked() -> (Asked, Asked) {
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
    let asked = |method, message| (plugin_wire::Client::TYPE_ID, method, serialize::write_message_to_words(message));
    (asked(SYNC, &sync), asked(EVALUATE, &evaluate))
}

async fn measure(wasm: &Path, scratch: &Path) -> Outcome<Value> {
    let Verdicts { p50, p99, recorded, shadowed, pause, lost, steady_p99, swap_p99 } = admission(wasm, scratch).await?;
    let (recovery_p50, recovery_p99) = recovery(wasm).await?;
    let (idle_kb, reconciles, writes) = controllers(&wasm.with_file_name("module_controller.wasm"), scratch).await?;
    let plugin = plugin_us(&wasm.with_file_name("module_scheduler_plugin.wasm")).await?;
    let load = load(wasm, scratch).await?;
    let cold = cold(wasm).await?;
    Ok(json!({
        "cold_ms": cold, "admission_p50_us": p50, "admission_p99_us": p99, "recorded_p50_us": recorded, "shadowed_p50_us": shadowed,
        "swap_pause_ms": pause, "swap_lost": lost, "load_ms": load, "plugin_us": plugin, "steady_p99_ms": steady_p99, "swap_p99_ms": swap_p99,
        "recovery_p50_ms": recovery_p50, "recovery_p99_ms": recovery_p99, "idle_kb": idle_kb, "reconciles_per_s": reconciles, "writes_per_s": writes,
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

/// A pod of 4 KB, as a deployment tool writes it; no check has anything against it.
fn pod() -> Bytes {
    pod_of("1.2")
}

/// The same with images of another tag.
fn pod_of(tag: &str) -> Bytes {
    let containers: Vec<Value> = (0..8)
        .map(|n| {
            json!({
                "name": format!("container-{n}"), "image": format!("registry.local/team/application-{n}:{tag}"),
                "env": (0..4).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": format!("value-{e}-of-the-container-{n}")})).collect::<Vec<_>>(),
                "ports": [{"containerPort": 8080 + n, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
            })
        })
        .collect();
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "labels": {"app": "bench"},
        "annotations": {"owner": "ann@example.org"}}, "spec": {"containers": containers}});
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
    steady_p99: f64,
    swap_p99: f64,
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
    let pause = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    let alone = under_load(&judges, &pods, &object, pause).await?;
    let swapped = under_load(&judges, &pods, &object, swaps(&host, &registry)).await?;
    let lost = alone.lost + swapped.lost;
    Ok(Verdicts { p50, p99, recorded, shadowed, pause: swapped.longest, lost, steady_p99: alone.p99, swap_p99: swapped.p99 })
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
        let (took, refused) = verdict(judges, pods, object).await;
        if let Some(why) = refused {
            return Err(format!("the pod was refused: {why}").into());
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
async fn plugin_us(wasm: &Path) -> Outcome<f64> {
    let code = Engine::new(None)?.load(read(wasm)?.into()).await?;
    let mut hello = message::Builder::new_default();
    hello.init_root::<module_wire::start_params::Builder<'_>>().init_hello();
    let (sync, evaluate) = plugin_asked();
    let settings = MirrorSettings { answers: Answers::Hot, memory_bytes: 64 << 20, deadline: Duration::from_secs(5) };
    let hello = serialize::write_message_to_words(&hello);
    let asked = async {
        let mut plugin = Mirror::start(&code, ModuleId::new("plugin"), Generation(1), settings, &hello).await?;
        plugin.ask(sync.0, sync.1, &sync.2).await;
        let mut times = Vec::new();
        for _ in 0..2_000 {
            let started = Instant::now();
            let answer = plugin.ask(evaluate.0, evaluate.1, &evaluate.2).await;
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

/// How long it took, and why the object was refused, if so.
async fn verdict(judges: &dyn Admission, target: &Target, object: &Bytes) -> (Duration, Option<String>) {
    let caller = Caller::user("bench", ["system:masters"]);
    let request =
        AdmissionRequest { operation: Operation::Create, target, caller: &caller, object: object.clone(), old: None, dry_run: DryRun::No };
    let started = Instant::now();
    let verdict = judges.validate(&request).await;
    (started.elapsed(), verdict.refused.map(|failure| failure.message))
}

/// Verdicts asked for a thousand times a second: 99th percentile and longest, in milliseconds from when each was due, and those that failed.
struct Load {
    p99: f64,
    longest: f64,
    lost: u64,
}

async fn under_load(
    judges: &Arc<dyn Admission>,
    pods: &Target,
    object: &Bytes,
    meanwhile: impl Future<Output = Outcome<()>>,
) -> Outcome<Load> {
    let stop = Arc::new(AtomicBool::new(false));
    let (judges, pods, object, stopped) = (judges.clone(), pods.clone(), object.clone(), stop.clone());
    let load = tokio::spawn(async move {
        let (mut times, mut lost, mut due) = (Vec::new(), 0, Instant::now());
        while !stopped.load(Ordering::Relaxed) {
            let (took, refused) = verdict(&*judges, &pods, &object).await;
            times.push(took);
            lost += u64::from(refused.is_some());
            due = (due + Duration::from_millis(1)).max(Instant::now());
            tokio::time::sleep_until(due.into()).await;
        }
        times.sort_unstable();
        (times, lost)
    });
    let done = meanwhile.await;
    stop.store(true, Ordering::Relaxed);
    let (times, lost) = load.await?;
    done?;
    let millis = |at: usize| times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    Ok(Load { p99: millis(times.len() * 99 / 100), longest: millis(times.len().saturating_sub(1)), lost })
}

/// Replaces the module again and again.
async fn swaps(host: &Host, registry: &Arc<Registry>) -> Outcome<()> {
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
    Ok(())
}

/// One rule of any language, asked about pods: microseconds a verdict, and linear memory in bytes before the first and after the last.
async fn rule(manifest: &Path, wasm: &Path) -> Outcome<Value> {
    let mut module: Value = serde_json::from_slice(&fs::read(manifest)?)?;
    module["metadata"]["name"] = json!("bench");
    module["spec"]["source"] = json!({"file": wasm});
    let rules = json!([{"apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"], "operations": ["CREATE"]}]);
    module["spec"]["admission"] = json!({"phases": ["validating"], "rules": rules, "failurePolicy": "Fail"});
    let registry = registry().await?;
    let config = HostConfig { source_dirs: vec![wasm.parent().ok_or("no folder")?.to_owned()], ..HostConfig::new(registry.clone()) };
    let host = Host::start(config).await?;
    let target = registry.resolve("pintle.dev", "", "modules", "", "", "")?;
    registry.create(&Caller::kernel(), &target, Body::Value(module), &WriteOptions::default()).await?;
    while host.stats().modules.iter().all(|m| m.state != "Running") {
        if let Some(module) = host.stats().modules.iter().find(|m| ["Failed", "Denied"].contains(&m.state)) {
            return Err(format!("it does not start: {module:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let memory = || host.stats().modules.iter().map(|module| module.memory_bytes).max().unwrap_or(0);
    let idle = memory();
    let pods = registry.resolve("", "", "pods", "", "default", "")?;
    let judges = host.admission();
    let (p50, p99) = timed(&*judges, &pods, &pod()).await?;
    let refused = verdict(&*judges, &pods, &pod_of("latest")).await.1;
    if !refused.is_some_and(|why| why.contains("must have a tag other than latest")) {
        return Err("a pod was not refused that the check is against".into());
    }
    Ok(json!({"p50_us": p50, "p99_us": p99, "idle_bytes": idle, "busy_bytes": memory()}))
}

/// From the end of one instance to the first answer of the next, in milliseconds.
async fn recovery(wasm: &Path) -> Outcome<(f64, f64)> {
    let code = Engine::new(None)?.load(fs::read(wasm)?.into()).await?;
    let mut hello = message::Builder::new_default();
    hello.init_root::<module_wire::start_params::Builder<'_>>().init_hello();
    let hello = serialize::write_message_to_words(&hello);
    let (interface, method, review) = reviewed();
    let settings = MirrorSettings { answers: Answers::Hot, memory_bytes: 64 << 20, deadline: Duration::from_secs(5) };
    let asked = async {
        let (mut times, mut previous) = (Vec::new(), None);
        for generation in 0..RECOVERIES as u64 {
            let started = Instant::now();
            drop(previous.take());
            let mut next = Mirror::start(&code, ModuleId::new("judge"), Generation(generation), settings, &hello).await?;
            let answer = next.ask(interface, method, &review).await;
            times.push(started.elapsed());
            if !matches!(answer, pintle_record::Outcome::Answer(_)) {
                return Err(format!("{answer:?}").into());
            }
            previous = Some(next);
        }
        times.sort_unstable();
        let millis = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
        Ok((millis(50), millis(99)))
    };
    tokio::task::LocalSet::new().run_until(asked).await
}

/// The example's controller: kilobytes of this process for one more that is idle; objects a second that it looks at and leaves, and that it writes for.
async fn controllers(wasm: &Path, scratch: &Path) -> Outcome<(f64, f64, f64)> {
    let registry = registry().await?;
    let config = HostConfig {
        cache_dir: Some(scratch.join("cache")),
        source_dirs: vec![wasm.parent().ok_or("no folder")?.to_owned()],
        ..HostConfig::new(registry.clone())
    };
    let host = Host::start(config).await?;
    let modules = registry.resolve("pintle.dev", "", "modules", "", "", "")?;
    let start = async |name: &str| -> Outcome<()> {
        let module = json!({"apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": name}, "spec": {
            "type": "controller", "source": {"file": wasm}, "config": {"greeting": "Hello"},
            "permissions": [{"apiGroups": [""], "resources": ["namespaces", "configmaps"], "verbs": ["*"]}],
            "limits": {"writesPerSecond": 10_000},
            "controller": {"primary": "/namespaces", "selector": "greet", "watches": [{"resource": "/configmaps", "map": "namespace"}],
                "related": [{"name": "configmaps", "resource": "/configmaps", "by": "namespace"}]}}});
        registry.create(&Caller::kernel(), &modules, Body::Value(module), &WriteOptions::default()).await?;
        while host.stats().modules.iter().all(|m| m.name != name || m.state != "Running") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    start("first").await?;
    let before = resident_kb()?;
    for n in 0..IDLE {
        start(&format!("idle-{n}")).await?;
    }
    let idle = (resident_kb()? - before) / IDLE as f64;
    let stop = async |name: &str| -> Outcome<()> {
        let target = registry.resolve("pintle.dev", "", "modules", "", "", name)?;
        registry.delete(&Caller::kernel(), &target, &Default::default()).await?;
        while host.stats().modules.iter().any(|module| module.name == name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    stop("first").await?;
    for n in 0..IDLE {
        stop(&format!("idle-{n}")).await?;
    }
    let namespaces = registry.resolve("", "", "namespaces", "", "", "")?;
    for n in 0..OBJECTS {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("n-{n}"), "labels": {"greet": "world"}}});
        registry.create(&Caller::kernel(), &namespaces, Body::Value(body), &WriteOptions::default()).await?;
    }
    let maps = registry.resolve("", "", "configmaps", "", "", "")?;
    start("busy").await?;
    let begin = Instant::now();
    while registry.list(&maps, &ListOptions::default()).await?.items.len() < OBJECTS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writes = OBJECTS as f64 / begin.elapsed().as_secs_f64();
    let busy = || host.stats().modules.first().map_or((0, 0), |module| (module.generation, module.queue_length));
    let mut rates = Vec::new();
    for round in 0..5 {
        while busy().1 > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (before, target) = (busy().0, registry.resolve("pintle.dev", "", "modules", "", "", "busy")?);
        let patch = Patch::Merge(json!({"spec": {"config": {"round": round}}}).to_string().into());
        registry.patch(&Caller::kernel(), &target, patch, &WriteOptions::default()).await?;
        // The next incarnation looks at everything, and finds it as it should be.
        while busy().0 == before || busy().1 == 0 {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        while busy().1 > 0 {
            tokio::task::yield_now().await;
        }
        rates.push(OBJECTS as f64 / begin.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok((idle, rates[rates.len() / 2], writes))
}

/// Resident memory of this process.
fn resident_kb() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kb =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kb.parse()?)
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
