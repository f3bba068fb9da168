//! Compaction of the embedded engine gives space back: the file does not grow with the number of writes, only with what is kept.

use pintle_store::{Options, RedbStore, Revision, Store, Txn};

use crate::disk::SimDisk;

const KEYS: u64 = 100;
const VALUE_BYTES: usize = 3_000;

async fn overwrite_all(store: &RedbStore) -> Revision {
    for key in 0..KEYS {
        store.txn(Txn::new().put(format!("{key}"), vec![key as u8; VALUE_BYTES])).await.expect("put");
    }
    store.current()
}

#[tokio::test]
async fn space_of_forgotten_history_is_used_again() {
    let disk = SimDisk::new();
    let store = RedbStore::open_on(disk.clone(), Options::default()).expect("opens");
    let mut early = 0;
    for round in 0..40 {
        let current = overwrite_all(&store).await;
        store.compact(current).await.expect("compact");
        if round == 4 {
            early = disk.used_bytes();
        }
    }
    let late = disk.used_bytes();
    assert!(late <= 2 * early, "{early} bytes after 5 rounds became {late} after 40");
}

/// A compaction may be cut short by closing: what it forgot stays forgotten, and the rest of its work is done later.
#[tokio::test]
async fn compaction_goes_on_after_reopening() {
    let disk = SimDisk::new();
    let store = RedbStore::open_on(disk.clone(), Options::default()).expect("opens");
    for _ in 0..20 {
        overwrite_all(&store).await;
    }
    let to = store.current();
    store.compact(to).await.expect("compact");
    drop(store);
    let full = disk.used_bytes();
    let store = RedbStore::open_on(disk.clone(), Options::default()).expect("opens again");
    assert_eq!(store.compacted(), to);
    for _ in 0..20 {
        overwrite_all(&store).await;
        store.compact(store.current()).await.expect("compact");
    }
    assert!(disk.used_bytes() <= full + full / 2, "{full} bytes became {}", disk.used_bytes());
}
