//! What to do next for a pod.
//!
//! Pure: no clock, no I/O, ordered maps. The desired pod, the record and what is in flight come in; actions and the next moment to look again
//! come out. The worker marks an action as in flight before it asks again, so the same state never yields the same action twice.
//!
//! Order of a pod's life: set up (volumes, sandbox, network), init containers one after another, containers in the order of the spec;
//! then restarts by policy and back-off; at the end all containers, sidecars last and in reverse, then the sandbox, then the object itself.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::record::{
    Doing, End, Ending, ImageState, Live, LiveContainer, Record, Verdict, ephemeral_containers, host_network, init_containers, is_sidecar,
    main_containers, restarts,
};
use super::resize::{Fit, Way, pending, pod_pending};
use crate::backoff::{Law, go_duration};

/// How often a resize that waits for room looks for it.
const LOOK_FOR_ROOM: SignedDuration = SignedDuration::from_secs(3);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Volumes, sandbox, network.
    SetUp,
    /// Have the container's image here, by its pull policy.
    Pull(String),
    /// Create and start the container.
    Start(String),
    /// The container waits to be restarted: say so.
    CrashLoop {
        /// Whose.
        container: String,
        /// The delay that counts.
        delay: SignedDuration,
    },
    /// preStop, stop signal, and SIGKILL at the end of the grace.
    Stop {
        /// Whose.
        container: String,
        /// From now to SIGKILL.
        grace: SignedDuration,
        /// For the event.
        why: String,
    },
    /// Kill at once a container whose stop is under way: its grace was shortened.
    Kill(String),
    /// Give running containers, and the pod as a whole, what they ask for.
    Resize(Vec<String>),
    /// The pod fails by the node's decision.
    Fail(Verdict),
    /// The pod has ended for good.
    End(Ending),
    /// Remove sandbox, network and volumes.
    TearDown,
    /// Nothing is left here: report and ask the kernel to delete the object.
    Remove,
    /// Nothing is left here and the object is gone: forget the pod.
    Forget,
}

/// What comes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To do now, all of them.
    pub actions: Vec<Action>,
    /// Look again no later than this.
    pub wake_at: Option<Timestamp>,
}

/// What comes in besides the pod itself.
pub struct Inputs<'a> {
    /// The pod as the kernel has it.
    pub pod: &'a Pod,
    /// Its object no longer exists.
    pub gone: bool,
    /// What is remembered.
    pub record: &'a Record,
    /// What is in flight.
    pub live: &'a Live,
    /// The node can give addresses.
    pub network_ready: bool,
    /// Of restarts.
    pub law: Law,
    /// The time.
    pub now: Timestamp,
}

/// What to do next.
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut out = Plan::default();
    let dying = inputs.gone || inputs.pod.metadata.deletion_timestamp.is_some() || inputs.record.verdict.is_some();
    if !dying && inputs.record.ended.is_none() && !ended_in_api(inputs.pod) {
        run(inputs, &mut out);
    }
    if out.actions.iter().any(|action| matches!(action, Action::Fail(_) | Action::End(_))) {
        return out; // the worker notes it and asks again
    }
    if dying {
        finish(inputs, &mut out);
    } else if inputs.record.ended.is_some() || ended_in_api(inputs.pod) {
        release(inputs, &mut out);
    }
    out
}

impl Plan {
    fn at(&mut self, moment: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(moment, |at| at.min(moment)));
    }
}

impl Inputs<'_> {
    fn live(&self, name: &str) -> LiveContainer {
        self.live.containers.get(name).cloned().unwrap_or_default()
    }

    fn running(&self, name: &str) -> bool {
        self.record.containers.get(name).is_some_and(|r| r.running().is_some())
    }

    /// Seconds between the first signal and SIGKILL.
    fn grace(&self) -> SignedDuration {
        let wanted = self.pod.metadata.deletion_grace_period_seconds.filter(|_| !self.gone);
        let of_spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let asked = wanted.or(of_spec).unwrap_or(30);
        let allowed = self.record.verdict.as_ref().and_then(|verdict| verdict.grace_seconds).unwrap_or(asked);
        SignedDuration::from_secs(asked.min(allowed).clamp(0, 365 * 86400))
    }
}

fn ended_in_api(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod should run.
fn run(inputs: &Inputs<'_>, out: &mut Plan) {
    if let Some(seconds) = inputs.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) {
        let deadline = inputs.record.accepted_at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if inputs.now >= deadline {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            return out.actions.push(Action::Fail(Verdict::new("DeadlineExceeded", message)));
        }
        out.at(deadline);
    }
    if inputs.record.sandbox.is_none() {
        return set_up(inputs, out);
    }
    let containers = main_containers(inputs.pod);
    if !containers.is_empty() && containers.iter().all(|c| over(inputs, c)) {
        if stop_sidecars(inputs, out) {
            let fine = containers.iter().all(|c| ended(inputs, c).is_some_and(|end| end.code == 0));
            out.actions.push(Action::End(if fine { Ending::Succeeded } else { Ending::Failed }));
        }
        return;
    }
    for container in ephemeral_containers(inputs.pod) {
        advance(inputs, out, &container, Role::Main);
    }
    let initialized = inputs.record.initialized_before(inputs.pod);
    if !initialized && initialization_failed(inputs) {
        out.actions.push(Action::End(Ending::Failed));
        return;
    }
    if !initialize(inputs, out, initialized) {
        return;
    }
    resize(inputs, out);
    for container in containers {
        if !advance(inputs, out, container, Role::Main) {
            break;
        }
    }
}

/// Gives containers what they now ask for, when the machine has room; those that restart for it are stopped.
fn resize(inputs: &Inputs<'_>, out: &mut Plan) {
    let live = inputs.live;
    if matches!(live.resize, Some(Fit::Deferred(_))) {
        return out.at(inputs.now.saturating_add(LOOK_FOR_ROOM).unwrap_or(inputs.now));
    }
    if live.resize != Some(Fit::Fits) || live.resizing {
        return;
    }
    if let Some(at) = live.resize_after.filter(|at| *at > inputs.now) {
        return out.at(at);
    }
    let (restart, in_place): (Vec<_>, Vec<_>) = pending(inputs.pod, inputs.record).into_iter().partition(|(_, way)| *way == Way::Restart);
    for (container, _) in restart.into_iter().filter(|(name, _)| inputs.live(name).doing == Doing::Idle) {
        let why = format!("Container {container} resize requires restart");
        out.actions.push(Action::Stop { container, grace: inputs.grace(), why });
    }
    if !in_place.is_empty() || pod_pending(inputs.pod, inputs.record) {
        out.actions.push(Action::Resize(in_place.into_iter().map(|(name, _)| name).collect()));
    }
}

fn set_up(inputs: &Inputs<'_>, out: &mut Plan) {
    if inputs.live.setting_up || inputs.live.tearing_down {
        return;
    }
    if let Some(at) = inputs.live.set_up_after.filter(|at| *at > inputs.now) {
        return out.at(at);
    }
    if inputs.network_ready || host_network(inputs.pod) {
        out.actions.push(Action::SetUp);
    }
}

/// Brings init containers forward; whether the main ones may start.
fn initialize(inputs: &Inputs<'_>, out: &mut Plan, initialized: bool) -> bool {
    for container in init_containers(inputs.pod) {
        let record = inputs.record.containers.get(&container.name);
        if is_sidecar(container) {
            advance(inputs, out, container, Role::Sidecar);
            let up = inputs.running(&container.name) && inputs.live(&container.name).started;
            if !up && !initialized {
                return false;
            }
            continue;
        }
        if initialized || record.and_then(|r| r.ended()).is_some_and(|end| end.code == 0) {
            continue;
        }
        advance(inputs, out, container, Role::Init);
        return false;
    }
    true
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    Sidecar,
    Main,
}

/// Brings one container forward; whether the next one in order may be looked at (a start, with its hook, is waited for).
fn advance(inputs: &Inputs<'_>, out: &mut Plan, container: &Container, role: Role) -> bool {
    let name = &container.name;
    let live = inputs.live(name);
    match live.doing {
        Doing::Starting => return false,
        Doing::Pulling | Doing::Stopping(_) => return true,
        Doing::Idle => {}
    }
    let record = inputs.record.containers.get(name);
    if let Some(attempt) = record.and_then(|r| r.running()) {
        let wanted = container.image.as_deref().unwrap_or_default();
        if let Some(condemned) = &live.condemned {
            let grace = condemned.grace_seconds.map_or_else(|| inputs.grace(), SignedDuration::from_secs);
            out.actions.push(Action::Stop { container: name.clone(), grace, why: condemned.why.clone() });
        } else if attempt.image != wanted {
            let why = format!("Container {name} definition changed, will be restarted");
            out.actions.push(Action::Stop { container: name.clone(), grace: inputs.grace(), why });
        }
        return true;
    }
    if record.and_then(|r| r.open()).is_some() {
        return false; // created, and its start has not been told yet
    }
    if let Some(end) = record.and_then(|r| r.ended()) {
        if !restarts(inputs.pod, container, role != Role::Main, end.code) {
            return true;
        }
        let backoff = record.map(|r| r.backoff.clone()).unwrap_or_default();
        if let Some(at) = backoff.allowed_at(inputs.law, end.at, inputs.now) {
            out.at(at);
            if live.waiting.as_ref().is_none_or(|w| w.reason != "CrashLoopBackOff") {
                out.actions.push(Action::CrashLoop { container: name.clone(), delay: backoff.delay() });
            }
            return true;
        }
    }
    begin(inputs, out, name, &live)
}

/// Pulls or starts.
fn begin(inputs: &Inputs<'_>, out: &mut Plan, name: &str, live: &LiveContainer) -> bool {
    if let Some(at) = live.retry_at.filter(|at| *at > inputs.now) {
        out.at(at);
        return true;
    }
    match &live.image {
        ImageState::Present(_) => {
            out.actions.push(Action::Start(name.to_owned()));
            return false;
        }
        ImageState::Failed(None) => {}
        ImageState::Failed(Some(at)) if *at > inputs.now => out.at(*at),
        ImageState::Failed(Some(_)) | ImageState::Unknown => out.actions.push(Action::Pull(name.to_owned())),
    }
    true
}

/// The message of CrashLoopBackOff.
pub fn crash_loop_message(delay: SignedDuration, container: &str, pod: &Pod) -> String {
    use super::record::{name, namespace, uid};
    let pod = format!("{}_{}({})", name(pod), namespace(pod), uid(pod));
    format!("back-off {} restarting failed container={container} pod={pod}", go_duration(delay))
}

fn ended<'a>(inputs: &'a Inputs<'_>, container: &Container) -> Option<&'a End> {
    inputs.record.containers.get(&container.name).and_then(|record| record.ended())
}

fn over(inputs: &Inputs<'_>, container: &Container) -> bool {
    ended(inputs, container).is_some_and(|end| !restarts(inputs.pod, container, false, end.code))
}

/// An init container has failed and must not be tried again.
fn initialization_failed(inputs: &Inputs<'_>) -> bool {
    init_containers(inputs.pod)
        .iter()
        .filter(|c| !is_sidecar(c))
        .any(|c| ended(inputs, c).is_some_and(|end| end.code != 0 && !restarts(inputs.pod, c, true, end.code)))
}

/// Stops what runs: main containers together, then sidecars in reverse. Whether nothing runs or is being started any more.
fn stop_all(inputs: &Inputs<'_>, out: &mut Plan) -> bool {
    let mut main_over = true;
    for container in main_containers(inputs.pod) {
        main_over &= stop(inputs, out, &container.name);
    }
    for container in init_containers(inputs.pod).iter().filter(|c| !is_sidecar(c)) {
        main_over &= stop(inputs, out, &container.name);
    }
    for container in ephemeral_containers(inputs.pod) {
        main_over &= stop(inputs, out, &container.name);
    }
    main_over && stop_sidecars(inputs, out)
}

fn stop_sidecars(inputs: &Inputs<'_>, out: &mut Plan) -> bool {
    for container in init_containers(inputs.pod).iter().rev().filter(|c| is_sidecar(c)) {
        if !stop(inputs, out, &container.name) {
            return false;
        }
    }
    true
}

/// Stops one container; whether it is over.
fn stop(inputs: &Inputs<'_>, out: &mut Plan, name: &str) -> bool {
    let live = inputs.live(name);
    match (live.doing, inputs.running(name)) {
        (Doing::Stopping(kill_at), true) => {
            // A later delete may have shortened the grace (by more than the seconds that deletionTimestamp rounds away).
            let asked_at = inputs.pod.metadata.deletion_timestamp.as_ref().map_or(kill_at, |t| t.0);
            let shortened = kill_at.duration_since(asked_at) > SignedDuration::from_secs(2);
            if shortened && (asked_at <= inputs.now || inputs.grace().is_zero()) {
                out.actions.push(Action::Kill(name.to_owned()));
            } else {
                out.at(if shortened {
                    asked_at
                } else {
                    kill_at.max(inputs.now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(kill_at))
                });
            }
            false
        }
        (Doing::Stopping(_), false) | (Doing::Starting, false) => false,
        (_, true) => {
            let why = format!("Stopping container {name}");
            out.actions.push(Action::Stop { container: name.to_owned(), grace: inputs.grace(), why });
            false
        }
        (Doing::Idle | Doing::Pulling, false) => true,
    }
}

/// The pod must go: containers, sandbox, object.
fn finish(inputs: &Inputs<'_>, out: &mut Plan) {
    if !stop_all(inputs, out) || inputs.live.setting_up {
        return;
    }
    if !release(inputs, out) {
        return;
    }
    let deleted = inputs.pod.metadata.deletion_timestamp.is_some();
    if inputs.gone {
        out.actions.push(Action::Forget);
    } else if deleted && !inputs.live.removing {
        match inputs.live.remove_after.filter(|at| *at > inputs.now) {
            Some(at) => out.at(at),
            None => out.actions.push(Action::Remove),
        }
    } else if !deleted && inputs.record.ended.is_none() {
        out.actions.push(Action::End(Ending::Failed));
    }
}

/// Frees the sandbox of a pod in which nothing runs any more; whether it is free.
fn release(inputs: &Inputs<'_>, out: &mut Plan) -> bool {
    if !stop_all(inputs, out) || inputs.live.setting_up {
        return false;
    }
    if inputs.record.sandbox.is_none() && !inputs.live.tearing_down && !inputs.live.begun {
        return true;
    }
    if !inputs.live.tearing_down {
        match inputs.live.tear_down_after.filter(|at| *at > inputs.now) {
            Some(at) => out.at(at),
            None => out.actions.push(Action::TearDown),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::{Attempt, ContainerRecord, SandboxRecord};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    const NOW: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a second")
    }

    /// A pod's state in words. `containers`: `name=running`, `name=exit:CODE[@SECONDS_AGO]`, `name=exit:CODE/RESTARTS@AGO`;
    /// `live`: `name=image`, `name=pulling`, `name=starting`, `name=stopping:SECONDS_LEFT`, `name=started`, `name=condemned`,
    /// `name=imagefail`, `tearing`, `setting`, `removing`.
    fn state(pod: &Value, containers: &str, live: &str, sandbox: bool) -> (Pod, Record, Live) {
        let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        let mut record = Record::new(at(NOW - 100));
        record.sandbox = sandbox.then(|| SandboxRecord {
            id: "s".into(),
            addresses: Vec::new(),
            ready_at: at(NOW - 90),
            images: Vec::new(),
            resources: None,
        });
        for item in containers.split_whitespace() {
            let (name, what) = item.split_once('=').expect("name=what");
            let (what, ago) = what.split_once('@').map_or((what, 0), |(w, ago)| (w, ago.parse().expect("seconds")));
            let (what, restarts) = what.split_once('/').map_or((what, 0), |(w, n)| (w, n.parse::<u32>().expect("a count")));
            let end = what.strip_prefix("exit:").map(|code| End {
                code: code.parse().expect("a code"),
                signal: None,
                reason: String::new(),
                message: String::new(),
                at: at(NOW - ago),
            });
            let (id, image) = (format!("{name}-{restarts}"), "img".to_owned());
            let attempt = Attempt {
                id,
                image,
                image_id: String::new(),
                started_at: Some(at(NOW - 50)),
                end,
                log: "/l".into(),
                message_file: "/m".into(),
                hook_done: true,
                resources: None,
            };
            let mut slot = ContainerRecord { current: Some(attempt), restarts, ..ContainerRecord::default() };
            for _ in 0..restarts {
                slot.backoff.grow(Law::from_millis(10_000), at(NOW - 60), at(NOW - 60));
            }
            record.containers.insert(name.to_owned(), slot);
        }
        (pod, record, live_state(live))
    }

    fn live_state(words: &str) -> Live {
        let mut live = Live::default();
        let mut containers: BTreeMap<String, LiveContainer> = BTreeMap::new();
        for item in words.split_whitespace() {
            let Some((name, what)) = item.split_once('=') else {
                match item {
                    "tearing" => live.tearing_down = true,
                    "setting" => live.setting_up = true,
                    "begun" => live.begun = true,
                    "removing" => live.removing = true,
                    other => panic!("{other}"),
                }
                continue;
            };
            let slot = containers.entry(name.to_owned()).or_default();
            match what.split_once(':').unwrap_or((what, "")) {
                ("image", _) => {
                    let (id, shown) = ("sha256:1".into(), "sha256:1".into());
                    slot.image = ImageState::Present(crate::pod::record::PresentImage { id, shown });
                }
                ("imagefail", _) => slot.image = ImageState::Failed(Some(at(NOW + 7))),
                ("pulling", _) => slot.doing = Doing::Pulling,
                ("starting", _) => slot.doing = Doing::Starting,
                ("stopping", left) => slot.doing = Doing::Stopping(at(NOW + left.parse::<i64>().expect("seconds"))),
                ("started", _) => slot.started = true,
                ("condemned", _) => {
                    slot.condemned = Some(crate::pod::record::Condemned { why: "liveness".into(), grace_seconds: Some(3) });
                }
                (other, _) => panic!("{other}"),
            }
        }
        live.containers = containers;
        live
    }

    fn words(plan: &Plan) -> String {
        let mut words: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::SetUp => "set-up".into(),
                Action::Pull(c) => format!("pull {c}"),
                Action::Start(c) => format!("start {c}"),
                Action::CrashLoop { container, delay } => format!("crash-loop {container} {}", go_duration(*delay)),
                Action::Stop { container, grace, .. } => format!("stop {container} {}", go_duration(*grace)),
                Action::Kill(c) => format!("kill {c}"),
                Action::Resize(containers) => format!("resize {}", containers.join(" ")),
                Action::Fail(v) => format!("fail {}", v.reason),
                Action::End(e) => format!("end {e:?}"),
                Action::TearDown => "tear-down".into(),
                Action::Remove => "remove".into(),
                Action::Forget => "forget".into(),
            })
            .collect();
        words.extend(plan.wake_at.map(|t| format!("wake {}", t.as_second() - NOW)));
        words.join(", ")
    }

    struct Case {
        pod: Value,
        sandbox: bool,
        gone: bool,
    }

    impl Case {
        fn check(&self, containers: &str, live: &str, expected: &str) {
            let (pod, record, live_now) = state(&self.pod, containers, live, self.sandbox);
            let inputs = Inputs {
                pod: &pod,
                gone: self.gone,
                record: &record,
                live: &live_now,
                network_ready: true,
                law: Law::from_millis(10_000),
                now: at(NOW),
            };
            assert_eq!(words(&plan(&inputs)), expected, "containers {containers:?}, live {live:?}, gone {}", self.gone);
        }
    }

    fn pod(policy: &str, containers: &[&str], inits: &[Value]) -> Value {
        let containers: Vec<_> = containers.iter().map(|name| json!({ "name": name, "image": "img" })).collect();
        json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": containers, "initContainers": inits, "restartPolicy": policy, "terminationGracePeriodSeconds": 30 },
        })
    }

    fn case(pod: Value) -> Case {
        Case { pod, sandbox: true, gone: false }
    }

    #[test]
    fn a_pod_is_set_up_then_pulled_then_started_in_order() {
        let bare = Case { pod: pod("Always", &["a", "b"], &[]), sandbox: false, gone: false };
        bare.check("", "", "set-up");
        bare.check("", "setting", "");
        let ready = case(pod("Always", &["a", "b"], &[]));
        ready.check("", "", "pull a, pull b");
        ready.check("", "a=pulling b=pulling", "");
        ready.check("", "a=image b=pulling", "start a");
        ready.check("", "a=starting b=image", "");
        ready.check("a=running", "b=image", "start b");
        ready.check("a=running", "b=imagefail", "wake 7");
        ready.check("a=running b=running", "", "");
    }

    #[test]
    fn a_crashed_container_restarts_at_once_then_with_doubling_delays() {
        let always = case(pod("Always", &["a"], &[]));
        always.check("a=exit:1", "", "pull a");
        always.check("a=exit:1/1@2", "", "crash-loop a 10s, wake 8");
        always.check("a=exit:1/2@2", "", "crash-loop a 20s, wake 18");
        always.check("a=exit:1/1@11", "", "pull a");
        always.check("a=exit:0", "", "pull a");
        case(pod("OnFailure", &["a"], &[])).check("a=exit:1", "", "pull a");
        case(pod("OnFailure", &["a", "b"], &[])).check("a=exit:0 b=running", "", "");
    }

    #[test]
    fn a_pod_whose_work_is_over_ends() {
        case(pod("OnFailure", &["a", "b"], &[])).check("a=exit:0 b=exit:0", "", "end Succeeded");
        case(pod("Never", &["a", "b"], &[])).check("a=exit:0 b=exit:3", "", "end Failed");
        case(pod("Never", &["a", "b"], &[])).check("a=exit:3 b=running", "", "");
    }

    #[test]
    fn init_containers_run_one_after_another_before_the_others() {
        let inits = [json!({ "name": "i", "image": "img" }), json!({ "name": "j", "image": "img" })];
        let two = case(pod("Always", &["a"], &inits));
        two.check("", "", "pull i");
        two.check("i=running", "", "");
        two.check("i=exit:0", "", "pull j");
        two.check("i=exit:0 j=exit:0", "", "pull a");
        two.check("i=exit:1", "", "pull i");
        two.check("i=exit:1/1@1", "", "crash-loop i 10s, wake 9");
        two.check("i=exit:0 j=exit:0 a=exit:1", "", "pull a");
        case(pod("Never", &["a"], &inits)).check("i=exit:1", "", "end Failed");
        case(pod("OnFailure", &["a"], &inits)).check("i=exit:1", "", "pull i");
    }

    #[test]
    fn sidecars_start_before_and_stop_after_the_others() {
        let side = [
            json!({ "name": "s", "image": "img", "restartPolicy": "Always" }),
            json!({ "name": "t", "image": "img", "restartPolicy": "Always" }),
        ];
        let with = case(pod("Never", &["a"], &side));
        with.check("", "", "pull s");
        with.check("s=running", "", "");
        with.check("s=running", "s=started", "pull t");
        with.check("s=running t=running", "s=started t=started", "pull a");
        with.check("s=exit:1 t=running a=running", "t=started", "pull s");
        with.check("s=running t=running a=exit:0", "s=started t=started", "stop t 30s");
        with.check("s=running t=exit:143 a=exit:0", "s=started", "stop s 30s");
        with.check("s=exit:143 t=exit:143 a=exit:0", "", "end Succeeded");
    }

    #[test]
    fn a_deleted_pod_stops_frees_and_is_removed() {
        let mut object = pod("Always", &["a", "b"], &[]);
        object["metadata"]["deletionTimestamp"] = json!("1970-01-12T13:46:50Z"); // NOW + 10
        object["metadata"]["deletionGracePeriodSeconds"] = json!(10);
        let mut deleted = case(object);
        deleted.check("a=running b=running", "", "stop a 10s, stop b 10s");
        deleted.check("a=running b=running", "a=stopping:10 b=stopping:10", "wake 10");
        deleted.check("a=running b=exit:0", "a=stopping:30", "wake 10");
        deleted.check("a=exit:137", "", "tear-down");
        deleted.check("a=exit:137", "b=starting", "");
        deleted.check("a=exit:137 b=exit:0", "tearing", "");
        deleted.sandbox = false;
        deleted.check("a=exit:137 b=exit:0", "", "remove");
        deleted.check("a=exit:137 b=exit:0", "removing", "");
        deleted.check("", "setting", "");
        // A set-up that failed, or was cut short with its daemon, has left an address and volumes.
        deleted.check("", "begun", "tear-down");
        deleted.gone = true;
        deleted.check("a=exit:137 b=exit:0", "", "forget");
    }

    #[test]
    fn a_shortened_grace_kills_what_is_still_stopping() {
        let mut object = pod("Always", &["a"], &[]);
        object["metadata"]["deletionTimestamp"] = json!("1970-01-12T13:46:40Z"); // NOW
        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        case(object).check("a=running", "a=stopping:25", "kill a");
    }

    #[test]
    fn an_object_that_vanishes_takes_its_containers_along() {
        let gone = Case { pod: pod("Always", &["a"], &[]), sandbox: true, gone: true };
        gone.check("a=running", "", "stop a 30s");
        gone.check("a=exit:0", "", "tear-down");
    }

    #[test]
    fn what_must_be_replaced_is_stopped_and_started_again() {
        let always = case(pod("Always", &["a"], &[]));
        always.check("a=running", "a=condemned", "stop a 3s");
        let mut other = pod("Always", &["a"], &[]);
        other["spec"]["containers"][0]["image"] = json!("img:2");
        case(other).check("a=running", "", "stop a 30s");
    }

    #[test]
    fn a_deadline_fails_the_pod_whatever_it_does() {
        let mut object = pod("Always", &["a"], &[]);
        object["spec"]["activeDeadlineSeconds"] = json!(99);
        case(object.clone()).check("a=running", "", "fail DeadlineExceeded");
        object["spec"]["activeDeadlineSeconds"] = json!(101);
        case(object).check("a=running", "", "wake 1");
    }

    #[test]
    fn a_pod_that_ended_keeps_nothing_but_its_record() {
        let mut object = pod("Never", &["a"], &[]);
        object["status"] = json!({ "phase": "Succeeded" });
        let mut ended = case(object);
        ended.check("a=exit:0", "", "tear-down");
        ended.sandbox = false;
        ended.check("a=exit:0", "", "");
        ended.check("", "", "");
    }
}
