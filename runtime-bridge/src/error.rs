//! The crate's one error enum. Display tells this layer's fact; the source chain carries the rest.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever can go wrong between a caller and the kernel.
#[derive(Debug, Error)]
pub enum Error {
    /// An id with characters that may not reach a path.
    #[error("invalid id {0:?}")]
    InvalidId(String),
    /// A spec field that cannot be honoured; names field and reason.
    #[error("invalid {field}: {reason}")]
    InvalidSpec {
        /// The field.
        field: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// No such sandbox.
    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    /// A sandbox with this id exists.
    #[error("sandbox {0} already exists")]
    SandboxExists(String),
    /// The sandbox still has containers.
    #[error("sandbox {0} still has containers")]
    SandboxInUse(String),
    /// No such container.
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// A container with this id exists.
    #[error("container {0} already exists")]
    ContainerExists(String),
    /// The operation needs another phase of the container's life.
    #[error("container {id} is {actual}, the operation needs {needed}")]
    WrongPhase {
        /// The container.
        id: String,
        /// The phase it is in.
        actual: &'static str,
        /// What was needed.
        needed: &'static str,
    },
    /// The container's process could not be started.
    #[error("cannot start: {message}")]
    Start {
        /// The class of failure.
        kind: StartFailure,
        /// The step and the system's reason.
        message: String,
    },
    /// An image could not be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The helper process is not there and could not be started.
    #[error("container helper unavailable: {0}")]
    HelperUnavailable(String),
    /// The helper refused a request for a reason of the operating system.
    #[error("helper failed at {step}: {message}")]
    Helper {
        /// What was being done.
        step: String,
        /// The system's reason.
        message: String,
    },
    /// Another runtime refused a call, or was not there to take it.
    #[error("{call}: {message}")]
    Remote {
        /// The call.
        call: &'static str,
        /// The runtime's reason.
        message: String,
    },
    /// A state file that cannot be read back.
    #[error("state file {path} is damaged: {reason}")]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A system call of this process failed.
    #[error("{step}: {source}")]
    Os {
        /// What was being done.
        step: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// What another runtime said to a call.
    pub fn remote(call: &'static str, message: impl Into<String>) -> Self {
        Self::Remote { call, message: message.into() }
    }

    pub(crate) fn os(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { step: step.into(), source: source.into() }
    }

    pub(crate) fn spec(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidSpec { field, reason: reason.into() }
    }
}

/// Adds the step to an operating-system error.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::os(step(), e))
    }
}

/// Why a container (or an exec) did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFailure {
    /// The program does not exist (exit code 127 by convention).
    ExecutableNotFound,
    /// The program is not executable (exit code 126 by convention).
    PermissionDenied,
    /// No such user or group in the image.
    UnknownUser,
    /// The spec forbids uid 0, and the image would run as it.
    RunsAsRoot,
    /// No command in the spec nor in the image.
    NoCommand,
    /// A mount failed; the message names it.
    Mount,
    /// The working directory is not usable.
    WorkingDirectory,
    /// Any other step; the message names it.
    Setup,
}

/// Why an image could not be had.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Not a valid image reference (kubelet: InvalidImageName).
    #[error("couldn't parse image name {name:?}: {reason}")]
    InvalidName {
        /// As given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such image, tag or digest (kubelet: ErrImagePull).
    #[error("image {0} not found")]
    NotFound(String),
    /// The image is not in the local store.
    #[error("image {0} is not in the local store")]
    NotPresent(String),
    /// Credentials missing or refused.
    #[error("not authorized to pull {0}")]
    Unauthorized(String),
    /// No answer from the registry.
    #[error("registry of {reference} unreachable: {reason}")]
    Unreachable {
        /// The reference.
        reference: String,
        /// The transport's reason.
        reason: String,
    },
    /// The registry answered with something that is not the protocol.
    #[error("registry of {reference} answered badly: {reason}")]
    BadAnswer {
        /// The reference.
        reference: String,
        /// What it said.
        reason: String,
    },
    /// Content does not match its digest.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    BadDigest {
        /// As promised.
        expected: String,
        /// As computed.
        actual: String,
    },
    /// Manifest or config is malformed.
    #[error("malformed image: {0}")]
    Malformed(String),
    /// No variant for this machine.
    #[error("image {reference} has no variant for {platform}")]
    NoPlatform {
        /// The reference.
        reference: String,
        /// `linux/amd64` and the like.
        platform: String,
    },
    /// A layer that tries to leave its directory or is not a proper archive.
    #[error("unsafe or malformed layer {digest}: {reason}")]
    BadLayer {
        /// The layer.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Larger than the configured limits.
    #[error("image exceeds limit: {0}")]
    TooLarge(String),
    /// The image is used by a container.
    #[error("image {0} is in use")]
    InUse(String),
    /// Local disk trouble.
    #[error("image store: {step}: {source}")]
    Store {
        /// What was being done.
        step: String,
        /// The system's reason.
        source: io::Error,
    },
}
