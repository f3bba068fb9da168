//! The same pods on another runtime: the bridge's operations, carried out by whoever serves CRI v1 (`runtime.v1`) on a Unix socket, such as containerd.
//!
//! [`Cri`] has the methods of [`pintle_runtime_bridge::Runtime`] that a node uses, with the same types, errors and events. Nothing is kept in files:
//! sandboxes and containers bear a label that names their node, and annotations that tell what they were made from.
//!
//! What is ours all the same: the cgroups of pods as a whole (CRI leaves them to the node), and the relist that turns states into events.

pub mod client;
mod config;
mod image;
mod message;
mod relist;
mod stream;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pintle_runtime_bridge::{
    AttachSession, ContainerId, ContainerSpec, ContainerState, DiskUsage, Error, Event, ExecSession, ExecSpec, Exit, ExitCause, Groups,
    NetNs, Phase, Resources, Sandbox, SandboxId, SandboxSpec, SandboxState, Seccomp, Stats,
};
use tokio::sync::{broadcast, watch};

use client::{Client, Fault, code};
use config::Kept;
use message as m;

/// Label of everything that a node made: its cgroup parent, which is its own on a machine.
const OWNER: &str = "pintle.dev/cgroup-parent";
/// Events that a slow listener may be behind.
const EVENTS: usize = 1024;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a runtime is, and what is ours there.
#[derive(Clone, Debug)]
pub struct CriConfig {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// Where texts of seccomp profiles are written.
    pub state_dir: PathBuf,
    /// Cgroup path below every hierarchy's root, as `/pintle/node1`.
    pub cgroup_parent: String,
}

/// What a runtime says of itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// As `containerd`.
    pub name: String,
    /// As `1.6.20`.
    pub version: String,
    /// Where images and writable layers are, if it says so.
    pub images_dir: Option<PathBuf>,
    /// Where it looks for configurations of networks and for their plugins, if it says so.
    pub cni: Option<(PathBuf, PathBuf)>,
    /// The image of its pause process.
    pub sandbox_image: String,
}

/// Whether a runtime can run pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why not, in its own words.
    pub fault: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// A runtime behind a CRI socket. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Cri {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    owner: (String, String),
    config: CriConfig,
    about: About,
    groups: Groups,
    sandboxes: Mutex<HashMap<SandboxId, Arc<Kept>>>,
    events: broadcast::Sender<Event>,
    health: watch::Sender<Health>,
}

impl Cri {
    /// Connects, and follows its containers from now on.
    ///
    /// # Errors
    /// [`Error::Remote`] when nobody answers or not in CRI v1.
    pub async fn open(config: CriConfig) -> Result<Self> {
        let client = Client::new(config.socket.clone());
        let about = about(&client).await?;
        let owner = (OWNER.to_owned(), format!("/{}", config.cgroup_parent.trim_matches('/')));
        let health = watch::channel(Health { fault: None, since: Timestamp::now() }).0;
        let (groups, sandboxes, events) = (Groups::detect(), Mutex::default(), broadcast::channel(EVENTS).0);
        let cri = Self { shared: Arc::new(Shared { client, owner, config, about, groups, sandboxes, events, health }) };
        relist::look(&cri.shared).await;
        tokio::spawn(relist::run(Arc::downgrade(&cri.shared)));
        Ok(cri)
    }

    /// What the runtime said of itself when it was connected to.
    pub fn about(&self) -> &About {
        &self.shared.about
    }

    /// Whether it can run pods, as it last said.
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// Ends of containers from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Makes a pod's cgroup and sandbox, with its network.
    ///
    /// # Errors
    /// [`Error::Remote`], [`Error::Os`].
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let attempt = random_attempt();
        let relative = spec.cgroup.clone().unwrap_or_else(|| format!("pod{attempt}"));
        let kept = Kept { cgroup: format!("{}/{}", self.shared.owner.1, relative.trim_matches('/')), attempt, spec };
        let config = kept.config(&self.shared.owner)?;
        let kept = Arc::new(kept);
        let (shared, group) = (self.shared.clone(), kept.clone());
        blocking("make the pod's cgroup", move || shared.groups.create(&group.cgroup, &group.spec.resources)).await?;
        let made = self.client().runtime::<m::PodSandboxId>("RunPodSandbox", &m::RunPodSandboxRequest { config: Some(config) }).await;
        let id = match made {
            Ok(made) => SandboxId::parse(&made.pod_sandbox_id)?,
            Err(fault) => {
                self.remove_group(&kept).await?;
                return Err(fault.into());
            }
        };
        lock(&self.shared.sandboxes).insert(id.clone(), kept.clone());
        Ok(Sandbox { id, netns_path: None })
    }

    async fn remove_group(&self, kept: &Arc<Kept>) -> Result<()> {
        let (shared, kept) = (self.shared.clone(), kept.clone());
        blocking("remove the pod's cgroup", move || shared.groups.remove(&kept.cgroup)).await
    }

    async fn kept(&self, id: &SandboxId) -> Result<Arc<Kept>> {
        if let Some(kept) = lock(&self.shared.sandboxes).get(id) {
            return Ok(kept.clone());
        }
        let status = self.sandbox_status(id, false).await?.status.unwrap_or_default();
        let kept = Arc::new(Kept::of(&status.annotations).ok_or_else(|| Error::SandboxNotFound(id.to_string()))?);
        lock(&self.shared.sandboxes).insert(id.clone(), kept.clone());
        Ok(kept)
    }

    async fn sandbox_status(&self, id: &SandboxId, verbose: bool) -> Result<m::PodSandboxStatusResponse> {
        let request = m::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose };
        self.client().runtime("PodSandboxStatus", &request).await.map_err(|fault: Fault| match fault.code {
            code::NOT_FOUND => Error::SandboxNotFound(id.to_string()),
            _ => fault.into(),
        })
    }

    /// The addresses that the runtime's network gave a sandbox, the first one first.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub async fn sandbox_addresses(&self, id: &SandboxId) -> Result<Vec<std::net::IpAddr>> {
        let network = self.sandbox_status(id, false).await?.status.and_then(|status| status.network).unwrap_or_default();
        let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|more| &more.ip));
        Ok(all.filter_map(|text| text.parse().ok()).collect())
    }

    /// Where its network namespace is: in the OCI specification of the pause process, which containerd and CRI-O tell who asks for details.
    async fn netns_path(&self, id: &SandboxId) -> Result<PathBuf> {
        let info = self.sandbox_status(id, true).await?.info;
        let info: serde_json::Value = info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let path = namespaces.iter().find(|namespace| namespace["type"] == "network").and_then(|namespace| namespace["path"].as_str());
        path.map(PathBuf::from).ok_or_else(|| Error::remote("PodSandboxStatus", "does not tell the network namespace"))
    }

    /// A sandbox's network namespace.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], also for a sandbox on the host's network; [`Error::Os`].
    pub async fn netns(&self, id: &SandboxId) -> Result<OwnedFd> {
        if self.kept(id).await?.spec.netns == NetNs::Host {
            return Err(Error::SandboxNotFound(id.to_string()));
        }
        let path = self.netns_path(id).await?;
        blocking("open the network namespace", move || std::fs::File::open(path).map(OwnedFd::from)).await
    }

    /// Nothing to note: a removal begins with `StopPodSandbox`, and the runtime remembers that.
    pub async fn condemn_sandbox(&self, _: &SandboxId) -> Result<()> {
        Ok(())
    }

    /// Removes a sandbox; a missing one is not an error.
    ///
    /// # Errors
    /// [`Error::Remote`], [`Error::Os`].
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let kept = match self.kept(id).await {
            Ok(kept) => kept,
            Err(Error::SandboxNotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let request = m::PodSandboxId { pod_sandbox_id: id.to_string() };
        lenient(self.client().runtime::<m::Empty>("StopPodSandbox", &request).await)?;
        lenient(self.client().runtime::<m::Empty>("RemovePodSandbox", &request).await)?;
        self.remove_group(&kept).await?;
        lock(&self.shared.sandboxes).remove(id);
        Ok(())
    }

    /// All sandboxes of this node.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn sandboxes(&self) -> Result<Vec<SandboxState>> {
        let filter = m::PodSandboxFilter { label_selector: [self.shared.owner.clone()].into() };
        let request = m::ListPodSandboxRequest { filter: Some(filter) };
        let listed: m::ListPodSandboxResponse = self.client().runtime("ListPodSandbox", &request).await?;
        let state = |sandbox: m::PodSandbox| {
            Ok(SandboxState {
                id: SandboxId::parse(&sandbox.id)?,
                netns_path: None,
                ready: sandbox.state == m::SANDBOX_READY,
                created_at_ns: sandbox.created_at,
                labels: sandbox.labels.into_iter().collect(),
                annotations: sandbox.annotations.into_iter().collect(),
            })
        };
        listed.items.into_iter().map(state).collect()
    }

    /// Makes a container, not yet started.
    ///
    /// # Errors
    /// [`Error::Remote`], also for what CRI cannot carry; [`Error::Os`].
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerId> {
        let sandbox = spec.sandbox.clone().ok_or_else(|| Error::remote("CreateContainer", "no sandbox"))?;
        let kept = self.kept(&sandbox).await?;
        let image =
            self.image_status(&spec.image).await?.ok_or_else(|| pintle_runtime_bridge::ImageError::NotPresent(spec.image.clone()))?;
        let profile = match &spec.security.seccomp {
            Seccomp::Profile(text) => Some(self.keep_profile(text.clone()).await?),
            _ => None,
        };
        let mut config = kept.container(&spec, (image.uid.map(|uid| uid.value), image.username), profile.as_deref())?;
        config.labels.extend([self.shared.owner.clone()]);
        let mut sandbox_config = kept.config(&self.shared.owner)?;
        if let Some(directory) = spec.log_path.as_deref().and_then(Path::parent) {
            sandbox_config.log_directory = directory.to_string_lossy().into_owned();
            let directory = directory.to_owned();
            blocking("make the log's directory", move || std::fs::create_dir_all(directory)).await?;
        }
        let request =
            m::CreateContainerRequest { pod_sandbox_id: sandbox.to_string(), config: Some(config), sandbox_config: Some(sandbox_config) };
        let made: m::ContainerIdOnly = self.client().runtime("CreateContainer", &request).await?;
        ContainerId::parse(&made.container_id)
    }

    /// Writes a profile's text where the runtime can read it; the same text is the same file.
    async fn keep_profile(&self, text: String) -> Result<PathBuf> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let directory = self.shared.config.state_dir.join("seccomp");
        let path = directory.join(format!("{:016x}-{}.json", hasher.finish(), text.len()));
        let written = path.clone();
        blocking("write the seccomp profile", move || {
            std::fs::create_dir_all(directory)?;
            std::fs::write(path, text)
        })
        .await?;
        Ok(written)
    }

    /// Starts a created container; returns when its program has been executed.
    ///
    /// # Errors
    /// [`Error::Remote`] says why the program did not come up; the container then counts as exited.
    pub async fn start(&self, id: &ContainerId) -> Result<()> {
        self.on_container::<m::Empty>("StartContainer", id).await.map(drop)
    }

    /// SIGKILL to the container. An exited or missing container is not an error.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn kill(&self, id: &ContainerId) -> Result<()> {
        let request = m::StopContainerRequest { container_id: id.to_string(), timeout: 0 };
        lenient(self.client().runtime::<m::Empty>("StopContainer", &request).await)
    }

    /// The image's stop signal, then after `grace` SIGKILL; returns how it ended.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Remote`].
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<Exit> {
        // Whole seconds: what is left of one counts as one, for 0 would be none at all.
        let timeout = i64::try_from(grace.as_secs() + u64::from(grace.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        let request = m::StopContainerRequest { container_id: id.to_string(), timeout };
        lenient(self.client().runtime::<m::Empty>("StopContainer", &request).await)?;
        self.wait(id).await
    }

    /// Waits for the end of a container; at once when it has ended.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Remote`].
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        let look = || async { Ok(exit_of(&self.status(id).await?)) };
        let ended = Event::until_exited(id, self.events(), look).await?;
        ended.ok_or_else(|| Error::remote("ContainerStatus", "the runtime was closed"))
    }

    /// Kills if need be, and removes everything of the container but its log. A missing one is not an error.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn remove(&self, id: &ContainerId) -> Result<()> {
        let request = m::ContainerIdOnly { container_id: id.to_string() };
        lenient(self.client().runtime::<m::Empty>("RemoveContainer", &request).await)
    }

    /// All containers of this node.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn list(&self) -> Result<Vec<ContainerState>> {
        let mut found = Vec::new();
        for container in relist::containers(&self.shared).await? {
            let id = ContainerId::parse(&container.id)?;
            let status = match self.status(&id).await {
                Ok(status) => status,
                Err(Error::ContainerNotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            found.push(ContainerState {
                sandbox: SandboxId::parse(&container.pod_sandbox_id)?,
                image_id: container.image_ref,
                image: status.image.clone().unwrap_or_default().image,
                phase: phase(status.state),
                pid: None,
                created_at_ns: status.created_at,
                started_at_ns: Some(status.started_at).filter(|at| *at > 0),
                exit: exit_of(&status),
                labels: status.labels.into_iter().collect(),
                annotations: status.annotations.into_iter().collect(),
                log_path: Some(PathBuf::from(status.log_path)).filter(|path| !path.as_os_str().is_empty()),
                id,
            });
        }
        Ok(found)
    }

    async fn status(&self, id: &ContainerId) -> Result<m::ContainerStatus> {
        let answer: m::ContainerStatusResponse = self.on_container("ContainerStatus", id).await?;
        answer.status.ok_or_else(|| Error::ContainerNotFound(id.to_string()))
    }

    async fn on_container<A: prost::Message + Default>(&self, call: &'static str, id: &ContainerId) -> Result<A> {
        let request = m::ContainerIdOnly { container_id: id.to_string() };
        self.client().runtime(call, &request).await.map_err(|fault: Fault| match fault.code {
            code::NOT_FOUND => Error::ContainerNotFound(id.to_string()),
            _ => fault.into(),
        })
    }

    /// Runs a further process in a running container. Ending the session does not end a process that does not read its streams.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession> {
        let (stdin, tty) = (spec.stdin, spec.tty);
        let request = m::ExecRequest { container_id: id.to_string(), cmd: spec.command, tty, stdin, stdout: true, stderr: !tty };
        let place: m::StreamingUrl = self.client().runtime("Exec", &request).await?;
        stream::exec(&place.url, stream::Wanted { stdin, tty }).await
    }

    /// Runs a command in a running container to its end: how it ended, and what it wrote to stdout and stderr. Dropping the future kills it.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn exec_to_end(&self, id: &ContainerId, command: Vec<String>) -> Result<(Exit, Vec<u8>)> {
        let request = m::ExecSyncRequest { container_id: id.to_string(), cmd: command, timeout: 0 };
        let answer: m::ExecSyncResponse = self.client().runtime("ExecSync", &request).await?;
        let exit = Exit { code: answer.exit_code, signal: None, cause: ExitCause::Ended, at_ns: now_ns() };
        Ok((exit, [answer.stdout, answer.stderr].concat()))
    }

    /// Joins the stdio of a running container.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Remote`].
    pub async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<AttachSession> {
        let (kept, tty) = config::stdio(&self.status(id).await?.annotations);
        let stdin = stdin && kept;
        let request = m::AttachRequest { container_id: id.to_string(), stdin, tty, stdout: true, stderr: !tty };
        let place: m::StreamingUrl = self.client().runtime("Attach", &request).await?;
        stream::attach(&place.url, stream::Wanted { stdin, tty }).await
    }

    /// Closes and reopens the log file, after the caller has renamed it.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        self.on_container::<m::Empty>("ReopenContainerLog", id).await.map(drop)
    }

    /// Changes the limits of a container in place.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<()> {
        let request = m::UpdateContainerResourcesRequest { container_id: id.to_string(), linux: Some(config::resources(&resources)) };
        Ok(self.client().runtime::<m::Empty>("UpdateContainerResources", &request).await.map(drop)?)
    }

    /// Changes the limits of a pod as a whole in place.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::Os`].
    pub async fn update_sandbox_resources(&self, id: &SandboxId, resources: Resources) -> Result<()> {
        let (kept, shared) = (self.kept(id).await?, self.shared.clone());
        blocking("change limits", move || shared.groups.limit(&kept.cgroup, &resources)).await
    }

    async fn container_stats(&self, id: &ContainerId) -> Result<m::ContainerStats> {
        let answer: m::ContainerStatsResponse = self.on_container("ContainerStats", id).await?;
        answer.stats.ok_or_else(|| Error::ContainerNotFound(id.to_string()))
    }

    /// Use of resources by a container. CRI does not count its tasks.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Remote`].
    pub async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let stats = self.container_stats(id).await?;
        let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
        let number = |value: Option<m::UInt64Value>| value.map_or(0, |value| value.value);
        let working_set = number(memory.working_set_bytes);
        Ok(Stats {
            cpu_usage_ns: number(cpu.usage_core_nano_seconds),
            memory_usage_bytes: number(memory.usage_bytes).max(working_set),
            memory_working_set_bytes: working_set,
            memory_rss_bytes: number(memory.rss_bytes),
            pids: 0,
            at_ns: cpu.timestamp,
        })
    }

    /// What a container has written over its image, as the runtime last measured it.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Remote`].
    pub async fn writable_layer(&self, id: &ContainerId) -> Result<DiskUsage> {
        let layer = self.container_stats(id).await?.writable_layer.unwrap_or_default();
        let number = |value: Option<m::UInt64Value>| value.map_or(0, |value| value.value);
        Ok(DiskUsage { bytes: number(layer.used_bytes), inodes: number(layer.inodes_used) })
    }

    /// Use of resources by all of a sandbox, its pause process too.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub async fn sandbox_stats(&self, id: &SandboxId) -> Result<Stats> {
        let (kept, shared) = (self.kept(id).await?, self.shared.clone());
        blocking("read the pod's cgroup", move || Ok(shared.groups.stats(&kept.cgroup))).await
    }

    /// Removes all sandboxes and containers of this node.
    ///
    /// # Errors
    /// The first of what goes wrong.
    pub async fn purge(&self) -> Result<()> {
        for container in relist::containers(&self.shared).await? {
            self.remove(&ContainerId::parse(&container.id)?).await?;
        }
        for sandbox in self.sandboxes().await? {
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }
}

async fn about(client: &Client) -> Result<About> {
    let version: m::VersionResponse = client.runtime("Version", &m::Empty {}).await?;
    let status: m::StatusResponse = client.runtime("Status", &m::StatusRequest { verbose: true }).await?;
    let images: m::ImageFsInfoResponse = client.image("ImageFsInfo", &m::Empty {}).await.unwrap_or_default();
    let config: serde_json::Value = status.info.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let path = |value: &serde_json::Value| value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from);
    let cni = &config["cni"];
    let plugins = path(&cni["binDir"]).or_else(|| path(&cni["binDirs"][0]));
    Ok(About {
        name: version.runtime_name,
        version: version.runtime_version,
        images_dir: images.image_filesystems.into_iter().next().and_then(|fs| fs.fs_id).map(|id| PathBuf::from(id.mountpoint)),
        cni: path(&cni["confDir"]).zip(plugins),
        sandbox_image: config["sandboxImage"].as_str().unwrap_or_default().to_owned(),
    })
}

fn phase(state: i32) -> Phase {
    match state {
        m::state::CREATED => Phase::Created,
        m::state::RUNNING => Phase::Running,
        _ => Phase::Exited,
    }
}

fn exit_of(status: &m::ContainerStatus) -> Option<Exit> {
    let cause = match status.reason.as_str() {
        "OOMKilled" => ExitCause::OutOfMemory,
        "Unknown" => ExitCause::Unobserved,
        _ => ExitCause::Ended,
    };
    (phase(status.state) == Phase::Exited).then_some(Exit { code: status.exit_code, signal: None, cause, at_ns: status.finished_at })
}

/// For requests that a missing object makes moot.
fn lenient(result: Result<m::Empty, Fault>) -> Result<()> {
    match result {
        Err(fault) if fault.code != code::NOT_FOUND => Err(fault.into()),
        _ => Ok(()),
    }
}

/// Tells sandboxes and containers of one name from each other: names are kept by runtimes until the old one is gone.
fn random_attempt() -> u32 {
    u32::from_str_radix(SandboxId::random().as_str().get(..8).unwrap_or_default(), 16).unwrap_or_default()
}

fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(step: &'static str, work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).and_then(|inner| inner).map_err(|source| Error::Os { step: step.to_owned(), source })
}
