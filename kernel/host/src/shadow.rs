//! A shadow: another version of a module sees what the running one is asked, and what it answers is compared and thrown away; or it takes over for
//! a part of the objects, by namespace or by share, and answers for them in an incarnation of its own. One that faults gives them back.
//!
//! It is asked after the running one has answered, on the module's own thread, out of a bounded queue: what does not fit is skipped and counted, so
//! a slow shadow costs its own knowledge and nothing else.

use crate::{
    audit::Audit,
    controller::Running,
    engine::{Code, Mirror, MirrorSettings},
    fault::{Fault, Generation, HostError, ModuleId},
    grants::Grants,
    launch::{Context, HotInstance, Launcher, hello_of},
    limits::ModuleLimits,
    policy::Asker,
    slot::Slot,
    source::Provenance,
    spec::{ModuleSpec, TakeOver},
    state::ModuleState,
    supervisor::Incarnation,
    tap::Seen,
};
use pintle_record::{Outcome, differences, show, with_reads};
use std::{cell::RefCell, rc::Rc, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};

/// Calls that wait for the shadow.
const WAITING_MAX: usize = 1024;

/// The shadow of one module; dropping it ends it.
pub struct Shadow {
    stage: Rc<Stage>,
    task: JoinHandle<()>,
}

/// What a shadow is started from and works with.
pub struct Stage {
    pub context: Arc<Context>,
    pub asker: Asker,
    /// The manifest with the shadow's source in the place of the running one's.
    pub spec: ModuleSpec,
    pub take_over: Option<TakeOver>,
    pub place: Place,
    pub limits: ModuleLimits,
    pub grants: Grants,
    pub state: Arc<ModuleState>,
    pub audit: Rc<Audit>,
    /// What runs, and who vouches for it, once it is known.
    pub loaded: RefCell<Option<(Code, Provenance)>>,
}

/// Where one that takes over is put.
pub enum Place {
    Slot(Rc<Slot<Running>>),
    Judge,
    Scheduler(Rc<Slot<HotInstance>>),
    Plugin,
}

impl Place {
    /// Puts one in, or nobody. Who was there can do nothing any more.
    fn put(&self, context: &Context, name: &str, heir: Option<(&Incarnation, TakeOver)>) {
        match (self, heir) {
            (Self::Slot(slot), Some((Incarnation::Controller(running), rule))) => drop(slot.set_heir(Some((running.clone(), rule)))),
            (Self::Slot(slot), _) => slot.set_heir(None).iter().for_each(|old| old.gate.revoke()),
            (Self::Judge, Some((Incarnation::Pooled(pool), rule))) => context.judges.set_heir(name, Some((pool.clone(), rule))),
            (Self::Judge, _) => context.judges.set_heir(name, None),
            (Self::Scheduler(slot), Some((Incarnation::Scheduler(instance), rule))) => drop(slot.set_heir(Some((instance.clone(), rule)))),
            (Self::Scheduler(slot), _) => drop(slot.set_heir(None)),
            (Self::Plugin, Some((Incarnation::Pooled(pool), rule))) => context.plugins.set_heir(name, Some((pool.clone(), rule))),
            (Self::Plugin, _) => context.plugins.set_heir(name, None),
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.task.abort();
        let Stage { context, state, place, .. } = &*self.stage;
        place.put(context, &state.name, None);
        state.tap.shadow(None);
        state.update(|f| f.shadow = None);
    }
}

/// What is known of a shadow, beside the counts of its tap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowFacts {
    pub digest: String,
    /// Loading, Running or Failed.
    pub state: &'static str,
    pub differences: u64,
    /// The last difference, or why it failed.
    pub message: String,
}

impl Shadow {
    /// Begins to load it; what is said to the module from now on waits for it.
    pub fn begin(stage: Stage) -> Self {
        let (sender, seen) = mpsc::channel(WAITING_MAX);
        stage.state.tap.shadow(Some(sender));
        stage.state.update(|f| f.shadow = Some(ShadowFacts { state: "Loading", ..ShadowFacts::default() }));
        let stage = Rc::new(stage);
        Self { task: tokio::task::spawn_local(stage.clone().run(seen)), stage }
    }

    /// Whether it is this one.
    pub fn is(&self, spec: &ModuleSpec, take_over: Option<&TakeOver>) -> bool {
        self.stage.spec == *spec && self.stage.take_over.as_ref() == take_over
    }

    /// Whether policies still admit it.
    pub fn is_admitted(&self) -> bool {
        let Stage { context, asker, spec, loaded, .. } = &*self.stage;
        loaded.borrow().as_ref().is_none_or(|(code, provenance)| context.policies.allowance(asker, spec, code.digest(), provenance).is_ok())
    }
}

impl Stage {
    fn tell(&self, change: impl FnOnce(&mut ShadowFacts)) {
        self.state.update(|facts| {
            if let Some(shadow) = &mut facts.shadow {
                change(shadow);
            }
        });
    }

    async fn run(self: Rc<Self>, mut seen: mpsc::Receiver<Seen>) {
        let started = async {
            let mirror = self.start().await?;
            Ok::<_, HostError>((mirror, self.take_over().await?))
        };
        let (mut mirror, heir) = match started.await {
            Ok(started) => started,
            Err(error) => return self.fail(error.to_string()),
        };
        self.tell(|shadow| shadow.state = "Running");
        loop {
            let seen = tokio::select! {
                seen = seen.recv() => seen,
                fault = ended(heir.as_ref()) => return self.fail(format!("{}: {}", fault.kind, fault.message)),
            };
            let Some(Seen { interface, method, params, outcome }) = seen else { return };
            let answer = mirror.ask(interface, method, &with_reads(interface, method, &params, &outcome)).await;
            self.state.tap.compared();
            let (then, now) = (show(interface, method, &outcome), show(interface, method, &answer));
            // Whoever lost a snapshot says so and gets it anew: that is no difference.
            let stale = then["stale"] == true || now["stale"] == true;
            let lines = if stale { Vec::new() } else { differences(&then, &now) };
            if !lines.is_empty() {
                let message = lines.join("; ");
                self.audit.warn_seldom("ShadowDiffers", message.clone());
                self.tell(|shadow| (shadow.differences, shadow.message) = (shadow.differences + 1, message));
            }
            if let Outcome::Fault(why) = answer {
                return self.fail(why);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Starts the incarnation that answers a part for real, and puts it in its place.
    async fn take_over(&self) -> Result<Option<Incarnation>, HostError> {
        let (Some(rule), Some((code, _))) = (self.take_over.clone(), self.loaded.borrow().clone()) else { return Ok(None) };
        let Self { context, spec, limits, grants, state, audit, .. } = self;
        let (id, code, counters) = (&ModuleId::new(&state.name), &code, &state.counters);
        let launcher = Launcher { context, id, spec, code, counters, grants, limits, audit };
        // Nobody watches it: what it does is done.
        let heir = launcher.incarnation(&Arc::default()).await?;
        self.place.put(context, &state.name, Some((&heir, rule)));
        Ok(Some(heir))
    }

    fn fail(&self, why: String) {
        self.place.put(&self.context, &self.state.name, None);
        self.state.tap.shadow(None);
        self.audit.warn("ShadowFailed", why.clone());
        self.tell(|shadow| (shadow.state, shadow.message) = ("Failed", why));
    }

    async fn start(&self) -> Result<Mirror, HostError> {
        let (context, spec) = (self.context.clone(), self.spec.clone());
        let ask_who_signed = context.policies.ask_who_signed(&self.asker, &spec);
        let read = move || {
            let provenance = if ask_who_signed { context.sources.provenance(&spec)? } else { Provenance::default() };
            Ok::<_, HostError>((context.sources.read(&spec)?, provenance))
        };
        let (wasm, provenance) = tokio::task::spawn_blocking(read).await.map_err(|_| HostError::ShuttingDown)??;
        let code = self.context.engine.load(wasm).await?;
        self.context.policies.allowance(&self.asker, &self.spec, code.digest(), &provenance)?;
        self.tell(|shadow| shadow.digest = code.digest().to_owned());
        self.loaded.replace(Some((code.clone(), provenance)));
        let deadline = self.spec.kind.deadline(&self.limits);
        let (id, generation) = (ModuleId::new(&self.state.name), Generation::default());
        let hello = hello_of(&self.context, &id, &self.spec, generation);
        Mirror::start(
            &code,
            id,
            generation,
            MirrorSettings { answers: self.spec.kind.answers(), memory_bytes: self.limits.memory_bytes, deadline },
            &hello,
        )
        .await
    }
}

/// Waits for the end of one that takes over; for ever when there is none.
async fn ended(heir: Option<&Incarnation>) -> Fault {
    match heir {
        Some(heir) => heir.fault().await,
        None => std::future::pending().await,
    }
}
