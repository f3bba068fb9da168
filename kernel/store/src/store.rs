//! The trait, and the words it is spoken in. No engine here, no I/O.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::{Error, Limit, Result};
use crate::limits;
use crate::watch::Watch;

/// A point in the history of the whole store. It is the resourceVersion. An empty store stands at 1; the first
/// transaction that changes something is 2. Zero is never a revision of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// Where an empty store stands.
    pub const FIRST: Revision = Revision(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is stored under a key, as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the put that made the key exist (again, after a delete).
    pub create_revision: Revision,
    /// Revision of the put that wrote this value.
    pub mod_revision: Revision,
    /// Puts since the key was created; 1 for a new key.
    pub version: u64,
}

/// Which entries to read: keys in `[start, end)`, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeQuery {
    /// First key, inclusive. Empty: from the beginning.
    pub start: Bytes,
    /// Last key, exclusive. `None`: to the end.
    pub end: Option<Bytes>,
    /// At most this many entries. `None`: all. A caller that cannot bound its answer sets `bytes_max`.
    pub limit: Option<usize>,
    /// Stop once this many bytes of values are gathered (the entry that passes it is still included).
    pub bytes_max: Option<usize>,
    /// Read as of this revision. `None`: now.
    pub at: Option<Revision>,
    /// What to say about entries beyond the page.
    pub remaining: Remaining,
}

/// Whether a page says how many entries follow it; counting walks the keys (not the values) of the rest of the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Remaining {
    /// Count them.
    #[default]
    Count,
    /// Leave [`RangePage::remaining`] empty.
    Skip,
}

impl RangeQuery {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end, ..Self::default() }
    }

    /// All keys in `[start, end)`.
    #[must_use]
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()), ..Self::default() }
    }

    /// Go on after `key`, keeping the end of the range: the next page after one whose last key was `key`.
    #[must_use]
    pub fn after_key(mut self, key: &[u8]) -> Self {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        self.start = start.into();
        self
    }

    /// At most `entries` entries.
    #[must_use]
    pub fn limit(mut self, entries: usize) -> Self {
        self.limit = Some(entries);
        self
    }

    /// Stop after about `bytes` bytes of values.
    #[must_use]
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = Some(bytes);
        self
    }

    /// As of `revision`.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }

    /// Do not count what follows the page.
    #[must_use]
    pub fn skip_remaining(mut self) -> Self {
        self.remaining = Remaining::Skip;
        self
    }
}

/// First key after all keys with this prefix; `None` if there is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// One page of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePage {
    /// The entries, in key order.
    pub entries: Vec<Entry>,
    /// More entries follow in the range.
    pub more: bool,
    /// The revision that was read at: pass it as `at` for the following pages, and as `after` to a watch.
    pub revision: Revision,
    /// How many entries follow; zero when `more` is false, `None` if the query said not to count.
    pub remaining: Option<u64>,
}

/// What must hold for one key when the transaction commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and its value was written by this revision.
    AtRevision(Revision),
    /// The key exists, whatever its revision.
    Exists,
}

/// A key and what must hold for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The key.
    pub key: Bytes,
    /// What must hold.
    pub expect: Expect,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set the key to the value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Remove the key. No change (and no event) if it does not exist.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Write {
    /// The key written.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }
}

/// All expectations hold and all writes happen, or nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Checked in order; the first that fails is reported.
    pub expect: Vec<Expectation>,
    /// Applied together, under one revision. A key may appear once.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction, to add to.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Add an expectation.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.expect.push(Expectation { key: key.into(), expect });
        self
    }

    /// Add a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into() });
        self
    }

    /// Add a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Create: put a key that must not exist.
    #[must_use]
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Self::new().expect(key.clone(), Expect::Absent).put(key, value)
    }

    /// Compare and set: put a key that must stand at `revision`.
    #[must_use]
    pub fn update(key: impl Into<Bytes>, revision: Revision, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Self::new().expect(key.clone(), Expect::AtRevision(revision)).put(key, value)
    }

    /// Compare and delete: remove a key that must stand at `revision`.
    #[must_use]
    pub fn remove(key: impl Into<Bytes>, revision: Revision) -> Self {
        let key = key.into();
        Self::new().expect(key.clone(), Expect::AtRevision(revision)).delete(key)
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let expected: usize = self.expect.iter().map(|expectation| expectation.key.len()).sum();
        let written: usize = self
            .writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value } => key.len() + value.len(),
                Write::Delete { key } => key.len(),
            })
            .sum();
        expected + written
    }

    /// Hold the transaction against [`crate::limits`].
    ///
    /// # Errors
    /// `TooLarge`, `EmptyKey` or `DuplicateKey`.
    pub fn validate(&self) -> Result<()> {
        check(Limit::TxnWrites, self.writes.len(), limits::TXN_WRITES_MAX)?;
        check(Limit::TxnExpectations, self.expect.len(), limits::TXN_EXPECTATIONS_MAX)?;
        for key in self.expect.iter().map(|expectation| &expectation.key) {
            validate_key(key)?;
        }
        for write in &self.writes {
            validate_key(write.key())?;
            if let Write::Put { value, .. } = write {
                check(Limit::ValueBytes, value.len(), limits::VALUE_BYTES_MAX)?;
            }
        }
        check(Limit::TxnBytes, self.bytes(), limits::TXN_BYTES_MAX)?;
        self.validate_distinct()
    }

    fn validate_distinct(&self) -> Result<()> {
        if self.writes.len() < 2 {
            return Ok(());
        }
        let mut keys: Vec<&Bytes> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::DuplicateKey { key: pair[0].clone() }),
            None => Ok(()),
        }
    }
}

fn validate_key(key: &Bytes) -> Result<()> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    check(Limit::KeyBytes, key.len(), limits::KEY_BYTES_MAX)
}

fn check(limit: Limit, size: usize, max: usize) -> Result<()> {
    if size > max {
        return Err(Error::TooLarge { limit, size, max });
    }
    Ok(())
}

/// A store. Held as `Arc<dyn Store>`; all methods may be called from many tasks at once, inside a tokio runtime.
///
/// Dropping a returned future gives up waiting; a transaction that was already taken still happens or not as a whole.
pub trait Store: Send + Sync + 'static {
    /// The entry under `key`, now or as of a revision.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` for `at`; disk errors.
    fn get<'a>(&'a self, key: &'a [u8], at: Option<Revision>) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// A page of entries in key order, all as of one revision, which the page names.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` for `at`; disk errors.
    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<RangePage>>;

    /// Commit a transaction durably. Returns its revision; if nothing changed (no writes, or deletes of keys that do not
    /// exist) no revision is taken and the current one is returned.
    ///
    /// # Errors
    /// `Conflict` when an expectation fails; `TooLarge`, `EmptyKey`, `DuplicateKey` for a bad request; `NoSpace`, `Io`,
    /// `OutcomeUnknown`, `Unavailable` from the disk.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision>>;

    /// Changes to keys that begin with `prefix`, of all revisions greater than `after`.
    ///
    /// # Errors
    /// `Compacted` if `after` is older than the oldest revision kept; `FutureRevision`; disk errors.
    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<Watch>>;

    /// Forget history before `to`: reads at, and watches after, revisions older than `to` fail from now on. Current values
    /// are never lost. Returns once that is durable; the space comes back in steps after that. A `to` older than what is
    /// already compacted changes nothing.
    ///
    /// # Errors
    /// `FutureRevision`; disk errors.
    fn compact(&self, to: Revision) -> BoxFuture<'_, Result<()>>;

    /// The newest revision that reads see.
    fn current(&self) -> Revision;

    /// The oldest revision that can be read at or watched after.
    fn compacted(&self) -> Revision;
}
