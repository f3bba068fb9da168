//! The host itself: follows the Module objects of the registry and keeps one supervisor for each on a shard.
//!
//! Not here: how a module runs (`supervisor`), what it may touch (`membrane`, `objects`), how writes are judged (`judge`).

use crate::{
    builtin,
    engine::Engine,
    fault::HostError,
    judge::Judges,
    launch::Context,
    limits::{STATUS_INTERVAL, THIRD_PARTY_NICENESS},
    policy::{Asker, Policies},
    shard::Shard,
    source::Sources,
    state::{ModuleState, Phase},
    status::{Modules, write_statuses},
    supervisor::{Command, Manifest, Supervisor},
};
use parking_lot::Mutex;
use pintle_registry::{Admission, EventKind, Feed, Index, Object, Registry, ResourceKey, SubscriptionFilter};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// What modules are told about the cluster they run in.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// The cluster's root certificates, PEM.
    pub root_ca_pem: String,
    /// e.g. `cluster.local`.
    pub cluster_domain: String,
    /// e.g. `10.244.0.0/16`.
    pub pod_cidr: String,
    /// e.g. `10.96.0.0/16`.
    pub service_cidr: String,
}

/// Settings of the host.
#[derive(Clone)]
pub struct HostConfig {
    /// The one read and write path.
    pub registry: Arc<Registry>,
    /// Folder of `<name>.wasm` and `<name>.json` pairs that ship with the kernel; `None`: there are none.
    pub builtin_dir: Option<PathBuf>,
    /// Folders that `source.file` of a Module may point into.
    pub source_dirs: Vec<PathBuf>,
    /// The program that pulls modules from registries (`pintle-artifact`); `None`: none are pulled.
    pub artifact_program: Option<PathBuf>,
    /// Where compiled code is kept; `None`: only in memory.
    pub cache_dir: Option<PathBuf>,
    /// Where records of modules are kept; `None`: nothing is recorded.
    pub record_dir: Option<PathBuf>,
    /// Worker threads for built-in controllers and schedulers, and as many for those of others.
    pub shards: usize,
    /// How often a Module's status is written, at most.
    pub status_interval: Duration,
    /// Told to every module at its start.
    pub cluster: ClusterFacts,
}

impl HostConfig {
    /// The defaults around a registry: no built-ins, no files, no cache on disk, two shards.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            builtin_dir: None,
            source_dirs: Vec::new(),
            artifact_program: None,
            cache_dir: None,
            record_dir: None,
            shards: 2,
            status_interval: STATUS_INTERVAL,
            cluster: ClusterFacts::default(),
        }
    }
}

/// One module in the host's metrics.
#[derive(Clone, Debug, Default)]
pub struct ModuleStats {
    /// Name of the Module object.
    pub name: String,
    /// `Loading`, `Compiling`, `Running`, `Failed`, `BackOff`, `Denied` or `Stopped`.
    pub state: &'static str,
    /// Of the running instance.
    pub generation: u64,
    /// Calls into the module.
    pub calls: u64,
    /// Calls that ended in a domain error.
    pub errors: u64,
    /// Faults.
    pub traps: u64,
    /// Restarts after faults.
    pub restarts: u64,
    /// Capability uses and writes outside its grants or over its quota.
    pub denied: u64,
    /// Processor time of all its calls.
    pub cpu: Duration,
    /// Calls that waited, or were refused, because it had used up its share of the processor.
    pub throttled: u64,
    /// Median call, recent.
    pub p50: Duration,
    /// 99th percentile of calls, recent.
    pub p99: Duration,
    /// Linear memory in bytes.
    pub memory_bytes: u64,
    /// Keys waiting in the work queue, or pods waiting to be scheduled.
    pub queue_length: u64,
    /// Calls that a shadow has answered, too.
    pub shadow_calls: u64,
    /// Calls that a shadow missed.
    pub shadow_skipped: u64,
    /// Calls that the shadow answered otherwise.
    pub shadow_differences: u64,
}

/// The host in numbers, for `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct HostStats {
    /// By name.
    pub modules: Vec<ModuleStats>,
    /// Modules loaded from the code cache.
    pub cache_hits: u64,
    /// Modules compiled.
    pub compiled: u64,
    /// How often statuses were looked at.
    pub status_rounds: u64,
}

/// The module host.
pub struct Host {
    context: Arc<Context>,
    modules: Arc<Modules>,
    shards: Mutex<Option<Arc<Vec<Shard>>>>,
    tasks: Vec<JoinHandle<()>>,
    ready: watch::Receiver<bool>,
    status_rounds: Arc<AtomicU64>,
}

impl Host {
    /// Starts the host: makes sure of the built-in modules, follows every Module object, and judges writes from now on. Returns as soon
    /// as that is under way; `ready` says when the modules run.
    ///
    /// # Errors
    /// The engine or a thread cannot be had, or the built-in folder cannot be read.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        let engine = Engine::new(config.cache_dir.clone())?;
        // The second half is for modules that do not ship with the kernel.
        let count = config.shards.max(1);
        let niceness = |number| if number < count { 0 } else { THIRD_PARTY_NICENESS };
        let shards = (0..2 * count).map(|number| Shard::start(number, niceness(number))).collect::<Result<Vec<_>, _>>()?;
        let registry = config.registry;
        let judges = Judges::new(&registry);
        registry.set_admission(judges.clone());
        let sources = Sources {
            builtin_dir: config.builtin_dir.clone(),
            source_dirs: config.source_dirs,
            artifact_program: config.artifact_program,
            kept: config.cache_dir.map(|dir| dir.join("artifacts")),
        };
        let context = Arc::new(Context {
            registry: registry.clone(),
            engine,
            sources,
            cluster: config.cluster,
            judges,
            plugins: Arc::default(),
            policies: Policies::default(),
            record_dir: config.record_dir,
            generations: AtomicU64::new(0),
        });
        if let Some(dir) = &config.builtin_dir {
            let count = builtin::ensure(&registry, dir).await?;
            tracing::debug!(count, "built-in modules");
        }
        let (modules, changed, shards) = (Arc::new(Modules::default()), Arc::new(Notify::new()), Arc::new(shards));
        let (ready_sender, ready) = watch::channel(false);
        let follower = Follower {
            context: context.clone(),
            modules: modules.clone(),
            shards: shards.clone(),
            changed: changed.clone(),
            running: HashMap::new(),
            next_shard: 0,
        };
        let status_rounds = Arc::new(AtomicU64::new(0));
        let statuses = write_statuses(registry, modules.clone(), changed, config.status_interval, status_rounds.clone());
        let tasks = vec![tokio::spawn(follower.run(ready_sender)), tokio::spawn(statuses)];
        Ok(Self { context, modules, shards: Mutex::new(Some(shards)), tasks, ready, status_rounds })
    }

    /// Waits until every module that existed at the start has run or failed once.
    pub async fn ready(&self) {
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Who judges writes: what the registry calls.
    pub fn admission(&self) -> Arc<dyn Admission> {
        self.context.judges.clone()
    }

    /// The host in numbers.
    pub fn stats(&self) -> HostStats {
        let (cache_hits, compiled) = self.context.engine.cache_counts();
        HostStats {
            modules: self.modules.lock().values().map(|m| m.stats()).collect(),
            cache_hits,
            compiled,
            status_rounds: self.status_rounds.load(Ordering::Relaxed),
        }
    }

    /// Stops every module and waits for the threads. Writes are no longer judged by anyone afterwards, so the server must be down before.
    pub async fn shutdown(&self) {
        for task in &self.tasks {
            task.abort();
        }
        while !self.tasks.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let shards = self.shards.lock().take();
        let _ = tokio::task::spawn_blocking(move || drop(shards)).await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Supervised {
    commands: mpsc::UnboundedSender<Command>,
    manifest: Manifest,
}

/// Follows the Module objects and tells the supervisors.
struct Follower {
    context: Arc<Context>,
    modules: Arc<Modules>,
    shards: Arc<Vec<Shard>>,
    changed: Arc<Notify>,
    running: HashMap<String, Supervised>,
    next_shard: usize,
}

impl Follower {
    async fn run(mut self, ready: watch::Sender<bool>) {
        let key = ResourceKey::new("pintle.dev", "modules");
        let policies = ResourceKey::new("pintle.dev", "modulepolicies");
        let mut feed = self.context.registry.subscribe(SubscriptionFilter::Resources(vec![key.clone(), policies.clone()]));
        self.read_policies(&policies);
        self.list(&key);
        let mut waiting = Some(tokio::spawn(settled(self.modules.lock().values().cloned().collect())));
        loop {
            tokio::select! {
                change = feed.next() => match change {
                    Some(Feed::Event(event)) if *event.object.resource().key() == policies => self.policies_changed(&policies),
                    Some(Feed::Event(event)) if event.kind == EventKind::Deleted => self.gone(&event.object.meta().name),
                    Some(Feed::Event(event)) => self.apply(&event.object),
                    Some(Feed::Lagged) => {
                        self.policies_changed(&policies);
                        self.list(&key);
                    }
                    None => return,
                },
                () = finished(&mut waiting) => {
                    waiting = None;
                    let _ = ready.send(true);
                }
            }
        }
    }

    fn read_policies(&self, key: &ResourceKey) {
        self.context.policies.set(&self.context.registry.list_index(key, &Index::Namespace, "").0);
    }

    /// Every module looks again at what it may: the one that runs as before goes on without a break.
    fn policies_changed(&mut self, key: &ResourceKey) {
        self.read_policies(key);
        for known in self.running.values() {
            let _ = known.commands.send(Command::Apply(Box::new(known.manifest.clone())));
        }
    }

    fn list(&mut self, key: &ResourceKey) {
        let (objects, _) = self.context.registry.list_index(key, &Index::Namespace, "");
        let names: HashSet<&str> = objects.iter().map(|o| &*o.meta().name).collect();
        let gone: Vec<String> = self.running.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.gone(&name);
        }
        for object in &objects {
            self.apply(object);
        }
    }

    /// An object is now so. Only a change of its spec or labels reaches the supervisor: status is our own writing.
    fn apply(&mut self, object: &Object) {
        let meta = object.meta();
        let name = meta.name.to_string();
        if meta.deletion_timestamp.is_some() {
            return self.gone(&name);
        }
        let Ok(mut value) = object.value() else { return };
        let trusted = value["status"]["lastGoodDigest"].as_str().is_some_and(|d| !d.is_empty());
        let asker = Asker { name: name.clone(), labels: value["metadata"]["labels"].take() };
        let history = serde_json::from_value(value["status"]["history"].take()).unwrap_or_default();
        let manifest =
            Manifest { spec: value["spec"].take(), history, generation: meta.generation, uid: meta.uid.to_string(), asker, trusted };
        if self.running.get(&name).is_some_and(|known| known.manifest.asks_the_same(&manifest)) {
            return;
        }
        let known = self.running.remove(&name).map(|known| known.commands);
        let commands = known.unwrap_or_else(|| self.supervise(&name, &manifest.spec));
        let _ = commands.send(Command::Apply(Box::new(manifest.clone())));
        self.running.insert(name, Supervised { commands, manifest });
    }

    fn gone(&mut self, name: &str) {
        if let Some(known) = self.running.remove(name) {
            let _ = known.commands.send(Command::Stop);
            self.modules.lock().remove(name);
        }
    }

    fn supervise(&mut self, name: &str, spec: &Value) -> mpsc::UnboundedSender<Command> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let state = ModuleState::new(name, self.changed.clone());
        self.modules.lock().insert(name.to_owned(), state.clone());
        // Schedulers have long calls: they live apart from most controllers.
        let count = self.shards.len() / 2;
        let first = if spec["source"]["builtin"].is_string() { 0 } else { count };
        let shard = first + if spec["type"] == "scheduler" { count - 1 } else { self.next_shard % count };
        self.next_shard += usize::from(spec["type"] != "scheduler");
        let context = self.context.clone();
        self.shards[shard].spawn(move || Supervisor::new(context, state, receiver).run());
        commands
    }
}

/// Waits until each of these runs, or cannot.
async fn settled(states: Vec<Arc<ModuleState>>) {
    while states.iter().any(|s| matches!(s.facts().phase, Phase::Loading | Phase::Compiling)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn finished(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => {
            let _ = task.await;
        }
        None => std::future::pending().await,
    }
}
