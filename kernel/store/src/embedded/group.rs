//! Planning a group of transactions: pure, no writes. In: what is committed, and transactions in order. Out: what to answer
//! each, and what to write.
//!
//! Transactions of a group see each other's effects, as if each had committed alone, through `view`. Nothing of that is
//! shown to anybody before the group is durable; that goes for conflicts too, which may quote what an earlier member wrote.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::fault::Fault;
use super::layout::Stamp;
use super::snapshot::{Current, Snapshot};
use crate::error::{Conflict, Error, Result as StoreResult};
use crate::store::{Entry, Expect, Revision, Txn, Write};
use crate::watch::{Batch, Change, Event};

/// The plan for one durable commit.
pub(super) struct Group<'a> {
    snapshot: &'a Snapshot,
    revision: Revision,
    /// What keys are after the transactions planned so far.
    view: HashMap<Bytes, Seen>,
    writes: Vec<Planned>,
    batches: Vec<Arc<Batch>>,
}

struct Seen {
    current: Option<Current>,
    changed: bool,
}

/// One change, ready to be written.
pub(super) struct Planned {
    pub(super) stamp: Stamp,
    pub(super) key: Bytes,
    /// `None` for a delete.
    pub(super) value: Option<Bytes>,
    pub(super) prev: Option<Stamp>,
}

/// A finished plan.
pub(super) struct Plan {
    /// The newest revision once the plan is committed.
    pub(super) revision: Revision,
    /// In order of revision and index.
    pub(super) writes: Vec<Planned>,
    /// Where each changed key stands afterwards, in key order; `None` if it is gone.
    pub(super) latest: Vec<(Bytes, Option<Stamp>)>,
    /// Events, in revision order.
    pub(super) batches: Vec<Arc<Batch>>,
}

impl<'a> Group<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let revision = snapshot.state.revision;
        Self { snapshot, revision, view: HashMap::new(), writes: Vec::new(), batches: Vec::new() }
    }

    /// Add a transaction. The answer holds if and when the group is committed.
    pub(super) fn add(&mut self, txn: &Txn) -> Result<StoreResult<Revision>, Fault> {
        for expectation in &txn.expect {
            let current = self.look(&expectation.key)?;
            let met = match (expectation.expect, current) {
                (Expect::Absent, current) => current.is_none(),
                (Expect::Exists, current) => current.is_some(),
                (Expect::AtRevision(revision), current) => current.as_ref().is_some_and(|current| current.stamp.revision == revision),
            };
            if !met {
                let current = current.as_ref().map(|current| entry(&expectation.key, current));
                return Ok(Err(Error::Conflict(Box::new(Conflict { key: expectation.key.clone(), current }))));
            }
        }
        // All reads come before the first change of the view: a fault in between must not leave half a transaction.
        for write in &txn.writes {
            self.look(write.key())?;
        }
        self.apply(&txn.writes);
        Ok(Ok(self.revision))
    }

    pub(super) fn finish(self) -> Plan {
        let mut latest: Vec<(Bytes, Option<Stamp>)> = self
            .view
            .into_iter()
            .filter(|(_, seen)| seen.changed)
            .map(|(key, seen)| (key, seen.current.map(|current| current.stamp)))
            .collect();
        latest.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Plan { revision: self.revision, writes: self.writes, latest, batches: self.batches }
    }

    fn look(&mut self, key: &Bytes) -> Result<&Option<Current>, Fault> {
        if !self.view.contains_key(key) {
            let seen = Seen { current: self.snapshot.current(key)?, changed: false };
            self.view.insert(key.clone(), seen);
        }
        Ok(self.view.get(key).map_or(&None, |seen| &seen.current))
    }

    fn apply(&mut self, writes: &[Write]) {
        let revision = self.revision.next();
        let mut events = Vec::with_capacity(writes.len());
        for write in writes {
            let Some(seen) = self.view.get_mut(write.key()) else { continue };
            let prev = seen.current.take();
            let index = u32::try_from(events.len()).unwrap_or(u32::MAX);
            let (planned, event) = match write {
                Write::Put { key, value } => put(revision, index, key, value, prev),
                Write::Delete { key } => match prev {
                    Some(prev) => delete(revision, index, key, prev),
                    None => continue,
                },
            };
            seen.changed = true;
            seen.current = planned.value.clone().map(|value| Current { stamp: planned.stamp, value });
            self.writes.push(planned);
            events.push(event);
        }
        if !events.is_empty() {
            self.revision = revision;
            self.batches.push(Arc::new(Batch { revision, events }));
        }
    }
}

fn put(revision: Revision, index: u32, key: &Bytes, value: &Bytes, prev: Option<Current>) -> (Planned, Event) {
    let (create_revision, version) = match &prev {
        Some(prev) => (prev.stamp.create_revision, prev.stamp.version.saturating_add(1)),
        None => (revision, 1),
    };
    let stamp = Stamp { revision, index, create_revision, version };
    let prev_stamp = prev.as_ref().map(|prev| prev.stamp);
    let planned = Planned { stamp, key: key.clone(), value: Some(value.clone()), prev: prev_stamp };
    let change = Change::Put { value: value.clone(), prev: prev.map(|prev| prev.value), create_revision };
    (planned, Event { key: key.clone(), change, prev_revision: prev_stamp.map(|stamp| stamp.revision) })
}

fn delete(revision: Revision, index: u32, key: &Bytes, prev: Current) -> (Planned, Event) {
    let stamp = Stamp { revision, index, ..prev.stamp };
    let planned = Planned { stamp, key: key.clone(), value: None, prev: Some(prev.stamp) };
    let prev_revision = Some(prev.stamp.revision);
    (planned, Event { key: key.clone(), change: Change::Delete { prev: prev.value }, prev_revision })
}

fn entry(key: &Bytes, current: &Current) -> Entry {
    Entry {
        key: key.clone(),
        value: current.value.clone(),
        create_revision: current.stamp.create_revision,
        mod_revision: current.stamp.revision,
        version: current.stamp.version,
    }
}
