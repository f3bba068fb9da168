//! The supervisor of one module: follows its object, keeps an incarnation running, replaces it, and steps back when it cannot.
//!
//! The problem: code is replaced while it works, and code fails in every way there is. The answer is an order that never changes. Swap:
//! read and verify, compile off the path, instantiate and start the new one, put it into the slot that the work looks at, drain the old
//! one, revoke its capabilities, drop it. Fault: the slot is empty, the work keeps its keys, the same code starts again after a
//! back-off; a new digest that faults three times before it ever answered makes room for the last one that did.
//!
//! Invariants: until the new incarnation has started the old one serves. Nothing a module does stops the supervisor from hearing the
//! next command.

use crate::{
    audit::Audit,
    controller::{Alone, Running, Work},
    engine::{Code, digest_of},
    fault::{Fault, FaultKind, Generation, HostError, ModuleId},
    grants::{self, Grants},
    judge::{Judge, Pool},
    launch::{Context, HotInstance, Launcher, Started, hello_of},
    limits::{
        DRAIN_TIMEOUT, GREED_PAUSE_FACTOR, ModuleLimits, RESTART_BACKOFF, RESTART_RESET_AFTER, ROLLBACK_AFTER_FAULTS, STATELESS_INSTANCES,
    },
    policy::{Allowance, Asker},
    scheduler::{self, Plugin},
    shadow::{Place, Shadow, Stage},
    slot::Slot,
    source::Provenance,
    spec::{ControllerSpec, ModuleSpec, ModuleType, ShadowSpec, Source},
    state::{ModuleState, Past, Phase},
    tap::Tap,
};
use pintle_record::Header;
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// How often a module that is being compiled is told about.
const COMPILE_GLANCE: Duration = Duration::from_millis(100);

/// How often a running module is looked at, to note that it answered and what it uses.
const GLANCE: Duration = Duration::from_millis(250);

/// How long an old incarnation may take over `Module.stop`.
const GOODBYE: Duration = Duration::from_millis(100);

/// One version of the Module object.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub spec: Value,
    /// `status.history`.
    pub history: Vec<Past>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.uid`.
    pub uid: String,
    /// Whom policies select.
    pub asker: Asker,
    /// The kernel has run this module well before: admission is enforced before it is loaded.
    pub trusted: bool,
}

impl Manifest {
    /// Whether nothing changed that matters here.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.uid == other.uid && self.asker.labels == other.asker.labels
    }
}

/// What the host tells a supervisor.
#[derive(Debug)]
pub enum Command {
    /// The object is now so.
    Apply(Box<Manifest>),
    /// The object is gone.
    Stop,
}

/// A running version.
pub enum Incarnation {
    Controller(Rc<Running>),
    Scheduler(Rc<HotInstance>),
    Pooled(Arc<Pool>),
}

impl Incarnation {
    /// Waits for its end.
    pub async fn fault(&self) -> Fault {
        match self {
            Self::Controller(running) => running.vat.fault().await,
            Self::Scheduler(instance) => instance.fault().await,
            Self::Pooled(pool) => pool.fault().await,
        }
    }

    fn generation(&self) -> crate::Generation {
        match self {
            Self::Controller(running) => running.generation,
            Self::Scheduler(instance) => instance.generation,
            Self::Pooled(pool) => pool.generation,
        }
    }

    /// Whether this incarnation, not one that is being drained beside it, has answered a call.
    fn answered(&self) -> bool {
        match self {
            Self::Controller(running) => running.answered.get(),
            Self::Scheduler(instance) => instance.answered.get(),
            Self::Pooled(pool) => pool.answered(),
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Controller(running) => running.vat.memory_bytes(),
            Self::Scheduler(instance) => instance.memory_bytes(),
            Self::Pooled(pool) => pool.memory_bytes(),
        }
    }
}

/// The part of a module that outlives its incarnations.
enum Lasting {
    None,
    Controller { slot: Rc<Slot<Running>>, specs: Vec<ControllerSpec>, tasks: Vec<JoinHandle<()>> },
    Scheduler { slot: Rc<Slot<HotInstance>>, name: String, task: JoinHandle<()> },
    Pooled,
}

impl Drop for Lasting {
    fn drop(&mut self) {
        match self {
            Self::Controller { tasks, .. } => tasks.iter().for_each(JoinHandle::abort),
            Self::Scheduler { task, .. } => task.abort(),
            Self::None | Self::Pooled => {}
        }
    }
}

/// The supervisor. Lives on one shard.
pub struct Supervisor {
    context: Arc<Context>,
    id: ModuleId,
    state: Arc<ModuleState>,
    commands: mpsc::UnboundedReceiver<Command>,
    work: Lasting,
    current: Option<Incarnation>,
    last_good: Option<(Code, Provenance)>,
    /// What the current incarnation was started from.
    serving: Option<Version>,
    asker: Asker,
    shadow: Option<Shadow>,
    /// Shared by everything that the module holds.
    grants: Grants,
    audit: Rc<Audit>,
}

/// What is run, and within which limits.
#[derive(Clone)]
struct Version {
    spec: ModuleSpec,
    code: Code,
    limits: ModuleLimits,
    provenance: Provenance,
}

impl Version {
    /// Whether an instance of `self` already is one of `next`: the same but for what it may do, and that is asked at each use. A capability
    /// that is not held yet needs a new instance.
    fn continues_as(&self, next: &Self) -> bool {
        let but_permissions = |spec: &ModuleSpec| ModuleSpec {
            permissions: Vec::new(),
            digest: String::new(),
            record: None,
            shadow: None,
            history_limit: 0,
            ..spec.clone()
        };
        let held = grants::exports(&self.spec.permissions);
        self.code.digest() == next.code.digest()
            && self.limits == next.limits
            && but_permissions(&self.spec) == but_permissions(&next.spec)
            && grants::exports(&next.spec.permissions).iter().all(|export| held.contains(export))
    }
}

/// How serving a version begins.
#[derive(Clone, Copy, PartialEq)]
enum Begin {
    /// With a new incarnation.
    Start,
    /// With the one that runs.
    Continue,
}

/// How serving one version ended.
enum Attempt {
    Faulted { fault: Fault, answered: bool, ran: Duration },
    Refused(HostError),
    Told(Option<Command>),
}

impl Supervisor {
    /// A supervisor that waits for its first command.
    pub fn new(context: Arc<Context>, state: Arc<ModuleState>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        let (id, audit) = (ModuleId::new(&state.name), Audit::new(context.registry.clone(), &state.name));
        Self {
            context,
            id,
            state,
            commands,
            work: Lasting::None,
            current: None,
            last_good: None,
            serving: None,
            asker: Asker::default(),
            shadow: None,
            grants: Grants::default(),
            audit,
        }
    }

    /// Follows commands until told to stop.
    pub async fn run(mut self) {
        let mut command = self.commands.recv().await;
        while let Some(Command::Apply(manifest)) = command {
            self.state.update(|f| f.observed_generation = manifest.generation);
            self.audit.is_about(self.id.as_str(), &manifest.uid);
            self.asker = manifest.asker.clone();
            self.state.update(|f| {
                if f.history.is_empty() {
                    f.history.clone_from(&manifest.history);
                }
            });
            command = match self.follow(&manifest).await {
                Ok(told) => told,
                Err(error) => {
                    tracing::warn!(module = %self.id, %error, "the module cannot run as its object says");
                    let phase = if matches!(error, HostError::Denied(_)) { Phase::Denied } else { Phase::Failed };
                    if phase == Phase::Denied {
                        self.audit.warn("Denied", describe(&error));
                    }
                    self.state.update(|f| (f.phase, f.message) = (phase, describe(&error)));
                    self.hold().await
                }
            };
        }
        self.tear_down().await;
        self.state.update(|f| f.phase = Phase::Stopped);
    }

    /// The object asks for something that cannot be: what ran before goes on, through faults, until the next command.
    async fn hold(&mut self) -> Option<Command> {
        let (Some(_), Some(version)) = (&self.current, self.serving.clone()) else { return self.commands.recv().await };
        match self.serve(version, Begin::Continue).await {
            Ok(told) => told,
            Err(_) => self.commands.recv().await,
        }
    }

    /// Makes the module what its object says, until the next command.
    async fn follow(&mut self, manifest: &Manifest) -> Result<Option<Command>, HostError> {
        let spec = ModuleSpec::parse(&manifest.spec);
        self.narrow(spec.as_ref().ok()).await;
        let spec = spec?;
        if spec.suspend {
            self.tear_down().await;
            self.state.update(|f| (f.phase, f.message) = (Phase::Stopped, "suspended".into()));
            return Ok(self.commands.recv().await);
        }
        if self.current.is_none() {
            self.state.update(|f| f.phase = Phase::Loading);
        }
        self.prepare(&spec, manifest.trusted).await?;
        let (context, wanted) = (self.context.clone(), spec.clone());
        let ask_who_signed = context.policies.ask_who_signed(&self.asker, &spec);
        let read = tokio::task::spawn_blocking(move || {
            context.sources.read(&wanted).and_then(|wasm| {
                let provenance = if ask_who_signed { context.sources.provenance(&wanted)? } else { Provenance::default() };
                Ok::<_, HostError>((digest_of(&wasm), wasm, provenance))
            })
        });
        let (digest, wasm, provenance) = tokio::select! {
            biased;
            told = self.commands.recv() => return Ok(told),
            read = read => read.map_err(|_| HostError::ShuttingDown)??,
        };
        let Allowance { bounds, limits } = self.context.policies.allowance(&self.asker, &spec, &digest, &provenance)?;
        let code = match self.load(wasm.clone()).await {
            Ok(loaded) => loaded?,
            Err(told) => return Ok(told),
        };
        self.grants.set(spec.permissions.clone(), bounds);
        let next = Version { spec, code, limits, provenance };
        self.remember(&next, wasm);
        if self.current.is_some() && self.serving.as_ref().is_some_and(|serving| serving.continues_as(&next)) {
            if let (Lasting::Controller { slot, .. }, Some(Incarnation::Controller(running))) = (&self.work, &self.current) {
                // It looks again at everything that it may see now.
                slot.put(Some(running.clone()));
            }
            self.is_running(&next);
            self.keep_shadow(&next.spec, &next.limits);
            if next.spec.record.is_some() != self.state.tap.is_recording() {
                self.keep_record(&next, self.state.facts().generation);
            }
            return self.serve(next, Begin::Continue).await;
        }
        self.serve(next, Begin::Start).await
    }

    /// What runs is held to the policies and the manifest as they are now, before anything else: its grants shrink, or it ends.
    async fn narrow(&mut self, wanted: Option<&ModuleSpec>) {
        self.shadow.take_if(|shadow| !shadow.is_admitted());
        let Some(Version { spec, code, provenance, .. }) = &self.serving else { return };
        match self.context.policies.allowance(&self.asker, spec, code.digest(), provenance) {
            Ok(allowance) => {
                let bounds = allowance.bounds.into_iter().chain(wanted.map(|wanted| wanted.permissions.clone())).collect();
                self.grants.set(spec.permissions.clone(), bounds);
            }
            Err(error) => {
                tracing::warn!(module = %self.id, %error, "stopped");
                self.grants.set(Vec::new(), Vec::new());
                self.tear_down().await;
            }
        }
    }

    /// The code, told as it goes. The outer error is a command that came first.
    async fn load(&mut self, wasm: bytes::Bytes) -> Result<Result<Code, HostError>, Option<Command>> {
        let (bytes, started, compiling) = (wasm.len(), Instant::now(), Arc::new(AtomicBool::new(false)));
        let context = self.context.clone();
        let load = context.engine.load_watched(wasm, compiling.clone());
        tokio::pin!(load);
        let loaded = loop {
            tokio::select! {
                biased;
                told = self.commands.recv() => break Err(told),
                code = &mut load => break Ok(code),
                () = tokio::time::sleep(COMPILE_GLANCE) => {}
            }
            if compiling.load(Relaxed) {
                let (first, seconds) = (self.current.is_none(), started.elapsed().as_secs());
                self.state.update(|f| {
                    f.progress = format!("compiling {} KiB for {seconds} s", bytes >> 10);
                    if first {
                        f.phase = Phase::Compiling;
                    }
                });
            }
        };
        self.state.update(|f| f.progress.clear());
        loaded
    }

    /// Sets up what outlives incarnations, and keeps it when it is the same as before.
    async fn prepare(&mut self, spec: &ModuleSpec, trusted: bool) -> Result<(), HostError> {
        let same = match &self.work {
            Lasting::Controller { specs, .. } => spec.kind == ModuleType::Controller && *specs == spec.controllers,
            Lasting::Scheduler { name, .. } => spec.kind == ModuleType::Scheduler && *name == spec.scheduler_name,
            _ => false,
        };
        if same {
            return Ok(());
        }
        let was = self.serving.as_ref().map(|serving| serving.spec.kind);
        if matches!(self.work, Lasting::Pooled) && was == Some(spec.kind) {
            // The judge that is there goes on until the next one has started.
            return Ok(());
        }
        self.tear_down().await;
        self.work = match spec.kind {
            ModuleType::Controller => self.controller_work(&spec.controllers)?,
            ModuleType::Scheduler => self.scheduler_work(spec),
            ModuleType::Admission | ModuleType::SchedulerPlugin => Lasting::Pooled,
        };
        if spec.kind == ModuleType::Admission && trusted {
            self.install_judge(spec, &spec.limits, None);
        }
        Ok(())
    }

    fn controller_work(&self, specs: &[ControllerSpec]) -> Result<Lasting, HostError> {
        let slot = Rc::new(Slot::default());
        let alone = if specs.len() == 1 { Alone::Yes } else { Alone::No };
        let (registry, grants) = (&self.context.registry, &self.grants);
        let one = |spec: &ControllerSpec| Work::new(&self.state, alone, spec.clone(), registry.clone(), slot.clone(), grants.clone());
        let works = specs.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let tasks = works.into_iter().map(|work| tokio::task::spawn_local(work.run())).collect();
        Ok(Lasting::Controller { slot, specs: specs.to_vec(), tasks })
    }

    fn scheduler_work(&self, spec: &ModuleSpec) -> Lasting {
        let slot = Rc::new(Slot::default());
        let (registry, plugins) = (self.context.registry.clone(), self.context.plugins.clone());
        let work = scheduler::Work::new(self.id.as_str(), spec, registry, plugins, slot.clone(), self.state.counters.clone());
        Lasting::Scheduler { slot, name: spec.scheduler_name.clone(), task: tokio::task::spawn_local(work.run()) }
    }

    fn install_plugin(&self, version: &Version, pool: &Arc<Pool>) {
        let Some(spec) = version.spec.plugin.clone() else { return };
        self.context.plugins.install(Plugin {
            name: self.id.to_string(),
            spec,
            module: version.spec.clone(),
            limits: version.limits.clone(),
            grants: self.grants.clone(),
            counters: self.state.counters.clone(),
            pool: pool.clone(),
            heir: None,
        });
    }

    fn install_judge(&self, spec: &ModuleSpec, limits: &ModuleLimits, pool: Option<Arc<Pool>>) {
        if let Some(admission) = &spec.admission {
            let judge = Judge::new(self.id.as_str(), admission, self.grants.clone(), limits, self.state.counters.clone(), pool);
            self.context.judges.install(judge);
        }
    }

    /// Keeps one version running, through faults, until the next command.
    async fn serve(&mut self, mut version: Version, mut begin: Begin) -> Result<Option<Command>, HostError> {
        let (mut faults, mut restarts_of_backoff) = (0u32, 0u32);
        loop {
            let attempt = match std::mem::replace(&mut begin, Begin::Start) {
                Begin::Start => self.attempt(&version).await,
                Begin::Continue => self.attend(&version).await,
            };
            let (fault, answered) = match attempt {
                Attempt::Told(told) => return Ok(told),
                Attempt::Refused(error) => return Err(error),
                Attempt::Faulted { fault, answered, ran } => {
                    if ran >= RESTART_RESET_AFTER {
                        restarts_of_backoff = 0;
                    }
                    (fault, answered)
                }
            };
            self.state.counters.traps.fetch_add(1, Relaxed);
            tracing::warn!(module = %fault.module, generation = fault.generation.0, kind = %fault.kind, message = fault.message, "fault");
            self.audit.warn("Faulted", format!("generation {}: {}", fault.generation, describe_fault(&fault)));
            faults = if answered { 0 } else { faults + 1 };
            restarts_of_backoff += 1;
            if faults >= ROLLBACK_AFTER_FAULTS
                && let Some(good) = self.step_back(&version)
            {
                let message =
                    format!("{}; back to {} because {} keeps failing", describe_fault(&fault), good.0.digest(), version.code.digest());
                tracing::warn!(module = %self.id, message, "rolled back");
                self.audit.warn("RolledBack", message.clone());
                self.state.update(|f| f.message = message);
                ((version.code, version.provenance), faults) = (good, 0);
                continue;
            }
            let greedy = matches!(fault.kind, FaultKind::Deadline | FaultKind::Memory | FaultKind::Misuse);
            let least = if greedy { version.limits.slice_deadline * GREED_PAUSE_FACTOR } else { Duration::ZERO };
            let pause = restart_backoff(restarts_of_backoff).max(least);
            self.state.update(|f| {
                f.message = describe_fault(&fault);
                if self.current.is_none() {
                    f.phase = Phase::BackOff;
                }
            });
            tokio::select! {
                biased;
                told = self.commands.recv() => return Ok(told),
                () = tokio::time::sleep(pause) => {}
            }
            self.state.counters.restarts.fetch_add(1, Relaxed);
        }
    }

    /// The code that is known to work, if it is another one and may run.
    fn step_back(&self, version: &Version) -> Option<(Code, Provenance)> {
        let good = self.last_good.as_ref().filter(|(good, _)| good.digest() != version.code.digest())?;
        self.context.policies.allowance(&self.asker, &version.spec, good.0.digest(), &good.1).ok().map(|_| good.clone())
    }

    /// Starts an incarnation, lets it serve, and says how that ended.
    async fn attempt(&mut self, version: &Version) -> Attempt {
        let next = match self.start(version).await {
            Ok(next) => next,
            Err(HostError::Fault(fault)) => return Attempt::Faulted { fault, answered: false, ran: Duration::ZERO },
            Err(error) => return Attempt::Refused(error),
        };
        self.keep_record(version, next.generation());
        let swapped = self.switch(version, next);
        self.is_running(version);
        self.keep_shadow(&version.spec, &version.limits);
        let running = format!("{} (generation {})", version.code.digest(), self.current.as_ref().map_or(0, |c| c.generation().0));
        tracing::info!(module = %self.id, running, "running");
        if swapped {
            self.audit.note("Swapped", format!("to {running}"));
        }
        self.state.update(|f| f.start_time = crate::now_rfc3339());
        self.attend(version).await
    }

    /// Begins, goes on with or ends the record of what is said to the module.
    fn keep_record(&self, version: &Version, generation: Generation) {
        let (tap, spec) = (&self.state.tap, &version.spec);
        if let Some(bytes_max) = spec.record
            && !tap.is_recording()
        {
            if let Err(why) = self.begin_record(version, bytes_max) {
                self.audit.warn("NotRecorded", why);
            }
            self.show_whole_snapshot();
        } else if spec.record.is_none() {
            tap.stop();
        }
        if tap.is_recording() {
            tap.started(generation, hello_of(&self.context, &self.id, spec, generation));
        }
        self.state.update(|f| f.is_recording = tap.is_recording());
    }

    /// Who begins to listen to a scheduler, or to a plugin of one, must hear everything.
    fn show_whole_snapshot(&self) {
        match &self.work {
            Lasting::Scheduler { slot, .. } => slot.now().iter().for_each(|instance| instance.synced.set(0)),
            _ => self.context.plugins.change(self.id.as_str(), Some),
        }
    }

    /// Begins or ends the shadow, or leaves the one that there is.
    fn keep_shadow(&mut self, spec: &ModuleSpec, limits: &ModuleLimits) {
        let wanted = spec.shadow.clone().map(|ShadowSpec { source, digest, take_over }| {
            (ModuleSpec { source, digest, shadow: None, record: None, ..spec.clone() }, take_over)
        });
        match (&self.shadow, &wanted) {
            (None, None) => return,
            (Some(shadow), Some((spec, take_over))) if shadow.is(spec, take_over.as_ref()) && shadow.is_admitted() => return,
            _ => self.shadow = None,
        }
        let place = || match (&self.work, spec.kind) {
            (Lasting::Controller { slot, .. }, _) => Place::Slot(slot.clone()),
            (Lasting::Scheduler { slot, .. }, _) => Place::Scheduler(slot.clone()),
            (_, ModuleType::Admission) => Place::Judge,
            _ => Place::Plugin,
        };
        let begin = |(spec, take_over)| {
            Shadow::begin(Stage {
                context: self.context.clone(),
                asker: self.asker.clone(),
                spec,
                take_over,
                place: place(),
                limits: limits.clone(),
                grants: self.grants.clone(),
                state: self.state.clone(),
                audit: self.audit.clone(),
                loaded: RefCell::default(),
            })
        };
        self.shadow = wanted.map(begin);
        self.show_whole_snapshot();
    }

    /// The version that runs goes into the history, and its bytes are kept.
    fn remember(&self, version: &Version, wasm: bytes::Bytes) {
        let provenance = version.provenance.clone();
        let (context, digest, builtin) =
            (self.context.clone(), version.code.digest().to_owned(), matches!(version.spec.source, Source::Builtin(_)));
        if !builtin {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = context.sources.keep(&digest, &wasm, &provenance) {
                    tracing::warn!(digest, %error, "cannot keep a version; it can be gone back to only where it came from");
                }
            });
        }
    }

    fn begin_record(&self, version: &Version, bytes_max: u64) -> Result<(), String> {
        let Version { spec, code, limits, .. } = version;
        let dir = self.context.record_dir.as_ref().ok_or("this kernel keeps no records")?;
        let dir = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize()).map_err(|e| format!("{}: {e}", dir.display()))?;
        let deadline = spec.kind.deadline(limits);
        let header = Header {
            module: self.id.to_string(),
            kind: spec.kind.as_str().to_owned(),
            digest: code.digest().to_owned(),
            call_milliseconds: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: limits.memory_bytes as u64,
        };
        self.state.tap.record(&dir.join(format!("{}.record", self.id)), &header, bytes_max).map_err(|error| describe_chain(&error))
    }

    fn is_running(&mut self, version: &Version) {
        self.serving = Some(version.clone());
        self.state.counters.cpu.hold_to(version.limits.cpu_millicores);
        let mut surplus = Vec::new();
        self.state.update(|f| {
            (f.phase, f.digest) = (Phase::Running, version.code.digest().to_owned());
            if f.history.last().is_none_or(|past| past.digest != f.digest) {
                let source = version.spec.source.kind().to_owned();
                f.history.push(Past { digest: f.digest.clone(), source, start_time: crate::now_rfc3339() });
            }
            surplus.extend(f.history.drain(..f.history.len().saturating_sub(version.spec.history_limit)));
            f.generation = self.current.as_ref().map_or_else(Default::default, Incarnation::generation);
        });
        self.context.forget(&self.state, surplus);
    }

    /// Lets the current incarnation serve, and says how that ended.
    async fn attend(&mut self, version: &Version) -> Attempt {
        let (started, code) = (Instant::now(), &version.code);
        let mut throttled = self.state.counters.cpu.throttled();
        loop {
            let Some(current) = &self.current else { return Attempt::Told(self.commands.recv().await) };
            let fault = tokio::select! {
                biased;
                fault = current.fault() => Some(fault),
                told = self.commands.recv() => return Attempt::Told(told),
                () = tokio::time::sleep(GLANCE) => None,
            };
            self.state.counters.memory_bytes.store(current.memory_bytes() as u64, Relaxed);
            if std::mem::replace(&mut throttled, self.state.counters.cpu.throttled()) != throttled {
                let share = version.limits.cpu_millicores;
                self.audit
                    .warn_seldom("Throttled", format!("it used up its share of the processor ({share} thousandths); calls wait or fail"));
            }
            let answered = current.answered();
            if answered && self.last_good.as_ref().is_none_or(|(good, _)| good.digest() != code.digest()) {
                self.last_good = Some((code.clone(), version.provenance.clone()));
                self.state.update(|f| f.last_good_digest = code.digest().to_owned());
            }
            if let Some(fault) = fault {
                self.drop_current();
                return Attempt::Faulted { fault, answered, ran: started.elapsed() };
            }
        }
    }

    async fn start(&self, version: &Version) -> Result<Incarnation, HostError> {
        let Version { spec, code, limits, .. } = version;
        let (context, id, counters, grants, audit) = (&self.context, &self.id, &self.state.counters, &self.grants, &self.audit);
        Launcher { context, id, spec, code, counters, grants, limits, audit }.incarnation(&self.state.tap).await
    }

    /// The moment of a swap: the work sees the new incarnation, the old one, if there is one, is drained aside.
    fn switch(&mut self, version: &Version, next: Incarnation) -> bool {
        let started = Instant::now();
        match (&self.work, &next) {
            (Lasting::Controller { slot, .. }, Incarnation::Controller(running)) => drop(slot.put(Some(running.clone()))),
            (Lasting::Scheduler { slot, .. }, Incarnation::Scheduler(instance)) => drop(slot.put(Some(instance.clone()))),
            (_, Incarnation::Pooled(pool)) if version.spec.kind == ModuleType::SchedulerPlugin => self.install_plugin(version, pool),
            (_, Incarnation::Pooled(pool)) => self.install_judge(&version.spec, &version.limits, Some(pool.clone())),
            _ => {}
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let Some(old) = self.current.replace(next) else { return false };
        self.state.update(|f| f.last_swap_micros = micros.max(1));
        drain(old);
        true
    }

    /// Takes a faulted incarnation out of its slot.
    fn drop_current(&mut self) {
        match (&self.work, self.current.take()) {
            (Lasting::Controller { slot, .. }, Some(Incarnation::Controller(running))) => {
                slot.remove(&running);
                running.gate.revoke();
            }
            (Lasting::Scheduler { slot, .. }, Some(Incarnation::Scheduler(instance))) => slot.remove(&instance),
            // A pool with one faulted instance serves with the others until the next pool is there.
            _ => {}
        }
    }

    /// Ends everything of the module.
    async fn tear_down(&mut self) {
        self.context.judges.remove(self.id.as_str());
        self.context.plugins.change(self.id.as_str(), |_| None);
        (self.work, self.serving, self.shadow) = (Lasting::None, None, None);
        if let Some(old) = self.current.take() {
            drain(old);
        }
        self.state.tap.stop();
        self.state.update(|f| f.is_recording = false);
        self.state.counters.queue_length.store(0, Relaxed);
    }
}

impl Launcher<'_> {
    /// Starts a module as its kind runs.
    ///
    /// # Errors
    /// As for one instance.
    pub async fn incarnation(&self, tap: &Arc<Tap>) -> Result<Incarnation, HostError> {
        Ok(match self.spec.kind {
            ModuleType::Controller => {
                let started = self.start().await?;
                let controller = started.controller().await?;
                let Started { generation, vat, gate, writer, module } = started;
                Incarnation::Controller(Rc::new(Running {
                    generation,
                    vat,
                    module,
                    controller,
                    gate,
                    writer,
                    busy: Cell::new(0),
                    answered: Cell::new(false),
                }))
            }
            ModuleType::Scheduler => {
                let (instance, generation, writer) = self.start().await?.into_hot().await?;
                Incarnation::Scheduler(Rc::new(HotInstance::new(instance, generation, writer, tap.clone())))
            }
            ModuleType::Admission | ModuleType::SchedulerPlugin => {
                // A plugin has a snapshot: there is one of it.
                let count = if self.spec.kind == ModuleType::Admission { STATELESS_INSTANCES } else { 1 };
                let mut instances = Vec::with_capacity(count);
                for _ in 0..count {
                    instances.push(self.start().await?.into_hot().await?.0);
                }
                Incarnation::Pooled(Arc::new(Pool::new(instances, tap.clone())))
            }
        })
    }
}

/// Lets the calls of an old incarnation end, tells it, revokes what it holds and drops it.
fn drain(old: Incarnation) {
    let Incarnation::Controller(running) = old else { return };
    tokio::task::spawn_local(async move {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while running.busy.get() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let goodbye = running.module.stop_request().send().promise;
        let _ = tokio::time::timeout(GOODBYE, running.vat.run(goodbye)).await;
        running.gate.revoke();
    });
}

/// 10 ms doubling to a minute, with a quarter of jitter so that modules which fail together do not return together.
fn restart_backoff(restarts: u32) -> Duration {
    let (first, longest) = RESTART_BACKOFF;
    let pause = first.saturating_mul(1u32.checked_shl(restarts.saturating_sub(1)).unwrap_or(u32::MAX)).min(longest);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    pause + pause.mul_f64(f64::from(nanos % 1000) / 4000.0)
}

fn describe(error: &HostError) -> String {
    match error {
        HostError::Fault(fault) => describe_fault(fault),
        error => describe_chain(error),
    }
}

fn describe_chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn describe_fault(fault: &Fault) -> String {
    format!("{}: {}", fault.kind, fault.message)
}
