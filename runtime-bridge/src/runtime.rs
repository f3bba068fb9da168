//! The front door for the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::error::{Error, Result};
use crate::exec::{AttachSession, ExecSession};
use crate::image::{ImageId, ImageInfo, ImageLimits, ImageRef, PullOptions, PullProgress};
use crate::spec::{ContainerId, ContainerSpec, ExecSpec, Resources, SandboxId, SandboxSpec};
use crate::state::{ContainerState, Event, Exit, SandboxState, Stats};

/// Where a runtime keeps its things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Everything that lasts: images, specs, statuses, writable layers. Root only (0700).
    pub state_dir: PathBuf,
    /// Sockets, fifos and namespace pins; `None`: `<state_dir>/run`.
    pub run_dir: Option<PathBuf>,
    /// Cgroup path below every hierarchy's root, as `/pintle/node1`.
    pub cgroup_parent: String,
    /// Program that holds the helper; `None`: this very program.
    pub helper_exe: Option<PathBuf>,
    /// Limits on what an image may contain.
    pub image_limits: ImageLimits,
}

impl RuntimeConfig {
    /// Defaults for everything but the state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: None,
            cgroup_parent: "/pintle".to_owned(),
            helper_exe: None,
            image_limits: ImageLimits::default(),
        }
    }
}

/// The runtime. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Runtime {}

/// A created sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Path of the pinned network namespace, for `setns`; `None` on the host's network.
    pub netns_path: Option<PathBuf>,
}

#[allow(unused_variables, clippy::unused_async)]
impl Runtime {
    /// Opens the state directory, connects to its helper (or starts one) and adopts what runs.
    pub async fn open(config: RuntimeConfig) -> Result<Self> { Err(Error::Unsupported("open")) }
    /// Exits and helper restarts from now on. A receiver that lags is told so and should call [`Runtime::list`].
    pub fn events(&self) -> broadcast::Receiver<Event> { broadcast::channel(1).1 }
    /// Fetches an image and unpacks its layers. Concurrent pulls of one layer are done once.
    pub async fn pull(&self, image: &ImageRef, options: PullOptions, progress: impl Fn(PullProgress) + Send + Sync + 'static) -> Result<ImageId> { Err(Error::Unsupported("pull")) }
    /// Imports every image of an OCI layout directory that carries `org.opencontainers.image.ref.name`, or the only one under `name`.
    pub async fn import_layout(&self, layout: &Path, name: Option<&ImageRef>) -> Result<Vec<ImageId>> { Err(Error::Unsupported("import")) }
    /// Looks an image up by reference or id, locally.
    pub async fn image(&self, name: &str) -> Option<ImageInfo> { None }
    /// All images of the store.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> { Err(Error::Unsupported("images")) }
    /// Removes a reference, and the image with its last reference (or id given). Layers that nothing uses go too.
    pub async fn remove_image(&self, name: &str) -> Result<()> { Err(Error::Unsupported("remove_image")) }
    /// Makes a pod's namespaces and cgroup.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> { Err(Error::Unsupported("create_sandbox")) }
    /// Removes a sandbox without containers; a missing one is not an error.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> { Err(Error::Unsupported("remove_sandbox")) }
    /// All sandboxes.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxState>> { Err(Error::Unsupported("sandboxes")) }
    /// Prepares a container: resolves the image, writes its state, makes its cgroup.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerId> { Err(Error::Unsupported("create")) }
    /// Starts a created container; returns when its program has been executed.
    pub async fn start(&self, id: &ContainerId) -> Result<()> { Err(Error::Unsupported("start")) }
    /// Sends a signal to the container's init. An exited container is not an error.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<()> { Err(Error::Unsupported("signal")) }
    /// SIGKILL to every process of the container.
    pub async fn kill(&self, id: &ContainerId) -> Result<()> { Err(Error::Unsupported("kill")) }
    /// The image's stop signal (else SIGTERM), then after `grace` SIGKILL to all; returns how it ended.
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<Exit> { Err(Error::Unsupported("stop")) }
    /// Waits for the end of a container; at once when it has ended.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit> { Err(Error::Unsupported("wait")) }
    /// Kills if need be, and removes everything of the container but its log. A missing one is not an error.
    pub async fn remove(&self, id: &ContainerId) -> Result<()> { Err(Error::Unsupported("remove")) }
    /// All containers.
    pub async fn list(&self) -> Result<Vec<ContainerState>> { Err(Error::Unsupported("list")) }
    /// One container.
    pub async fn state(&self, id: &ContainerId) -> Result<ContainerState> { Err(Error::Unsupported("state")) }
    /// The spec a container was created from.
    pub async fn spec(&self, id: &ContainerId) -> Result<ContainerSpec> { Err(Error::Unsupported("spec")) }
    /// Runs a further process in a running container.
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession> { Err(Error::Unsupported("exec")) }
    /// Joins the stdio of a running container.
    pub async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<AttachSession> { Err(Error::Unsupported("attach")) }
    /// Closes and reopens the log file, after the caller has renamed it.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> { Err(Error::Unsupported("reopen_log")) }
    /// Changes the limits of a container in place.
    pub async fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<()> { Err(Error::Unsupported("update")) }
    /// Use of resources by a container.
    pub async fn stats(&self, id: &ContainerId) -> Result<Stats> { Err(Error::Unsupported("stats")) }
    /// Use of resources by all of a sandbox.
    pub async fn sandbox_stats(&self, id: &SandboxId) -> Result<Stats> { Err(Error::Unsupported("stats")) }
    /// Kills all containers of a state directory and its helper, and removes cgroups, mounts, pins and files, whoever
    /// died before. `run_dir` as in [`RuntimeConfig`].
    pub async fn purge(state_dir: &Path, run_dir: Option<&Path>) -> Result<()> { Err(Error::Unsupported("purge")) }
}
