//! What can go wrong in a module that is not a trap.

/// A module's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a module could not decide. The kernel logs it and tries again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes of an object do not have the shape that the module reads.
    #[error("{what} cannot be read: {source}")]
    Shape {
        /// Which object.
        what: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A value of the module's own cannot be written as JSON.
    #[error("a value cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),
    /// A field without which nothing can be decided is not there.
    #[error("{what} has no {field}")]
    Missing {
        /// Which object.
        what: String,
        /// The field's path.
        field: &'static str,
    },
    /// `spec.config` of the Module is not what the module understands.
    #[error("spec.config cannot be read: {0}")]
    Config(#[source] serde_json::Error),
    /// The module's own reason, in its own words.
    #[error("{reason}")]
    Undecided {
        /// For people.
        reason: String,
    },
    /// Something has to be read first: see [`Request::read`](crate::Request::read). Pass it on; the controller is asked again when it is there.
    #[error("{0} has not been read yet")]
    Unread(String),
    /// A message from the kernel is malformed.
    #[error("a message of the kernel cannot be read: {0}")]
    Message(#[from] capnp::Error),
}

impl Error {
    /// The module's own reason.
    pub fn undecided(reason: impl Into<String>) -> Self {
        Error::Undecided { reason: reason.into() }
    }
}

impl From<Error> for capnp::Error {
    fn from(error: Error) -> Self {
        capnp::Error::failed(error.to_string())
    }
}
