//! A shadow: another version of a module sees what the running one is asked, and what it answers is compared and thrown away.
//!
//! It is asked after the running one has answered, on the module's own thread, out of a bounded queue: what does not fit is skipped and counted, so
//! a slow shadow costs its own knowledge and nothing else.

use crate::{
    audit::Audit,
    engine::{Mirror, MirrorSettings},
    fault::{Generation, HostError, ModuleId},
    launch::{Context, hello_of},
    limits::ModuleLimits,
    policy::Asker,
    source::Provenance,
    spec::ModuleSpec,
    state::ModuleState,
    tap::Seen,
};
use pintle_record::{Outcome, differences, show};
use pintle_wit::scheduler_capnp::scheduler;
use std::{rc::Rc, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};

/// Calls that wait for the shadow.
const WAITING_MAX: usize = 1024;

/// The shadow of one module; dropping it ends it.
pub struct Shadow {
    /// The manifest with the shadow's source in the place of the running one's.
    pub spec: ModuleSpec,
    state: Arc<ModuleState>,
    task: JoinHandle<()>,
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.task.abort();
        self.state.tap.shadow(None);
        self.state.update(|f| f.shadow = None);
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
    pub fn begin(
        context: &Arc<Context>,
        asker: Asker,
        spec: ModuleSpec,
        limits: &ModuleLimits,
        state: &Arc<ModuleState>,
        audit: &Rc<Audit>,
    ) -> Self {
        let (sender, seen) = mpsc::channel(WAITING_MAX);
        state.tap.shadow(Some(sender));
        state.update(|f| f.shadow = Some(ShadowFacts { state: "Loading", ..ShadowFacts::default() }));
        let work = Work {
            context: context.clone(),
            asker,
            spec: spec.clone(),
            limits: limits.clone(),
            state: state.clone(),
            audit: audit.clone(),
        };
        Self { spec, state: state.clone(), task: tokio::task::spawn_local(work.run(seen)) }
    }
}

struct Work {
    context: Arc<Context>,
    asker: Asker,
    spec: ModuleSpec,
    limits: ModuleLimits,
    state: Arc<ModuleState>,
    audit: Rc<Audit>,
}

impl Work {
    fn tell(&self, change: impl FnOnce(&mut ShadowFacts)) {
        self.state.update(|facts| {
            if let Some(shadow) = &mut facts.shadow {
                change(shadow);
            }
        });
    }

    async fn run(self, mut seen: mpsc::Receiver<Seen>) {
        let mut mirror = match self.start().await {
            Ok(mirror) => mirror,
            Err(error) => return self.fail(error.to_string()),
        };
        self.tell(|shadow| shadow.state = "Running");
        while let Some(Seen { interface, method, params, outcome }) = seen.recv().await {
            let answer = mirror.ask(interface, method, &params).await;
            self.state.tap.compared();
            let (then, now) = (show(interface, method, &outcome), show(interface, method, &answer));
            // Whoever lost a snapshot says so and gets it anew: that is no difference.
            let stale =
                interface == <scheduler::Client as capnp::traits::HasTypeId>::TYPE_ID && (then["stale"] == true || now["stale"] == true);
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

    fn fail(&self, why: String) {
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
