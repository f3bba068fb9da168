//! Random operations against an ordered map that remembers every state. Watches, lazy and eager, live across all of it, and each
//! must return what the model says it must: in order, once, whole, and no bookmark ahead of what was returned.
//!
//! The run is repeated by its seed. Buffers are so small that watches keep falling back to history.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use pintle_store::{
    Batch, Change, Conflict, Entry, Error, Event, Expect, Expectation, RangePage, RangeQuery, RedbStore, Revision, Store, Txn, Watch, Write,
};

use crate::disk::SimDisk;
use crate::random::Random;
use crate::suite::next;

const STEPS: usize = 3_000;
const RUNS: usize = 4;
const KEYS: u64 = 24;
const WATCHES_MAX: usize = 12;

type State = BTreeMap<Bytes, Entry>;

/// What a store must be.
struct Model {
    /// By revision; index 0 is revision 1.
    states: Vec<State>,
    /// What each revision changed, by revision; that of revision 1 is empty.
    batches: Vec<Batch>,
    compacted: Revision,
}

impl Model {
    fn new() -> Self {
        let nothing = Batch { revision: Revision::FIRST, events: Vec::new() };
        Self { states: vec![State::new()], batches: vec![nothing], compacted: Revision::FIRST }
    }

    fn current(&self) -> Revision {
        Revision(self.states.len() as u64)
    }

    fn at(&self, revision: Revision) -> &State {
        &self.states[revision.0 as usize - 1]
    }

    fn check(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.current() {
            return Err(Error::FutureRevision { requested: revision, current: self.current() });
        }
        if revision < self.compacted {
            return Err(Error::Compacted { oldest: self.compacted });
        }
        Ok(())
    }

    fn txn(&mut self, txn: &Txn) -> Result<Revision, Error> {
        let mut state = self.at(self.current()).clone();
        for Expectation { key, expect } in &txn.expect {
            let current = state.get(key);
            let met = match expect {
                Expect::Absent => current.is_none(),
                Expect::Exists => current.is_some(),
                Expect::AtRevision(revision) => current.is_some_and(|entry| entry.mod_revision == *revision),
            };
            if !met {
                return Err(Error::Conflict(Box::new(Conflict { key: key.clone(), current: current.cloned() })));
            }
        }
        let revision = self.current().next();
        let events: Vec<Event> = txn.writes.iter().filter_map(|write| apply(&mut state, write, revision)).collect();
        if events.is_empty() {
            return Ok(self.current());
        }
        self.states.push(state);
        self.batches.push(Batch { revision, events });
        Ok(revision)
    }

    fn range(&self, query: &RangeQuery) -> Result<RangePage, Error> {
        let revision = query.at.unwrap_or(self.current());
        self.check(revision)?;
        let inside = |key: &Bytes| *key >= query.start && query.end.as_ref().is_none_or(|end| key < end);
        let mut entries: Vec<Entry> = self.at(revision).values().filter(|entry| inside(&entry.key)).cloned().collect();
        let rest = entries.len().saturating_sub(query.limit.unwrap_or(usize::MAX));
        entries.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(RangePage { entries, more: rest > 0, revision, remaining: Some(rest as u64) })
    }

    /// The first batch after `after` with something under the prefix.
    fn next_batch(&self, prefix: &[u8], after: Revision) -> Option<Batch> {
        self.batches[after.0 as usize..].iter().find_map(|batch| {
            let events: Vec<Event> = batch.events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect();
            (!events.is_empty()).then_some(Batch { revision: batch.revision, events })
        })
    }
}

fn apply(state: &mut State, write: &Write, revision: Revision) -> Option<Event> {
    let prev = state.remove(write.key());
    let prev_revision = prev.as_ref().map(|prev| prev.mod_revision);
    let (key, change) = match write {
        Write::Put { key, value } => {
            let (create_revision, version) = prev.as_ref().map_or((revision, 1), |prev| (prev.create_revision, prev.version + 1));
            let entry = Entry { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision, version };
            state.insert(key.clone(), entry);
            let prev = prev.map(|prev| prev.value);
            (key, Change::Put { value: value.clone(), prev, create_revision })
        }
        Write::Delete { key } => (key, Change::Delete { prev: prev?.value }),
    };
    Some(Event { key: key.clone(), change, prev_revision })
}

/// A watch and how far it has come.
struct Watched {
    watch: Watch,
    prefix: Bytes,
    /// Everything up to here was returned or is not under the prefix.
    position: Revision,
    progress: Revision,
}

struct Run {
    random: Random,
    disk: SimDisk,
    store: Arc<RedbStore>,
    model: Model,
    watches: Vec<Watched>,
    counter: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new();
        let store = Arc::new(RedbStore::open_on(disk.clone(), crate::tiny()).expect("opens"));
        Self { random: Random::new(seed), disk, store, model: Model::new(), watches: Vec::new(), counter: 0 }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.txn().await,
            45..50 => self.burst().await,
            50..60 => self.get().await,
            60..70 => self.range().await,
            70..76 => self.open_watch().await,
            76..96 => self.read_watch().await,
            96..98 => self.compact().await,
            98 => self.watches.truncate(WATCHES_MAX / 2),
            _ => self.reopen().await,
        }
    }

    fn key(&mut self) -> Bytes {
        let kind = ["/pods/", "/pods/kube-", "/nodes/", "/p"][self.random.below(4) as usize];
        format!("{kind}{}", self.random.below(KEYS / 4)).into()
    }

    fn prefix(&mut self) -> Bytes {
        let prefix = ["", "/pods/", "/pods/kube-", "/nodes/", "/nodes/1", "/p", "/none"][self.random.below(7) as usize];
        Bytes::from_static(prefix.as_bytes())
    }

    /// Mostly one that exists and is kept.
    fn revision(&mut self) -> Revision {
        let (low, high) = (self.model.compacted.0, self.model.current().0);
        match self.random.below(20) {
            0 => Revision(high + 1 + self.random.below(3)),
            1 => Revision(1 + self.random.below(high)),
            2..8 => Revision(high),
            _ => Revision(low + self.random.below(high - low + 1)),
        }
    }

    fn value(&mut self) -> Bytes {
        self.counter += 1;
        let len = match self.random.below(20) {
            0 => 3_000,
            1 => 0,
            _ => self.random.below(200) as usize,
        };
        let mut value = format!("{} ", self.counter).into_bytes();
        value.resize(value.len() + len, b'.');
        value.into()
    }

    fn transaction(&mut self) -> Txn {
        let mut txn = Txn::new();
        for _ in 0..1 + self.random.below(3) {
            let key = self.key();
            let current = self.model.at(self.model.current()).get(&key).map(|entry| entry.mod_revision);
            let lie = self.random.one_in(12);
            let expect = match (current, self.random.below(3)) {
                (_, 0) => None,
                (Some(_), _) if lie => Some(Expect::Absent),
                (Some(revision), 1) => Some(Expect::AtRevision(revision)),
                (Some(_), _) => Some(Expect::Exists),
                (None, _) if lie => Some(Expect::AtRevision(self.revision())),
                (None, _) => Some(Expect::Absent),
            };
            if let Some(expect) = expect {
                txn = txn.expect(key.clone(), expect);
            }
            if txn.writes.iter().any(|write| *write.key() == key) {
                continue;
            }
            txn = if self.random.one_in(4) { txn.delete(key) } else { txn.put(key, self.value()) };
        }
        txn
    }

    async fn txn(&mut self) {
        let txn = self.transaction();
        let outcome = self.store.txn(txn.clone()).await;
        let expected = self.model.txn(&txn);
        assert_same(outcome, expected, &txn);
        assert_eq!(self.store.current(), self.model.current());
    }

    /// Several at once, so that they share a commit: as if one after the other.
    async fn burst(&mut self) {
        let txns: Vec<Txn> = (0..2 + self.random.below(8)).map(|_| self.transaction()).collect();
        // Polled in this order, so queued in this order.
        let outcomes = futures::future::join_all(txns.iter().map(|txn| self.store.txn(txn.clone()))).await;
        for (txn, outcome) in txns.iter().zip(outcomes) {
            let expected = self.model.txn(txn);
            assert_same(outcome, expected, txn);
        }
    }

    async fn get(&mut self) {
        let key = self.key();
        let at = (!self.random.one_in(3)).then(|| self.revision());
        let outcome = self.store.get(&key, at).await;
        let revision = at.unwrap_or(self.model.current());
        let expected = self.model.check(revision).map(|()| self.model.at(revision).get(&key).cloned());
        assert_same(outcome, expected, (key, at));
    }

    async fn range(&mut self) {
        let mut query = RangeQuery::prefix(self.prefix());
        query.at = (!self.random.one_in(3)).then(|| self.revision());
        query.limit = (!self.random.one_in(3)).then(|| self.random.below(6) as usize);
        if self.random.one_in(3) {
            let key = self.key();
            query = query.after_key(&key);
        }
        let outcome = self.store.range(query.clone()).await;
        assert_same(outcome, self.model.range(&query), query);
    }

    async fn open_watch(&mut self) {
        let (prefix, after) = (self.prefix(), self.revision());
        let outcome = self.store.watch(prefix.clone(), after).await;
        match (outcome, self.model.check(after)) {
            (Ok(watch), Ok(())) => {
                self.watches.push(Watched { watch, prefix, position: after, progress: after });
                if self.watches.len() > WATCHES_MAX {
                    let index = self.random.below(self.watches.len() as u64) as usize;
                    self.watches.swap_remove(index);
                }
            }
            (outcome, expected) => assert_same(outcome.map(|_| ()), expected, (prefix, after)),
        }
    }

    /// Read some of what a watch has, or all of it.
    async fn read_watch(&mut self) {
        if self.watches.is_empty() {
            return;
        }
        let index = self.random.below(self.watches.len() as u64) as usize;
        let most = if self.random.one_in(3) { usize::MAX } else { self.random.below(5) as usize };
        let watched = &mut self.watches[index];
        if !watched.read(&self.model, most).await {
            self.watches.swap_remove(index);
        }
    }

    async fn compact(&mut self) {
        let to = self.revision();
        let outcome = self.store.compact(to).await;
        let expected = if to > self.model.current() { self.model.check(to) } else { Ok(()) };
        if expected.is_ok() {
            self.model.compacted = self.model.compacted.max(to);
        }
        assert_same(outcome, expected, to);
        assert_eq!(self.store.compacted(), self.model.compacted);
    }

    async fn reopen(&mut self) {
        // A watch ends with its store, after what it had in memory.
        self.watches.clear();
        let closed = std::mem::replace(&mut self.store, Arc::new(RedbStore::in_memory(crate::tiny()).expect("opens")));
        drop(closed);
        self.store = Arc::new(RedbStore::open_on(self.disk.clone(), crate::tiny()).expect("opens"));
        assert_eq!((self.store.current(), self.store.compacted()), (self.model.current(), self.model.compacted));
    }
}

impl Watched {
    /// Read up to `most` batches. False if the watch has ended, as it may once compaction overtook it.
    async fn read(&mut self, model: &Model, most: usize) -> bool {
        for _ in 0..most {
            let Some(expected) = model.next_batch(&self.prefix, self.position) else {
                match self.watch.next().now_or_never() {
                    None => {}
                    Some(Some(Err(Error::Compacted { .. }))) if self.progress < model.compacted => return false,
                    other => panic!("nothing is left to return, but: {other:?}"),
                }
                self.position = model.current();
                break;
            };
            if self.progress < model.compacted {
                match self.watch.next().await {
                    Some(Err(Error::Compacted { oldest })) => {
                        // What it was when history was read, which may have begun some steps ago.
                        assert!(self.progress < oldest && oldest <= model.compacted);
                        return false;
                    }
                    Some(Ok(batch)) => assert_eq!(*batch, expected),
                    other => panic!("unexpected: {other:?}"),
                }
            } else {
                assert_eq!(*next(&mut self.watch).await, expected);
            }
            self.position = expected.revision;
        }
        self.check_progress(model);
        true
    }

    fn check_progress(&mut self, model: &Model) {
        let progress = self.watch.progress();
        assert!(progress >= self.progress, "progress goes forward");
        let outstanding = model.next_batch(&self.prefix, self.position);
        let ahead = outstanding.is_some_and(|batch| batch.revision <= progress);
        assert!(!ahead, "progress {progress} is ahead of what was returned");
        assert!(progress >= self.position || progress >= self.progress);
        self.progress = progress;
    }
}

fn assert_same<T: PartialEq + std::fmt::Debug>(outcome: Result<T, Error>, expected: Result<T, Error>, what: impl std::fmt::Debug) {
    match (&outcome, &expected) {
        (Ok(outcome), Ok(expected)) => assert_eq!(outcome, expected, "{what:?}"),
        (Err(outcome), Err(expected)) => {
            assert_eq!(format!("{outcome:?}"), format!("{expected:?}"), "{what:?}");
        }
        _ => panic!("{what:?}: got {outcome:?}, expected {expected:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_does_what_an_ordered_map_with_a_memory_would_do() {
    let seed = Random::seed("model");
    for run in 0..RUNS {
        let mut run = Run::new(seed.wrapping_add(run as u64));
        for _ in 0..STEPS {
            run.step().await;
        }
        // At the end every watch returns all that is left.
        for watched in &mut run.watches {
            watched.read(&run.model, usize::MAX).await;
        }
    }
}
