//! A full disk: writes say so, reads go on, nothing is lost, and it works again when there is room.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use pintle_store::{Error, Options, RangeQuery, RedbStore, Revision, Store, Txn};

use crate::Scratch;
use crate::disk::SimDisk;
use crate::suite::next;

const VALUE_BYTES: usize = 20_000;

fn key(number: usize) -> String {
    format!("/fill/{number:06}")
}

/// Put until the disk is full. Returns how many went in.
async fn fill(store: &dyn Store) -> usize {
    for number in 0..10_000 {
        match store.txn(Txn::create(key(number), vec![number as u8; VALUE_BYTES])).await {
            Ok(_) => {}
            Err(Error::NoSpace) => return number,
            Err(error) => panic!("full disk reported as: {error}"),
        }
    }
    panic!("the disk never filled up");
}

async fn assert_holds(store: &dyn Store, stored: usize) {
    let page = store.range(RangeQuery::prefix("/fill/")).await.expect("reads go on");
    assert_eq!(page.entries.len(), stored);
    for (number, entry) in page.entries.iter().enumerate() {
        assert_eq!((entry.key.as_ref(), entry.value.len()), (key(number).as_bytes(), VALUE_BYTES));
        assert_eq!(entry.value.first(), Some(&(number as u8)));
    }
    assert_eq!(store.current(), Revision(1 + stored as u64));
}

/// `more_room` is called when the disk is full and all was seen to be as it should.
async fn fill_up_and_recover(store: Arc<dyn Store>, more_room: impl FnOnce()) -> usize {
    let mut watch = store.watch(Bytes::new(), store.current()).await.expect("watch");
    let stored = fill(&*store).await;
    assert!(stored > 10, "only {stored} went in");
    assert_holds(&*store, stored).await;
    let crowd = (0..20).map(|number| store.txn(Txn::create(format!("/crowd/{number}"), vec![0; VALUE_BYTES])));
    for outcome in join_all(crowd).await {
        assert!(matches!(outcome, Err(Error::NoSpace)), "{outcome:?}");
    }
    assert_holds(&*store, stored).await;
    for number in 0..stored {
        let batch = next(&mut watch).await;
        assert_eq!(batch.events[0].key, key(number));
    }
    more_room();
    let revision = store.txn(Txn::create(key(stored), vec![stored as u8; VALUE_BYTES])).await.expect("room again");
    assert_eq!(revision, Revision(2 + stored as u64));
    assert_eq!(next(&mut watch).await.revision, revision);
    assert_holds(&*store, stored + 1).await;
    stored + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_writes_keeps_reading_and_recovers_when_there_is_room() {
    for capacity in [2_000_000, 3_333_333, 5_000_000] {
        let disk = SimDisk::new();
        disk.limit(Some(capacity));
        let store = Arc::new(RedbStore::open_on(disk.clone(), crate::tiny()).expect("opens"));
        let stored = fill_up_and_recover(store.clone(), || disk.limit(Some(3 * capacity))).await;
        assert!(disk.used_bytes() <= 3 * capacity);
        drop(store);
        let store = RedbStore::open_on(disk, crate::tiny()).expect("opens again");
        assert_holds(&store, stored).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_found_at_opening_still_serves_reads() {
    let disk = SimDisk::new();
    let store = RedbStore::open_on(disk.clone(), Options::default()).expect("opens");
    for number in 0..20 {
        store.txn(Txn::create(key(number), vec![number as u8; VALUE_BYTES])).await.expect("put");
    }
    drop(store);
    disk.limit(Some(disk.used_bytes()));
    let store = RedbStore::open_on(disk, Options::default()).expect("opens on a full disk");
    assert_holds(&store, 20).await;
}

/// A small file system of its own, unmounted when dropped.
struct SmallMount<'a>(&'a Path);

impl<'a> SmallMount<'a> {
    fn new(at: &'a Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "remount");
    }
}

impl Drop for SmallMount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_file_system_behaves_as_the_simulated_disk_does() {
    let scratch = Scratch::new();
    let Some(mount) = SmallMount::new(scratch.path(), "size=6m") else {
        println!("skipped: cannot mount a small file system here (needs root)");
        return;
    };
    let store = Arc::new(RedbStore::open(&scratch.file(), crate::tiny()).expect("opens"));
    let stored = fill_up_and_recover(store.clone(), || mount.resize("16m")).await;
    drop(store);
    let store = RedbStore::open(&scratch.file(), crate::tiny()).expect("opens again");
    assert_holds(&store, stored).await;
    drop(store);
    drop(mount);
}

/// Who finds the disk full deletes something: that must work, and help.
async fn delete_and_go_on(store: &dyn Store, value_bytes: usize) {
    let value = || vec![7; value_bytes];
    let mut stored = 0;
    while store.txn(Txn::create(key(stored), value())).await.is_ok() {
        stored += 1;
    }
    for number in 0..stored / 2 {
        store.txn(Txn::new().delete(key(number))).await.expect("a delete on a full disk");
    }
    store.compact(store.current()).await.expect("compaction on a full disk");
    for number in 0..stored / 8 {
        let put = store.txn(Txn::create(key(stored + number), value())).await;
        assert!(put.is_ok(), "put {number} of {value_bytes} bytes, after {stored} and half of them deleted: {put:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_on_a_full_disk_makes_room() {
    for value_bytes in [300, 2_300, 20_000, 200_000] {
        let disk = SimDisk::new();
        disk.limit(Some(4_000_000));
        let store = RedbStore::open_on(disk, crate::tiny()).expect("opens");
        delete_and_go_on(&store, value_bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_on_a_full_file_system_makes_room() {
    for value_bytes in [2_300, 20_000] {
        let scratch = Scratch::new();
        let Some(mount) = SmallMount::new(scratch.path(), "size=4m") else {
            println!("skipped: cannot mount a small file system here (needs root)");
            return;
        };
        let store = RedbStore::open(&scratch.file(), crate::tiny()).expect("opens");
        delete_and_go_on(&store, value_bytes).await;
        drop(store);
        drop(mount);
    }
}
