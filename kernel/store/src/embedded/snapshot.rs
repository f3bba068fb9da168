//! Reads: one committed state of the file, frozen. Shared by all readers until the writer replaces it.
//!
//! History is a log of changes, each pointing to the value it replaced. So the state at an older revision is the current one
//! with the changes since undone: `as_of` gathers, for each key that changed since, what it was before its first change. Its cost
//! is the number of changes since that revision, which is short for what asks: the next page of a list.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::fault::Fault;
use super::layout::{self, CHANGES, Kind, LATEST, META, Record, Slot, Stamp, State, VALUES};
use crate::error::Error;
use crate::limits;
use crate::store::{Entry, RangePage, RangeQuery, Remaining, Revision};
use crate::watch::{Batch, Change, Event};

pub(super) struct Snapshot {
    pub(super) state: State,
    /// Which opening of the file this belongs to.
    pub(super) generation: u64,
    latest: ReadOnlyTable<&'static [u8], &'static [u8; 28]>,
    values: ReadOnlyTable<&'static Slot, &'static [u8]>,
    changes: ReadOnlyTable<&'static Slot, &'static [u8]>,
}

/// A key's current value with its stamp.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) stamp: Stamp,
    pub(super) value: Bytes,
}

/// A piece of history.
pub(super) struct Replay {
    /// What matched, in revision order.
    pub(super) batches: Vec<Arc<Batch>>,
    /// Everything up to and including this revision was looked at.
    pub(super) scanned: Revision,
}

/// What keys were at a revision, where that differs from what they are now.
type Undone = BTreeMap<Bytes, Option<Stamp>>;

impl Snapshot {
    pub(super) fn take(db: &Database, generation: u64) -> Result<Self, Fault> {
        let txn = db.begin_read()?;
        let meta = txn.open_table(META)?;
        let state = meta
            .get(layout::META_STATE)?
            .and_then(|bytes| State::decode(bytes.value()))
            .ok_or_else(|| Fault::Corrupt("the store's counters are missing or senseless".to_owned()))?;
        Ok(Self { state, generation, latest: txn.open_table(LATEST)?, values: txn.open_table(VALUES)?, changes: txn.open_table(CHANGES)? })
    }

    /// Whether compaction has work left.
    pub(super) fn is_behind_on_cleaning(&self) -> bool {
        self.state.cleaned < self.state.compacted
    }

    /// The key's current value.
    pub(super) fn current(&self, key: &[u8]) -> Result<Option<Current>, Fault> {
        let Some(stamp) = self.stamp(key)? else { return Ok(None) };
        Ok(Some(Current { stamp, value: self.value(&stamp)? }))
    }

    pub(super) fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Entry>, Fault> {
        let at = self.resolve(at)?;
        let latest = self.stamp(key)?;
        let stamp = match latest {
            Some(stamp) if stamp.revision <= at => Some(stamp),
            _ if at == self.state.revision => latest,
            _ => match self.first_change_after(key, at)? {
                Some(before) => before,
                None => latest,
            },
        };
        match stamp {
            Some(stamp) => Ok(Some(self.entry(Bytes::copy_from_slice(key), &stamp)?)),
            None => Ok(None),
        }
    }

    pub(super) fn range(&self, query: &RangeQuery) -> Result<RangePage, Fault> {
        let revision = self.resolve(query.at)?;
        let mut page = RangePage { entries: Vec::new(), more: false, revision, remaining: Some(0) };
        if query.end.as_ref().is_some_and(|end| *end <= query.start) {
            return Ok(page);
        }
        let mut keys = self.keys_as_of(query, revision)?;
        let limit = query.limit.unwrap_or(usize::MAX);
        let bytes_max = query.bytes_max.unwrap_or(usize::MAX);
        let mut bytes = 0;
        while page.entries.len() < limit && (bytes < bytes_max || page.entries.is_empty()) {
            let Some((key, stamp)) = keys.next().transpose()? else { return Ok(page) };
            let entry = self.entry(key, &stamp)?;
            bytes += entry.value.len();
            page.entries.push(entry);
        }
        page.more = keys.next().transpose()?.is_some();
        page.remaining = match (page.more, query.remaining) {
            (false, _) => Some(0),
            (true, Remaining::Skip) => None,
            (true, Remaining::Count) => Some(1 + count(keys)?),
        };
        Ok(page)
    }

    /// History after `after`, as far as one step goes; changes outside `prefix` are passed over.
    pub(super) fn replay(&self, prefix: &[u8], after: Revision) -> Result<Replay, Fault> {
        if after < self.state.compacted {
            return Err(Error::Compacted { oldest: self.state.compacted }.into());
        }
        let mut replay = Replay { batches: Vec::new(), scanned: self.state.revision.max(after) };
        let mut open: Option<Batch> = None;
        let mut last = after;
        let (mut looked, mut taken, mut bytes) = (0usize, 0usize, 0usize);
        for item in self.changes_after(after)? {
            let (slot, record) = item?;
            let slot = slot.value();
            let revision = layout::slot_revision(slot);
            if revision != last {
                replay.batches.extend(open.take().map(Arc::new));
                let full =
                    taken >= limits::CATCH_UP_CHANGES_MAX || bytes >= limits::CATCH_UP_BYTES_MAX || looked >= limits::CATCH_UP_SCAN_MAX;
                if full {
                    replay.scanned = last;
                    return Ok(replay);
                }
                last = revision;
            }
            looked += 1;
            let record = decode(record.value())?;
            if !record.key.starts_with(prefix) {
                continue;
            }
            let event = self.event(slot, &record)?;
            taken += 1;
            bytes += event_bytes(&event);
            open.get_or_insert_with(|| Batch { revision, events: Vec::new() }).events.push(event);
        }
        replay.batches.extend(open.take().map(Arc::new));
        Ok(replay)
    }

    /// The revision to read at, if it can be.
    fn resolve(&self, at: Option<Revision>) -> Result<Revision, Fault> {
        let State { revision: current, compacted, .. } = self.state;
        match at {
            None => Ok(current),
            Some(requested) if requested > current => Err(Error::FutureRevision { requested, current }.into()),
            Some(requested) if requested < compacted => Err(Error::Compacted { oldest: compacted }.into()),
            Some(requested) => Ok(requested),
        }
    }

    fn stamp(&self, key: &[u8]) -> Result<Option<Stamp>, Fault> {
        Ok(self.latest.get(key)?.map(|bytes| Stamp::decode(bytes.value())))
    }

    fn value(&self, stamp: &Stamp) -> Result<Bytes, Fault> {
        match self.values.get(&stamp.slot())? {
            Some(value) => Ok(Bytes::copy_from_slice(value.value())),
            None => Err(Fault::Corrupt(format!("the value of revision {} is missing", stamp.revision))),
        }
    }

    fn entry(&self, key: Bytes, stamp: &Stamp) -> Result<Entry, Fault> {
        Ok(Entry {
            key,
            value: self.value(stamp)?,
            create_revision: stamp.create_revision,
            mod_revision: stamp.revision,
            version: stamp.version,
        })
    }

    fn event(&self, slot: &Slot, record: &Record<'_>) -> Result<Event, Fault> {
        let prev = record.prev.as_ref().map(|stamp| self.value(stamp)).transpose()?;
        let revision = layout::slot_revision(slot);
        let change = match (record.kind, prev) {
            (Kind::Put, prev) => {
                let create_revision = record.prev.map_or(revision, |stamp| stamp.create_revision);
                let own = Stamp { revision, index: layout::slot_index(slot), create_revision, version: 0 };
                Change::Put { value: self.value(&own)?, prev, create_revision }
            }
            (Kind::Delete, Some(prev)) => Change::Delete { prev },
            (Kind::Delete, None) => {
                return Err(Fault::Corrupt(format!("revision {revision} deletes what was not there")));
            }
        };
        Ok(Event { key: Bytes::copy_from_slice(record.key), change, prev_revision: record.prev.map(|stamp| stamp.revision) })
    }

    fn changes_after(&self, after: Revision) -> Result<redb::Range<'static, &'static Slot, &'static [u8]>, Fault> {
        Ok(self.changes.range::<&Slot>(&layout::slot(after.next(), 0)..)?)
    }

    /// What `key` was before its first change after `at`; `None` if it did not change since.
    fn first_change_after(&self, key: &[u8], at: Revision) -> Result<Option<Option<Stamp>>, Fault> {
        for item in self.changes_after(at)? {
            let (_, record) = item?;
            let record = decode(record.value())?;
            if record.key == key {
                return Ok(Some(record.prev));
            }
        }
        Ok(None)
    }

    fn undone(&self, query: &RangeQuery, at: Revision) -> Result<Undone, Fault> {
        let mut undone = Undone::new();
        if at == self.state.revision {
            return Ok(undone);
        }
        for item in self.changes_after(at)? {
            let (_, record) = item?;
            let record = decode(record.value())?;
            let inside = record.key >= query.start.as_ref() && query.end.as_ref().is_none_or(|end| record.key < end.as_ref());
            if inside && let MapEntry::Vacant(vacant) = undone.entry(Bytes::copy_from_slice(record.key)) {
                vacant.insert(record.prev);
            }
        }
        Ok(undone)
    }

    /// Keys of the range that existed at `at`, in order, with their stamps then.
    fn keys_as_of(&self, query: &RangeQuery, at: Revision) -> Result<impl Iterator<Item = Result<(Bytes, Stamp), Fault>>, Fault> {
        let start = Bound::Included(query.start.as_ref());
        let end = query.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_ref()));
        let now = self.latest.range::<&[u8]>((start, end))?.map(|item| {
            let (key, stamp) = item?;
            Ok((Bytes::copy_from_slice(key.value()), Stamp::decode(stamp.value())))
        });
        Ok(Merge { now: now.peekable(), undone: self.undone(query, at)?.into_iter().peekable() })
    }
}

/// The current keys with the changes since some revision undone. Both sides are in key order; `undone` wins.
struct Merge<N: Iterator, U: Iterator> {
    now: Peekable<N>,
    undone: Peekable<U>,
}

impl<N, U> Iterator for Merge<N, U>
where
    N: Iterator<Item = Result<(Bytes, Stamp), Fault>>,
    U: Iterator<Item = (Bytes, Option<Stamp>)>,
{
    type Item = Result<(Bytes, Stamp), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((undone, _)) = self.undone.peek() else { return self.now.next() };
            match self.now.peek() {
                Some(Err(_)) => return self.now.next(),
                Some(Ok((now, _))) if now < undone => return self.now.next(),
                Some(Ok((now, _))) if now == undone => drop(self.now.next()),
                Some(Ok(_)) | None => {}
            }
            if let Some((key, Some(stamp))) = self.undone.next() {
                return Some(Ok((key, stamp)));
            }
        }
    }
}

fn count(keys: impl Iterator<Item = Result<(Bytes, Stamp), Fault>>) -> Result<u64, Fault> {
    let mut total = 0;
    for key in keys {
        key?;
        total += 1;
    }
    Ok(total)
}

fn decode(bytes: &[u8]) -> Result<Record<'_>, Fault> {
    Record::decode(bytes).ok_or_else(|| Fault::Corrupt("a change record is damaged".to_owned()))
}

/// What an event costs in memory.
pub(super) fn event_bytes(event: &Event) -> usize {
    let value = event.value().map_or(0, Bytes::len);
    let prev = event.prev().map_or(0, Bytes::len);
    event.key.len() + value + prev + limits::EVENT_OVERHEAD_BYTES
}
