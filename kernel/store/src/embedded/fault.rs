//! What redb and the disk can say, sorted by what the engine must do about it. Turned into [`Error`] at the edge.

use std::any::Any;
use std::io;
use std::sync::Arc;

use crate::error::Error;

/// A failed operation on the file.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The disk failed. redb refuses further work until it is reopened.
    Disk(Arc<io::Error>),
    /// An earlier operation failed, so redb refuses this one until it is reopened.
    Poisoned,
    /// The content is not what it must be.
    Corrupt(String),
    /// The caller asked for something it cannot have; the file is fine.
    Refused(Error),
}

impl Fault {
    /// Whether reopening the file may help.
    pub(super) fn wants_reopening(&self) -> bool {
        matches!(self, Fault::Disk(_) | Fault::Poisoned)
    }

    /// redb met something it asserts can never be.
    pub(super) fn from_panic(panic: Box<dyn Any + Send>) -> Self {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Fault::Corrupt(format!("the database gave up: {text}"))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Disk(err) if is_full(&err) => Error::NoSpace,
            Fault::Disk(err) => Error::Io(err),
            Fault::Poisoned => Error::Unavailable(Arc::new(io::Error::other("an earlier disk error"))),
            Fault::Corrupt(detail) => Error::Corrupt { detail },
            Fault::Refused(error) => error,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Refused(error)
    }
}

impl From<io::Error> for Fault {
    fn from(err: io::Error) -> Self {
        Fault::Disk(Arc::new(err))
    }
}

impl From<redb::Error> for Fault {
    fn from(err: redb::Error) -> Self {
        match err {
            // What redb itself finds wrong with the bytes comes as InvalidData.
            redb::Error::Io(err) if err.kind() == io::ErrorKind::InvalidData => Fault::Corrupt(err.to_string()),
            redb::Error::Io(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                Fault::Corrupt("the file is shorter than it says".to_owned())
            }
            redb::Error::Io(err) => Fault::Disk(Arc::new(err)),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Fault::Poisoned,
            redb::Error::Corrupted(detail) => Fault::Corrupt(detail),
            other => Fault::Corrupt(other.to_string()),
        }
    }
}

macro_rules! fault_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Fault {
            fn from(err: $error) -> Self {
                redb::Error::from(err).into()
            }
        })+
    };
}

fault_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::CompactionError,
    redb::CursorError,
    redb::SetDurabilityError
);

pub(super) fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
