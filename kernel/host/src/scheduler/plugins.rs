//! Plugins of a scheduler: modules that are asked before it decides, and while what it decided is carried out.
//!
//! The problem: a plugin's opinion of five thousand nodes is wanted for every pod, and a scheduler in Wasm cannot call another module. The answer: the
//! kernel asks the plugins first, each once a pod for all nodes, and hands their opinions to the scheduler with the pod. A plugin has a snapshot of
//! its own, fed by the same deltas at the same moments, so that both count the same nodes in the same order.
//!
//! Invariants: with plugins, pods are decided on one at a time, because each opinion must know the decisions before it. What a plugin reserved is
//! unreserved when the pod is not bound. A plugin that fails refuses the pod, unless its policy is to be ignored; one that sorts and fails leaves the order to
//! the pods' priorities. A pod meets one version of a plugin from end to end.

use super::{
    PodKey,
    snapshot::{Snapshot, fill_data, fill_text, length},
};
use crate::{
    counters::Counters,
    fault::{Generation, ModuleId},
    grants::Grants,
    judge::Pool,
    limits::ModuleLimits,
    membrane::Gate,
    spec::{FailurePolicy, ModuleSpec, PluginSpec, Point, TakeOver},
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
const SORT_KEYS: u16 = 10;
const BIND: u16 = 11;
const POST_BIND: u16 = 12;

/// How long a pod may wait for a permit altogether.
const PERMIT_WAIT_MAX: Duration = Duration::from_secs(900);

/// One plugin.
#[derive(Clone)]
pub struct Plugin {
    pub name: String,
    pub spec: PluginSpec,
    pub module: ModuleSpec,
    pub limits: ModuleLimits,
    pub grants: Grants,
    pub counters: Arc<Counters>,
    pub pool: Arc<Pool>,
    /// Who is asked of a part of the pods, and which.
    pub heir: Option<(Arc<Self>, TakeOver)>,
}

/// All plugins of all schedulers, in the order in which they are asked.
#[derive(Default)]
pub struct Plugins {
    list: RwLock<Vec<Arc<Plugin>>>,
    changed: watch::Sender<()>,
}

impl Plugins {
    /// Puts one in its place; one of the same name goes.
    pub fn install(&self, mut plugin: Plugin) {
        let mut list = self.list.write();
        plugin.heir = list.iter().find(|p| p.name == plugin.name).and_then(|before| before.heir.clone());
        list.retain(|p| p.name != plugin.name);
        list.push(Arc::new(plugin));
        list.sort_by(|a, b| (a.spec.order, &a.name).cmp(&(b.spec.order, &b.name)));
        self.changed.send_replace(());
    }

    /// Lets another version be asked of a part of the pods, or none.
    pub fn set_heir(&self, name: &str, heir: Option<(Arc<Pool>, TakeOver)>) {
        self.change(name, |plugin| {
            let of = |pool| Arc::new(Plugin { pool, heir: None, ..Plugin::clone(&plugin) });
            Some(Arc::new(Plugin { heir: heir.clone().map(|(pool, rule)| (of(pool), rule)), ..Plugin::clone(&plugin) }))
        });
    }

    /// Puts what `to` makes of it, if anything, in the place of the one of this name. All are told everything again.
    pub fn change(&self, name: &str, to: impl Fn(Arc<Plugin>) -> Option<Arc<Plugin>>) {
        let mut list = self.list.write();
        if list.iter().any(|plugin| plugin.name == name) {
            *list = list.drain(..).filter_map(|plugin| if plugin.name == name { to(plugin) } else { Some(plugin) }).collect();
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
        builder.set_plugin(&self.plugin);
        builder.set_weight(self.weight);
        if let Some(slots) = builder.reborrow().init_scores(length(self.scores.len())).as_slice() {
            slots.copy_from_slice(&self.scores);
        }
        fill_text(builder.init_reasons(length(self.reasons.len())), &self.reasons);
    }
}

impl Plugin {
    fn serves(&self, point: Point) -> bool {
        self.spec.points.contains(&point)
    }

    /// The version of it that is asked of this pod.
    pub fn version_for(self: &Arc<Self>, pod: &Object) -> Arc<Self> {
        let theirs = self.heir.as_ref().filter(|(_, rule)| rule.takes(&pod.meta().namespace, &pod.meta().name));
        theirs.map_or(self, |(heir, _)| heir).clone()
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
            Err(_) if self.spec.failure_policy == FailurePolicy::Ignore => Ok(instead),
            answer => answer,
        }
    }

    /// One crossing about a pod and a node: what the plugin has against it, or what it wants written and whether that binds the pod. The parameters and
    /// results of `bind` are laid out as those of the other points of this kind are, and longer.
    fn ask(&self, method: u16, pod: &Object, node: &str) -> Result<Result<(Vec<Write>, bool), String>, String> {
        self.call_or::<wire::bind_params::Owned, wire::bind_results::Owned, _>(
            Ok((Vec::new(), false)),
            method,
            |mut params| {
                params.set_pod(pod.body());
                params.set_node(node);
            },
            |results| {
                let writes = results.get_writes()?.iter().map(Write::read).collect::<capnp::Result<_>>()?;
                Ok(refused(results.get_refused())?.map(|()| (writes, results.get_binds())))
            },
        )
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
    plugins: Arc<Plugins>,
    scheduler: String,
    views: HashMap<Generation, View>,
}

struct View {
    snapshot: Snapshot,
    synced: u64,
}

impl Panel {
    /// Of this scheduler.
    pub fn new(plugins: Arc<Plugins>, scheduler: &str) -> Self {
        Self { plugins, scheduler: scheduler.to_owned(), views: HashMap::new() }
    }

    /// Those that are asked now. Who is new is told what the scheduler has decided, and is on its way.
    pub fn sit(&mut self, told: &Snapshot) -> Vec<Arc<Plugin>> {
        let list = self.plugins.of(&self.scheduler);
        let all: Vec<&Arc<Plugin>> = list.iter().chain(list.iter().filter_map(|plugin| Some(&plugin.heir.as_ref()?.0))).collect();
        self.views.retain(|generation, _| all.iter().any(|plugin| plugin.pool.generation == *generation));
        for plugin in all {
            let fresh = || View { snapshot: told.another(&plugin.module), synced: 0 };
            self.views.entry(plugin.pool.generation).or_insert_with(fresh);
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
            if let Err(why) = plugin.ask(PRE_ENQUEUE, pod, "")? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    /// By what each pod is sorted into the queue, as the first plugin that sorts says; `None`: there is none that can.
    pub fn sort_keys(list: &[Arc<Plugin>], pods: &[(PodKey, Arc<Object>)]) -> Option<Vec<Vec<u8>>> {
        let plugin = list.iter().find(|plugin| plugin.serves(Point::QueueSort))?;
        let keys = plugin.call::<wire::sort_keys_params::Owned, wire::sort_keys_results::Owned, Vec<_>>(
            SORT_KEYS,
            |params| fill_data(params.init_pods(length(pods.len())), pods.iter().map(|(_, pod)| pod.body())),
            |results| match results.get_keys()? {
                keys if keys.len() == length(pods.len()) => keys.iter().map(|key| Ok(key?.to_vec())).collect(),
                keys => Err(capnp::Error::failed(format!("{} keys for {} pods", keys.len(), pods.len()))),
            },
        );
        keys.ok()
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
                Err(_) if plugin.spec.failure_policy == FailurePolicy::Ignore => {}
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
                Ok((results.get_scores()?.as_slice().unwrap_or_default().to_vec(), reasons))
            },
        )?;
        Ok(Opinion { plugin: plugin.name.clone(), weight: plugin.spec.weight.unwrap_or(1), scores, reasons })
    }

    /// Brings a plugin's snapshot up to date; its generation.
    fn sync(&mut self, plugin: &Plugin) -> Result<u64, String> {
        let Some(View { snapshot, synced }) = self.views.get_mut(&plugin.pool.generation) else { return Ok(0) };
        // A plugin's `sync` takes what a scheduler's takes.
        let told =
            snapshot.tell(*synced, |params| plugin.send::<wire::sync_results::Owned, _>(SYNC, params, |results| Ok(results.get_stale())));
        *synced = told.clone().ok().flatten().unwrap_or(0);
        told?.ok_or_else(|| format!("scheduler plugin {:?} calls a whole snapshot stale", plugin.name))
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
            if let Err(why) = plugin.ask(RESERVE, &passage.pod, node).flatten() {
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
            // A plugin that could not be told has no state any more, or gets it anew.
            drop(plugin.ask(UNRESERVE, &self.pod, &self.node));
        }
    }

    /// Waits for every permit, then lets every plugin write what must be there before the binding, and one of them bind; whether one did.
    ///
    /// # Errors
    /// Why the pod is not to be bound.
    pub async fn pass(&self) -> Result<bool, String> {
        for plugin in self.list.iter().filter(|plugin| plugin.serves(Point::Permit)) {
            self.permitted(plugin).await?;
        }
        for plugin in self.list.iter().filter(|plugin| plugin.serves(Point::PreBind)) {
            let (writes, _) = plugin.ask(PRE_BIND, &self.pod, &self.node).flatten()?;
            self.write(plugin, writes).await?;
        }
        for plugin in self.list.iter().filter(|plugin| plugin.serves(Point::Bind)) {
            let (writes, binds) = plugin.ask(BIND, &self.pod, &self.node).flatten()?;
            if binds {
                self.write(plugin, writes).await?;
                let now = self.registry.get_cached(self.pod.resource().key(), &self.pod.meta().namespace, &self.pod.meta().name);
                let bound = now.is_some_and(|now| {
                    now.meta().uid == self.pod.meta().uid && now.field("spec.nodeName").is_some_and(|node| !node.is_empty())
                });
                return if bound { Ok(true) } else { Err(format!("scheduler plugin {:?} did not bind the pod", plugin.name)) };
            }
        }
        Ok(false)
    }

    /// Tells those who want to know that the pod has been bound.
    pub fn end(&self) {
        self.list
            .iter()
            .filter(|plugin| plugin.serves(Point::PostBind))
            .for_each(|plugin| drop(plugin.ask(POST_BIND, &self.pod, &self.node)));
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

    /// Under the plugin's own identity and grants.
    async fn write(&self, plugin: &Plugin, writes: Vec<Write>) -> Result<(), String> {
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
