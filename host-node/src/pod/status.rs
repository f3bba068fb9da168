//! `.status` of a pod, as a kubelet reports it.
//!
//! Pure. The phase is computed from container states by the kubelet's rules; conditions that others own are carried over untouched, and a
//! condition's lastTransitionTime moves only with its status. Invariant: a phase of Succeeded or Failed is never left again.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, Pod,
    PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::record::{
    Attempt, ContainerRecord, Doing, Ending, Live, LiveContainer, Record, ephemeral_containers, init_containers, is_sidecar,
    main_containers, pod_restart_policy, restarts,
};
use super::resize::Fit;

/// Conditions that this node decides; all others are carried over.
const OWN_CONDITIONS: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", RESIZE_PENDING, RESIZE_IN_PROGRESS];
/// A resize waits for room.
const RESIZE_PENDING: &str = "PodResizePending";
/// The pod was ended for the sake of the machine.
const DISRUPTION: &str = "DisruptionTarget";
/// A resize is under way.
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// What comes in besides the pod.
pub struct Inputs<'a> {
    /// The pod as the kernel has it, its last known status included.
    pub pod: &'a Pod,
    /// What is remembered.
    pub record: &'a Record,
    /// What is in flight.
    pub live: &'a Live,
    /// The node's InternalIPs.
    pub host_addresses: &'a [IpAddr],
    /// The conditions that this node reported last.
    pub reported: &'a [PodCondition],
    /// What the ids of containers begin with, as `pintle://`.
    pub id_scheme: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// The status to report.
pub fn compute(inputs: &Inputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let inits: Vec<_> = init_containers(pod).iter().map(|c| container_status(inputs, c, true)).collect();
    let mains: Vec<_> = main_containers(pod).iter().map(|c| container_status(inputs, c, false)).collect();
    let ephemeral: Vec<_> = ephemeral_containers(pod).iter().map(|c| container_status(inputs, c, false)).collect();
    let phase = phase(inputs, &inits, &mains);
    let texts = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let (own, host) = (texts(&inputs.record.addresses), texts(inputs.host_addresses));
    let old = pod.status.as_ref();
    PodStatus {
        conditions: Some(conditions(inputs, phase, &inits, &mains)),
        message: inputs.record.verdict.as_ref().map(|v| v.message.clone()),
        reason: inputs.record.verdict.as_ref().map(|v| v.reason.clone()),
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        host_ip: host.first().cloned(),
        host_ips: Some(host.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: own.first().cloned(),
        pod_ips: (!own.is_empty()).then(|| own.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: old.and_then(|s| s.qos_class.clone()).or_else(|| Some(qos_class(pod).to_owned())),
        start_time: Some(Time(inputs.record.accepted_at)),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(mains),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        nominated_node_name: old.and_then(|s| s.nominated_node_name.clone()),
        resource_claim_statuses: old.and_then(|s| s.resource_claim_statuses.clone()),
        ..PodStatus::default()
    }
}

fn container_status(inputs: &Inputs<'_>, container: &Container, init: bool) -> ContainerStatus {
    let none = ContainerRecord::default();
    let record = inputs.record.containers.get(&container.name).unwrap_or(&none);
    let live = inputs.live.containers.get(&container.name).cloned().unwrap_or_default();
    let (state, last) = states(inputs, container, record, &live, init);
    let running = state.running.is_some();
    let finished = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    let current = record.current.as_ref();
    // What it runs with, which a resize may not have reached yet.
    let given = current.filter(|_| running).and_then(|attempt| attempt.resources.clone()).or_else(|| container.resources.clone());
    let plain_init = init && !is_sidecar(container);
    let started = running && if plain_init { true } else { live.started };
    ContainerStatus {
        name: container.name.clone(),
        image: current.map_or_else(|| container.image.clone().unwrap_or_default(), |a| a.image.clone()),
        image_id: current.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: current.map(|a| format!("{}{}", inputs.id_scheme, a.id)),
        ready: if plain_init { finished } else { running && started && live.ready },
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        started: Some(started),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        allocated_resources: given.as_ref().and_then(|r| r.requests.clone()),
        resources: given.filter(|_| running),
        volume_mounts: container.volume_mounts.as_ref().filter(|m| !m.is_empty()).map(|mounts| mounts.iter().map(volume_mount).collect()),
        ..ContainerStatus::default()
    }
}

fn volume_mount(mount: &k8s_openapi::api::core::v1::VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
        ..VolumeMountStatus::default()
    }
}

/// `state` and `lastState`.
fn states(
    inputs: &Inputs<'_>,
    container: &Container,
    record: &ContainerRecord,
    live: &LiveContainer,
    init: bool,
) -> (ContainerState, Option<ContainerState>) {
    let previous = record.previous.as_ref().map(|attempt| terminated(inputs.id_scheme, attempt));
    let Some(current) = &record.current else {
        return (waiting(inputs, live), None);
    };
    let Some(end) = &current.end else {
        if current.started_at.is_none() {
            return (waiting(inputs, live), previous);
        }
        let running = ContainerStateRunning { started_at: current.started_at.map(Time) };
        return (ContainerState { running: Some(running), ..ContainerState::default() }, previous);
    };
    let again = restarts(inputs.pod, container, init, end.code) && inputs.record.ended.is_none() && !dying(inputs);
    let preparing = live.waiting.is_some() || matches!(live.doing, Doing::Pulling | Doing::Starting);
    if again && preparing {
        return (waiting(inputs, live), Some(terminated(inputs.id_scheme, current)));
    }
    (terminated(inputs.id_scheme, current), previous)
}

fn dying(inputs: &Inputs<'_>) -> bool {
    inputs.pod.metadata.deletion_timestamp.is_some() || inputs.record.verdict.is_some()
}

fn waiting(inputs: &Inputs<'_>, live: &LiveContainer) -> ContainerState {
    let (reason, message) = match &live.waiting {
        Some(waiting) => (waiting.reason.clone(), Some(waiting.message.clone()).filter(|m| !m.is_empty())),
        None if init_containers(inputs.pod).is_empty() => ("ContainerCreating".to_owned(), None),
        None => ("PodInitializing".to_owned(), None),
    };
    let waiting = ContainerStateWaiting { reason: Some(reason), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(id_scheme: &str, attempt: &Attempt) -> ContainerState {
    let end = attempt.end.as_ref();
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{id_scheme}{}", attempt.id)),
        exit_code: end.map_or(255, |e| e.code),
        signal: None,
        reason: end.map(|e| e.reason.clone()),
        message: end.map(|e| e.message.clone()).filter(|m| !m.is_empty()),
        started_at: attempt.started_at.or(end.map(|e| e.at)).map(Time),
        finished_at: end.map(|e| Time(e.at)),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// The kubelet's getPhase, in its words of counting.
fn phase(inputs: &Inputs<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> &'static str {
    if let Some(phase @ ("Succeeded" | "Failed")) = inputs.pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        return if phase == "Succeeded" { "Succeeded" } else { "Failed" };
    }
    match inputs.record.ended {
        Some(Ending::Succeeded) => return "Succeeded",
        Some(Ending::Failed) => return "Failed",
        None if inputs.record.verdict.is_some() => return "Failed",
        None => {}
    }
    let initialized = inputs.record.initialized_before(inputs.pod);
    let never = pod_restart_policy(inputs.pod) == "Never";
    let mut pending_init = false;
    for (container, status) in init_containers(inputs.pod).iter().zip(inits) {
        let (state, last) = (status.state.clone().unwrap_or_default(), status.last_state.clone().unwrap_or_default());
        if is_sidecar(container) {
            pending_init |= !initialized && (state.running.is_none() || status.started != Some(true));
            continue;
        }
        match (state.terminated.as_ref().or(last.terminated.as_ref()), state.running.is_some()) {
            (Some(end), false) if end.exit_code != 0 && never => return "Failed",
            (Some(end), false) if end.exit_code == 0 => {}
            _ => pending_init |= !initialized,
        }
    }
    let count = |test: &dyn Fn(&ContainerState, &ContainerState) -> bool| {
        mains.iter().filter(|s| test(&s.state.clone().unwrap_or_default(), &s.last_state.clone().unwrap_or_default())).count()
    };
    let running = count(&|state, _| state.running.is_some());
    let stopped = count(&|state, last| state.terminated.is_some() || state.waiting.is_some() && last.terminated.is_some());
    let waiting = count(&|state, last| state.waiting.is_some() && last.terminated.is_none());
    let succeeded = count(&|state, _| state.terminated.as_ref().is_some_and(|t| t.exit_code == 0));
    let terminal = dying(inputs) && running == 0;
    if pending_init || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    match (stopped, terminal, pod_restart_policy(inputs.pod)) {
        (0, ..) => "Pending",
        (_, true, _) => {
            if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        (_, false, "Always") => "Running",
        (_, false, _) if stopped == succeeded => "Succeeded",
        (_, false, "Never") => "Failed",
        _ => "Running",
    }
}

/// A condition before times are filled in: status, reason, message.
type Verdict = (bool, Option<&'static str>, Option<String>);

fn conditions(inputs: &Inputs<'_>, phase: &str, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> Vec<PodCondition> {
    let sandbox = inputs.record.sandbox.is_some();
    let containers_ready = readiness(phase, mains);
    let ready = gates(inputs, &containers_ready);
    let rows: [(&str, Verdict); 4] = [
        ("PodReadyToStartContainers", (sandbox, None, None)),
        ("Initialized", initialization(inputs, phase, inits)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let old = inputs.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
    let mut list: Vec<_> = rows.into_iter().map(|(kind, verdict)| condition(inputs, old, kind, verdict)).collect();
    match old.iter().find(|c| c.type_ == "PodScheduled") {
        Some(scheduled) => list.push(scheduled.clone()),
        None => list.push(condition(inputs, old, "PodScheduled", (true, None, None))),
    }
    let waits = |reason, message: &String| (RESIZE_PENDING, (true, Some(reason), Some(message.clone())));
    let resize = inputs.live.resize.as_ref().map(|fit| match fit {
        Fit::Deferred(message) => waits("Deferred", message),
        Fit::Infeasible(message) => waits("Infeasible", message),
        Fit::Fits => {
            let failure = inputs.live.resize_failure.clone();
            (RESIZE_IN_PROGRESS, (true, failure.as_ref().map(|_| "Error"), failure))
        }
    });
    list.extend(resize.map(|(kind, verdict)| condition(inputs, old, kind, verdict)));
    let disruption = inputs.record.verdict.as_ref().filter(|verdict| verdict.disrupts);
    list.extend(
        disruption.map(|verdict| condition(inputs, old, DISRUPTION, (true, Some("TerminationByKubelet"), Some(verdict.message.clone())))),
    );
    let own = |kind: &str| OWN_CONDITIONS.contains(&kind) || kind == DISRUPTION && disruption.is_some();
    list.extend(old.iter().filter(|c| !own(&c.type_)).cloned());
    list
}

fn condition(inputs: &Inputs<'_>, old: &[PodCondition], kind: &str, (status, reason, message): Verdict) -> PodCondition {
    let status = if status { "True" } else { "False" };
    let known = inputs.reported.iter().chain(old).find(|c| c.type_ == kind);
    let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or(Time(inputs.now))),
        observed_generation: inputs.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn initialization(inputs: &Inputs<'_>, phase: &str, inits: &[ContainerStatus]) -> Verdict {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted"), None);
    }
    if inputs.record.initialized_before(inputs.pod) {
        return (true, None, None);
    }
    let incomplete: Vec<_> = init_containers(inputs.pod)
        .iter()
        .zip(inits)
        .filter(|(c, s)| if is_sidecar(c) { s.started != Some(true) } else { !s.ready })
        .map(|(c, _)| c.name.as_str())
        .collect();
    match incomplete.is_empty() {
        true => (true, None, None),
        false => (false, Some("ContainersNotInitialized"), Some(format!("containers with incomplete status: [{}]", incomplete.join(" ")))),
    }
}

fn readiness(phase: &str, mains: &[ContainerStatus]) -> Verdict {
    match phase {
        "Succeeded" => return (false, Some("PodCompleted"), None),
        "Failed" => return (false, Some("PodFailed"), None),
        _ => {}
    }
    let unready: Vec<_> = mains.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    match unready.is_empty() {
        true => (true, None, None),
        false => (false, Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" ")))),
    }
}

fn gates(inputs: &Inputs<'_>, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.0 {
        return containers_ready.clone();
    }
    let old = inputs.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
    let gates = inputs.pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or(&[]);
    let mut words = Vec::new();
    for gate in gates {
        match old.iter().find(|c| c.type_ == gate.condition_type) {
            None => words.push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                words.push(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, c.status));
            }
            Some(_) => {}
        }
    }
    if words.is_empty() { (true, None, None) } else { (false, Some("ReadinessGatesNotReady"), Some(words.join(", "))) }
}

/// Guaranteed, Burstable or BestEffort, by requests and limits of CPU and memory.
pub fn qos_class(pod: &Pod) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    // What the pod says as a whole stands for all its containers.
    let of_pod: Vec<_> = crate::container::pod_level(pod).into_iter().cloned().collect();
    let of_containers = || super::record::all_containers(pod).map(|container| container.resources.clone().unwrap_or_default()).collect();
    for resources in if of_pod.is_empty() { of_containers() } else { of_pod } {
        let (requests, limits) = (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
        for kind in ["cpu", "memory"] {
            let amount = |map: &std::collections::BTreeMap<_, _>| map.get(kind).and_then(crate::quantity::millis).filter(|v| *v > 0);
            let (request, limit) = (amount(&requests), amount(&limits));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.unwrap_or(limit.unwrap_or(0)) == limit.unwrap_or(0);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::{Condemned, End, SandboxRecord, Verdict as Failing, Waiting};
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a second")
    }

    fn attempt(id: &str, end: Option<(i32, &str)>) -> Attempt {
        Attempt {
            id: id.into(),
            image: "img".into(),
            image_id: "sha256:1".into(),
            started_at: Some(at(10)),
            end: end.map(|(code, reason)| End { code, signal: None, reason: reason.into(), message: String::new(), at: at(20) }),
            log: "/l".into(),
            message_file: "/m".into(),
            hook_done: true,
            resources: None,
        }
    }

    fn pod(policy: &str, containers: &[&str], inits: &[&str]) -> Pod {
        let list = |names: &[&str]| names.iter().map(|name| json!({ "name": name, "image": "img" })).collect::<Vec<_>>();
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u", "generation": 3 },
            "spec": { "restartPolicy": policy, "containers": list(containers), "initContainers": list(inits) },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "True" }, { "type": "example.org/own", "status": "False" }] },
        }))
        .expect("a pod")
    }

    struct Situation {
        pod: Pod,
        record: Record,
        live: Live,
    }

    fn situation(pod: Pod) -> Situation {
        let mut record = Record::new(at(1));
        record.sandbox =
            Some(SandboxRecord { id: "s".into(), addresses: Vec::new(), ready_at: at(2), images: Vec::new(), resources: None });
        record.addresses = vec![[10, 0, 0, 5].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        Situation { pod, record, live: Live::default() }
    }

    impl Situation {
        fn current(mut self, name: &str, attempt: Attempt) -> Self {
            self.record.containers.entry(name.into()).or_default().current = Some(attempt);
            self
        }

        fn up(mut self, name: &str) -> Self {
            let live = self.live.containers.entry(name.into()).or_default();
            (live.started, live.ready) = (true, true);
            self
        }

        fn waits(mut self, name: &str, reason: &str) -> Self {
            self.live.containers.entry(name.into()).or_default().waiting = Some(Waiting { reason: reason.into(), message: "m".into() });
            self
        }

        fn status(&self) -> Value {
            let inputs = Inputs {
                pod: &self.pod,
                record: &self.record,
                live: &self.live,
                host_addresses: &[IpAddr::from([1, 2, 3, 4])],
                reported: &[],
                id_scheme: "pintle://",
                now: at(30),
            };
            serde_json::to_value(compute(&inputs)).expect("json")
        }

        /// Phase, then each container as `name:state` with `+` when ready, then the conditions that are true.
        fn check(&self, expected: &str) {
            let status = self.status();
            let mut words = vec![status["phase"].as_str().expect("a phase").to_owned()];
            for key in ["initContainerStatuses", "containerStatuses"] {
                for c in status[key].as_array().unwrap_or(&Vec::new()) {
                    let state = c["state"].as_object().expect("a state");
                    let (kind, inner) = state.iter().next().expect("one state");
                    let reason = inner["reason"].as_str().unwrap_or(kind);
                    let last = if c["lastState"]["terminated"].is_object() { "*" } else { "" };
                    let ready = if c["ready"] == true { "+" } else { "" };
                    words.push(format!("{}:{reason}{last}{ready}", c["name"].as_str().expect("a name")));
                }
            }
            let conditions = status["conditions"].as_array().expect("conditions");
            let on: Vec<_> = conditions.iter().filter(|c| c["status"] == "True").map(|c| c["type"].as_str().expect("a type")).collect();
            words.push(on.join(","));
            assert_eq!(words.join(" "), expected);
        }
    }

    #[test]
    fn phases_and_states_are_the_kubelets() {
        let mut fresh = situation(pod("Always", &["a"], &[]));
        fresh.record.sandbox = None;
        fresh.check("Pending a:ContainerCreating Initialized,PodScheduled");
        situation(pod("Always", &["a"], &[])).check("Pending a:ContainerCreating PodReadyToStartContainers,Initialized,PodScheduled");
        situation(pod("Always", &["a"], &[]))
            .waits("a", "ImagePullBackOff")
            .check("Pending a:ImagePullBackOff PodReadyToStartContainers,Initialized,PodScheduled");
        let mut created = attempt("1", None);
        created.started_at = None;
        situation(pod("Always", &["a"], &[]))
            .current("a", created)
            .check("Pending a:ContainerCreating PodReadyToStartContainers,Initialized,PodScheduled");
        let all = "PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodScheduled";
        situation(pod("Always", &["a"], &[])).current("a", attempt("1", None)).up("a").check(&format!("Running a:running+ {all}"));
        situation(pod("Always", &["a"], &[]))
            .current("a", attempt("1", None))
            .check("Running a:running PodReadyToStartContainers,Initialized,PodScheduled");
        situation(pod("Always", &["a"], &[]))
            .current("a", attempt("1", Some((1, "Error"))))
            .check("Running a:Error PodReadyToStartContainers,Initialized,PodScheduled");
        situation(pod("Always", &["a"], &[]))
            .current("a", attempt("1", Some((1, "Error"))))
            .waits("a", "CrashLoopBackOff")
            .check("Running a:CrashLoopBackOff* PodReadyToStartContainers,Initialized,PodScheduled");
        situation(pod("Never", &["a", "b"], &[]))
            .current("a", attempt("1", Some((0, "Completed"))))
            .current("b", attempt("2", None))
            .up("b")
            .check("Running a:Completed b:running+ PodReadyToStartContainers,Initialized,PodScheduled");
    }

    #[test]
    fn ends_are_told_once_and_for_good() {
        let mut done = situation(pod("OnFailure", &["a"], &[])).current("a", attempt("1", Some((0, "Completed"))));
        done.record.ended = Some(Ending::Succeeded);
        done.record.sandbox = None;
        done.check("Succeeded a:Completed Initialized,PodScheduled");
        let reasons = done.status()["conditions"].clone();
        assert!(reasons.as_array().expect("a list").iter().filter(|c| c["reason"] == "PodCompleted").count() == 3, "{reasons}");
        let mut failed = situation(pod("Never", &["a"], &[])).current("a", attempt("1", Some((7, "Error"))));
        failed.record.ended = Some(Ending::Failed);
        failed.check("Failed a:Error PodReadyToStartContainers,Initialized,PodScheduled");
        let mut late = situation(pod("Always", &["a"], &[])).current("a", attempt("1", None)).up("a");
        late.record.verdict = Some(Failing::new("DeadlineExceeded", "late"));
        assert_eq!(late.status()["reason"], "DeadlineExceeded");
        assert_eq!(late.status()["phase"], "Failed");
    }

    #[test]
    fn init_containers_hold_the_pod_in_pending() {
        situation(pod("Always", &["a"], &["i"]))
            .current("i", attempt("1", None))
            .check("Pending i:running a:PodInitializing PodReadyToStartContainers,PodScheduled");
        let done = situation(pod("Always", &["a"], &["i"])).current("i", attempt("1", Some((0, "Completed"))));
        done.check("Pending i:Completed+ a:PodInitializing PodReadyToStartContainers,Initialized,PodScheduled");
        let failing = situation(pod("Always", &["a"], &["i"])).current("i", attempt("1", Some((1, "Error"))));
        failing.check("Pending i:Error a:PodInitializing PodReadyToStartContainers,PodScheduled");
        let words = failing.status()["conditions"].as_array().expect("a list")[1]["message"].clone();
        assert_eq!(words, "containers with incomplete status: [i]");
        situation(pod("Never", &["a"], &["i"]))
            .current("i", attempt("1", Some((1, "Error"))))
            .check("Failed i:Error a:PodInitializing PodReadyToStartContainers,PodScheduled");
    }

    #[test]
    fn addresses_ids_and_foreign_conditions_are_kept() {
        let mut running = situation(pod("Always", &["a"], &[])).current("a", attempt("77", None)).up("a");
        running.live.containers.get_mut("a").expect("there").condemned = Some(Condemned { why: String::new(), grace_seconds: None });
        let status = running.status();
        assert_eq!(status["podIP"], "10.0.0.5");
        assert_eq!(status["podIPs"], json!([{ "ip": "10.0.0.5" }, { "ip": "::1" }]));
        assert_eq!(status["hostIP"], "1.2.3.4");
        assert_eq!(status["startTime"], "1970-01-01T00:00:01Z");
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(status["qosClass"], "BestEffort");
        assert_eq!(status["containerStatuses"][0]["containerID"], "pintle://77");
        assert_eq!(status["containerStatuses"][0]["started"], true);
        assert!(status["conditions"].as_array().expect("a list").iter().any(|c| c["type"] == "example.org/own"));
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let check = |resources: Value, expected: &str| {
            let pod =
                serde_json::from_value(json!({ "spec": { "containers": [{ "name": "a", "resources": resources }] } })).expect("a pod");
            assert_eq!(qos_class(&pod), expected);
        };
        check(json!({}), "BestEffort");
        check(json!({ "requests": { "cpu": "1" } }), "Burstable");
        check(json!({ "limits": { "cpu": "1", "memory": "1Gi" } }), "Guaranteed");
        check(json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } }), "Burstable");
    }
}
