//! Who runs the containers: the bridge's own runtime, or another one behind its CRI socket. Both take the same specs and tell the same states.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pintle_cri::{Cri, CriConfig};
use pintle_runtime_bridge::{
    AttachSession, ContainerId, ContainerSpec, ContainerState, DiskUsage, Event, ExecSession, ExecSpec, Exit, ImageId, ImageInfo, ImageRef,
    PullOptions, Resources, Result, Runtime, RuntimeConfig, Sandbox, SandboxId, SandboxSpec, SandboxState, Stats,
};
use tokio::sync::broadcast;

use crate::machine::{Features, Readiness};
use crate::options::{NodeOptions, RuntimeChoice};

/// A runtime. Clones are one.
#[derive(Clone)]
pub enum Engine {
    /// The bridge's own.
    Native(Runtime),
    /// Another one.
    Cri(Cri),
}

/// What both do alike: each method is handed on.
macro_rules! both {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        impl Engine {
            $(
                $(#[$doc])*
                pub async fn $name(&self, $($arg: $kind),*) -> $out {
                    match self {
                        Self::Native(runtime) => runtime.$name($($arg),*).await,
                        Self::Cri(cri) => cri.$name($($arg),*).await,
                    }
                }
            )*
        }
    };
}

both! {
    /// Makes what a pod's containers share.
    create_sandbox(spec: SandboxSpec) -> Result<Sandbox>;
    /// Notes that it is about to be taken down, for a daemon that finds a part of it.
    condemn_sandbox(id: &SandboxId) -> Result<()>;
    /// Removes it; a missing one is not an error.
    remove_sandbox(id: &SandboxId) -> Result<()>;
    /// All sandboxes of this node.
    sandboxes() -> Result<Vec<SandboxState>>;
    /// A sandbox's network namespace.
    netns(id: &SandboxId) -> Result<OwnedFd>;
    /// Makes a container, not yet started.
    create_container(spec: ContainerSpec) -> Result<ContainerId>;
    /// Starts a created container.
    start(id: &ContainerId) -> Result<()>;
    /// Kills a container.
    kill(id: &ContainerId) -> Result<()>;
    /// Ends a container within `grace`.
    stop(id: &ContainerId, grace: Duration) -> Result<Exit>;
    /// Waits for its end.
    wait(id: &ContainerId) -> Result<Exit>;
    /// Removes a container but for its log; a missing one is not an error.
    remove(id: &ContainerId) -> Result<()>;
    /// All containers of this node.
    list() -> Result<Vec<ContainerState>>;
    /// Runs a further process in a container.
    exec(id: &ContainerId, spec: ExecSpec) -> Result<ExecSession>;
    /// Joins a container's streams.
    attach(id: &ContainerId, stdin: bool) -> Result<AttachSession>;
    /// Has a log file opened again that was renamed.
    reopen_log(id: &ContainerId) -> Result<()>;
    /// Changes a container's limits in place.
    update_resources(id: &ContainerId, resources: Resources) -> Result<()>;
    /// Changes a pod's limits in place.
    update_sandbox_resources(id: &SandboxId, resources: Resources) -> Result<()>;
    /// What a container uses.
    stats(id: &ContainerId) -> Result<Stats>;
    /// What a pod uses.
    sandbox_stats(id: &SandboxId) -> Result<Stats>;
    /// What a container has written over its image.
    writable_layer(id: &ContainerId) -> Result<DiskUsage>;
    /// Looks an image up by name or id.
    image(name: &str) -> Option<ImageInfo>;
    /// All images.
    images() -> Result<Vec<ImageInfo>>;
    /// Removes an image.
    remove_image(name: &str) -> Result<()>;
    /// Shows an image's files at a directory.
    mount_image(name: &str, target: &Path) -> Result<()>;
}

impl Engine {
    /// Opens the runtime that the options name.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn open(options: &NodeOptions) -> Result<Self> {
        match &options.runtime {
            RuntimeChoice::Native => {
                let config = RuntimeConfig {
                    run_dir: Some(options.run_dir.clone()),
                    cgroup_parent: options.cgroup_parent(),
                    ..RuntimeConfig::new(options.state_dir.join("runtime"))
                };
                Ok(Self::Native(Runtime::open(config).await?))
            }
            RuntimeChoice::Cri(socket) => {
                let (state_dir, cgroup_parent) = (options.state_dir.join("runtime"), options.cgroup_parent());
                Ok(Self::Cri(Cri::open(CriConfig { socket: socket.clone(), state_dir, cgroup_parent }).await?))
            }
        }
    }

    /// Ends of containers from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match self {
            Self::Native(runtime) => runtime.events(),
            Self::Cri(cri) => cri.events(),
        }
    }

    /// Has an image here.
    ///
    /// # Errors
    /// What the registry or the runtime says.
    pub async fn pull(&self, image: &ImageRef, options: PullOptions) -> Result<ImageId> {
        match self {
            Self::Native(runtime) => runtime.pull(image, options, |_| {}).await,
            Self::Cri(cri) => cri.pull(image, options).await,
        }
    }

    /// Removes what no image needs; other runtimes do that themselves.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn sweep_images(&self) -> Result<()> {
        match self {
            Self::Native(runtime) => runtime.sweep_images().await,
            Self::Cri(_) => Ok(()),
        }
    }

    /// `nodeInfo.containerRuntimeVersion`, and before `://` what container ids begin with.
    pub fn version(&self) -> String {
        match self {
            Self::Native(_) => concat!("pintle://", env!("CARGO_PKG_VERSION")).to_owned(),
            Self::Cri(cri) => format!("{}://{}", cri.about().name, cri.about().version),
        }
    }

    /// Where images and writable layers are.
    pub fn images_dir(&self, state_dir: &Path) -> PathBuf {
        let own = || state_dir.join("runtime");
        match self {
            Self::Native(_) => own(),
            Self::Cri(cri) => cri.about().images_dir.clone().unwrap_or_else(own),
        }
    }

    /// Whether mounts can be read-only with all that is mounted below them.
    pub fn mounts_recursively_read_only(&self) -> bool {
        matches!(self, Self::Native(_))
    }

    /// Whether pods can have users of their own on this machine.
    pub fn has_user_namespaces(&self) -> bool {
        matches!(self, Self::Native(_)) && crate::pod::users::able()
    }

    /// What a Node object says of it.
    pub fn features(&self) -> Features {
        Features { recursive_read_only: self.mounts_recursively_read_only(), user_namespaces: self.has_user_namespaces() }
    }

    /// Whether it can run pods; our own always can.
    pub fn readiness(&self, otherwise: Timestamp) -> Readiness {
        match self {
            Self::Native(_) => Readiness { fault: None, since: otherwise },
            Self::Cri(cri) => {
                let health = cri.health();
                Readiness { fault: health.fault, since: health.since }
            }
        }
    }
}
