//! The crate's one error enum. Display tells this layer's fact; the source chain carries the rest.

use std::io;

use thiserror::Error;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever can go wrong on a machine.
#[derive(Debug, Error)]
pub enum Error {
    /// The container runtime refused.
    #[error(transparent)]
    Runtime(#[from] pintle_runtime_bridge::Error),
    /// A file or socket operation failed.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("{step}")]
    Netlink {
        /// What was being done.
        step: String,
        /// The kernel's reason.
        source: rtnetlink::Error,
    },
    /// TLS material that cannot be used.
    #[error("{step}")]
    Tls {
        /// What was being done.
        step: String,
        /// The library's reason.
        source: rustls::Error,
    },
    /// A call over the link failed (the connection is likely gone).
    #[error("link: {step}")]
    Link {
        /// What was being done.
        step: &'static str,
        /// The RPC system's reason.
        source: capnp::Error,
    },
    /// The kernel cannot be reached now.
    #[error("no connection to the kernel")]
    Away,
    /// The kernel answered a request with a failure.
    #[error("{reason}: {message}")]
    Refused {
        /// HTTP status code.
        code: u16,
        /// metav1.StatusReason.
        reason: String,
        /// Its words.
        message: String,
    },
    /// The machine was told something that makes no sense.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Option, field or file.
        what: String,
        /// Why.
        reason: String,
    },
    /// Bytes that should be JSON of a known kind are not.
    #[error("malformed {what}")]
    Malformed {
        /// Which object or file.
        what: String,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// The network's plugins have no configuration that can be used.
    #[error("no network for pods: {0}")]
    NoCniNetwork(String),
    /// A plugin of the network failed.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    CniPlugin {
        /// Its type.
        plugin: String,
        /// What was asked of it, as `add`.
        command: String,
        /// Its words.
        message: String,
    },
    /// A driver of storage failed.
    #[error("{call} of storage driver {driver:?}: rpc error: code {code}: {message}")]
    Driver {
        /// Its name.
        driver: String,
        /// What was asked of it.
        call: &'static str,
        /// gRPC's status code.
        code: i32,
        /// Its words.
        message: String,
    },
    /// No free address in the node's podCIDR.
    #[error("no free address in {0}")]
    AddressesExhausted(String),
    /// The node has no podCIDR yet.
    #[error("the node has no podCIDR yet")]
    NoPodCidr,
    /// A feature of a pod that this node does not carry out.
    #[error("{0} is not supported by this node")]
    Unsupported(String),
    /// A container's configuration mentions something that is not there or cannot be (CreateContainerConfigError).
    #[error("{0}")]
    ContainerConfig(String),
    /// A container answered a probe or a hook, but not well.
    #[error("{0}")]
    Answer(String),
    /// A path that leaves the directory it must stay in.
    #[error("path {0:?} is not allowed here")]
    UnsafePath(String),
    /// A process that had to finish in time did not.
    #[error("{0} timed out")]
    TimedOut(String),
}

impl Error {
    /// An operating-system error with what was being done.
    pub fn io(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { step: step.into(), source: source.into() }
    }

    /// A nonsensical setting or field.
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// The error and its sources on one line.
    pub fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let words = inner.to_string();
            if !text.ends_with(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            source = inner.source();
        }
        text
    }

    /// Whether the kernel said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// Adds the step to an operating-system error.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::io(step(), source))
    }
}
