//! A whole cluster on one machine: `pintle up` and `pintle down`.
//!
//! The kernel runs in the machine's own namespaces; each host-node in a network namespace, a mount namespace and a cgroup subtree of its
//! own, joined by one bridge. Everything is named after a hash of the data directory, so several clusters can stand side by
//! side and `down` finds what `up` (or a killed `up`) left behind without any memory but the directory and the names.
//!
//! This room starts and stops programs. It knows nothing of pods.

mod client;
mod down;
mod layout;
mod network;
mod processes;
mod up;

pub use down::{DownArgs, down};
pub use layout::Layout;
pub use up::{UpArgs, up};

/// Why a cluster could not be started or stopped. The source chain says what the system answered.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Reading or writing the data directory failed.
    #[error("cannot use {path}")]
    Directory {
        /// The path in question.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program that `up` or `down` runs is missing or failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error, or why it did not start.
        output: String,
    },
    /// Something did not become ready in time.
    #[error("{what} was not ready within {seconds} s; see {log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// Where to look.
        log: String,
    },
    /// A process ended while it was waited for.
    #[error("{what} ended at once; the end of {log}:\n{tail}")]
    Died {
        /// Which process.
        what: String,
        /// Its log file.
        log: String,
        /// The log's last lines.
        tail: String,
    },
    /// The machine cannot do this.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The credentials of the cluster could not be made or read.
    #[error("cannot issue credentials")]
    Credentials(#[source] pintle_pki::PkiError),
    /// The default class of storage could not be made.
    #[error("cannot make the storage class")]
    StorageClass(#[source] client::ClientError),
}
