//! The power goes at every sync of a workload, with every kind of damage to what was not synced: none of it written, all, the
//! first part, any part in any order, torn writes. Then it goes again while the store recovers.
//!
//! After that: every acknowledged transaction is there, every other one is there whole or not at all, the revision is not
//! behind anything that was answered or seen, and history still adds up to the present.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{FutureExt, join_all};
use pintle_store::{Error, Expect, Options, RangeQuery, RedbStore, Revision, Store, Txn};

use crate::disk::{Plan, SimDisk};
use crate::random::Random;
use crate::suite::next;

const WRITERS: u64 = 4;
const TXNS_PER_WRITER: u64 = 10;
/// Kinds of damage tried at each sync.
const DAMAGES: u64 = 6;

/// What the outside world knows at the moment of the cut.
#[derive(Debug, Default)]
struct Witness {
    acknowledged: Vec<(u64, Revision)>,
    /// The newest revision that a read, a watch or an answer has shown.
    seen: Revision,
}

fn options() -> Options {
    Options { cache_bytes: 128 * 1024, window_bytes: 16 * 1024, watch_buffer_bytes: 4 * 1024, ..Options::default() }
}

/// A store in use: the cuts come later than its creation.
async fn furnished() -> SimDisk {
    let disk = SimDisk::new();
    let store = RedbStore::open_on(disk.clone(), options()).expect("opens");
    for number in 0..20 {
        store.txn(Txn::new().put(format!("old/{number}"), vec![7; 900])).await.expect("put");
    }
    drop(store);
    disk.after_power_cut()
}

/// Several writers; each transaction leaves two marks and overwrites a shared key; compaction in between.
async fn work(store: Arc<RedbStore>) -> Witness {
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            let mut acknowledged = Vec::new();
            for round in 0..TXNS_PER_WRITER {
                let id = writer * TXNS_PER_WRITER + round;
                match store.txn(transaction(id)).await {
                    Ok(revision) => acknowledged.push((id, revision)),
                    Err(error) => assert!(is_of_the_disk(&error), "{error}"),
                }
                if id % 13 == 12 {
                    let _ = store.compact(Revision(store.current().0.saturating_sub(10).max(1))).await;
                }
            }
            acknowledged
        }
    });
    let acknowledged: Vec<_> = join_all(writers).await.into_iter().flatten().collect();
    let answered = acknowledged.iter().map(|(_, revision)| *revision).max().unwrap_or_default();
    Witness { acknowledged, seen: answered.max(store.current()) }
}

fn transaction(id: u64) -> Txn {
    Txn::new()
        .expect(format!("mark/{id}/left"), Expect::Absent)
        .put(format!("mark/{id}/left"), vec![id as u8; 700])
        .put(format!("shared/{}", id % 3), vec![id as u8; 2300])
        .delete(format!("old/{}", id % 20))
        .put(format!("mark/{id}/right"), vec![id as u8; 40])
}

fn is_of_the_disk(error: &Error) -> bool {
    matches!(error, Error::Io(_) | Error::OutcomeUnknown(_) | Error::Unavailable(_) | Error::Closed)
}

/// Hold the store against what the witness knows; then see that it still works.
async fn verify(store: &RedbStore, witness: &Witness) {
    assert!(store.current() >= witness.seen, "revision {} went back to {}", witness.seen, store.current());
    for (id, revision) in &witness.acknowledged {
        for side in ["left", "right"] {
            let key = format!("mark/{id}/{side}");
            let entry = store.get(key.as_bytes(), None).await.expect("get").expect("an acknowledged write");
            assert_eq!(entry.mod_revision, *revision, "{key}");
        }
    }
    for id in 0..WRITERS * TXNS_PER_WRITER {
        let mut sides = Vec::new();
        for side in ["left", "right"] {
            let entry = store.get(format!("mark/{id}/{side}").as_bytes(), None).await.expect("get");
            sides.push(entry.map(|entry| entry.mod_revision));
        }
        assert_eq!(sides[0], sides[1], "transaction {id} is there by half");
    }
    verify_history(store).await;
    let before = store.current();
    let after = store.txn(Txn::new().put("after", "the cut")).await.expect("it works again");
    assert_eq!(after, before.next());
}

/// The oldest state kept, with all changes since applied, is the state now.
async fn verify_history(store: &RedbStore) {
    let (oldest, current) = (store.compacted(), store.current());
    let state = |page: pintle_store::RangePage| -> BTreeMap<Bytes, Bytes> {
        page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    };
    let mut replayed = state(store.range(RangeQuery::default().at(oldest)).await.expect("range"));
    let mut watch = store.watch(Bytes::new(), oldest).await.expect("watch");
    for revision in oldest.0 + 1..=current.0 {
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, Revision(revision));
        for event in &batch.events {
            assert_eq!(replayed.get(&event.key), event.prev(), "the value before, at {revision}");
            match event.value() {
                Some(value) => replayed.insert(event.key.clone(), value.clone()),
                None => replayed.remove(&event.key),
            };
        }
    }
    assert_eq!(replayed, state(store.range(RangeQuery::default()).await.expect("range")));
}

/// Open what a power cut left; sometimes the power goes again, and again, meanwhile.
fn recover(cut: &SimDisk, random: &mut Random) -> RedbStore {
    let mut disk = cut.after_power_cut();
    for _ in 0..random.below(3) {
        let damage = Random::new(random.next());
        disk.plan(Plan { cut_at_sync: Some((1 + random.below(4), damage)), ..Plan::default() });
        if let Ok(store) = RedbStore::open_on(disk.clone(), options()) {
            // Closing syncs too.
            drop(store);
        }
        disk = disk.after_power_cut();
    }
    RedbStore::open_on(disk, options()).expect("a store opens after a power cut")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_at_every_sync_loses_nothing_acknowledged_and_halves_nothing() {
    let seed = Random::seed("power_cut");
    let mut random = Random::new(seed);
    let start = furnished().await;
    let mut cuts = 0;
    for sync in 1.. {
        let mut reached = false;
        for _ in 0..DAMAGES {
            let disk = start.after_power_cut();
            let store = Arc::new(RedbStore::open_on(disk.clone(), options()).expect("opens"));
            let damage = Random::new(random.next());
            disk.plan(Plan { cut_at_sync: Some((sync, damage)), ..Plan::default() });
            let witness = work(store.clone()).await;
            drop(store);
            reached |= disk.is_off();
            let store = recover(&disk, &mut random);
            verify(&store, &witness).await;
            cuts += usize::from(disk.is_off());
        }
        if !reached {
            break;
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 100, "the workload is long enough to be worth cutting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_operation_is_answered_truly_and_the_store_goes_on() {
    let seed = Random::seed("failed_operation");
    let mut random = Random::new(seed);
    let start = furnished().await;
    for round in 0..240 {
        let disk = start.after_power_cut();
        // Room for all events of the run: this watch is to be fed from memory throughout.
        let options = Options { watch_buffer_bytes: 1024 * 1024, ..options() };
        let store = Arc::new(RedbStore::open_on(disk.clone(), options).expect("opens"));
        let at = 1 + random.below(60);
        let plan = match round % 3 {
            0 => Plan { fail_sync: Some(at), ..Plan::default() },
            1 => Plan { fail_write: Some(at * 5), ..Plan::default() },
            _ => Plan { fail_read: Some(at), ..Plan::default() },
        };
        let started = store.current();
        let mut watch = store.watch(Bytes::new(), started).await.expect("watch");
        assert!(watch.next().now_or_never().is_none(), "nothing to say yet");
        disk.plan(plan);
        let witness = work(store.clone()).await;
        disk.plan(Plan::default());
        // A watch that was there all along is told everything that reads show.
        for revision in started.0 + 1..=store.current().0 {
            assert_eq!(next(&mut watch).await.revision, Revision(revision));
        }
        // What was answered must also survive the power going right after.
        let unplugged = disk.after_power_cut();
        verify(&store, &witness).await;
        drop(store);
        let store = recover(&unplugged, &mut random);
        verify(&store, &witness).await;
    }
}
