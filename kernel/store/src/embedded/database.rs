//! Writes: the redb file, opened, initialized, committed to. Used by the writer's thread only.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableHandle, WriteTransaction};

use super::fault::Fault;
use super::group::Plan;
use super::layout::{self, CHANGES, Kind, LATEST, META, Record, Slot, State, VALUES};
use super::snapshot::Snapshot;
use crate::error::Error;

/// Open what is in the backend and check that it is ours; an empty one becomes a new store.
pub(super) fn open(backend: Arc<dyn StorageBackend>, cache_bytes: usize) -> Result<Database, Fault> {
    guarded(|| {
        let empty = backend.len()? == 0;
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        let db = builder.create_with_backend(Chosen(backend))?;
        if empty {
            initialize(&db)?;
        } else {
            check_format(&db)?;
        }
        Ok(db)
    })
}

/// Close a database; what redb still wants to write then is not ours, and may fail.
pub(super) fn close(db: Option<Database>) -> Result<(), Fault> {
    guarded(|| {
        drop(db);
        Ok(())
    })
}

/// Give what the file does not need back to the disk. Nobody may be reading. Slow: it moves what is at the end of the file.
pub(super) fn shrink(db: &mut Database) -> Result<(), Fault> {
    guarded(|| {
        while db.compact()? {}
        Ok(())
    })
}

/// Commit a plan durably, and with it about `clean_max` changes' worth of compaction.
pub(super) fn commit(db: &Database, mut state: State, plan: &Plan, clean_max: usize) -> Result<(), Fault> {
    guarded(|| {
        let txn = begin(db)?;
        write_values(&txn, plan)?;
        write_changes(&txn, plan)?;
        write_latest(&txn, plan)?;
        state.revision = plan.revision;
        if state.cleaned < state.compacted && clean_max > 0 {
            state.cleaned = clean(&txn, state, clean_max)?;
        }
        txn.open_table(META)?.insert(layout::META_STATE, state.encode().as_slice())?;
        txn.commit()?;
        Ok(())
    })
}

fn begin(db: &Database) -> Result<WriteTransaction, Fault> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    Ok(txn)
}

fn initialize(db: &Database) -> Result<(), Fault> {
    let txn = begin(db)?;
    txn.open_table(LATEST)?;
    txn.open_table(VALUES)?;
    txn.open_table(CHANGES)?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(layout::META_FORMAT, layout::FORMAT.to_be_bytes().as_slice())?;
        meta.insert(layout::META_STATE, State::EMPTY.encode().as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

fn check_format(db: &Database) -> Result<(), Fault> {
    let txn = db.begin_read()?;
    if !txn.list_tables()?.any(|table| table.name() == META.name()) {
        return Err(Fault::Corrupt("the file is a database, but not a store of this program".to_owned()));
    }
    let format = txn.open_table(META)?.get(layout::META_FORMAT)?;
    let format = format.and_then(|bytes| bytes.value().try_into().ok().map(u64::from_be_bytes));
    match format {
        Some(layout::FORMAT) => Ok(()),
        Some(found) => Err(Error::FormatVersion { found, supported: layout::FORMAT }.into()),
        None => Err(Fault::Corrupt("the store does not say its format version".to_owned())),
    }
}

fn write_values(txn: &WriteTransaction, plan: &Plan) -> Result<(), Fault> {
    let mut table = txn.open_table(VALUES)?;
    let mut end = table.upper_bound_mut(Bound::<&Slot>::Unbounded)?;
    for write in &plan.writes {
        if let Some(value) = &write.value {
            end.insert_before(&write.stamp.slot(), value.as_ref())?;
        }
    }
    end.close()?;
    Ok(())
}

fn write_changes(txn: &WriteTransaction, plan: &Plan) -> Result<(), Fault> {
    let mut table = txn.open_table(CHANGES)?;
    let mut end = table.upper_bound_mut(Bound::<&Slot>::Unbounded)?;
    let mut bytes = Vec::new();
    for write in &plan.writes {
        let kind = if write.value.is_some() { Kind::Put } else { Kind::Delete };
        Record { kind, prev: write.prev, key: &write.key }.encode(&mut bytes);
        end.insert_before(&write.stamp.slot(), bytes.as_slice())?;
    }
    end.close()?;
    Ok(())
}

fn write_latest(txn: &WriteTransaction, plan: &Plan) -> Result<(), Fault> {
    let mut table = txn.open_table(LATEST)?;
    for (key, stamp) in &plan.latest {
        match stamp {
            Some(stamp) => drop(table.insert(key.as_ref(), &stamp.encode())?),
            None => drop(table.remove(key.as_ref())?),
        }
    }
    Ok(())
}

/// Remove some history that nobody may ask for any more: changes up to `compacted`, and the values they replaced.
/// Returns up to where history is gone.
fn clean(txn: &WriteTransaction, state: State, clean_max: usize) -> Result<crate::store::Revision, Fault> {
    let mut changes = txn.open_table(CHANGES)?;
    let mut values = txn.open_table(VALUES)?;
    let from = layout::slot(state.cleaned.next(), 0);
    let to = layout::slot(state.compacted, u32::MAX);
    let mut gone = Vec::new();
    let mut last = state.compacted;
    for item in changes.range::<&Slot>(&from..=&to)? {
        let (slot, record) = item?;
        let revision = layout::slot_revision(slot.value());
        if gone.len() >= clean_max && revision != last {
            break;
        }
        last = revision;
        let record = Record::decode(record.value()).ok_or_else(|| Fault::Corrupt("a change record is damaged".to_owned()))?;
        gone.push((*slot.value(), record.prev.map(|stamp| stamp.slot())));
    }
    if gone.len() < clean_max {
        last = state.compacted;
    }
    for (change, replaced) in &gone {
        changes.remove(change)?;
        if let Some(replaced) = replaced {
            values.remove(replaced)?;
        }
    }
    Ok(last)
}

/// Open a snapshot of what is committed.
pub(super) fn snapshot(db: &Database, generation: u64) -> Result<Snapshot, Fault> {
    guarded(|| Snapshot::take(db, generation))
}

/// redb asserts; on a damaged file that is how it ends. A panic of its becomes a fault of ours.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Fault::from_panic(panic)))
}

/// redb takes a backend by value; this lets it be chosen at run time.
#[derive(Debug)]
struct Chosen(Arc<dyn StorageBackend>);

impl StorageBackend for Chosen {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
