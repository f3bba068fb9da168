//! The one task that owns a pod.
//!
//! Notes come in (a new desired state, a step's outcome, an exit, a probe's word); after each the worker asks `plan`, starts what it says,
//! saves the record and reports the status, in this order. Steps run as tasks of their own and answer with a note, so the worker never waits:
//! a delete is heard in the middle of a pull, a crash in the middle of a hook.
//!
//! Invariants: a container is started only after its attempt is in the record on disk; an exit is in the record before the runtime
//! forgets the container; a borrow of the view never lives across an await.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use pintle_runtime_bridge::{ContainerId, ContainerState, Exit, ExitCause, ImageInfo, Phase};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;

use super::note::{Done, Note, View};
use super::plan::{Action, Inputs, crash_loop_message, plan};
use super::record::{
    Attempt, Condemned, ContainerRecord, Doing, End, ImageState, Live, LiveContainer, PresentImage, SandboxRecord, Verdict, Waiting,
    all_containers, ephemeral_containers, is_static, name, namespace, target_of, uid,
};
use super::resize::{self, Capacity, Fit};
use super::status;
use super::steps::{self, StartEnd};
use crate::container::{pod_level, pod_resources, resources};
use crate::error::{Error, Result};
use crate::event::Kind;
use crate::file;
use crate::housekeeping::logs;
use crate::image::{Missing, back_off_message};
use crate::link::Reference;
use crate::log_file;
use crate::node::Node;
use crate::probe;
use crate::service::Told;
use crate::service::frontends::{self, Frontends};

/// Rounds of planning after one note at most: a plan that never settles is a defect, told in the log.
const ROUNDS_MAX: usize = 64;
/// Longest delay between tries of a set-up.
const RETRY_LONGEST: SignedDuration = SignedDuration::from_secs(10);
/// Most bytes of a termination message.
const MESSAGE_MAX: usize = 4096;

/// A pod's owner.
pub struct Worker {
    node: Rc<Node>,
    view: Rc<View>,
    gone: bool,
    live: Live,
    reported: Vec<PodCondition>,
    sent: Vec<u8>,
    saved: Vec<u8>,
    probes: BTreeMap<String, AbortHandle>,
    /// Exits of containers whose start has not been told yet, by runtime id.
    early: BTreeMap<String, Exit>,
    /// Keeps projected volumes up to date while the pod is set up.
    refresher: Option<AbortHandle>,
    notes: UnboundedSender<Note>,
    finished: bool,
}

impl Worker {
    /// A worker for a pod that was accepted now or, with what the runtime holds, before.
    pub fn new(node: Rc<Node>, view: Rc<View>, notes: UnboundedSender<Note>) -> Self {
        let reported = view.pod.borrow().status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        Self {
            node,
            view,
            gone: false,
            live: Live::default(),
            reported,
            sent: Vec::new(),
            saved: Vec::new(),
            probes: BTreeMap::new(),
            early: BTreeMap::new(),
            refresher: None,
            notes,
            finished: false,
        }
    }

    /// Takes over what runs: containers of the record are found again by id, or noted as ended.
    pub fn adopt(&mut self, containers: &BTreeMap<String, ContainerState>, sandbox_ready: bool) {
        let pod = self.pod();
        self.live.begun = true;
        for container in all_containers(&pod).chain(&ephemeral_containers(&pod)) {
            let Some(attempt) = self.attempt(&container.name).filter(|a| a.end.is_none()) else { continue };
            match containers.get(&attempt.id) {
                // The daemon before ended in the middle of the start: the rest of it follows.
                Some(state) if state.phase == Phase::Created || state.phase == Phase::Running && attempt.started_at.is_none() => {
                    self.finish_start(container.clone(), attempt, state.phase == Phase::Running);
                }
                Some(state) if state.phase == Phase::Running => {
                    self.node.roster.own(&attempt.id, uid(&pod));
                    let ready_before = ready_in_api(&pod, &format!("{}{}", self.node.machine.id_scheme, attempt.id));
                    let live = self.live.containers.entry(container.name.clone()).or_default();
                    live.started = container.startup_probe.is_none() || ready_before;
                    live.ready = container.readiness_probe.is_none() || ready_before;
                    self.probe(container, &attempt.id);
                }
                Some(state) => {
                    let exit = state.exit.clone().unwrap_or(Exit { code: 255, signal: None, cause: ExitCause::Unobserved, at_ns: 0 });
                    self.on_exit(&attempt.id, &exit);
                }
                None => self.end(
                    &container.name,
                    End {
                        code: 137,
                        signal: None,
                        reason: "ContainerStatusUnknown".into(),
                        message: "The container could not be located when the node looked for it".into(),
                        at: Timestamp::now(),
                    },
                ),
            }
        }
        if !sandbox_ready {
            self.lose_sandbox(&pod);
        } else if self.view.record.borrow().sandbox.is_some() {
            self.keep_fresh();
            self.open_ports();
            tokio::task::spawn_local(crate::cni::check(self.node.clone(), pod));
        }
    }

    /// Ports of this machine lead to the pod from now on.
    fn open_ports(&self) {
        let pod = self.pod();
        if self.node.cni.as_ref().is_some_and(|cni| cni.maps_ports(uid(&pod))) {
            return;
        }
        let addresses = if super::record::host_network(&pod) { Vec::new() } else { self.view.record.borrow().addresses.clone() };
        let ports = frontends::host_ports(&pod, &addresses);
        if !ports.is_empty() {
            self.node.proxy.tell(Told::Pod(uid(&pod).to_owned(), ports));
        }
    }

    /// The sandbox did not survive (the machine restarted): a new one is made, the old one's remains are removed.
    fn lose_sandbox(&mut self, pod: &Rc<Pod>) {
        let (lost, containers) = {
            let mut record = self.view.record.borrow_mut();
            record.sandbox_attempt += u32::from(record.sandbox.is_some());
            (record.sandbox.take(), record.container_ids())
        };
        if let Some(sandbox) = lost {
            self.say(None, Kind::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            self.live.tearing_down = true;
            let (node, pod, notes) = (self.node.clone(), pod.clone(), self.notes.clone());
            tokio::task::spawn_local(async move {
                // Until it is gone: the record names it no more.
                while let Err(error) = steps::tear_down(&node, &pod, &containers, Some(&sandbox)).await {
                    tracing::warn!(pod = name(&pod), error = Error::chain(&error), "a lost sandbox stays for now");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let _ = notes.send(done(Done::TornDown(Ok(()))));
            });
        }
    }

    /// Serves the pod until nothing of it is left.
    pub async fn run(mut self, mut notes: UnboundedReceiver<Note>) {
        let mut wake_at = self.settle();
        while !self.finished {
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => self.hear(note),
                    None => return,
                },
                () = sleep => {}
            }
            while let Ok(note) = notes.try_recv() {
                self.hear(note);
            }
            wake_at = self.settle();
        }
    }

    fn pod(&self) -> Rc<Pod> {
        self.view.pod.borrow().clone()
    }

    fn attempt(&self, container: &str) -> Option<Attempt> {
        self.view.record.borrow().containers.get(container).and_then(|r| r.current.clone())
    }

    fn live(&mut self, container: &str) -> &mut LiveContainer {
        self.live.containers.entry(container.to_owned()).or_default()
    }

    fn say(&self, container: Option<&str>, kind: Kind, reason: &str, message: &str) {
        self.node.events.record(&self.view.pod.borrow(), container, kind, reason, message);
    }

    /// Plans and acts until the plan is empty, saves, reports; gives the moment to look again.
    fn settle(&mut self) -> Option<Timestamp> {
        let mut wake_at = None;
        for round in 0..ROUNDS_MAX {
            let pod = self.pod();
            self.live.resize = self.room_to_resize(&pod);
            let plan = {
                let record = self.view.record.borrow();
                plan(&Inputs {
                    pod: &pod,
                    gone: self.gone,
                    record: &record,
                    live: &self.live,
                    network_ready: self.node.network_ready(),
                    law: self.node.crash_law(),
                    now: Timestamp::now(),
                })
            };
            wake_at = plan.wake_at;
            if plan.actions.is_empty() {
                break;
            }
            for action in plan.actions {
                self.act(&pod, action);
            }
            if self.finished {
                return None;
            }
            if round + 1 == ROUNDS_MAX {
                tracing::error!(pod = name(&pod), "the plan does not settle");
            }
        }
        if !self.finished {
            self.save();
            self.report();
        }
        wake_at
    }

    /// Whether there is room for what running containers ask for beyond what they have; `None`: they have it.
    fn room_to_resize(&self, pod: &Pod) -> Option<Fit> {
        let record = self.view.record.borrow();
        if resize::pending(pod, &record).is_empty() && !resize::pod_pending(pod, &record) {
            return None;
        }
        let facts = self.node.machine.facts();
        let capacity = Capacity { cpu_millis: facts.allocatable_cpu_millis, memory_bytes: facts.allocatable_memory_bytes };
        let views = self.node.roster.views();
        let others = views.iter().filter(|view| !Rc::ptr_eq(view, &self.view)).map(|view| (view.pod.borrow(), view.record.borrow()));
        let others: Vec<_> = others.filter(|(_, record)| record.ended.is_none()).collect();
        Some(resize::fit(pod, &record, others.iter().map(|(pod, record)| (&***pod, &**record)), capacity))
    }

    fn resize(&mut self, pod: &Pod, names: &[String]) {
        let record = self.view.record.borrow();
        let Some(sandbox) = record.sandbox.as_ref().map(|s| s.id.clone()) else { return };
        let found = names.iter().filter_map(|name| Some((find(pod, name)?, record.containers.get(name)?.running()?.id.clone())));
        let (containers, ids): (Vec<Container>, Vec<String>) = found.unzip();
        let limits: Vec<_> = ids.into_iter().zip(containers.iter().map(resources).map(resize::explicit)).collect();
        let given: Vec<_> = containers.into_iter().map(|c| (c.name, c.resources.unwrap_or_default())).collect();
        let (ceiling, after) = (resize::explicit(resize::ceiling(pod, &record)), resize::explicit(pod_resources(pod)));
        drop(record);
        self.live.resizing = true;
        let of_pod = pod_level(pod).cloned();
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let result = steps::resize(&node, &sandbox, ceiling, &limits, after).await;
            let _ = notes.send(done(Done::Resized(given, of_pod, result)));
        });
    }

    fn on_resized(&mut self, given: Vec<(String, ResourceRequirements)>, of_pod: Option<ResourceRequirements>, result: Result<()>) {
        self.live.resizing = false;
        self.live.resize_failure = result.as_ref().err().map(|error| Error::chain(error));
        self.live.resize_after = result.is_err().then(|| in_seconds(2));
        if result.is_err() {
            return;
        }
        if let Some(sandbox) = &mut self.view.record.borrow_mut().sandbox {
            sandbox.resources = of_pod;
        }
        for (name, resources) in given {
            if let Some(attempt) = self.view.record.borrow_mut().containers.get_mut(&name).and_then(|r| r.current.as_mut()) {
                attempt.resources = Some(resources);
            }
            self.say(Some(&name), Kind::Normal, "ResizeCompleted", &format!("Container resized: {name}"));
        }
    }

    fn act(&mut self, pod: &Rc<Pod>, action: Action) {
        match action {
            Action::SetUp => self.set_up(pod.clone()),
            Action::Pull(container) => self.pull(pod.clone(), &container),
            Action::Start(container) => self.create(pod.clone(), &container),
            Action::CrashLoop { container, delay } => {
                let message = crash_loop_message(delay, &container, pod);
                self.say(Some(&container), Kind::Warning, "BackOff", &message.replacen("back-off", "Back-off", 1));
                self.live(&container).waiting = Some(Waiting { reason: "CrashLoopBackOff".into(), message });
            }
            Action::Stop { container, grace, why } => self.stop(pod.clone(), &container, grace, &why),
            Action::Kill(container) => self.kill(&container),
            Action::Resize(containers) => self.resize(pod, &containers),
            Action::Fail(verdict) => {
                self.say(None, Kind::Normal, &verdict.reason, &verdict.message);
                self.view.record.borrow_mut().verdict = Some(verdict);
            }
            Action::End(ending) => self.view.record.borrow_mut().ended = Some(ending),
            Action::TearDown => self.tear_down(pod.clone()),
            Action::Remove => self.remove(pod),
            Action::Forget => self.forget(pod),
        }
    }

    fn set_up(&mut self, pod: Rc<Pod>) {
        (self.live.setting_up, self.live.begun) = (true, true);
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let result = steps::set_up(&node, &pod).await;
            let _ = notes.send(done(Done::SetUp(result)));
        });
    }

    fn pull(&mut self, pod: Rc<Pod>, name: &str) {
        let Some(container) = find(&pod, name) else { return };
        self.live(name).doing = Doing::Pulling;
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let result = node.images.ensure(&pod, &container).await;
            let _ = notes.send(done(Done::Pulled(container.name, result)));
        });
    }

    fn create(&mut self, pod: Rc<Pod>, name: &str) {
        let Some(container) = find(&pod, name) else { return };
        let ImageState::Present(image) = std::mem::take(&mut self.live(name).image) else { return };
        let (sandbox, restarts, ceiling) = {
            let record = self.view.record.borrow();
            let restarts = record.containers.get(name).map_or(0, |r| if r.current.is_some() { r.restarts + 1 } else { r.restarts });
            // Started again with other amounts than before, it must find room in the pod's own limits.
            let before = record.containers.get(name).and_then(|r| r.current.as_ref());
            let changed = before.is_some_and(|attempt| resize::way(&container, attempt).is_some());
            (record.sandbox.clone(), restarts, changed.then(|| resize::explicit(resize::ceiling(&pod, &record))))
        };
        let Some(sandbox) = sandbox else { return };
        let target = target_of(&pod, name).map(|target| {
            let record = self.view.record.borrow();
            let running = record.containers.get(target).and_then(|r| r.running());
            running.map(|attempt| attempt.id.clone()).ok_or_else(|| target.to_owned())
        });
        self.live(name).doing = Doing::Starting;
        let (node, notes) = (self.node.clone(), self.notes.clone());
        let start = steps::Start { pod, container, image, sandbox, restarts, ceiling, target };
        tokio::task::spawn_local(async move {
            let result = steps::create(&node, &start).await;
            let _ = notes.send(done(Done::Created(start.container.name, result)));
        });
    }

    /// Starts a created container, unless it `runs` already, and does what follows a start.
    fn finish_start(&mut self, container: Container, attempt: Attempt, runs: bool) {
        let pod = self.pod();
        self.node.roster.own(&attempt.id, uid(&pod));
        self.live(&container.name).doing = Doing::Starting;
        let address = self.view.record.borrow().addresses.first().copied();
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let tell = notes.clone();
            let started = || {
                let _ = tell.send(done(Done::Started(container.name.clone(), Timestamp::now())));
            };
            let end = steps::start(&node, &pod, &container, &attempt, runs, address, started).await;
            let _ = notes.send(done(Done::StartEnd(container.name, end)));
        });
    }

    fn stop(&mut self, pod: Rc<Pod>, name: &str, grace: SignedDuration, why: &str) {
        let Some(container) = find(&pod, name) else { return };
        let Some(attempt) = self.attempt(name) else { return };
        self.say(Some(name), Kind::Normal, "Killing", why);
        let kill_at = Timestamp::now().saturating_add(grace).unwrap_or(Timestamp::MAX);
        self.live(name).doing = Doing::Stopping(kill_at);
        let address = self.view.record.borrow().addresses.first().copied();
        let (node, notes) = (self.node.clone(), self.notes.clone());
        let grace = Duration::try_from(grace).unwrap_or_default();
        tokio::task::spawn_local(async move {
            let note = match steps::stop(&node, &pod, &container, &attempt.id, grace, address).await {
                Ok(exit) => Note::Exited { id: attempt.id, exit },
                Err(error) => {
                    tracing::warn!(container = container.name, error = Error::chain(&error), "stopping failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    done(Done::StopFailed(container.name))
                }
            };
            let _ = notes.send(note);
        });
    }

    fn kill(&mut self, name: &str) {
        // The stop that is under way sees the exit.
        self.live(name).doing = Doing::Stopping(Timestamp::now());
        let Some(id) = self.attempt(name).and_then(|a| ContainerId::parse(&a.id).ok()) else { return };
        let runtime = self.node.runtime.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = runtime.kill(&id).await {
                tracing::warn!(container = %id, %error, "killing failed");
            }
        });
    }

    /// From now on projected volumes follow their objects.
    fn keep_fresh(&mut self) {
        let task = tokio::task::spawn_local(steps::keep_fresh(self.node.clone(), self.view.clone()));
        if let Some(old) = self.refresher.replace(task.abort_handle()) {
            old.abort();
        }
    }

    fn tear_down(&mut self, pod: Rc<Pod>) {
        self.live.tearing_down = true;
        if let Some(refresher) = self.refresher.take() {
            refresher.abort();
        }
        self.node.proxy.tell(Told::Pod(uid(&pod).to_owned(), Frontends::new()));
        let (containers, sandbox) = {
            let record = self.view.record.borrow();
            (record.container_ids(), record.sandbox.clone())
        };
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let result = steps::tear_down(&node, &pod, &containers, sandbox.as_ref()).await;
            let _ = notes.send(done(Done::TornDown(result)));
        });
    }

    fn remove(&mut self, pod: &Rc<Pod>) {
        self.live.removing = true;
        let status = self.status_bytes();
        let reference = reference(pod);
        let (node, notes) = (self.node.clone(), self.notes.clone());
        tokio::task::spawn_local(async move {
            let result = steps::remove(&node, &reference, status).await;
            let _ = notes.send(done(Done::Removed(result)));
        });
    }

    fn forget(&mut self, pod: &Pod) {
        self.finished = true;
        self.node.reporter.withdraw(uid(pod));
        let paths = self.node.paths(pod);
        for path in [&paths.dir, &paths.logs] {
            if let Err(error) = file::remove_tree(path) {
                tracing::warn!(pod = name(pod), error = Error::chain(&error), "a pod's files stay");
            }
        }
        self.node.roster.forget(uid(pod));
        self.node.statics.look();
    }

    fn hear(&mut self, note: Note) {
        match note {
            Note::Desired(pod) => {
                // A spec that changed may mention another image: failures of the old one do not count.
                if self.pod().metadata.generation != pod.metadata.generation {
                    for live in self.live.containers.values_mut().filter(|l| matches!(l.image, ImageState::Failed(_))) {
                        (live.image, live.waiting) = (ImageState::Unknown, None);
                    }
                }
                self.gone = false;
                *self.view.pod.borrow_mut() = pod;
            }
            Note::Gone => self.gone = true,
            Note::Look => {}
            Note::Resend => {
                self.sent.clear();
                // What failed for want of a kernel may be tried again at once.
                (self.live.set_up_after, self.live.set_up_failures, self.live.remove_after) = (None, 0, None);
                self.live.containers.values_mut().for_each(|live| live.retry_at = None);
            }
            Note::Exited { id, exit } => self.on_exit(&id, &exit),
            Note::Evict(verdict) => self.on_evict(verdict),
            Note::Probe(verdict) => self.on_probe(&verdict),
            Note::Done(done) => self.on_done(*done),
        }
    }

    /// The first decision counts, and one that comes when all is over does not.
    fn on_evict(&mut self, verdict: Verdict) {
        let decided = {
            let record = self.view.record.borrow();
            record.verdict.is_some() || record.ended.is_some()
        };
        if !decided {
            self.say(None, Kind::Warning, &verdict.reason, &verdict.message);
            self.view.record.borrow_mut().verdict = Some(verdict);
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::SetUp(result) => self.on_set_up(result),
            Done::Pulled(container, result) => self.on_pulled(&container, result),
            Done::PullBackOff(container) => self.on_pull_back_off(&container),
            Done::Created(container, result) => self.on_created(&container, result),
            Done::Started(container, at) => self.on_started(&container, at),
            Done::StartEnd(container, end) => self.on_start_end(&container, end),
            Done::StopFailed(container) => {
                if matches!(self.live(&container).doing, Doing::Stopping(_)) {
                    self.live(&container).doing = Doing::Idle;
                }
            }
            Done::Resized(given, of_pod, result) => self.on_resized(given, of_pod, result),
            Done::TornDown(Ok(())) => {
                (self.live.tearing_down, self.live.begun) = (false, false);
                self.view.record.borrow_mut().sandbox = None;
            }
            Done::TornDown(Err(error)) => {
                self.live.tearing_down = false;
                self.live.tear_down_after = Some(in_seconds(1));
                self.say(None, Kind::Warning, "FailedKillPod", &format!("error killing pod: {}", Error::chain(&error)));
            }
            // Removed: the row's end will follow; until then there is nothing to do.
            Done::Removed(Ok(())) => {}
            Done::Removed(Err(error)) => {
                self.live.removing = false;
                self.live.remove_after = Some(in_seconds(1));
                tracing::debug!(error = Error::chain(&error), "removal is tried again");
            }
        }
    }

    fn on_set_up(&mut self, result: Result<SandboxRecord>) {
        self.live.setting_up = false;
        match result {
            Ok(sandbox) => {
                (self.live.set_up_failures, self.live.set_up_after) = (0, None);
                {
                    let mut record = self.view.record.borrow_mut();
                    record.addresses.clone_from(&sandbox.addresses);
                    record.sandbox = Some(sandbox);
                }
                self.keep_fresh();
                self.open_ports();
            }
            Err(error) => {
                let delay = SignedDuration::from_millis(250 << self.live.set_up_failures.min(10)).min(RETRY_LONGEST);
                self.live.set_up_failures += 1;
                self.live.set_up_after = Timestamp::now().checked_add(delay).ok();
                let message = Error::chain(&error);
                match error {
                    Error::Away => {}
                    Error::ContainerConfig(_)
                    | Error::Driver { .. }
                    | Error::Refused { .. }
                    | Error::Malformed { .. }
                    | Error::Unsupported(_)
                    | Error::UnsafePath(_) => {
                        self.say(None, Kind::Warning, "FailedMount", &format!("MountVolume.SetUp failed: {message}"));
                    }
                    _ => self.say(None, Kind::Warning, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {message}")),
                }
            }
        }
    }

    fn on_pulled(&mut self, container: &str, result: Result<ImageInfo, Missing>) {
        let notes = self.notes.clone();
        let live = self.live(container);
        if live.doing == Doing::Pulling {
            live.doing = Doing::Idle;
        }
        match result {
            Ok(info) => {
                let id = info.id.to_string();
                let shown = info.digests.first().cloned().unwrap_or_else(|| id.clone());
                live.image = ImageState::Present(PresentImage { id, shown });
                live.waiting = None;
            }
            Err(missing) => {
                live.image = ImageState::Failed(missing.retry_at);
                let name = container.to_owned();
                if let Some(at) = missing.retry_at.filter(|_| missing.reason == "ErrImagePull") {
                    let delay = until(at).div_f32(2.0).min(Duration::from_secs(2));
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(delay).await;
                        let _ = notes.send(done(Done::PullBackOff(name)));
                    });
                }
                live.waiting = Some(Waiting { reason: missing.reason.to_owned(), message: missing.message });
            }
        }
    }

    fn on_pull_back_off(&mut self, name: &str) {
        let image = find(&self.pod(), name).and_then(|c| c.image).unwrap_or_default();
        let live = self.live(name);
        let Some(waiting) = live.waiting.as_mut().filter(|w| w.reason == "ErrImagePull") else { return };
        let message = back_off_message(&image, &waiting.message);
        *waiting = Waiting { reason: "ImagePullBackOff".into(), message };
        self.say(Some(name), Kind::Normal, "BackOff", &format!("Back-off pulling image {image:?}"));
        self.say(Some(name), Kind::Warning, "Failed", "Error: ImagePullBackOff");
    }

    fn on_created(&mut self, name: &str, result: Result<Attempt>) {
        let attempt = match result {
            Ok(attempt) => attempt,
            Err(error) => return self.on_create_failed(name, &error),
        };
        let now = Timestamp::now();
        let law = self.node.crash_law();
        {
            let mut record = self.view.record.borrow_mut();
            let slot = record.containers.entry(name.to_owned()).or_default();
            advance(slot, attempt.clone(), law, now);
        }
        self.save();
        self.say(Some(name), Kind::Normal, "Created", &format!("Container created: {name}"));
        match find(&self.pod(), name) {
            Some(container) => self.finish_start(container, attempt, false),
            None => self.live(name).doing = Doing::Idle,
        }
    }

    fn on_create_failed(&mut self, name: &str, error: &Error) {
        let message = Error::chain(error);
        let reason = match error {
            Error::ContainerConfig(_) | Error::Malformed { .. } | Error::UnsafePath(_) | Error::Unsupported(_) => {
                "CreateContainerConfigError"
            }
            _ => "CreateContainerError",
        };
        if !matches!(error, Error::Away) {
            self.say(Some(name), Kind::Warning, "Failed", &format!("Error: {message}"));
        }
        let live = self.live(name);
        live.doing = Doing::Idle;
        live.waiting = Some(Waiting { reason: reason.into(), message });
        live.retry_at = Some(in_seconds(2));
    }

    fn on_started(&mut self, name: &str, at: Timestamp) {
        let pod = self.pod();
        let Some(container) = find(&pod, name) else { return };
        let id = {
            let mut record = self.view.record.borrow_mut();
            let Some(attempt) = record.containers.get_mut(name).and_then(|r| r.current.as_mut()) else { return };
            attempt.started_at.get_or_insert(at);
            attempt.end.is_none().then(|| attempt.id.clone())
        };
        self.say(Some(name), Kind::Normal, "Started", &format!("Container started: {name}"));
        let live = self.live(name);
        live.waiting = None;
        live.retry_at = None;
        if let Some(id) = id {
            live.started = container.startup_probe.is_none();
            live.ready = container.readiness_probe.is_none();
            self.probe(&container, &id);
            if let Some(exit) = self.early.remove(&id) {
                self.on_exit(&id, &exit);
            }
        }
    }

    fn on_start_end(&mut self, name: &str, end: StartEnd) {
        let live = self.live(name);
        if live.doing == Doing::Starting {
            live.doing = Doing::Idle;
        }
        match end {
            StartEnd::Up => {
                if let Some(attempt) = self.view.record.borrow_mut().containers.get_mut(name).and_then(|r| r.current.as_mut()) {
                    attempt.hook_done = true;
                }
            }
            StartEnd::Failed(message) => {
                self.say(Some(name), Kind::Warning, "Failed", &format!("Error: {message}"));
                let (code, reason) = (128, "StartError".to_owned());
                self.end(name, End { code, signal: None, reason, message, at: Timestamp::now() });
            }
            StartEnd::HookFailed(message) => {
                self.say(Some(name), Kind::Warning, "FailedPostStartHook", &format!("PostStartHook failed: {message}"));
                self.live(name).condemned = Some(Condemned { why: "FailedPostStartHook".into(), grace_seconds: None });
            }
        }
    }

    fn on_exit(&mut self, id: &str, exit: &Exit) {
        let pod = self.pod();
        let found = {
            let mut record = self.view.record.borrow_mut();
            record.attempt_mut(id).filter(|(_, attempt)| attempt.end.is_none()).map(|(name, attempt)| (name.clone(), attempt.clone()))
        };
        let Some((name, attempt)) = found else { return };
        if attempt.started_at.is_none() && self.live(&name).doing == Doing::Starting {
            // Whether it ran and ended, or never came up, is for the start to tell.
            self.early.insert(id.to_owned(), exit.clone());
            return;
        }
        let container = find(&pod, &name);
        let reason = match exit.cause {
            ExitCause::OutOfMemory => "OOMKilled",
            ExitCause::Unobserved => "ContainerStatusUnknown",
            ExitCause::Ended | ExitCause::MachineRestarted => {
                if exit.code == 0 {
                    "Completed"
                } else {
                    "Error"
                }
            }
        };
        let at = Timestamp::from_nanosecond(i128::from(exit.at_ns)).ok().filter(|at| at.as_second() > 0).unwrap_or_else(Timestamp::now);
        let message = container.map(|c| termination_message(&c, &attempt, exit.code)).unwrap_or_default();
        self.end(&name, End { code: exit.code, signal: exit.signal, reason: reason.into(), message, at });
    }

    /// Notes the end of a container's current attempt, on disk first, then has the runtime forget it (its log stays).
    fn end(&mut self, name: &str, end: End) {
        let id = {
            let mut record = self.view.record.borrow_mut();
            let Some(attempt) = record.containers.get_mut(name).and_then(|r| r.current.as_mut()) else { return };
            attempt.end = Some(end);
            attempt.id.clone()
        };
        if let Some(probe) = self.probes.remove(name) {
            probe.abort();
        }
        self.early.remove(&id);
        let live = self.live(name);
        (live.ready, live.started, live.condemned, live.waiting) = (false, false, None, None);
        if matches!(live.doing, Doing::Stopping(_)) {
            live.doing = Doing::Idle;
        }
        self.save();
        self.node.roster.disown(&id);
        let runtime = self.node.runtime.clone();
        tokio::task::spawn_local(async move {
            let Ok(id) = ContainerId::parse(&id) else { return };
            steps::until_removed("an ended container", async || runtime.remove(&id).await).await;
        });
    }

    fn probe(&mut self, container: &Container, id: &str) {
        if !probe::has_any(container) {
            return;
        }
        let notes = self.notes.clone();
        let tell = move |verdict| {
            let _ = notes.send(Note::Probe(verdict));
        };
        let address = self.view.record.borrow().addresses.first().copied();
        let task = probe::watch(self.node.clone(), self.pod(), container.clone(), id.to_owned(), address, tell);
        let handle = tokio::task::spawn_local(task).abort_handle();
        if let Some(old) = self.probes.insert(container.name.clone(), handle) {
            old.abort();
        }
    }

    fn on_probe(&mut self, verdict: &probe::Verdict) {
        let name = {
            let mut record = self.view.record.borrow_mut();
            record.attempt_mut(&verdict.id).filter(|(_, a)| a.end.is_none()).map(|(name, _)| name.clone())
        };
        let Some(name) = name else { return };
        let live = self.live(&name);
        let word = match (verdict.kind, verdict.success) {
            (probe::Kind::Readiness, word) => {
                live.ready = word;
                return;
            }
            (probe::Kind::Startup, true) => {
                live.started = true;
                return;
            }
            (probe::Kind::Liveness, true) => return,
            (probe::Kind::Startup, false) => "startup",
            (probe::Kind::Liveness, false) => "liveness",
        };
        let why = format!("Container {name} failed {word} probe, will be restarted");
        live.condemned = Some(Condemned { why, grace_seconds: verdict.grace_seconds });
    }

    fn save(&mut self) {
        let pod = self.pod();
        let dir = self.node.paths(&pod).dir;
        let result = (|| {
            let record = serde_json::to_vec(&*self.view.record.borrow())
                .map_err(|source| Error::Malformed { what: "a pod's record".into(), source })?;
            let bytes = [record.as_slice(), b"\n"].concat();
            // The object is written along: a daemon that starts without the kernel needs both.
            let object = serde_json::to_vec(&*pod).map_err(|source| Error::Malformed { what: "a pod".into(), source })?;
            let both = [bytes.as_slice(), &object].concat();
            if both == self.saved {
                return Ok(());
            }
            file::make_dir(&dir, 0o700)?;
            file::replace(&dir.join("record.json"), &both, 0o600)?;
            self.saved = both;
            Ok::<_, Error>(())
        })();
        if let Err(error) = result {
            tracing::error!(pod = name(&pod), error = Error::chain(&error), "the record could not be written");
        }
    }

    fn status(&self) -> k8s_openapi::api::core::v1::PodStatus {
        let pod = self.view.pod.borrow();
        status::compute(&status::Inputs {
            pod: &pod,
            record: &self.view.record.borrow(),
            live: &self.live,
            host_addresses: &self.node.machine.addresses,
            reported: &self.reported,
            id_scheme: &self.node.machine.id_scheme,
            now: Timestamp::now(),
        })
    }

    fn status_bytes(&mut self) -> Vec<u8> {
        let status = self.status();
        self.reported = status.conditions.clone().unwrap_or_default();
        serde_json::to_vec(&status).unwrap_or_default()
    }

    fn report(&mut self) {
        let reference = match is_static(&self.pod()) {
            true => self.node.statics.mirror_of(&self.pod()),
            false => Some(reference(&self.pod())),
        };
        let Some(reference) = reference.filter(|_| !self.gone && !self.live.removing) else { return };
        let bytes = self.status_bytes();
        if bytes != self.sent {
            self.sent = bytes.clone();
            self.node.reporter.submit(reference, bytes);
        }
    }
}

/// A step's outcome as a note.
fn done(done: Done) -> Note {
    Note::Done(Box::new(done))
}

/// A new attempt takes the place of the one that ended; the one before that leaves nothing behind.
fn advance(slot: &mut ContainerRecord, attempt: Attempt, law: crate::backoff::Law, now: Timestamp) {
    if let Some(ended) = slot.current.take() {
        slot.restarts += 1;
        if let Some(end) = &ended.end {
            slot.backoff.grow(law, end.at, now);
        }
        if let Some(old) = slot.previous.replace(ended) {
            logs::remove(&old.log);
            let _ = std::fs::remove_file(&old.message_file);
        }
    }
    slot.current = Some(attempt);
}

fn termination_message(container: &Container, attempt: &Attempt, code: i32) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(&attempt.message_file) {
        let _ = file.take(MESSAGE_MAX as u64).read_to_end(&mut bytes);
    }
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if bytes.is_empty() && fall_back && code != 0 {
        return log_file::last_words(&attempt.log);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ready_in_api(pod: &Pod, wanted: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or(&[]);
    statuses.iter().any(|s| s.container_id.as_deref() == Some(wanted) && s.ready)
}

fn find(pod: &Pod, name: &str) -> Option<Container> {
    all_containers(pod).find(|c| c.name == name).cloned().or_else(|| ephemeral_containers(pod).into_iter().find(|c| c.name == name))
}

/// How the kernel names a pod.
pub fn reference(pod: &Pod) -> Reference {
    Reference::core("pods", namespace(pod), name(pod)).with_uid(uid(pod))
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
