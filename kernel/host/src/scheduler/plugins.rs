//! Plugins of a scheduler: modules that are asked before it decides, and while what it decided is carried out.
//!
//! The problem: a plugin's opinion of five thousand nodes is wanted for every pod, and a scheduler in Wasm cannot call another module. The answer: the
//! kernel asks the plugins first, each once a pod for all nodes, and hands their opinions to the scheduler with the pod. A plugin has a snapshot of
//! its own, fed by the same deltas at the same moments, so that both count the same nodes in the same order.
//!
//! Invariants: with plugins, pods are decided on one at a time, because each opinion must know the decisions before it. What a plugin reserved is
//! unreserved when the pod is not bound. A plugin that fails refuses the pod, unless its policy is to be ignored.

use super::snapshot::Snapshot;
use crate::{
    counters::Counters,
    fault::{Generation, ModuleId},
    grants::Grants,
    judge::Pool,
    limits::ModuleLimits,
    membrane::Gate,
    spec::{ModuleSpec, PluginSpec, Point},
    write::{ObjectName, Write, Writer},
};
use capnp::{
    message, serialize,
    traits::{HasTypeId, Owned},
};
use parking_lot::RwLock;
use pintle_registry::{Caller, Object, Registry};
use pintle_wit::scheduler_capnp::{opinion, scheduler_plugin as wire};
use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const SYNC: u16 = 0;
const EVALUATE: u16 = 3;
const PRE_ENQUEUE: u16 = 4;
const POST_FILTER: u16 = 5;
const RESERVE: u16 = 6;
const UNRESERVE: u16 = 7;
const PERMIT: u16 = 8;
const PRE_BIND: u16 = 9;

/// How long a pod may wait for a permit altogether.
const PERMIT_WAIT_MAX: Duration = Duration::from_secs(900);

/// One plugin.
pub struct Plugin {
    pub name: String,
    pub spec: PluginSpec,
    pub module: ModuleSpec,
    pub limits: ModuleLimits,
    pub grants: Grants,
    pub counters: Arc<Counters>,
    pub pool: Arc<Pool>,
}

/// All plugins of all schedulers, in the order in which they are asked.
#[derive(Default)]
pub struct Plugins {
    list: RwLock<Vec<Arc<Plugin>>>,
    changed: watch::Sender<()>,
}

impl Plugins {
    /// Puts one in its place; one of the same name goes.
    pub fn install(&self, plugin: Plugin) {
        let mut list = self.list.write();
        list.retain(|p| p.name != plugin.name);
        list.push(Arc::new(plugin));
        list.sort_by(|a, b| (a.spec.order, &a.name).cmp(&(b.spec.order, &b.name)));
        self.changed.send_replace(());
    }

    /// Takes one away.
    pub fn remove(&self, name: &str) {
        let mut list = self.list.write();
        let before = list.len();
        list.retain(|p| p.name != name);
        if list.len() != before {
            self.changed.send_replace(());
        }
    }

    /// Tells whenever there are others.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn of(&self, scheduler: &str) -> Vec<Arc<Plugin>> {
        self.list.read().iter().filter(|plugin| plugin.module.scheduler_name == scheduler).cloned().collect()
    }
}

/// What one plugin says of all nodes.
pub struct Opinion {
    plugin: String,
    weight: i32,
    scores: Vec<i16>,
    reasons: Vec<String>,
}

impl Opinion {
    /// For the scheduler.
    pub fn fill(&self, mut builder: opinion::Builder<'_>) {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        builder.set_plugin(&self.plugin);
        builder.set_weight(self.weight);
        let mut scores = builder.reborrow().init_scores(length(self.scores.len()));
        for (i, score) in (0..).zip(&self.scores) {
            scores.set(i, *score);
        }
        let mut reasons = builder.init_reasons(length(self.reasons.len()));
        for (i, reason) in (0..).zip(&self.reasons) {
            reasons.set(i, reason);
        }
    }
}

impl Plugin {
    fn serves(&self, point: Point) -> bool {
        self.spec.points.contains(&point)
    }

    /// One crossing. The error is what the pod's condition says.
    fn call<P: Owned, R: Owned, T>(
        &self,
        method: u16,
        fill: impl FnOnce(P::Builder<'_>),
        read: impl FnOnce(R::Reader<'_>) -> capnp::Result<T>,
    ) -> Result<T, String> {
        let mut params = message::Builder::new_default();
        fill(params.init_root::<P::Builder<'_>>());
        self.send::<R, T>(method, &serialize::write_message_to_words(&params), read)
    }

    fn send<R: Owned, T>(&self, method: u16, params: &[u8], read: impl FnOnce(R::Reader<'_>) -> capnp::Result<T>) -> Result<T, String> {
        let started = Instant::now();
        let answer = self.pool.call(wire::Client::TYPE_ID, method, params, self.limits.scheduler_deadline);
        self.counters.call(started.elapsed());
        let read = |results: Vec<u8>| {
            let message = crate::wire::read(&mut &results[..]).map_err(|e| e.to_string())?;
            message.get_root::<R::Reader<'_>>().and_then(read).map_err(|e| e.to_string())
        };
        let answer = answer.map_err(|fault| fault.kind.to_string()).and_then(|answer| answer).and_then(read);
        answer.map_err(|why| {
            Counters::add(&self.counters.errors);
            tracing::warn!(target: "module", module = self.name, why, "a scheduler plugin failed");
            format!("scheduler plugin {:?} could not judge the pod", self.name)
        })
    }

    /// The same for an answer that may be left out when the plugin fails and its policy says so.
    fn call_or<P: Owned, R: Owned, T>(
        &self,
        instead: T,
        method: u16,
        fill: impl FnOnce(P::Builder<'_>),
        read: impl FnOnce(R::Reader<'_>) -> capnp::Result<T>,
    ) -> Result<T, String> {
        match self.call::<P, R, T>(method, fill, read) {
            Err(_) if self.spec.ignore_failures => Ok(instead),
            answer => answer,
        }
    }
}

/// `Err` when a plugin gave a reason.
fn refused(reason: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<Result<(), String>> {
    Ok(match reason?.to_str()? {
        "" => Ok(()),
        why => Err(why.to_owned()),
    })
}

/// The plugins of one scheduler, and what each of them has been told. Lives with the scheduler's loop.
pub struct Panel {
    registry: Arc<Registry>,
    plugins: Arc<Plugins>,
    scheduler: String,
    views: HashMap<String, View>,
}

struct View {
    generation: Generation,
    snapshot: Snapshot,
    synced: u64,
}

impl Panel {
    /// Of this scheduler.
    pub fn new(registry: Arc<Registry>, plugins: Arc<Plugins>, scheduler: &str) -> Self {
        Self { registry, plugins, scheduler: scheduler.to_owned(), views: HashMap::new() }
    }

    /// Those that are asked now.
    pub fn sit(&mut self) -> Vec<Arc<Plugin>> {
        let list = self.plugins.of(&self.scheduler);
        self.views.retain(|name, _| list.iter().any(|plugin| plugin.name == *name));
        for plugin in &list {
            let generation = plugin.pool.generation;
            let fresh = || View { generation, snapshot: Snapshot::new(self.registry.clone(), &plugin.module), synced: 0 };
            let view = self.views.entry(plugin.name.clone()).or_insert_with(fresh);
            if view.generation != generation {
                (view.generation, view.synced) = (generation, 0);
            }
        }
        list
    }

    /// Everything that is told to the plugins' snapshots.
    pub fn snapshots(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        self.views.values_mut().map(|view| &mut view.snapshot)
    }

    /// Why the pod is not to be tried until it changes, if so; the outer error: a plugin failed.
    pub fn admits(list: &[Arc<Plugin>], pod: &Object) -> Result<Result<(), String>, String> {
        for plugin in list.iter().filter(|plugin| plugin.serves(Point::PreEnqueue)) {
            let answer = plugin.call_or::<wire::pre_enqueue_params::Owned, wire::pre_enqueue_results::Owned, _>(
                Ok(()),
                PRE_ENQUEUE,
                |mut params| params.set_pod(pod.body()),
                |results| refused(results.get_refused()),
            )?;
            if answer.is_err() {
                return Ok(answer);
            }
        }
        Ok(Ok(()))
    }

    /// What each says of all nodes.
    pub fn opinions(&mut self, list: &[Arc<Plugin>], pod: &Object) -> Result<Vec<Opinion>, String> {
        let mut opinions = Vec::new();
        for plugin in list {
            let judges = plugin.serves(Point::Filter) || plugin.serves(Point::Score);
            let opinion =
                self.sync(plugin).and_then(|generation| if judges { Self::evaluate(plugin, generation, pod).map(Some) } else { Ok(None) });
            match opinion {
                Ok(opinion) => opinions.extend(opinion),
                Err(_) if plugin.spec.ignore_failures => {}
                Err(why) => return Err(why),
            }
        }
        Ok(opinions)
    }

    fn evaluate(plugin: &Plugin, generation: u64, pod: &Object) -> Result<Opinion, String> {
        let (scores, reasons) = plugin.call::<wire::evaluate_params::Owned, wire::evaluate_results::Owned, _>(
            EVALUATE,
            |mut params| {
                params.set_generation(generation);
                params.set_pod(pod.body());
            },
            |results| {
                let reasons = results.get_reasons()?.iter().map(|r| Ok(r?.to_string()?)).collect::<capnp::Result<Vec<_>>>()?;
                Ok((results.get_scores()?.iter().collect(), reasons))
            },
        )?;
        Ok(Opinion { plugin: plugin.name.clone(), weight: plugin.spec.weight, scores, reasons })
    }

    /// Brings a plugin's snapshot up to date; its generation.
    fn sync(&mut self, plugin: &Plugin) -> Result<u64, String> {
        let Some(view) = self.views.get_mut(&plugin.name) else { return Ok(0) };
        for _ in 0..2 {
            let Some((params, generation)) = view.snapshot.delta(view.synced) else { return Ok(view.synced) };
            // A plugin's `sync` takes what a scheduler's takes.
            match plugin.send::<wire::sync_results::Owned, _>(SYNC, &params, |results| Ok(results.get_stale())) {
                Ok(false) => view.synced = generation,
                Ok(true) => view.synced = 0,
                Err(why) => {
                    view.synced = 0;
                    return Err(why);
                }
            }
        }
        if view.synced == 0 { Err(format!("scheduler plugin {:?} calls a whole snapshot stale", plugin.name)) } else { Ok(view.synced) }
    }

    /// Room that a plugin would make for a pod that fits nowhere.
    pub fn make_room(&mut self, list: &[Arc<Plugin>], pod: &Object) -> Option<(String, Vec<ObjectName>)> {
        for plugin in list.iter().filter(|plugin| plugin.serves(Point::PostFilter)) {
            let Ok(generation) = self.sync(plugin) else { continue };
            let found = plugin.call::<wire::post_filter_params::Owned, wire::post_filter_results::Owned, _>(
                POST_FILTER,
                |mut params| {
                    params.set_generation(generation);
                    params.set_pod(pod.body());
                },
                |results| {
                    let preemption = results.get_preemption()?;
                    let victims = preemption.get_victims()?.iter().map(ObjectName::read).collect::<capnp::Result<Vec<_>>>()?;
                    Ok((preemption.get_node()?.to_string()?, victims))
                },
            );
            if let Ok((node, victims)) = found
                && !node.is_empty()
            {
                return Some((node, victims));
            }
        }
        None
    }
}

/// A pod on its way to a node, as far as plugins care.
pub struct Passage {
    registry: Arc<Registry>,
    pod: Arc<Object>,
    node: String,
    list: Vec<Arc<Plugin>>,
    reserved: Vec<Arc<Plugin>>,
}

impl Passage {
    /// Reserves at every plugin, in order.
    ///
    /// # Errors
    /// Why one does not want it; those before it have been told.
    pub fn begin(registry: Arc<Registry>, list: Vec<Arc<Plugin>>, pod: Arc<Object>, node: &str) -> Result<Self, String> {
        let mut passage = Self { registry, pod, node: node.to_owned(), reserved: Vec::new(), list };
        for plugin in passage.list.clone().into_iter().filter(|plugin| plugin.serves(Point::Reserve)) {
            let (body, node) = (passage.pod.body().clone(), passage.node.clone());
            let answer = plugin.call_or::<wire::reserve_params::Owned, wire::reserve_results::Owned, _>(
                Ok(()),
                RESERVE,
                |mut params| {
                    params.set_pod(&body);
                    params.set_node(&node);
                },
                |results| refused(results.get_refused()),
            );
            if let Err(why) = answer.and_then(|answer| answer) {
                passage.give_up();
                return Err(why);
            }
            passage.reserved.push(plugin);
        }
        Ok(passage)
    }

    /// Tells those who reserved that the pod does not come, the last first.
    pub fn give_up(&mut self) {
        while let Some(plugin) = self.reserved.pop() {
            let told = plugin.call::<wire::unreserve_params::Owned, wire::unreserve_results::Owned, _>(
                UNRESERVE,
                |mut params| {
                    params.set_pod(self.pod.body());
                    params.set_node(&self.node);
                },
                |_| Ok(()),
            );
            // A plugin that could not be told has no state any more, or gets it anew.
            drop(told);
        }
    }

    /// Waits for every permit, then lets every plugin write what must be there before the binding.
    ///
    /// # Errors
    /// Why the pod is not to be bound.
    pub async fn pass(&self) -> Result<(), String> {
        for plugin in self.list.iter().filter(|plugin| plugin.serves(Point::Permit)) {
            self.permitted(plugin).await?;
        }
        for plugin in self.list.iter().filter(|plugin| plugin.serves(Point::PreBind)) {
            self.prepared(plugin).await?;
        }
        Ok(())
    }

    async fn permitted(&self, plugin: &Plugin) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let waited = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (answer, wait) = plugin.call_or::<wire::permit_params::Owned, wire::permit_results::Owned, _>(
                (Ok(()), 0),
                PERMIT,
                |mut params| {
                    params.set_now_millis(crate::now_millis());
                    params.set_pod(self.pod.body());
                    params.set_node(&self.node);
                    params.set_waited_millis(waited);
                },
                |results| Ok((refused(results.get_refused())?, results.get_wait_millis())),
            )?;
            answer?;
            if wait == 0 {
                return Ok(());
            }
            if began.elapsed() > PERMIT_WAIT_MAX {
                return Err(format!("scheduler plugin {:?} gave no permit within {} s", plugin.name, PERMIT_WAIT_MAX.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(wait.into())).await;
        }
    }

    async fn prepared(&self, plugin: &Plugin) -> Result<(), String> {
        let (answer, writes) = plugin.call_or::<wire::pre_bind_params::Owned, wire::pre_bind_results::Owned, _>(
            (Ok(()), Vec::new()),
            PRE_BIND,
            |mut params| {
                params.set_pod(self.pod.body());
                params.set_node(&self.node);
            },
            |results| {
                Ok((refused(results.get_refused())?, results.get_writes()?.iter().map(Write::read).collect::<capnp::Result<Vec<_>>>()?))
            },
        )?;
        answer?;
        if writes.is_empty() {
            return Ok(());
        }
        let (id, generation) = (ModuleId::new(&plugin.name), plugin.pool.generation);
        let gate = Gate::new(id, generation, plugin.limits.clone(), plugin.counters.clone(), |_| {}, |_, _| {});
        let writer =
            Rc::new(Writer { registry: self.registry.clone(), caller: Caller::module(&plugin.name), grants: plugin.grants.clone(), gate });
        for write in writes {
            writer.carry_out(write).await.map_err(|error| format!("scheduler plugin {:?}: {error}", plugin.name))?;
        }
        Ok(())
    }
}
