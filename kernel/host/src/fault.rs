//! What goes wrong with a module, in two kinds: a *fault* ends an instance and goes to its supervisor, an *error* is an answer.
//!
//! A fault names the module and the generation it happened in, so that a late report from an earlier incarnation is told apart.

use std::{fmt, sync::Arc};

/// The name of a Module object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(Arc<str>);

impl ModuleId {
    /// The id of the Module object called `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which incarnation of a module: grows with every restart and swap, over all modules of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The guest trapped: a panic, `unreachable`, an exit, an out-of-bounds access.
    Trap,
    /// A call or slice overran its deadline.
    Deadline,
    /// The guest wanted more memory than its limit.
    Memory,
    /// The guest answered with something that is not a well-formed message within the limits.
    BadFrame,
    /// The guest used a capability that it does not hold, or more of one than its quota.
    Misuse,
    /// A capability of an earlier incarnation was used.
    StaleGeneration,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline exceeded",
            Self::Memory => "memory limit exceeded",
            Self::BadFrame => "bad frame",
            Self::Misuse => "capability misuse",
            Self::StaleGeneration => "stale generation",
        })
    }
}

/// The end of one instance, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("module {module} (generation {generation}): {kind}: {message}")]
pub struct Fault {
    /// How it ended.
    pub kind: FaultKind,
    /// Whose instance.
    pub module: ModuleId,
    /// Which incarnation.
    pub generation: Generation,
    /// For people; shown in the Module's status, never to an API client.
    pub message: String,
}

/// Everything that can keep a module from running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The engine could not be configured on this machine.
    #[error("cannot set up the WebAssembly engine")]
    Engine(#[source] wasmtime::Error),
    /// The bytes are not a component that this engine compiles.
    #[error("not a WebAssembly component: {0}")]
    Compile(String),
    /// The component imports something that no module is given.
    #[error("the module imports {0}, which is not granted to any module")]
    UnapprovedImport(String),
    /// The component does not speak the pipe.
    #[error("the module does not export the pipe: {0}")]
    NotAModule(String),
    /// The module is larger than the limit, in bytes.
    #[error("the module is {actual} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size.
        actual: usize,
        /// The largest accepted.
        limit: usize,
    },
    /// The bytes do not have the digest that the Module names.
    #[error("digest mismatch: the Module says {expected}, the source has {actual}")]
    DigestMismatch {
        /// From the Module's spec.
        expected: String,
        /// Of the bytes found.
        actual: String,
    },
    /// The Module's spec cannot be acted on.
    #[error("{field}: {problem}")]
    BadSpec {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No policy that selects the module admits it.
    #[error("denied: {0}")]
    Denied(String),
    /// The module's source cannot be read.
    #[error("cannot read the module's source {source_name}: {problem}")]
    Source {
        /// As the Module names it.
        source_name: String,
        /// What happened.
        problem: String,
    },
    /// The host's own files.
    #[error("cannot use {path}")]
    Io {
        /// Which file or folder.
        path: std::path::PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The module faulted.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The guest answered a life-cycle call with an error.
    #[error("the module refused to start: {0}")]
    Refused(String),
    /// The registry refused the host itself.
    #[error("the registry refused: {0}")]
    Registry(String),
    /// The host is shutting down.
    #[error("the module host is shutting down")]
    ShuttingDown,
}
