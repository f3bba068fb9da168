//! What can go wrong, as the caller must tell it apart. Cloneable, because one failed commit answers a whole group.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Entry, Revision};

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An expectation that did not hold. Nothing of the transaction was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The key whose expectation failed (the first one, in the transaction's order).
    pub key: Bytes,
    /// What is stored under the key now; `None` if nothing is.
    pub current: Option<Entry>,
}

/// Which limit a request went over; the numbers are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of one key.
    KeyBytes,
    /// Bytes of one value.
    ValueBytes,
    /// Writes in one transaction.
    TxnWrites,
    /// Expectations in one transaction.
    TxnExpectations,
    /// Keys and values of one transaction, in bytes.
    TxnBytes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::KeyBytes => "bytes in a key",
            Limit::ValueBytes => "bytes in a value",
            Limit::TxnWrites => "writes in a transaction",
            Limit::TxnExpectations => "expectations in a transaction",
            Limit::TxnBytes => "bytes in a transaction",
        })
    }
}

/// Errors of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An expectation of the transaction did not hold; boxed because it carries the current entry.
    #[error("conflict on key {}: {}", printable(&.0.key), found(&.0.current))]
    Conflict(Box<Conflict>),
    /// The revision asked for is gone. `oldest` can still be read at, and watched after.
    #[error("revision is compacted; the oldest one available is {oldest}")]
    Compacted {
        /// Oldest revision that can be read at or watched after.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest revision there is.
        current: Revision,
    },
    /// The request is larger than the store takes.
    #[error("{size} {limit}, more than the {max} allowed")]
    TooLarge {
        /// Which limit.
        limit: Limit,
        /// Size of the request.
        size: usize,
        /// Size allowed.
        max: usize,
    },
    /// Keys cannot be empty.
    #[error("empty key")]
    EmptyKey,
    /// A transaction may write a key once.
    #[error("key {} is written twice in one transaction", printable(.key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// The disk is full. Nothing of this transaction was stored; reads go on, and writes do once there is room.
    #[error("no space left on the disk of the store")]
    NoSpace,
    /// The disk failed while the transaction was being made durable: it may or may not be stored. Whoever needs to know
    /// reads again.
    #[error("outcome unknown: the disk failed during the commit: {0}")]
    OutcomeUnknown(Arc<io::Error>),
    /// The disk failed; nothing was written by this call.
    #[error("disk of the store: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The store is recovering from a disk error and cannot answer just now.
    #[error("the store is recovering from a disk error: {0}")]
    Unavailable(Arc<io::Error>),
    /// Another process (or another part of this one) has the store open.
    #[error("store {} is open in another process", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a version of the store that this one does not read.
    #[error("store has format version {found}; this program reads version {supported}")]
    FormatVersion {
        /// Version in the file.
        found: u64,
        /// Version that this program reads and writes.
        supported: u64,
    },
    /// The file is not a store, or is damaged. Nothing was changed in it.
    #[error("store is damaged or not a store: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
            _ => Error::Io(Arc::new(err)),
        }
    }
}

/// Keys are bytes, nearly always text: print them so.
fn printable(key: &Bytes) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key)
}

fn found(current: &Option<Entry>) -> String {
    match current {
        Some(entry) => format!("it exists at revision {}", entry.mod_revision),
        None => "it does not exist".to_owned(),
    }
}
