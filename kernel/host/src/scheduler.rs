//! The loop around a scheduler: keeps its snapshot fed, its queue of pending pods, and carries out what it decides.
//!
//! The problem: a scheduler must decide on the state that its own last decisions made, while bindings take a commit each and the world goes
//! on. The answer: the guest counts its decisions into its snapshot at once; the kernel carries bindings out concurrently, and the
//! snapshot's next delta confirms them or takes them back. `snapshot` holds what the guest does not know yet.
//!
//! Invariants: a pod is offered once at a time; a pod that is bound, gone or somebody else's is never offered; a pod that does not fit
//! waits for an event that could help, or a minute. A version that takes over for a part of the pods is offered them out of the same queue, and counts the
//! other one's decisions as that one counts its.

mod plugins;
mod snapshot;

pub use plugins::{Plugin, Plugins};

use crate::{
    counters::Counters,
    events::{About, EventRecorder},
    fault::{Fault, FaultKind},
    launch::HotInstance,
    queue::{Done, Queue, sleep_until},
    slot::Slot,
    spec::ModuleSpec,
    write::{Action, ObjectName, Write, WriteError},
};
use bytes::Bytes;
use capnp::{message, serialize, traits::HasTypeId};
use pintle_registry::{DeleteOptions, EventKind, Feed, Object, Patch, Registry, ResourceKey, SubscriptionFilter};
use pintle_wit::scheduler_capnp::{decision, scheduler};
use plugins::{Opinion, Panel, Passage};
use serde_json::{Value, json};
use snapshot::{Snapshot, fill_data, length};
use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Pods in one call at most.
const BATCH_MAX: usize = 128;
/// Pods whose place in the queue is asked for in one call at most.
const SORTED_MAX: usize = 1024;
/// How long a pod that fits nowhere waits when nothing happens.
const UNSCHEDULABLE_RETRY: Duration = Duration::from_secs(60);
/// The first and the longest pause before events wake a pod that did not fit.
const UNSCHEDULABLE_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const SYNC: u16 = 0;
const SCHEDULE: u16 = 1;

/// A pod in the queue.
type PodKey = (Arc<str>, Arc<str>);

/// A pod that did not fit.
#[derive(Clone, Copy)]
struct Parked {
    since: Instant,
    tries: u32,
}

/// What the guest said of one pod.
enum Decision {
    Node(String),
    Unschedulable(String),
    Evict(String, Vec<ObjectName>),
    Wait(String),
    Prepare(Vec<Write>),
}

/// The loop of one scheduler.
pub struct Work {
    spec: ModuleSpec,
    registry: Arc<Registry>,
    slot: Rc<Slot<HotInstance>>,
    counters: Arc<Counters>,
    events: Rc<EventRecorder>,
    pods: ResourceKey,
    snapshot: Snapshot,
    /// Of the version that takes over, while there is one.
    heirs: Option<Snapshot>,
    queue: Queue<PodKey>,
    /// By what pods in the queue are sorted, with plugins.
    ranks: HashMap<PodKey, Vec<u8>>,
    parked: HashMap<PodKey, Parked>,
    done: (mpsc::UnboundedSender<Bound>, mpsc::UnboundedReceiver<Bound>),
    careful: usize,
    panel: Panel,
    plugins_changed: watch::Receiver<()>,
}

/// A binding that was tried.
struct Bound {
    pod: PodKey,
    uid: String,
    result: Result<(), String>,
}

impl Work {
    /// A loop for pods that name this scheduler.
    pub fn new(
        module: &str,
        spec: &ModuleSpec,
        registry: Arc<Registry>,
        plugins: Arc<Plugins>,
        slot: Rc<Slot<HotInstance>>,
        counters: Arc<Counters>,
    ) -> Self {
        let events = Rc::new(EventRecorder::new(registry.clone(), module, &spec.scheduler_name));
        Self {
            spec: spec.clone(),
            snapshot: Snapshot::new(registry.clone(), spec),
            panel: Panel::new(plugins.clone(), &spec.scheduler_name),
            plugins_changed: plugins.changes(),
            registry,
            slot,
            counters,
            heirs: None,
            ranks: HashMap::new(),
            events,
            pods: ResourceKey::new("", "pods"),
            queue: Queue::default(),
            parked: HashMap::new(),
            done: mpsc::unbounded_channel(),
            careful: 0,
        }
    }

    /// Works until dropped.
    pub async fn run(mut self) {
        let mut keys = ["pods", "nodes", "namespaces"].map(|r| ResourceKey::new("", r)).to_vec();
        keys.extend(self.snapshot.shown.iter().cloned());
        let mut feed = self.registry.subscribe(SubscriptionFilter::Resources(keys));
        self.list_all();
        loop {
            while let Some(change) = feed.try_next() {
                self.note(change);
            }
            while let Ok(bound) = self.done.1.try_recv() {
                self.bound(bound);
            }
            self.counters.queue_length.store((self.queue.len() + self.parked.len()) as u64, Relaxed);
            let instance = self.slot.now();
            if let Some(instance) = instance.as_ref().filter(|_| self.queue.is_ready(Instant::now())) {
                self.work(instance);
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.queue.next_due().filter(|_| instance.is_some());
            tokio::select! {
                change = feed.next() => match change {
                    Some(change) => self.note(change),
                    None => return,
                },
                Some(bound) = self.done.1.recv() => self.bound(bound),
                () = sleep_until(due) => {}
                () = self.slot.filled(), if instance.is_none() => {}
                Ok(()) = self.plugins_changed.changed() => self.list_all(),
            }
        }
    }

    fn list_all(&mut self) {
        self.everybody(Snapshot::forget);
        self.ranks.clear();
        self.parked.clear();
        for pod in crate::gather::all_of(&self.registry, &self.pods) {
            if self.is_pending(&pod) {
                self.queue.add(key_of(&pod));
            }
        }
    }

    fn note(&mut self, change: Feed) {
        let Feed::Event(event) = change else { return self.list_all() };
        let helps = match &*event.object.resource().key().resource {
            "pods" => self.pod_changed(&event),
            "nodes" => self.everybody(|snapshot| snapshot.node_changed(&event)),
            "namespaces" => self.everybody(|snapshot| snapshot.namespace_changed(&event)),
            _ => self.everybody(|snapshot| snapshot.object_changed(&event)),
        };
        if helps {
            self.wake_parked();
        }
    }

    /// Whether it frees room, or could let another pod fit.
    fn pod_changed(&mut self, event: &pintle_registry::Event) -> bool {
        let (pod, key) = (&event.object, key_of(&event.object));
        self.ranks.remove(&key);
        if event.kind != EventKind::Deleted && self.is_pending(pod) {
            let changed = |p: &Arc<Object>| {
                p.meta().generation != pod.meta().generation || p.meta().labels != pod.meta().labels || p.meta().uid != pod.meta().uid
            };
            if event.previous.as_ref().is_none_or(changed) {
                self.parked.remove(&key);
                self.queue.add(key);
            }
            return false;
        }
        self.parked.remove(&key);
        self.queue.forget(&key);
        self.everybody(|snapshot| snapshot.pod_changed(event))
    }

    /// Tells the scheduler's snapshot, its other version's and those of the plugins; what the scheduler's says.
    fn everybody<T>(&mut self, mut tell: impl FnMut(&mut Snapshot) -> T) -> T {
        self.panel.snapshots().chain(&mut self.heirs).for_each(|snapshot| drop(tell(snapshot)));
        tell(&mut self.snapshot)
    }

    fn is_pending(&self, pod: &Object) -> bool {
        let field = |name| pod.field(name).unwrap_or_default();
        field("spec.nodeName").is_empty()
            && (field("spec.schedulerName") == self.spec.scheduler_name
                || (field("spec.schedulerName").is_empty() && self.spec.scheduler_name == "default-scheduler"))
            && pod.meta().deletion_timestamp.is_none()
            && !matches!(field("status.phase"), "Succeeded" | "Failed")
    }

    fn wake_parked(&mut self) {
        let now = Instant::now();
        let (first, longest) = UNSCHEDULABLE_BACKOFF;
        for (key, parked) in &self.parked {
            let pause = first.saturating_mul(1u32.checked_shl(parked.tries.saturating_sub(1)).unwrap_or(u32::MAX)).min(longest);
            match (parked.since + pause).checked_duration_since(now) {
                Some(left) if !left.is_zero() => self.queue.add_after(key.clone(), left, now),
                _ => self.queue.add(key.clone()),
            }
        }
    }

    /// Puts the pods that can be taken in order: a plugin's; without one that can say, the more important go first.
    fn sort(&mut self, panel: &[Arc<Plugin>]) {
        let ready = self.queue.ready(Instant::now());
        if ready.len() == self.ranks.len() {
            return;
        }
        let known = |key: &PodKey| Some((key.clone(), self.registry.get_cached(&self.pods, &key.0, &key.1)?));
        let news: Vec<_> = ready.iter().filter(|key| !self.ranks.contains_key(*key)).filter_map(known).collect();
        let importance = |pod: &Object| pod.value().map_or(0, |pod| pod["spec"]["priority"].as_i64().unwrap_or(0));
        for part in news.chunks(SORTED_MAX) {
            let by_importance = || part.iter().map(|(_, pod)| (i64::MAX - importance(pod)).to_be_bytes().to_vec()).collect();
            let ranks = Panel::sort_keys(panel, part).unwrap_or_else(by_importance);
            self.ranks.extend(part.iter().map(|(key, _)| key.clone()).zip(ranks));
        }
        ready.sort_by_key(|key| self.ranks.get(key));
    }

    /// One batch: bring the guest up to date, ask, carry out.
    fn work(&mut self, instance: &Rc<HotInstance>) {
        let (panel, heir) = (self.panel.sit(&self.snapshot), self.slot.heir());
        self.heirs = heir.as_ref().map(|_| self.heirs.take().unwrap_or_else(|| self.snapshot.another(&self.spec)));
        let batch = if self.careful > 0 || !panel.is_empty() { 1 } else { BATCH_MAX };
        if !panel.is_empty() {
            self.sort(&panel);
        }
        let (mut pods, mut opinions) = (Vec::new(), Vec::new());
        for key in self.queue.take(batch, Instant::now()) {
            self.ranks.remove(&key);
            match self.registry.get_cached(&self.pods, &key.0, &key.1).filter(|pod| self.is_pending(pod)) {
                Some(pod) => pods.push((key, pod)),
                None => self.queue.done(&key, Done::Settled, Instant::now()),
            }
        }
        let Some((key, pod)) = pods.first().cloned() else { return };
        let panel: Vec<_> = panel.iter().map(|plugin| plugin.version_for(&pod)).collect();
        self.careful = self.careful.saturating_sub(pods.len());
        if !panel.is_empty() {
            let asked = match Panel::admits(&panel, &pod) {
                Ok(Err(why)) => return self.decided(instance, &panel, key, &pod, Decision::Wait(why)),
                admitted => admitted.and_then(|_| self.panel.opinions(&panel, &pod)),
            };
            match asked {
                Ok(all) => opinions = all,
                Err(why) => return self.decided(instance, &[], key, &pod, Decision::Unschedulable(why)),
            }
        }
        if let Some((heir, rule)) = heir {
            let theirs = pods.extract_if(.., |(key, _)| rule.takes(&key.0, &key.1)).collect();
            self.offer(&heir, &panel, theirs, &opinions);
        }
        self.offer(instance, &panel, pods, &opinions);
    }

    /// Has pods decided on by one version.
    fn offer(&mut self, instance: &Rc<HotInstance>, panel: &[Arc<Plugin>], pods: Vec<(PodKey, Arc<Object>)>, opinions: &[Opinion]) {
        if pods.is_empty() {
            return;
        }
        let answer = self.ask(instance, &pods, opinions);
        self.counters.memory_bytes.store(instance.memory_bytes() as u64, Relaxed);
        match answer {
            Ok(Ok(decisions)) => {
                for ((key, pod), decision) in pods.into_iter().zip(decisions) {
                    self.decided(instance, panel, key, &pod, decision);
                }
            }
            Ok(Err(text)) => {
                tracing::warn!(target: "module", scheduler = self.spec.scheduler_name, text, "the scheduler could not decide");
                Counters::add(&self.counters.errors);
                self.fail(pods);
            }
            Err(fault) => {
                tracing::debug!(%fault, "a scheduling call ended its module");
                self.careful = pods.len();
                self.fail(pods);
                self.slot.remove(instance);
            }
        }
    }

    /// What the version that this is an instance of is told.
    fn snapshot_of(&mut self, instance: &Rc<HotInstance>) -> &mut Snapshot {
        let takes_over = self.slot.heir().is_some_and(|(heir, _)| Rc::ptr_eq(&heir, instance));
        self.heirs.as_mut().filter(|_| takes_over).unwrap_or(&mut self.snapshot)
    }

    fn fail(&mut self, pods: Vec<(PodKey, Arc<Object>)>) {
        for (key, _) in pods {
            self.queue.done(&key, Done::Failed, Instant::now());
        }
    }

    /// The guest's decisions. The inner error is the guest's own.
    fn ask(
        &mut self,
        instance: &Rc<HotInstance>,
        pods: &[(PodKey, Arc<Object>)],
        opinions: &[Opinion],
    ) -> Result<Result<Vec<Decision>, String>, Fault> {
        for _ in 0..2 {
            if let Err(text) = self.sync(instance)? {
                return Ok(Err(text));
            }
            let started = Instant::now();
            let answer = instance.call(
                <scheduler::Client as HasTypeId>::TYPE_ID,
                SCHEDULE,
                &schedule_params(instance.synced.get(), pods, opinions),
                self.spec.limits.scheduler_deadline,
            );
            self.counters.call(started.elapsed());
            let results = match answer? {
                Ok(results) => results,
                Err(text) => return Ok(Err(text)),
            };
            match read_decisions(&results, pods.len()) {
                Ok(Some(decisions)) => {
                    instance.answered.set(true);
                    return Ok(Ok(decisions));
                }
                Ok(None) => instance.synced.set(0),
                Err(error) => return Err(instance.end(FaultKind::BadFrame, error.to_string())),
            }
        }
        Ok(Err("it calls every snapshot stale".into()))
    }

    /// Brings the guest's snapshot up to date.
    fn sync(&mut self, instance: &Rc<HotInstance>) -> Result<Result<(), String>, Fault> {
        let (counters, deadline) = (self.counters.clone(), self.spec.limits.scheduler_deadline);
        let told = self.snapshot_of(instance).tell(instance.synced.get(), |params| {
            let started = Instant::now();
            let answer = instance.call(<scheduler::Client as HasTypeId>::TYPE_ID, SYNC, params, deadline);
            counters.call(started.elapsed());
            let results = answer.map_err(Err::<String, Fault>)?.map_err(Ok::<String, Fault>)?;
            let read = || crate::wire::read(&mut &results[..])?.get_root::<scheduler::sync_results::Reader<'_>>().map(|r| r.get_stale());
            read().map_err(|error| Err(instance.end(FaultKind::BadFrame, error.to_string())))
        });
        instance.synced.set(told.as_ref().map_or(0, |generation| generation.unwrap_or(0)));
        match told {
            Ok(Some(_)) => Ok(Ok(())),
            Ok(None) => Ok(Err("it calls a whole snapshot stale".into())),
            Err(Ok(text)) => Ok(Err(text)),
            Err(Err(fault)) => Err(fault),
        }
    }

    fn decided(&mut self, instance: &Rc<HotInstance>, panel: &[Arc<Plugin>], key: PodKey, pod: &Arc<Object>, decision: Decision) {
        match decision {
            Decision::Node(node) => self.bind(instance, panel, key, pod, node),
            Decision::Unschedulable(message) => {
                if let Some((node, victims)) = self.panel.make_room(panel, pod) {
                    self.park(key);
                    return self.evict(instance, pod, node, victims);
                }
                self.park(key);
                self.say(instance, pod, "Unschedulable", message);
            }
            Decision::Wait(message) => {
                self.queue.done(&key, Done::Settled, Instant::now());
                self.say(instance, pod, "SchedulingGated", message);
            }
            Decision::Evict(node, victims) => {
                self.park(key);
                self.evict(instance, pod, node, victims);
            }
            Decision::Prepare(writes) => self.prepare(instance, key, pod, writes),
        }
    }

    fn park(&mut self, key: PodKey) {
        self.queue.done(&key, Done::After(UNSCHEDULABLE_RETRY), Instant::now());
        let tries = self.parked.get(&key).map_or(1, |p| p.tries + 1);
        self.parked.insert(key, Parked { since: Instant::now(), tries });
    }

    fn bind(&mut self, instance: &Rc<HotInstance>, panel: &[Arc<Plugin>], key: PodKey, pod: &Arc<Object>, node: String) {
        self.everybody(|snapshot| snapshot.assume(pod, &node));
        self.snapshot_of(instance).is_known(pod);
        let mut passage = match Passage::begin(self.registry.clone(), panel.to_vec(), pod.clone(), &node) {
            Ok(passage) => passage,
            Err(why) => {
                self.everybody(|snapshot| snapshot.take_back(&pod.meta().uid));
                self.park(key);
                return self.say(instance, pod, "Unschedulable", why);
            }
        };
        self.parked.remove(&key);
        let (writer, events, done) = (instance.writer.clone(), self.events.clone(), self.done.0.clone());
        let (target, about) = (name_of(pod), About::of(pod));
        tokio::task::spawn_local(async move {
            let uid = target.uid.clone();
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": target.name, "namespace": target.namespace, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            let pod_name = format!("{}/{}", target.namespace, target.name);
            let write = Write { target, subresource: "binding".into(), action: Action::Create(binding.to_string().into()) };
            let result = match passage.pass().await {
                Ok(true) => Ok(()),
                Ok(false) => writer.carry_out(write).await.map(|_| ()).map_err(|e| e.to_string()),
                Err(why) => Err(why),
            };
            match &result {
                Ok(()) => passage.end(),
                Err(_) => passage.give_up(),
            }
            let message = result.clone().err();
            let _ = done.send(Bound { pod: key, uid, result });
            match message {
                None => events.record(&about, false, "Scheduled", &format!("Successfully assigned {pod_name} to {node}")).await,
                Some(why) => events.record(&about, true, "FailedScheduling", &format!("binding rejected: {why}")).await,
            }
        });
    }

    /// Carries out what must be done before the pod can be bound; what changes then wakes it, soon.
    fn prepare(&mut self, instance: &Rc<HotInstance>, key: PodKey, pod: &Arc<Object>, writes: Vec<Write>) {
        self.park(key.clone());
        self.parked.insert(key.clone(), Parked { since: Instant::now(), tries: 1 });
        let (writer, done, uid) = (instance.writer.clone(), self.done.0.clone(), pod.meta().uid.to_string());
        tokio::task::spawn_local(async move {
            for write in writes {
                if let Err(error) = writer.carry_out(write).await {
                    let _ = done.send(Bound { pod: key, uid, result: Err(error.to_string()) });
                    return;
                }
            }
        });
    }

    fn bound(&mut self, bound: Bound) {
        let how = match bound.result {
            Ok(()) => Done::Settled,
            Err(why) => {
                tracing::debug!(pod = ?bound.pod, why, "a binding was not carried out");
                self.everybody(|snapshot| snapshot.take_back(&bound.uid));
                Done::Failed
            }
        };
        self.queue.done(&bound.pod, how, Instant::now());
    }

    /// Tells users why a pod is not scheduled: the condition (when it says something new) and an event.
    fn say(&self, instance: &Rc<HotInstance>, pod: &Arc<Object>, reason: &'static str, message: String) {
        if condition_says(pod, reason, &message) {
            return;
        }
        let (writer, events, about, target) = (instance.writer.clone(), self.events.clone(), About::of(pod), name_of(pod));
        tokio::task::spawn_local(async move {
            let write = with_condition(target, "PodScheduled", "False", reason, &message);
            if let Err(error) = writer.carry_out(write).await {
                tracing::debug!(%error, "a scheduling condition was not written");
            }
            events.record(&about, true, "FailedScheduling", &message).await;
        });
    }

    fn evict(&self, instance: &Rc<HotInstance>, pod: &Arc<Object>, node: String, victims: Vec<ObjectName>) {
        let (writer, events) = (instance.writer.clone(), self.events.clone());
        let (registry, preemptor) = (self.registry.clone(), format!("{}/{}", pod.meta().namespace, pod.meta().name));
        let why = format!("{}: preempting to accommodate a higher priority pod", self.spec.scheduler_name);
        tokio::task::spawn_local(async move {
            for mut victim in victims {
                (victim.group, victim.resource) = (String::new(), "pods".into());
                let about = registry.get_cached(&victim.key(), &victim.namespace, &victim.name).map(|o| About::of(&o));
                // Whoever owns the pod may look on this end otherwise than on a failure. Without it the pod goes all the same.
                let noted = with_condition(victim.clone(), "DisruptionTarget", "True", "PreemptionByScheduler", &why);
                if let Err(error) = writer.carry_out(noted).await {
                    tracing::debug!(%error, "a victim's condition was not written");
                }
                let precondition_uid = Some(victim.uid.clone()).filter(|uid| !uid.is_empty());
                let options = DeleteOptions { precondition_uid, ..DeleteOptions::default() };
                let write = Write { target: victim, subresource: String::new(), action: Action::Delete(options) };
                match (writer.carry_out(write).await, about) {
                    (Ok(_), Some(about)) => {
                        events.record(&about, false, "Preempted", &format!("Preempted by pod {preemptor} on node {node}")).await
                    }
                    (Err(WriteError::Refused(error)), _) if error.code == 404 => {}
                    (Err(error), _) => tracing::debug!(%error, "a victim was not evicted"),
                    (Ok(_), None) => {}
                }
            }
        });
    }
}

/// The write of one condition of a pod, as of now.
fn with_condition(target: ObjectName, kind: &str, status: &str, reason: &str, message: &str) -> Write {
    let condition =
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": crate::now_rfc3339()});
    let patch = json!({"status": {"conditions": [condition]}}).to_string();
    Write { target, subresource: "status".into(), action: Action::Patch(Patch::Strategic(patch.into())) }
}

fn key_of(pod: &Object) -> PodKey {
    (pod.meta().namespace.as_ref().into(), pod.meta().name.as_ref().into())
}

fn name_of(pod: &Object) -> ObjectName {
    let meta = pod.meta();
    ObjectName {
        group: String::new(),
        resource: "pods".into(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
        uid: meta.uid.to_string(),
    }
}

fn condition_says(pod: &Object, reason: &str, message: &str) -> bool {
    let Ok(pod) = pod.value() else { return false };
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c: &Value| c["type"] == "PodScheduled" && c["reason"] == reason && c["message"] == message)
}

fn schedule_params(generation: u64, pods: &[(PodKey, Arc<Object>)], opinions: &[Opinion]) -> Vec<u8> {
    let bodies: Vec<&Bytes> = pods.iter().map(|(_, pod)| pod.body()).collect();
    let words = length(bodies.iter().map(|b| b.len() / 8 + 4).sum::<usize>() + 64);
    let mut message = message::Builder::new(message::HeapAllocator::new().first_segment_words(words));
    let mut params = message.init_root::<scheduler::schedule_params::Builder<'_>>();
    params.set_generation(generation);
    params.set_now_millis(crate::now_millis());
    let mut said = params.reborrow().init_opinions(length(opinions.len()));
    for (i, opinion) in (0..).zip(opinions) {
        opinion.fill(said.reborrow().get(i));
    }
    fill_data(params.init_pods(length(bodies.len())), bodies);
    serialize::write_message_to_words(&message)
}

/// The decisions; `None`: the guest's snapshot is stale.
fn read_decisions(mut results: &[u8], count: usize) -> capnp::Result<Option<Vec<Decision>>> {
    let message = crate::wire::read(&mut results)?;
    let results = message.get_root::<scheduler::schedule_results::Reader<'_>>()?;
    if results.get_stale() {
        return Ok(None);
    }
    let decisions = results.get_decisions()?;
    if decisions.len() as usize != count {
        return Err(capnp::Error::failed(format!("{} decisions for {count} pods", decisions.len())));
    }
    decisions.iter().map(read_decision).collect::<capnp::Result<_>>().map(Some)
}

fn read_decision(reader: decision::Reader<'_>) -> capnp::Result<Decision> {
    Ok(match reader.which()? {
        decision::Unspecified(()) => return Err(capnp::Error::failed("a decision that does not say anything".into())),
        decision::Node(name) => Decision::Node(name?.to_string()?),
        decision::Unschedulable(message) => Decision::Unschedulable(message?.to_string()?),
        decision::Wait(message) => Decision::Wait(message?.to_string()?),
        decision::Prepare(writes) => Decision::Prepare(writes?.iter().map(Write::read).collect::<capnp::Result<_>>()?),
        decision::Evict(preemption) => {
            let preemption = preemption?;
            let victims = preemption.get_victims()?.iter().map(ObjectName::read).collect::<capnp::Result<_>>()?;
            Decision::Evict(preemption.get_node()?.to_string()?, victims)
        }
    })
}
