//! What can go wrong in the server itself: at start, on a connection, in its key material. What goes wrong with a request is not
//! here: that is a `metav1.Status` and goes to the client.

/// A failure of the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Key material.
    #[error("the cluster's keys")]
    Pki(#[from] pintle_pki::PkiError),
    /// TLS could not be set up.
    #[error("setting up TLS")]
    Tls(#[from] rustls::Error),
    /// The client certificate verifier could not be set up.
    #[error("setting up client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The key for tokens is not usable.
    #[error("the service account key")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// The address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    /// A built-in object could not be put into the registry at first start.
    #[error("bootstrapping {what}: {message}")]
    Bootstrap {
        /// The object.
        what: String,
        /// What the registry said.
        message: String,
    },
}

/// The server's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
