//! What a caller asks for: sandboxes, containers, execs. Plain data, serialisable, because the specs are the files
//! from which a later daemon (or a later helper) adopts what runs.
//!
//! Nothing here acts. Invariant: every id that reaches a path has passed [`ContainerId::parse`] or
//! [`SandboxId::parse`], so an id can never name anything outside the state directory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Accepts 1 to 128 characters of `[A-Za-z0-9_.-]`, the first one alphanumeric.
            ///
            /// # Errors
            /// [`Error::InvalidId`] for anything else.
            pub fn parse(text: &str) -> Result<Self> {
                if valid_id(text) { Ok(Self(text.to_owned())) } else { Err(Error::InvalidId(text.to_owned())) }
            }

            /// A fresh id: 64 hexadecimal digits of kernel randomness.
            pub fn random() -> Self {
                Self(crate::sys::random_hex(32))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id_type! {
    /// Names a container for its whole life; survives daemon restarts.
    ContainerId
}
id_type! {
    /// Names a sandbox: the namespaces and the cgroup that a pod's containers share.
    SandboxId
}

/// Where a sandbox's network namespace comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetNs {
    /// A new namespace with only `lo` (up), pinned in the run directory; see `Sandbox::netns_path`.
    #[default]
    New,
    /// The namespace that the helper itself lives in (the node's).
    Host,
    /// An existing pinned namespace.
    Path(PathBuf),
}

/// Who shares a namespace of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// One a container. For IPC and UTS this means the same as `Pod`.
    Container,
    /// One for the whole sandbox.
    #[default]
    Pod,
    /// The node's.
    Host,
}

/// Ids of the node that a sandbox's own ids, from 0, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The node's id that is the sandbox's 0.
    pub first: u32,
    /// How many there are.
    pub length: u32,
}

/// A pod's shared part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// `None`: a random id.
    pub id: Option<SandboxId>,
    /// Set in the sandbox's UTS namespace; ignored with `uts: Host`.
    pub hostname: Option<String>,
    /// The network namespace.
    pub netns: NetNs,
    /// `Pod` or `Host`.
    pub ipc: Scope,
    /// `Pod` or `Host`.
    pub uts: Scope,
    /// `Container` (Kubernetes' default), `Pod` (shareProcessNamespace) or `Host` (hostPID). `None` means `Container`.
    pub pid: Option<Scope>,
    /// A user namespace for the sandbox, which maps users and groups alike; then no namespace may be the node's. `None`: the node's users.
    #[serde(default)]
    pub user_namespace: Option<IdRange>,
    /// Namespaced sysctls only (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`), dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup path relative to `RuntimeConfig::cgroup_parent`, as `burstable/pod1234`. `None`: the sandbox id.
    pub cgroup: Option<String>,
    /// Limits of the pod's own cgroup, above those of its containers.
    pub resources: Resources,
    /// Whether a container of it will be privileged: runtimes with a pause process ask for that.
    #[serde(default)]
    pub privileged: bool,
    /// Size of the pod's /dev/shm in bytes; `None`: 64 MiB.
    pub shm_bytes: Option<u64>,
    /// Kept in the state file, uninterpreted.
    pub labels: BTreeMap<String, String>,
    /// Kept in the state file, uninterpreted.
    pub annotations: BTreeMap<String, String>,
}

/// One container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `None`: a random id.
    pub id: Option<ContainerId>,
    /// The sandbox to join; must exist.
    pub sandbox: Option<SandboxId>,
    /// A running container of the sandbox whose processes this one sees and lives among, whatever the sandbox says.
    pub pid_of: Option<ContainerId>,
    /// An image id (`sha256:...`) or a reference that the store already holds.
    pub image: String,
    /// Replaces the image's entrypoint when not empty (and then the image's cmd is dropped).
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty.
    pub args: Vec<String>,
    /// Added to the image's environment, later wins.
    pub env: Vec<(String, String)>,
    /// `None`: the image's, else `/`. Created when missing.
    pub working_dir: Option<String>,
    /// Whom to run as.
    pub user: User,
    /// Mounts beyond the standard ones, in order.
    pub mounts: Vec<Mount>,
    /// CRI-format log file; parent directories are created. `None`: output is discarded.
    pub log_path: Option<PathBuf>,
    /// Keep a stdin that an attach can write to; otherwise stdin is /dev/null.
    pub stdin: bool,
    /// Close stdin when the first attach ends.
    pub stdin_once: bool,
    /// Run on a pseudo-terminal.
    pub tty: bool,
    /// Cgroup limits.
    pub resources: Resources,
    /// Confinement.
    pub security: Security,
    /// Resource limits (`RLIMIT_*`).
    pub rlimits: Vec<Rlimit>,
    /// Device nodes to add to /dev and to the device allow list.
    pub devices: Vec<Device>,
    /// Kept in the state file, uninterpreted.
    pub labels: BTreeMap<String, String>,
    /// Kept in the state file, uninterpreted.
    pub annotations: BTreeMap<String, String>,
}

/// Whom a process runs as. Numbers win over names; with neither the image's `User` is taken, else root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// runAsUser.
    pub uid: Option<u32>,
    /// runAsGroup.
    pub gid: Option<u32>,
    /// `user[:group]`, names or numbers, looked up in the image's own passwd and group files.
    pub name: Option<String>,
    /// Supplementary groups, added to those that the image's group file gives the user.
    pub additional_gids: Vec<u32>,
    /// Refuse to start as uid 0 ([`crate::StartFailure::RunsAsRoot`]).
    pub must_not_be_root: bool,
}

/// One mount into the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container, resolved inside its root; created when missing.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// Read-only.
    pub read_only: bool,
    /// Read-only for everything below the source as well (needs `read_only`).
    pub recursive_read_only: bool,
    /// Mount propagation.
    pub propagation: Propagation,
    /// Refuse executables on it.
    pub no_exec: bool,
    /// Where the machine has SELinux: the source's files are given the container's label.
    #[serde(default)]
    pub relabel: bool,
}

impl Mount {
    /// A recursive bind mount of `source` on `target`, private, writable.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            source: MountSource::Bind(source.into()),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            no_exec: false,
            relabel: false,
        }
    }

    /// The same mount, read-only.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// What a mount shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the node. The path is followed as the node sees it: it must come from a trusted place.
    Bind(PathBuf),
    /// A path inside a volume that the pod may have written to (Kubernetes' subPath): resolved beneath the volume, no
    /// link leads out of it, made as a directory when missing.
    BindWithin {
        /// The volume's directory on the node.
        volume: PathBuf,
        /// Relative path in it.
        path: String,
    },
    /// A fresh tmpfs that dies with the container.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
    },
}

/// Kubernetes' mountPropagation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// HostToContainer.
    FromHost,
    /// Bidirectional.
    Both,
}

/// Cgroup limits; `None` leaves the controller's default. Applied where the controller exists, else a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Hard memory limit in bytes; -1 takes a limit away.
    pub memory_limit_bytes: Option<i64>,
    /// CPU weight in thousandths of a CPU (a Kubernetes request): shares = millis * 1024 / 1000.
    pub cpu_request_millis: Option<u64>,
    /// CPU ceiling in thousandths of a CPU: quota over a period of 100 ms; 0 takes a ceiling away.
    pub cpu_limit_millis: Option<u64>,
    /// Highest number of tasks.
    pub pids_limit: Option<i64>,
    /// CPUs as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Highest use of huge pages in bytes, by their size in bytes. Sizes that are not named are not limited.
    #[serde(default)]
    pub huge_pages: BTreeMap<u64, u64>,
    /// oom_score_adj of the container's init.
    pub oom_score_adj: Option<i32>,
}

/// Confinement of a container. The default is the strict one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Everything the node's root can do: all capabilities, all devices, no seccomp, no masked paths, /sys writable.
    pub privileged: bool,
    /// `NET_ADMIN` or `CAP_NET_ADMIN`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// As above; `ALL` is dropped before `add_capabilities` are added.
    pub drop_capabilities: Vec<String>,
    /// allowPrivilegeEscalation=false.
    pub no_new_privs: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// AppArmor profile.
    #[serde(default)]
    pub app_armor: AppArmor,
    /// Parts of an SELinux label; ignored on machines without.
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
    /// readOnlyRootFilesystem.
    pub read_only_root: bool,
    /// `None`: the usual list.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the usual list.
    pub read_only_paths: Option<Vec<String>>,
}

/// System call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The runtime's default allow list, adapted to the capabilities.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// What a profile says: JSON of the OCI runtime specification, or Docker's form of it.
    Profile(String),
}

/// AppArmor profile of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// Nobody said: the runtime's default profile where it is loaded and the container is not privileged, else none.
    #[default]
    Unsaid,
    /// The runtime's default profile, or no container; a privileged one runs without.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile that is loaded on the machine, by its name.
    Profile(String),
}

/// Parts of an SELinux label; what is not given is as the system's policy says for containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User.
    pub user: Option<String>,
    /// Role.
    pub role: Option<String>,
    /// Type.
    pub kind: Option<String>,
    /// Level, as `s0:c1,c2`. `None`: categories of the sandbox's own.
    pub level: Option<String>,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` or `nofile`.
    pub kind: String,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is infinity.
    pub hard: u64,
}

/// A device node of the host to appear in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the node.
    pub host_path: PathBuf,
    /// Path in the container, under /dev.
    pub container_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    /// `None`: the container's.
    pub working_dir: Option<String>,
    /// `None`: the container's.
    pub user: Option<User>,
    /// Open a stdin stream; otherwise stdin is /dev/null.
    pub stdin: bool,
    /// Run on a pseudo-terminal: stdout carries everything, stderr is absent.
    pub tty: bool,
    /// First size of the terminal.
    pub size: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

fn valid_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
