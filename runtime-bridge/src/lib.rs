//! The native Linux container runtime, as a library for the node daemon.
//!
//! Three parties:
//! - **the daemon** (tokio, threads) calls [`Runtime`]: images, specs, cgroups, streams;
//! - **the helper** ([`helper`]), one single-threaded process per state directory, does every clone and exec, is the
//!   containers' parent, writes their logs and records their exits. It outlives the daemon; a new daemon reconnects;
//! - **the state directory** holds specs and statuses, so that even a new helper can adopt what runs.
//!
//! What is absent: no shim per container, no pause process (except as init of a shared PID namespace), no
//! Kubernetes types, no network set-up (the caller gets the namespace's path), no restart policy.
//!
//! A program that uses this crate calls [`helper::maybe_run`] first thing in `main`, before any thread starts.

mod bundle;
mod cgroup;
mod device_filter;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzz;
mod groups;
pub mod helper;
pub mod image;
mod label;
mod link;
pub mod oci;
mod purge;
mod runtime;
mod spec;
mod state;
mod sys;
mod usage;

pub use error::{Error, ImageError, Result, StartFailure};
pub use exec::{AttachSession, ExecSession, InputStream, OutputStream, TerminalResizer};
pub use groups::Groups;
pub use helper::rootfs::{MASKED_PATHS, READ_ONLY_PATHS};
pub use image::{Credentials, ImageId, ImageInfo, ImageLimits, ImageRef, Mirror, PullOptions, PullProgress};
pub use label::{DEFAULT_PROFILE, enforces_app_armor, has_selinux};
pub use runtime::{Runtime, RuntimeConfig, Sandbox};
pub use spec::{
    AppArmor, ContainerId, ContainerSpec, Device, ExecSpec, IdRange, Mount, MountSource, NetNs, Propagation, Resources, Rlimit, SandboxId,
    SandboxSpec, Scope, Seccomp, Security, SelinuxOptions, TerminalSize, User,
};
pub use state::{ContainerState, Event, Exit, ExitCause, Phase, SandboxState, Stats};
pub use usage::{DiskUsage, disk_usage};
