//! The loop around a controller: watches, queues, gathers, asks, writes.
//!
//! The problem: a controller is a function from keys to writes, but the world does not hand out keys one at a time, guests crash, and a
//! decision made on a stale view does harm. The answer: everything that must not be lost (queue, back-off, what is in flight) lives here
//! in the kernel and outlives any incarnation of the module; a key is decided on by one incarnation at a time and only after all writes of its
//! previous decision are in the cache; the view is gathered when the call is made, not when the event came.
//!
//! Invariants: a key that was added is worked on until it settles, across faults and swaps. A result is either carried out or its key
//! is still in the queue. No write happens outside the grants of the incarnation that decided it.
//!
//! Writes of one key are carried out in order, except that creates which follow each other go together: a ReplicaSet's hundred pods share
//! a few commits instead of waiting for a hundred. The first failure stops what follows.

use crate::{
    counters::Counters,
    engine::Vat,
    events::{About, EventRecorder},
    fault::{Fault, Generation},
    feed::{Key, Mapper},
    gather::{Centre, FieldNames, Gatherer, Row, fill_rows},
    grants::Grants,
    limits::{RECONCILE_BYTES_MAX, WRITES_PER_CALL_MAX},
    membrane::Gate,
    queue::{Done, Queue, sleep_until},
    slot::Slot,
    spec::{ControllerSpec, ResourcePattern, bad},
    state::ModuleState,
    tap::{self, Tap},
    write::{Action, ObjectName, Write, WriteError, Writer},
};
use bytes::Bytes;
use capnp::traits::HasTypeId;
use pintle_registry::{Feed, Object, Registry, ResourceKey};
use pintle_wit::{
    controller_capnp::{controller, request, result},
    module_capnp::module,
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Creates of one key that go together.
const CREATES_TOGETHER: usize = 64;
/// How long to wait when the write quota is used up.
const QUOTA_PAUSE: Duration = Duration::from_millis(20);

/// Where keys come back to from flight: both ends.
type Returns = (mpsc::UnboundedSender<(Key, Done)>, mpsc::UnboundedReceiver<(Key, Done)>);

/// A running incarnation of a controller.
pub struct Running {
    pub generation: Generation,
    pub vat: Vat,
    pub module: module::Client,
    pub controller: controller::Client,
    pub gate: Rc<Gate>,
    pub writer: Rc<Writer>,
    /// Calls and writes under way; a swap waits for them.
    pub busy: Cell<usize>,
    /// Whether it ever answered a call: a version that did is known to work.
    pub answered: Cell<bool>,
}

/// Marks a running incarnation as busy until dropped.
pub struct Busy(Rc<Running>);

impl Busy {
    fn new(running: &Rc<Running>) -> Self {
        running.busy.set(running.busy.get() + 1);
        Self(running.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// Whether a controller is its module's only one: events name the module then, else what the controller reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    No,
    Yes,
}

/// The loop of one controller.
pub struct Work {
    spec: ControllerSpec,
    registry: Arc<Registry>,
    slot: Rc<Slot<Running>>,
    mapper: Mapper,
    gatherers: Rc<Vec<Gatherer>>,
    grants: Grants,
    /// The grants that the queue was filled by.
    grants_seen: u64,
    counters: Arc<Counters>,
    events: Rc<EventRecorder>,
    queue: Queue<Key>,
    /// What the counter knows of it.
    queued: u64,
    done: Returns,
    /// Batches to take one key at a time, because one of them ended the module.
    careful: usize,
    /// Who worked last.
    working: Option<(Generation, Option<Generation>)>,
    last_words: Rc<dyn Fn(String)>,
    tap: Arc<Tap>,
}

struct Request {
    key: Key,
    object: Option<Arc<Object>>,
    row: Bytes,
    related: Vec<(usize, Vec<Row>)>,
}

struct Decided {
    writes: Vec<Write>,
    requeue_after: Duration,
    failure: String,
    events: Vec<(bool, String, String)>,
}

impl Work {
    /// A loop for a controller of a module.
    ///
    /// # Errors
    /// `BadSpec` when the manifest names a resource that no definition can bring, or a bad selector.
    pub fn new(
        state: &Arc<ModuleState>,
        alone: Alone,
        spec: ControllerSpec,
        registry: Arc<Registry>,
        slot: Rc<Slot<Running>>,
        grants: Grants,
    ) -> Result<Self, crate::HostError> {
        let (name, told) = (state.name.as_str(), state.clone());
        let last_words: Rc<dyn Fn(String)> = Rc::new(move |message: String| told.update(|f| f.message = message));
        let mapper = Mapper::new(&spec)?;
        match mapper.awaited(&registry) {
            Some(key) if key.group.contains('.') => last_words(format!("{key} was not served when this began; it is followed once it is")),
            // No definition can add to these groups.
            Some(key) => return Err(bad("spec.controller.primary", format!("{key} is not served"))),
            None => {}
        }
        let gatherers = Rc::new(spec.related.iter().map(Gatherer::new).collect());
        let component = match &spec.primary {
            ResourcePattern::One(key) if alone == Alone::No => format!("{}-controller", key.resource.trim_end_matches('s')),
            _ if name.ends_with("-controller") => name.to_owned(),
            _ => format!("{name}-controller"),
        };
        let events = Rc::new(EventRecorder::new(registry.clone(), name, &component));
        Ok(Self {
            spec,
            registry,
            slot,
            mapper,
            gatherers,
            grants_seen: grants.version(),
            grants,
            counters: state.counters.clone(),
            events,
            queue: Queue::default(),
            queued: 0,
            done: mpsc::unbounded_channel(),
            careful: 0,
            working: None,
            last_words,
            tap: state.tap.clone(),
        })
    }

    /// Works until dropped.
    pub async fn run(mut self) {
        let mut feed = self.registry.subscribe(self.mapper.filter());
        self.list_all();
        let mut resync = self.spec.resync().map(|every| tokio::time::interval_at(tokio::time::Instant::now() + every, every));
        loop {
            while let Some(change) = feed.try_next() {
                self.note(change);
            }
            while let Ok((key, how)) = self.done.1.try_recv() {
                self.queue.done(&key, how, Instant::now());
            }
            let known = std::mem::replace(&mut self.queued, self.queue.len() as u64);
            self.counters.queue_length.fetch_add(self.queued.wrapping_sub(known), Relaxed);
            let running = self.slot.now();
            let workers = running.as_ref().map_or(0, |running| running.gate.limits().workers);
            let regranted = std::mem::replace(&mut self.grants_seen, self.grants.version()) != self.grants_seen;
            if self.has_changed_hands(running.as_deref()) || regranted {
                self.list_all();
            }
            let room = workers.saturating_sub(self.queue.in_flight());
            if let Some(running) = running.clone().filter(|_| room > 0 && self.queue.is_ready(Instant::now())) {
                self.work(&running, room).await;
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.queue.next_due().filter(|_| running.is_some() && room > 0);
            tokio::select! {
                change = feed.next() => match change {
                    Some(change) => self.note(change),
                    None => return,
                },
                Some((key, how)) = self.done.1.recv() => self.queue.done(&key, how, Instant::now()),
                () = sleep_until(due) => {}
                () = self.slot.filled(), if running.is_none() => {}
                () = self.slot.refilled(), if running.is_some() => {}
                () = tick(&mut resync) => self.list_all(),
            }
        }
    }

    fn note(&mut self, change: Feed) {
        match change {
            // What the module may not see does not exist for it.
            Feed::Event(event) if !self.shows(&event.object) => {}
            Feed::Event(event) => {
                for key in self.mapper.keys(&self.registry, &event) {
                    self.add(key);
                }
            }
            Feed::Lagged => self.list_all(),
        }
    }

    fn list_all(&mut self) {
        for key in self.mapper.all(&self.registry) {
            self.add(key);
        }
    }

    /// Adds a key that the module may see.
    fn add(&mut self, key: Key) {
        if self.grants.show(&key.resource, &key.namespace, &key.name) {
            self.queue.add(key);
        }
    }

    fn shows(&self, object: &Object) -> bool {
        self.grants.show(object.resource().key(), &object.meta().namespace, &object.meta().name)
    }

    /// Whether one incarnation has taken over from another: its code or its config may decide differently, so it looks at everything. One
    /// that comes after a fault is the same again, and the queue knows what was left.
    fn has_changed_hands(&mut self, running: Option<&Running>) -> bool {
        let heir = self.slot.heir().map(|(heir, _)| heir.generation);
        let now = running.map(|running| (running.generation, heir));
        let before = std::mem::replace(&mut self.working, now);
        before.is_some() && now.is_some() && before != now
    }

    /// One batch of at most `room`, divided between the running incarnation and the one that takes over.
    async fn work(&mut self, running: &Rc<Running>, room: usize) {
        let batch = if self.careful > 0 { 1 } else { self.spec.batch().min(room) };
        let keys = self.queue.take(batch, Instant::now());
        let Some((heir, rule)) = self.slot.heir() else { return self.work_on(running, keys).await };
        let (taken, kept) = keys.into_iter().partition(|key| rule.takes(&key.namespace, &key.name));
        self.work_on(&heir, taken).await;
        self.work_on(running, kept).await;
    }

    /// Gather, ask, and set the writes going.
    async fn work_on(&mut self, running: &Rc<Running>, keys: Vec<Key>) {
        let requests = self.gather(&running.writer, running.gate.limits().message_bytes, keys);
        if requests.is_empty() {
            return;
        }
        self.careful = self.careful.saturating_sub(requests.len());
        let busy = Busy::new(running);
        let started = Instant::now();
        let answer = self.ask(running, &requests).await;
        self.counters.memory_bytes.store(running.vat.memory_bytes() as u64, Relaxed);
        match answer {
            Ok(Ok(decisions)) => {
                running.answered.set(true);
                self.counters.call(started.elapsed());
                for (request, decided) in requests.into_iter().zip(decisions) {
                    self.settle(running, request, decided);
                }
            }
            Ok(Err(error)) => {
                running.answered.set(true);
                self.counters.call(started.elapsed());
                (self.last_words)(error.to_string());
                self.fail_all(requests);
            }
            Err(fault) => {
                tracing::debug!(%fault, keys = requests.len(), "a batch ended its module");
                self.careful = requests.len();
                self.fail_all(requests);
                drop(busy);
                self.slot.remove(running);
            }
        }
    }

    fn fail_all(&mut self, requests: Vec<Request>) {
        Counters::add(&self.counters.errors);
        for request in requests {
            self.queue.done(&request.key, Done::Failed, Instant::now());
        }
    }

    /// Builds the requests, until the batch is heavy enough; what does not fit goes back.
    fn gather(&mut self, writer: &Writer, message_bytes: usize, keys: Vec<Key>) -> Vec<Request> {
        let (mut requests, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        let most = RECONCILE_BYTES_MAX.min(message_bytes);
        for key in keys {
            if !self.grants.show(&key.resource, &key.namespace, &key.name) {
                self.queue.done(&key, Done::Settled, Instant::now());
                continue;
            }
            if bytes > most {
                self.queue.put_back(key);
                continue;
            }
            let object = self.mapper.object(&self.registry, &key);
            let uid = object.as_ref().map_or(&*key.uid, |o| &o.meta().uid);
            let centre = Centre {
                namespace: &key.namespace,
                name: &key.name,
                uid,
                object: object.as_ref(),
                body: &[],
                field_names: FieldNames::TheCentre,
                resource: None,
            };
            let related: Vec<(usize, Vec<Row>)> = self
                .gatherers
                .iter()
                .enumerate()
                .filter_map(|(i, gatherer)| Some((i, gatherer.gather(&self.registry, &writer.grants, centre, &[])?.rows)))
                .collect();
            let row = object.as_ref().map_or_else(Bytes::new, |o| self.mapper.projection().row(o));
            let weight = row.len() + related.iter().flat_map(|(_, rows)| rows).map(|row| row.json.len()).sum::<usize>();
            if weight > message_bytes {
                Counters::add(&self.counters.errors);
                (self.last_words)(format!("{key}: it and what is related weigh {weight} bytes, more than messageBytes {message_bytes}"));
                self.queue.done(&key, Done::Failed, Instant::now());
                continue;
            }
            bytes += weight;
            requests.push(Request { key, object, row, related });
        }
        requests
    }

    async fn ask(&self, running: &Running, requests: &[Request]) -> Result<Result<Vec<Decided>, capnp::Error>, Fault> {
        let mut call = running.controller.reconcile_request();
        let mut params = call.get();
        params.set_now_millis(crate::now_millis());
        let mut list = params.init_requests(u32::try_from(requests.len()).unwrap_or(u32::MAX));
        for (i, request) in (0..).zip(requests) {
            self.fill(request, list.reborrow().get(i));
        }
        let is_heir = self.slot.heir().is_some_and(|(heir, _)| std::ptr::eq(&*heir, running));
        let (count, on) = (requests.len(), self.tap.is_on() && !is_heir);
        let said = on.then(|| tap::message::<controller::reconcile_params::Owned>(call.get().into_reader()));
        let heard = Rc::new(RefCell::new(Vec::new()));
        let (call, hears) = (call.send(), heard.clone());
        let answer = running
            .vat
            .run(async move {
                let answer = call.promise.await?;
                if on {
                    hears.replace(tap::message::<controller::reconcile_results::Owned>(answer.get()?));
                }
                let results = answer.get()?.get_results()?;
                if results.len() as usize != count {
                    return Err(capnp::Error::failed(format!("{} results for {count} requests", results.len())));
                }
                results.iter().map(read_result).collect()
            })
            .await;
        if let Some(said) = said {
            let heard =
                answer.as_ref().map(|answer| answer.as_ref().map(|_| heard.take()).map_err(ToString::to_string)).map_err(Fault::clone);
            self.tap.saw(running.generation, controller::Client::TYPE_ID, 0, said, tap::outcome(&heard));
        }
        answer
    }

    fn fill(&self, request: &Request, mut builder: request::Builder<'_>) {
        self.mapper.name(&request.key, request.object.as_deref()).write(builder.reborrow().init_ref());
        builder.set_object(&request.row);
        builder.set_attempt(self.queue.attempt(&request.key));
        let mut related = builder.init_related(u32::try_from(request.related.len()).unwrap_or(u32::MAX));
        for (at, (i, rows)) in (0..).zip(&request.related) {
            let mut entry = related.reborrow().get(at);
            entry.set_name(&self.spec.related[*i].name);
            fill_rows(rows, entry);
        }
    }

    /// Sets the writes of one decision going; its key comes back when they are done.
    fn settle(&mut self, running: &Rc<Running>, request: Request, decided: Decided) {
        let about = request.object.as_deref().map(About::of);
        if !decided.failure.is_empty() {
            Counters::add(&self.counters.errors);
            (self.last_words)(format!("{}: {}", request.key, decided.failure));
        }
        if decided.writes.is_empty() && decided.events.is_empty() {
            self.queue.done(&request.key, settled(&decided), Instant::now());
            return;
        }
        let (busy, done) = (Busy::new(running), self.done.0.clone());
        let (events, last_words) = (self.events.clone(), self.last_words.clone());
        tokio::task::spawn_local(async move {
            let mut how = settled(&decided);
            if let Err((failed, what)) = carry_out(&busy.0, decided.writes).await {
                last_words(format!("{}: {what}", request.key));
                how = failed;
            }
            let _ = done.send((request.key, how));
            drop(busy);
            if let Some(about) = about {
                for (warning, reason, message) in decided.events {
                    events.record(&about, warning, &reason, &message).await;
                }
            }
        });
    }
}

fn settled(decided: &Decided) -> Done {
    match decided {
        Decided { failure, .. } if !failure.is_empty() => Done::Failed,
        Decided { requeue_after: Duration::ZERO, .. } => Done::Settled,
        Decided { requeue_after, .. } => Done::After(*requeue_after),
    }
}

fn read_result(reader: result::Reader<'_>) -> capnp::Result<Decided> {
    let writes = reader.get_writes()?;
    if writes.len() as usize > WRITES_PER_CALL_MAX {
        return Err(capnp::Error::failed(format!("{} writes in one result", writes.len())));
    }
    let events = reader.get_events()?;
    Ok(Decided {
        writes: writes.iter().map(Write::read).collect::<capnp::Result<_>>()?,
        requeue_after: Duration::from_millis(reader.get_requeue_after_millis()),
        failure: reader.get_failure()?.to_string()?,
        events: events
            .iter()
            .take(16)
            .map(|e| Ok((e.get_warning(), e.get_reason()?.to_string()?, e.get_message()?.to_string()?)))
            .collect::<capnp::Result<_>>()?,
    })
}

async fn carry_out(running: &Running, writes: Vec<Write>) -> Result<(), (Done, String)> {
    while running.gate.take_writes(u32::try_from(writes.len()).unwrap_or(u32::MAX)).is_err() {
        tokio::time::sleep(QUOTA_PAUSE).await;
    }
    let mut rest = writes.into_iter().peekable();
    while let Some(write) = rest.next() {
        let mut together = vec![write];
        while is_plain_create(&together[0]) && together.len() < CREATES_TOGETHER && rest.peek().is_some_and(is_plain_create) {
            together.extend(rest.next());
        }
        let outcomes = futures::future::join_all(together.into_iter().map(|write| carry_out_one(running, write))).await;
        outcomes.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

fn is_plain_create(write: &Write) -> bool {
    matches!(write.action, Action::Create(_)) && write.subresource.is_empty()
}

async fn carry_out_one(running: &Running, write: Write) -> Result<(), (Done, String)> {
    let deletes = matches!(write.action, Action::Delete(_));
    let what = format!("{} {}/{}", write.verb(), write.target.resource, write.target.name);
    let error = match running.writer.carry_out(write).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let how = match &error {
        WriteError::NotGranted { .. } => Done::Failed,
        WriteError::Refused(error) if deletes && error.code == 404 => return Ok(()),
        WriteError::Refused(error) if error.reason == pintle_api::Reason::Conflict => Done::Now,
        WriteError::Refused(_) => Done::Failed,
    };
    tracing::debug!(target: "module", module = %running.writer.caller.user, what, %error, "write not carried out");
    Err((how, format!("{what}: {error}")))
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

impl Key {
    /// As `ObjectRef` of the wire.
    pub fn to_name(&self, uid: &str) -> ObjectName {
        let ResourceKey { group, resource } = &*self.resource;
        ObjectName {
            group: group.clone(),
            resource: resource.clone(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: uid.to_owned(),
        }
    }
}
