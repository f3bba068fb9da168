//! What is on disk: four tables inside one redb file. FORMAT.md has the byte map; this file is its only reader and writer.
//!
//! A value is stored once, under the revision that wrote it. `latest` and `changes` point to it. So a write costs one copy
//! of its value whether or not it replaces another, and history needs no copies of its own.

use redb::TableDefinition;

use crate::store::Revision;

/// The format this program reads and writes.
pub(super) const FORMAT: u64 = 1;

/// Key of `values` and `changes`: revision and index within the transaction, both big-endian, so that order on disk is order
/// in time.
pub(super) type Slot = [u8; 12];

const STAMP_BYTES: usize = 28;
const STATE_BYTES: usize = 24;

/// Key to the stamp of its current value.
pub(super) const LATEST: TableDefinition<'static, &[u8], &[u8; STAMP_BYTES]> = TableDefinition::new("latest");
/// Slot to value.
pub(super) const VALUES: TableDefinition<'static, &Slot, &[u8]> = TableDefinition::new("values");
/// Slot to change record.
pub(super) const CHANGES: TableDefinition<'static, &Slot, &[u8]> = TableDefinition::new("changes");
/// `format` and `state`.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_STATE: &str = "state";

const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const PREV_NONE: u8 = 0;
const PREV_STAMP: u8 = 1;

/// Where a value is, and where its key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) revision: Revision,
    pub(super) index: u32,
    pub(super) create_revision: Revision,
    pub(super) version: u64,
}

/// The store's own counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// The newest revision.
    pub(super) revision: Revision,
    /// The oldest revision that may be read at or watched after.
    pub(super) compacted: Revision,
    /// History is physically gone up to and including this revision; at most `compacted`.
    pub(super) cleaned: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Delete,
}

/// A change record, borrowed from its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) prev: Option<Stamp>,
    pub(super) key: &'a [u8],
}

pub(super) fn slot(revision: Revision, index: u32) -> Slot {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&revision.0.to_be_bytes());
    bytes[8..].copy_from_slice(&index.to_be_bytes());
    bytes
}

pub(super) fn slot_revision(slot: &Slot) -> Revision {
    Revision(u64_at(slot, 0))
}

pub(super) fn slot_index(slot: &Slot) -> u32 {
    u32_at(slot, 8)
}

impl Stamp {
    pub(super) fn slot(&self) -> Slot {
        slot(self.revision, self.index)
    }

    pub(super) fn encode(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..12].copy_from_slice(&self.slot());
        bytes[12..20].copy_from_slice(&self.create_revision.0.to_be_bytes());
        bytes[20..].copy_from_slice(&self.version.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; STAMP_BYTES]) -> Self {
        Self {
            revision: Revision(u64_at(bytes, 0)),
            index: u32_at(bytes, 8),
            create_revision: Revision(u64_at(bytes, 12)),
            version: u64_at(bytes, 20),
        }
    }
}

impl State {
    pub(super) const EMPTY: State = State { revision: Revision::FIRST, compacted: Revision::FIRST, cleaned: Revision::FIRST };

    pub(super) fn encode(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        bytes[..8].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.compacted.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.cleaned.0.to_be_bytes());
        bytes
    }

    /// `None` if the bytes cannot be a state.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
        let state =
            Self { revision: Revision(u64_at(bytes, 0)), compacted: Revision(u64_at(bytes, 8)), cleaned: Revision(u64_at(bytes, 16)) };
        let ordered = Revision::FIRST <= state.cleaned && state.cleaned <= state.compacted && state.compacted <= state.revision;
        ordered.then_some(state)
    }
}

impl<'a> Record<'a> {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.push(match self.kind {
            Kind::Put => KIND_PUT,
            Kind::Delete => KIND_DELETE,
        });
        match &self.prev {
            Some(stamp) => {
                into.push(PREV_STAMP);
                into.extend_from_slice(&stamp.encode());
            }
            None => into.push(PREV_NONE),
        }
        into.extend_from_slice(self.key);
    }

    /// `None` if the bytes cannot be a record.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let (&prev, rest) = rest.split_first()?;
        let kind = match kind {
            KIND_PUT => Kind::Put,
            KIND_DELETE => Kind::Delete,
            _ => return None,
        };
        let (prev, key) = match prev {
            PREV_NONE => (None, rest),
            PREV_STAMP => {
                let (stamp, key) = rest.split_first_chunk::<STAMP_BYTES>()?;
                (Some(Stamp::decode(stamp)), key)
            }
            _ => return None,
        };
        Some(Self { kind, prev, key })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests;
