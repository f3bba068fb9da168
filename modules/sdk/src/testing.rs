//! A kernel to test a controller against, natively and in milliseconds.
//!
//! [`FakeKernel`] keeps objects in memory, hands each primary object and its related ones to the controller as the module's own manifest
//! says, carries out what it plans, and repeats until nothing changes. It can be made to misbehave as a real cluster does: crash after the
//! n-th write, show views that lack the newest writes, refuse creates. Time stands still unless a test moves it.
//!
//! What it is not: an API server. There is no validation, no defaulting, no admission, and no garbage collection; a test puts what it needs.

mod disturb;
mod manifest;
mod plugin;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

pub use disturb::{Disturbance, Disturbed, LAG_MAX, MERGE_MAX};
pub use manifest::{ControllerManifest, Manifest, RelatedRule};
pub use plugin::FakeScheduler;
pub use store::{Key, Refusal, Store};

use crate::reading::{Answer, ROUNDS_MAX};
use crate::{Action, Controller, Error, Event, ObjectRef, Plan, Query, Request, Result, Time, Write};

/// Rounds after which a controller that still writes is called restless.
const SETTLE_ROUNDS_MAX: usize = 500;

/// Old states that views can be taken from, at most.
const PAST_MAX: usize = 64;

/// Looks at the store after each write, and says what is wrong with it.
pub type Invariant = Box<dyn FnMut(&Store) -> Result<(), String>>;

/// An in-memory kernel for one controller.
pub struct FakeKernel {
    /// The objects as they are.
    pub store: Store,
    /// Every write that was carried out.
    pub writes: Vec<Write>,
    /// Every event that was told.
    pub events: Vec<Event>,
    /// Every write that was refused, and why.
    pub refusals: Vec<(Write, Refusal)>,
    manifest: Manifest,
    view: Option<Store>,
    /// How many changes a view may lack.
    lag: u64,
    past: VecDeque<Store>,
    /// The revision after each key's last decision: its views are not older.
    decided_at: BTreeMap<Key, u64>,
    wakes: BTreeMap<Key, Time>,
    gone: Vec<ObjectRef>,
    writes_until_crash: Option<usize>,
    refuse_creates_of: Option<String>,
    invariant: Option<Invariant>,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nothing changed.
    Quiet,
    /// Something changed: there may be more to do.
    Busy,
    /// The crash that [`FakeKernel::crash_after`] asked for. The controller is dead; make a new one.
    Crashed,
}

impl FakeKernel {
    /// A kernel with nothing in it, for the controller that this manifest (JSON) describes.
    pub fn new(manifest: &str) -> Result<Self> {
        Ok(FakeKernel {
            store: Store::new(Time::parse("2026-01-01T00:00:00Z").unwrap_or_default()),
            writes: Vec::new(),
            events: Vec::new(),
            refusals: Vec::new(),
            manifest: Manifest::parse(manifest)?,
            view: None,
            lag: 0,
            past: VecDeque::new(),
            decided_at: BTreeMap::new(),
            wakes: BTreeMap::new(),
            gone: Vec::new(),
            writes_until_crash: None,
            refuse_creates_of: None,
            invariant: None,
        })
    }

    /// What the clock says.
    pub fn now(&self) -> Time {
        self.store.now
    }

    /// Puts an object as a user would: with a new uid, resourceVersion and generation as needed. Its status is taken as it is.
    pub fn put(&mut self, object: Value) -> Result<ObjectRef> {
        self.store.put(object)
    }

    /// One object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.store.get(resource, namespace, name)
    }

    /// All objects of a resource, e.g. `apps/replicasets` or `/pods`.
    pub fn list<'a>(&'a self, resource: &'a str) -> Vec<&'a Value> {
        self.store.list(resource).collect()
    }

    /// Changes an object by hand, whatever part of it.
    pub fn edit(&mut self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.store.edit(resource, namespace, name, change);
    }

    /// Asks for an object's deletion, as a user would.
    pub fn delete(&mut self, target: ObjectRef) -> Result<(), Refusal> {
        self.apply(&Write::delete(target))
    }

    /// Removes an object at once, whatever it has in finalizers.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        if let Some(object) = self.store.remove(&Key::new(resource, namespace, name)) {
            self.note_gone(resource, &object);
        }
    }

    /// From now on views lack what is written from now on, until [`Self::thaw_view`].
    pub fn freeze_view(&mut self) {
        self.view = Some(self.store.clone());
    }

    /// Views are true again.
    pub fn thaw_view(&mut self) {
        self.view = None;
    }

    /// From now on views may lack up to this many of the newest changes, but never what was written in the last decision on the same key;
    /// 0: they are true.
    pub fn lag_views(&mut self, changes: u64) {
        self.lag = changes;
        self.note_view();
    }

    /// Remembers how things are now, for views that lag.
    pub fn note_view(&mut self) {
        if self.past.back().is_none_or(|last| last.revision < self.store.revision) {
            self.past.push_back(self.store.clone());
        }
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
    }

    /// What a decision on `key` is shown.
    fn view_of(&self, key: Option<&Key>) -> &Store {
        if let Some(view) = &self.view {
            return view;
        }
        let decided = key.and_then(|key| self.decided_at.get(key)).copied().unwrap_or(0);
        let oldest = self.store.revision.saturating_sub(self.lag).max(decided);
        self.past.iter().find(|old| old.revision >= oldest).filter(|_| self.lag > 0).unwrap_or(&self.store)
    }

    /// Lets `writes` more writes happen and then crashes, once.
    pub fn crash_after(&mut self, writes: usize) {
        self.writes_until_crash = Some(writes);
    }

    /// Refuses creates of a resource with 403, as a quota does; `None` stops that.
    pub fn refuse_creates_of(&mut self, resource: Option<&str>) {
        self.refuse_creates_of = resource.map(str::to_owned);
    }

    /// Checks the store after each write from now on; [`Self::settle`] fails when the check does.
    pub fn check_each_write(&mut self, invariant: Invariant) {
        self.invariant = Some(invariant);
    }

    /// Hands every primary object to the controller once.
    pub fn round(&mut self, controller: &mut impl Controller) -> Result<Round> {
        let before = self.store.revision;
        let mut refused = false;
        let gone = std::mem::take(&mut self.gone);
        let news = !gone.is_empty();
        let mut targets: Vec<ObjectRef> = self.manifest.primaries(self.view_of(None));
        targets.extend(gone);
        for target in targets {
            let plan = self.ask(controller, &target)?;
            let carried = self.carry_out(&target, plan)?;
            self.decided_at.insert(Key::of(&target), self.store.revision);
            self.note_view();
            match carried {
                Carried::All => {}
                Carried::Refused => refused = true,
                Carried::Crashed => return Ok(Round::Crashed),
            }
        }
        Ok(if self.store.revision == before && !refused && !news && self.gone.is_empty() { Round::Quiet } else { Round::Busy })
    }

    /// Rounds until one is quiet. An error when the controller fails, an invariant breaks, or it never rests.
    pub fn settle(&mut self, controller: &mut impl Controller) -> Result<Round> {
        self.settle_with(controller, |_| Ok(()))
    }

    /// The same with others at work: `others` may change the store after each round, as kubelets and other controllers would.
    pub fn settle_with(
        &mut self,
        controller: &mut impl Controller,
        mut others: impl FnMut(&mut FakeKernel) -> Result<()>,
    ) -> Result<Round> {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let before = self.store.revision;
            let round = self.round(controller)?;
            if round == Round::Crashed {
                return Ok(round);
            }
            others(self)?;
            if round == Round::Quiet && self.store.revision == before {
                return Ok(round);
            }
        }
        Err(Error::undecided(format!("the controller does not come to rest; its last refusal: {:?}", self.refusals.last())))
    }

    /// Moves the clock without anyone looking.
    pub fn advance(&mut self, duration: Duration) {
        self.store.now = self.store.now.after(duration);
    }

    /// Lets time pass, waking the controller whenever it has asked for that.
    pub fn pass(&mut self, controller: &mut impl Controller, duration: Duration) -> Result<Round> {
        let end = self.now().after(duration);
        loop {
            if self.settle(controller)? == Round::Crashed {
                return Ok(Round::Crashed);
            }
            let next = self.wakes.values().copied().filter(|wake| *wake > self.store.now).min();
            self.store.now = next.unwrap_or(end).min(end);
            if self.store.now >= end {
                return self.settle(controller);
            }
        }
    }

    fn ask(&mut self, controller: &mut impl Controller, target: &ObjectRef) -> Result<Plan> {
        let view = self.view_of(Some(&Key::of(target)));
        let object = self.manifest.object(view, target);
        let related = self.manifest.related(view, target, object.as_ref());
        let bytes = object.map(|object| object.to_string().into_bytes()).unwrap_or_default();
        let related: Vec<(String, Vec<Vec<u8>>)> =
            related.into_iter().map(|(name, list)| (name, list.iter().map(|v| v.to_string().into_bytes()).collect())).collect();
        let lists = related.iter().map(|(name, list)| (name.as_str(), list.iter().map(Vec::as_slice).collect())).collect();
        let request = Request::new(target.clone(), &bytes, lists);
        let mut known = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let asked = request.with(&known);
            let decision = controller.reconcile(self.store.now, &asked);
            let wanted = asked.take_wanted();
            if wanted.is_empty() {
                return decision?.checked();
            }
            known.extend(wanted.into_iter().map(|(name, query)| read(view, name, &query)));
        }
        Err(Error::undecided(format!("it wanted to read more {ROUNDS_MAX} times")))
    }

    fn carry_out(&mut self, target: &ObjectRef, plan: Plan) -> Result<Carried> {
        let key = Key::of(target);
        match plan.requeue_after {
            Some(after) => self.wakes.insert(key, self.store.now.after(after)),
            None => self.wakes.remove(&key),
        };
        for write in plan.writes {
            match &mut self.writes_until_crash {
                Some(0) => {
                    self.writes_until_crash = None;
                    return Ok(Carried::Crashed);
                }
                Some(left) => *left -= 1,
                None => {}
            }
            if let Err(refusal) = self.apply(&write) {
                self.refusals.push((write, refusal));
                return Ok(Carried::Refused);
            }
            self.writes.push(write);
            if let Some(invariant) = &mut self.invariant {
                invariant(&self.store).map_err(Error::undecided)?;
            }
        }
        self.events.extend(plan.events);
        Ok(Carried::All)
    }

    fn apply(&mut self, write: &Write) -> Result<(), Refusal> {
        let resource = format!("{}/{}", write.target.group, write.target.resource);
        if matches!(write.action, Action::Create(_)) && self.refuse_creates_of.as_deref() == Some(&resource) {
            return Err(Refusal::Forbidden);
        }
        if let Some(object) = self.store.apply(write)? {
            self.note_gone(&resource, &object);
        }
        Ok(())
    }

    fn note_gone(&mut self, resource: &str, object: &Value) {
        if self.manifest.controls(resource) {
            self.gone.push(store::reference(resource, object));
        }
    }
}

/// What a view answers to a query. There are no permissions here.
fn read(view: &Store, name: String, query: &Query) -> Answer {
    let resource = format!("{}/{}", query.group, query.resource);
    let meant = |key: &Key, object: &Value| {
        (query.namespace.is_empty() || key.namespace == query.namespace)
            && (query.name.is_empty() || key.name == query.name)
            && manifest::labels_match(&query.label_selector, object)
    };
    let chosen = view.iter().filter(|(key, object)| key.resource == resource && meant(key, object));
    Answer { name, resource: query.resource.clone(), objects: chosen.map(|(_, object)| object.to_string().into_bytes()).collect() }
}

enum Carried {
    All,
    Refused,
    Crashed,
}
