//! Admission by modules: who judges which request, and the call itself.
//!
//! The problem: every write in the cluster passes here, so a judge must not cost a thread hop, a queue or an allocation more than its call.
//! The answer: a judge is a small pool of instances behind locks; the caller's own thread takes a free one and calls it on the hot
//! lane. Swapping a module swaps the pool; calls in the old one end there.
//!
//! Invariants: judges are asked in order (`order`, then name), each sees the edits of those before. A judge that fails (fault, no free
//! instance, not running) refuses the request unless its policy is to be ignored; it never answers for another. One that asked for it is asked
//! once more when a later one edited the object.
//!
//! Facts of matching: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.

use crate::{
    counters::Counters,
    engine::Instance,
    fault::{Fault, FaultKind, Generation, ModuleId},
    gather::{Centre, FieldNames, Gatherer, fill_rows},
    grants::Grants,
    limits::ModuleLimits,
    spec::{AdmissionSpec, FailurePolicy, Reinvocation, TakeOver},
    tap::{self, Tap},
};
use bytes::Bytes;
use capnp::{message, serialize, traits::HasTypeId};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use pintle_registry::{
    Admission, AdmissionRequest, DryRun, Edit, EditOp, Failure, Operation, Phase, Registry, ResourceInfo, Verdict, audit, edited, review_of,
};
use pintle_wit::admission_capnp::{self as wire, admission};
use std::{
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{self, Relaxed},
        },
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Notes for the audit log that are taken from one answer.
const ANNOTATIONS_MAX: usize = 16;

/// Instances of one incarnation of an admission module, or the one of a scheduler plugin: they are called from any thread.
pub struct Pool {
    pub generation: Generation,
    instances: Vec<Mutex<Instance>>,
    fault: Mutex<Option<Fault>>,
    faulted: Notify,
    answered: AtomicBool,
    tap: Arc<Tap>,
}

impl Pool {
    /// Of at least one instance.
    pub fn new(instances: Vec<Instance>, tap: Arc<Tap>) -> Self {
        let generation = instances.last().map_or_else(Default::default, Instance::generation);
        let instances = instances.into_iter().map(Mutex::new).collect();
        Self { generation, instances, fault: Mutex::default(), faulted: Notify::new(), answered: AtomicBool::new(false), tap }
    }

    /// Waits until an instance has faulted.
    pub async fn fault(&self) -> Fault {
        loop {
            let faulted = self.faulted.notified();
            tokio::pin!(faulted);
            faulted.as_mut().enable();
            if let Some(fault) = self.fault.lock().clone() {
                return fault;
            }
            faulted.await;
        }
    }

    /// Linear memory of all instances, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.instances.iter().filter_map(|i| i.try_lock().map(|i| i.memory_bytes())).sum()
    }

    /// Calls a free instance, or waits for one.
    pub fn call(&self, interface: u64, method: u16, params: &[u8], deadline: Duration) -> Result<Result<Vec<u8>, String>, Fault> {
        let first = thread_number() % self.instances.len().max(1);
        let order = (0..self.instances.len()).map(|i| &self.instances[(first + i) % self.instances.len()]);
        let free = order.clone().filter_map(Mutex::try_lock).find(|instance| instance.is_alive());
        let Some(mut instance) = free.or_else(|| order.map(Mutex::lock).find(|instance| instance.is_alive())) else {
            let fault = self.fault.lock().clone();
            let none = || Fault {
                kind: FaultKind::Trap,
                module: ModuleId::new(""),
                generation: self.generation,
                message: "no instance is left".into(),
            };
            return Err(fault.unwrap_or_else(none));
        };
        let answer = instance.call(interface, method, params, deadline);
        drop(instance);
        if self.tap.is_on() {
            self.tap.saw(self.generation, interface, method, params.to_vec(), tap::outcome(&answer));
        }
        let answer = answer.inspect_err(|fault| self.report(fault))?;
        self.answered.store(true, Relaxed);
        Ok(answer)
    }

    /// Whether any instance ever answered a call.
    pub fn answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    fn report(&self, fault: &Fault) {
        self.fault.lock().get_or_insert_with(|| fault.clone());
        self.faulted.notify_waiters();
    }
}

/// A small number for the calling thread, so that threads begin with different instances.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|n| *n)
}

/// One admission module.
pub struct Judge {
    name: String,
    spec: AdmissionSpec,
    gatherers: Vec<Gatherer>,
    grants: Grants,
    deadline: Duration,
    message_bytes: usize,
    counters: Arc<Counters>,
    pool: Option<Arc<Pool>>,
    /// Who judges a part of the requests, and which.
    heir: RwLock<Option<(Arc<Pool>, TakeOver)>>,
}

impl Judge {
    /// From its manifest; without a pool it is not running (yet) and its failure policy speaks.
    pub fn new(
        name: &str,
        spec: &AdmissionSpec,
        grants: Grants,
        limits: &ModuleLimits,
        counters: Arc<Counters>,
        pool: Option<Arc<Pool>>,
    ) -> Self {
        let gatherers = spec.related.iter().map(Gatherer::new).collect();
        Self {
            name: name.to_owned(),
            spec: spec.clone(),
            gatherers,
            grants,
            deadline: limits.admission_deadline,
            message_bytes: limits.message_bytes,
            counters,
            pool,
            heir: RwLock::default(),
        }
    }

    fn wants(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool {
        self.spec.is_in(phase) && self.spec.rules.iter().any(|rule| rule.matches(resource, subresource, operation))
    }

    /// The verdict, or why there is none.
    fn judge(&self, registry: &Registry, request: &AdmissionRequest<'_>, object: &Bytes, phase: Phase) -> Result<Verdict, String> {
        let Some(pool) = &self.pool else { return Err("the module is not running".into()) };
        let started = Instant::now();
        let params = self.params(registry, request, object, phase);
        if params.len() > self.message_bytes {
            return Err(format!("a request of {} bytes, more than {}", params.len(), self.message_bytes));
        }
        let target = request.target;
        let heir = self.heir.read().clone().filter(|(_, rule)| rule.takes(&target.namespace, &target.name));
        let call = |pool: &Pool| pool.call(<admission::Client as HasTypeId>::TYPE_ID, 0, &params, self.deadline);
        // One that takes over and cannot leaves the request to the one that can.
        let answer = heir.and_then(|(heir, _)| call(&heir).ok()).map_or_else(|| call(pool), Ok);
        self.counters.call(started.elapsed());
        match answer {
            Ok(Ok(results)) => read_verdict(&self.name, &results).map_err(|e| e.to_string()),
            Ok(Err(text)) => Err(text),
            Err(fault) => Err(fault.kind.to_string()),
        }
        .inspect_err(|_| Counters::add(&self.counters.errors))
    }

    fn params(&self, registry: &Registry, request: &AdmissionRequest<'_>, object: &Bytes, phase: Phase) -> Vec<u8> {
        let old: &[u8] = request.old.as_ref().map_or(&[], |o| o.body());
        let related = self.related(registry, request, object);
        let weight = object.len() + old.len() + related.iter().flat_map(|r| &r.rows).map(|row| row.json.len()).sum::<usize>();
        let words = u32::try_from(weight / 8 + 256).unwrap_or(u32::MAX);
        let mut message = message::Builder::new(message::HeapAllocator::new().first_segment_words(words));
        let mut review = message.init_root::<admission::review_params::Builder<'_>>().init_review();
        let target = request.target;
        let mut name = review.reborrow().init_target();
        name.set_group(&*target.resource.group);
        name.set_resource(&*target.resource.plural);
        name.set_namespace(&target.namespace);
        name.set_name(&target.name);
        review.set_operation(operation_on_wire(request.operation));
        review.set_version(&*target.resource.version);
        review.set_kind(&*target.resource.kind);
        review.set_subresource(&target.subresource);
        review.set_user_name(&request.caller.user);
        review.set_object(object);
        review.set_old_object(old);
        review.set_dry_run(request.dry_run == DryRun::All);
        review.set_phase(match phase {
            Phase::Mutating => wire::Phase::Mutating,
            Phase::Validating => wire::Phase::Validating,
        });
        let mut groups = review.reborrow().init_user_groups(u32::try_from(request.caller.groups.len()).unwrap_or(u32::MAX));
        for (i, group) in (0..).zip(&request.caller.groups) {
            groups.set(i, group);
        }
        let mut list = review.init_related(u32::try_from(related.len()).unwrap_or(u32::MAX));
        for (i, entry) in (0..).zip(&related) {
            let mut builder = list.reborrow().get(i);
            builder.set_name(entry.name);
            fill_rows(&entry.rows, builder);
        }
        serialize::write_message_to_words(&message)
    }

    fn related(&self, registry: &Registry, request: &AdmissionRequest<'_>, object: &Bytes) -> Vec<crate::gather::Gathered<'_>> {
        let target = request.target;
        let uid = request.old.as_ref().map_or("", |o| &o.meta().uid);
        let body = if object.is_empty() { request.old.as_ref().map_or(&[][..], |o| o.body()) } else { object };
        let centre = Centre {
            namespace: &target.namespace,
            name: &target.name,
            uid,
            object: None,
            body,
            field_names: FieldNames::TheRelated,
            resource: Some(target.resource.key()),
        };
        Gatherer::gather_all(&self.gatherers, registry, &self.grants, centre)
    }

    /// What a request gets when its judge failed.
    fn failed(&self, why: &str) -> Verdict {
        if self.spec.failure_policy == FailurePolicy::Ignore {
            tracing::warn!(module = self.name, why, "admission failed and is ignored");
            return Verdict { warnings: vec![format!("admission module {} failed and was ignored", self.name)], ..Verdict::allowed() };
        }
        tracing::warn!(module = self.name, why, "admission failed; the request is refused");
        let message = format!("admission module {:?} could not judge the request", self.name);
        Verdict { refused: Some(Failure { code: 500, reason: "InternalError".into(), message }), ..Verdict::default() }
    }
}

fn operation_on_wire(operation: Operation) -> wire::Operation {
    match operation {
        Operation::Create => wire::Operation::Create,
        Operation::Update => wire::Operation::Update,
        Operation::Delete => wire::Operation::Delete,
        Operation::Connect => wire::Operation::Connect,
    }
}

fn read_verdict(module: &str, mut results: &[u8]) -> capnp::Result<Verdict> {
    let message = crate::wire::read(&mut results)?;
    let verdict = message.get_root::<admission::review_results::Reader<'_>>()?.get_verdict()?;
    let warnings = verdict.get_warnings()?.iter().take(16).map(|w| Ok(w?.to_string()?)).collect::<capnp::Result<_>>()?;
    for note in verdict.get_audit_annotations()?.iter().take(ANNOTATIONS_MAX) {
        let key = format!("{module}.modules.pintle.dev/{}", note.get_name()?.to_str()?);
        audit::annotate(&key, note.get_value()?.to_str()?);
    }
    if !verdict.get_allowed() {
        let failure = verdict.get_failure()?;
        let refused =
            Failure { code: failure.get_code(), reason: failure.get_reason()?.to_string()?, message: failure.get_message()?.to_string()? };
        return Ok(Verdict { refused: Some(refused), edits: Vec::new(), warnings });
    }
    let edits = verdict.get_edits()?.iter().map(read_edit).collect::<capnp::Result<_>>()?;
    Ok(Verdict { refused: None, edits, warnings })
}

fn read_edit(edit: wire::edit::Reader<'_>) -> capnp::Result<Edit> {
    let op = match edit.get_op()? {
        wire::edit::Op::Add => EditOp::Add,
        wire::edit::Op::Replace => EditOp::Replace,
        wire::edit::Op::Remove => EditOp::Remove,
        wire::edit::Op::Unspecified => return Err(capnp::Error::failed("an edit that does not say what to do".into())),
    };
    let value = match op {
        EditOp::Remove => serde_json::Value::Null,
        _ => serde_json::from_slice(edit.get_value()?)
            .map_err(|e| capnp::Error::failed(format!("an edit with a value that is not JSON: {e}")))?,
    };
    Ok(Edit { op, path: edit.get_path()?.to_string()?, value })
}

/// All admission modules, in order. Installed in the registry.
pub struct Judges {
    registry: Weak<Registry>,
    list: RwLock<Arc<Vec<Arc<Judge>>>>,
}

impl Judges {
    /// Nobody yet.
    pub fn new(registry: &Arc<Registry>) -> Arc<Self> {
        Arc::new(Self { registry: Arc::downgrade(registry), list: RwLock::default() })
    }

    /// Puts a judge in its place; one of the same name goes.
    pub fn install(&self, judge: Judge) {
        self.change(|list| {
            if let Some(before) = list.iter().find(|j| j.name == judge.name) {
                judge.heir.write().clone_from(&before.heir.read());
            }
            list.retain(|j| j.name != judge.name);
            list.push(Arc::new(judge));
            list.sort_by(|a, b| (a.spec.order, &a.name).cmp(&(b.spec.order, &b.name)));
        });
    }

    /// Lets another version of the module judge a part of its requests, or none.
    pub fn set_heir(&self, name: &str, heir: Option<(Arc<Pool>, TakeOver)>) {
        self.list.read().iter().filter(|judge| judge.name == name).for_each(|judge| judge.heir.write().clone_from(&heir));
    }

    /// Takes a judge away.
    pub fn remove(&self, name: &str) {
        self.change(|list| list.retain(|j| j.name != name));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Judge>>)) {
        let mut current = self.list.write();
        let mut list = current.to_vec();
        change(&mut list);
        *current = Arc::new(list);
    }

    fn judge(&self, request: &AdmissionRequest<'_>, phase: Phase) -> Verdict {
        let Some(registry) = self.registry.upgrade() else { return Verdict::allowed() };
        let (list, target) = (self.list.read().clone(), request.target);
        let wants = |judge: &&Arc<Judge>| judge.wants(&target.resource, &target.subresource, request.operation, phase);
        let mut course = Course { registry: &registry, request, phase, sum: Verdict::allowed(), object: request.object.clone() };
        // Who may be asked once more, and how many edits there were when it had been asked.
        let mut again: Vec<(&Arc<Judge>, usize)> = Vec::new();
        for judge in list.iter().filter(wants) {
            if course.ask(judge) {
                return course.sum;
            }
            if judge.spec.reinvocation_policy == Reinvocation::IfNeeded && phase == Phase::Mutating {
                again.push((judge, course.sum.edits.len()));
            }
        }
        for (judge, edits_then) in again {
            if course.sum.edits.len() > edits_then && course.ask(judge) {
                break;
            }
        }
        course.sum
    }
}

/// One request on its way past the judges.
struct Course<'a> {
    registry: &'a Registry,
    request: &'a AdmissionRequest<'a>,
    phase: Phase,
    sum: Verdict,
    /// With the edits so far.
    object: Bytes,
}

impl Course<'_> {
    /// Asks one judge. True: the request is refused.
    fn ask(&mut self, judge: &Judge) -> bool {
        if !judge.spec.selectors.select(self.registry, self.request, &self.object) {
            return false;
        }
        let meant = match &judge.spec.conditions {
            conditions if conditions.is_empty() => Ok(true),
            conditions => conditions.hold(&review_of(self.request, &self.object, &self.request.target.resource.version), None),
        };
        if meant == Ok(false) {
            return false;
        }
        let verdict = meant.and_then(|_| judge.judge(self.registry, self.request, &self.object, self.phase));
        let edited = verdict.and_then(|verdict| {
            let object = edited(&self.object, &verdict.edits)?;
            Ok((verdict, object))
        });
        let verdict = match edited {
            Ok((verdict, next)) => {
                self.object = next;
                verdict
            }
            Err(why) => judge.failed(&why),
        };
        self.sum.warnings.extend(verdict.warnings);
        self.sum.refused = verdict.refused;
        if self.phase == Phase::Mutating && self.sum.refused.is_none() {
            self.sum.edits.extend(verdict.edits);
        }
        self.sum.refused.is_some()
    }
}

impl Admission for Judges {
    fn wants(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool {
        self.list.read().iter().any(|judge| judge.wants(resource, subresource, operation, phase))
    }

    fn mutate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { self.judge(request, Phase::Mutating) })
    }

    fn validate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { self.judge(request, Phase::Validating) })
    }
}
