//! What the node remembers of a pod, and what it merely knows now.
//!
//! [`Record`] is a file (`pods/<uid>/record.json`): with it, a daemon that starts anew finds ids, restart counts, back-offs and last exits
//! as they were. [`Live`] is rebuilt by looking.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::resize::Fit;
use crate::backoff::BackOff;

/// What survives a restart of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When this node accepted the pod: `.status.startTime`.
    pub accepted_at: Timestamp,
    /// The pod's namespaces and address, while they exist.
    pub sandbox: Option<SandboxRecord>,
    /// How many sandboxes came before.
    pub sandbox_attempt: u32,
    /// Containers by name, init containers included.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// The node has decided that the pod ends as Failed.
    pub verdict: Option<Verdict>,
    /// The last addresses, kept for the final status.
    #[serde(default, alias = "address", deserialize_with = "one_or_all")]
    pub addresses: Vec<IpAddr>,
    /// The pod reached Succeeded or Failed: never to be left again.
    pub ended: Option<Ending>,
}

/// Records of daemons that knew one address have it alone.
fn one_or_all<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        All(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Said::deserialize(from)? {
        Said::All(all) => all,
        Said::One(one) => one.into_iter().collect(),
    })
}

/// How a pod ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// All containers ended with 0.
    Succeeded,
    /// Some did not, or the node gave up.
    Failed,
}

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The runtime's id.
    pub id: String,
    /// The pod's addresses, one of each family (the node's own on the host's network).
    #[serde(default, alias = "address", deserialize_with = "one_or_all")]
    pub addresses: Vec<IpAddr>,
    /// When it was ready.
    pub ready_at: Timestamp,
    /// Ids of images that its volumes show.
    #[serde(default)]
    pub images: Vec<String>,
    /// What the pod as a whole was given last.
    #[serde(default)]
    pub resources: Option<ResourceRequirements>,
}

/// One container over all its attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The attempt that runs or that ended last.
    pub current: Option<Attempt>,
    /// The one before.
    pub previous: Option<Attempt>,
    /// Attempts before the current one.
    pub restarts: u32,
    /// Of restarts.
    pub backoff: BackOff,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The runtime's id.
    pub id: String,
    /// The image as the pod named it.
    pub image: String,
    /// What it resolved to.
    pub image_id: String,
    /// When its program started.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub end: Option<End>,
    /// Its CRI-format log.
    pub log: PathBuf,
    /// The file behind terminationMessagePath.
    pub message_file: PathBuf,
    /// Its postStart hook has succeeded (or there is none).
    pub hook_done: bool,
    /// What it was given last; not known of attempts of older daemons.
    #[serde(default)]
    pub resources: Option<ResourceRequirements>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Exit code.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Why the node fails a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `.status.reason`.
    pub reason: String,
    /// `.status.message`.
    pub message: String,
    /// What its containers get to end, when less than the pod asks for; seconds.
    #[serde(default)]
    pub grace_seconds: Option<i64>,
    /// The pod was running and is ended for the sake of the machine: a disruption, told by a condition.
    #[serde(default)]
    pub disrupts: bool,
}

impl Verdict {
    /// The pod fails for a reason of its own.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), grace_seconds: None, disrupts: false }
    }
}

/// What is going on with a pod right now; gone with the process.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// A set-up of volumes, sandbox and network is in flight.
    pub setting_up: bool,
    /// When a failed set-up may be tried again.
    pub set_up_after: Option<Timestamp>,
    /// Failed set-ups in a row.
    pub set_up_failures: u32,
    /// A tear-down is in flight.
    pub tearing_down: bool,
    /// A set-up was begun, and may have left something although there is no sandbox.
    pub begun: bool,
    /// When a failed tear-down may be tried again.
    pub tear_down_after: Option<Timestamp>,
    /// The final status has reached the kernel and removePod is in flight.
    pub removing: bool,
    /// When a failed removal may be tried again.
    pub remove_after: Option<Timestamp>,
    /// Containers run with other amounts than the pod asks for, and whether there is room.
    pub resize: Option<Fit>,
    /// A resize is in flight.
    pub resizing: bool,
    /// When a failed resize may be tried again.
    pub resize_after: Option<Timestamp>,
    /// Why it failed.
    pub resize_failure: Option<String>,
    /// By container name.
    pub containers: BTreeMap<String, LiveContainer>,
}

/// What is going on with a container right now.
#[derive(Clone, Debug, Default)]
pub struct LiveContainer {
    /// What the node is doing for it.
    pub doing: Doing,
    /// The image for the next start.
    pub image: ImageState,
    /// Why it waits, when it is not just being created.
    pub waiting: Option<Waiting>,
    /// When a failed preparation may be tried again.
    pub retry_at: Option<Timestamp>,
    /// The readiness probe's last word; without a probe, true while it runs.
    pub ready: bool,
    /// The startup probe's last word; without a probe, true while it runs.
    pub started: bool,
    /// It must be stopped and, by its restart policy, started again.
    pub condemned: Option<Condemned>,
}

/// Why a running container must go although its pod stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// For the event.
    pub why: String,
    /// terminationGracePeriodSeconds of the probe, when it has one.
    pub grace_seconds: Option<i64>,
}

/// What the node is doing for a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Nothing.
    #[default]
    Idle,
    /// Looking for or pulling its image.
    Pulling,
    /// Creating and starting it, postStart included.
    Starting,
    /// Stopping it; SIGKILL at the moment given.
    Stopping(Timestamp),
}

/// The image for the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageState {
    /// Not looked at since the last start.
    #[default]
    Unknown,
    /// Present.
    Present(PresentImage),
    /// Not to be had; back-off until the moment given (`None`: never again for this spec).
    Failed(Option<Timestamp>),
}

/// An image of the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentImage {
    /// Its id, for the runtime.
    pub id: String,
    /// `imageID` of the status: the reference with a digest when there is one.
    pub shown: String,
}

/// `state.waiting` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// As `ImagePullBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Record {
    /// A pod that was just accepted.
    pub fn new(now: Timestamp) -> Self {
        Self {
            accepted_at: now,
            sandbox: None,
            sandbox_attempt: 0,
            containers: BTreeMap::new(),
            verdict: None,
            addresses: Vec::new(),
            ended: None,
        }
    }

    /// Runtime ids of all containers' last attempts, ended or not.
    pub fn container_ids(&self) -> Vec<String> {
        self.containers.values().filter_map(|record| record.current.as_ref()).map(|attempt| attempt.id.clone()).collect()
    }

    /// The attempt that bears a runtime id.
    pub fn attempt_mut(&mut self, id: &str) -> Option<(&String, &mut Attempt)> {
        self.containers.iter_mut().find_map(|(name, record)| record.current.as_mut().filter(|a| a.id == id).map(|a| (name, a)))
    }

    /// Whether any container of the spec's `containers` was ever started: init containers are then over.
    pub fn initialized_before(&self, pod: &Pod) -> bool {
        main_containers(pod).iter().any(|c| self.containers.get(&c.name).is_some_and(|r| r.current.is_some()))
    }
}

impl ContainerRecord {
    /// The attempt whose program runs now.
    pub fn running(&self) -> Option<&Attempt> {
        self.open().filter(|attempt| attempt.started_at.is_some())
    }

    /// The attempt that has not ended: it runs, or it is created and about to.
    pub fn open(&self) -> Option<&Attempt> {
        self.current.as_ref().filter(|attempt| attempt.end.is_none())
    }

    /// How the last attempt ended, unless one runs.
    pub fn ended(&self) -> Option<&End> {
        self.current.as_ref().and_then(|attempt| attempt.end.as_ref())
    }
}

/// `.spec.containers`.
pub fn main_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

/// `.spec.initContainers`.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or(&[])
}

/// `.spec.ephemeralContainers`, as containers that are never started again.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or(&[]);
    let plain = |ephemeral| {
        let mut container: Container = serde_json::from_value(serde_json::to_value(ephemeral).ok()?).ok()?;
        container.restart_policy = Some("Never".to_owned());
        Some(container)
    };
    list.iter().filter_map(plain).collect()
}

/// The container among whose processes an ephemeral one is to live.
pub fn target_of<'a>(pod: &'a Pod, ephemeral: &str) -> Option<&'a str> {
    let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or(&[]);
    let target = list.iter().find(|c| c.name == ephemeral)?.target_container_name.as_deref();
    target.filter(|name| !name.is_empty())
}

/// All containers of the pod's own, init ones first.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(main_containers(pod))
}

/// Whether an init container is a sidecar: it runs as long as the pod.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn pod_restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `code` is to be started again.
pub fn restarts(pod: &Pod, container: &Container, init: bool, code: i32) -> bool {
    let policy = container.restart_policy.as_deref().unwrap_or_else(|| pod_restart_policy(pod));
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => !init || is_sidecar(container) || code != 0,
    }
}

/// `metadata.uid`.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `metadata.namespace`.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a pod comes from a directory of the machine, not from the API.
pub fn is_static(pod: &Pod) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|all| all.get(crate::manifest::parse::SOURCE));
    source.is_some_and(|source| source != "api")
}

/// Whether a pod is the API's picture of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(crate::manifest::parse::MIRROR))
}

/// `spec.hostNetwork`.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}
