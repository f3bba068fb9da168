//! Opening: who may, what is recognized, and what a damaged file says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pintle_store::{Error, Options, RangeQuery, RedbStore, Revision, Store, Txn};

use crate::disk::SimDisk;
use crate::random::Random;
use crate::{Scratch, tiny};

/// A closed store with a few entries, as bytes.
async fn image(scratch: &Scratch) -> Vec<u8> {
    let store = RedbStore::open(&scratch.file(), tiny()).expect("opens");
    for number in 0..50 {
        store.txn(Txn::new().put(format!("key/{number}"), vec![number; 1500])).await.expect("put");
    }
    drop(store);
    fs::read(scratch.file()).expect("the file")
}

fn open_error(scratch: &Scratch) -> Error {
    match RedbStore::open(&scratch.file(), tiny()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn store_is_open_once_at_a_time_and_remembers() {
    let scratch = Scratch::new();
    let first = RedbStore::open(&scratch.file(), Options::default()).expect("opens");
    let revision = first.txn(Txn::new().put("a", "1")).await.expect("put");
    assert!(matches!(open_error(&scratch), Error::Locked { path } if path == scratch.file()));
    let mut watch = first.watch("".into(), revision).await.expect("watch");
    drop(first);
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))), "a watch ends with its store");
    // The watch still exists, and does not keep the file.
    let second = RedbStore::open(&scratch.file(), Options::default()).expect("opens again");
    assert_eq!(second.current(), revision);
    assert_eq!(second.get(b"a", None).await.expect("get").map(|entry| entry.value), Some("1".into()));
}

#[tokio::test]
async fn store_is_readable_by_its_owner_only() {
    let scratch = Scratch::new();
    drop(RedbStore::open(&scratch.file(), Options::default()).expect("opens"));
    let mode = fs::metadata(scratch.file()).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut names: Vec<_> = fs::read_dir(scratch.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["store.redb", "store.redb.reserve"]);
}

#[tokio::test]
async fn half_made_store_of_a_crash_is_made_anew() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("store.redb.new"), vec![0; 10_000]).expect("write");
    let store = RedbStore::open(&scratch.file(), Options::default()).expect("opens");
    assert_eq!(store.current(), Revision(1));
}

#[tokio::test]
async fn missing_directory_is_an_error_that_names_the_cause() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("nowhere").join("store.redb");
    let error = RedbStore::open(&missing, Options::default()).map(|_| ()).expect_err("no directory");
    assert!(matches!(&error, Error::Io(err) if err.kind() == std::io::ErrorKind::NotFound), "{error}");
}

#[tokio::test]
async fn file_that_is_no_store_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    for content in [&b""[..], b"not a database", &[0; 8192]] {
        fs::write(scratch.file(), content).expect("write");
        let error = open_error(&scratch);
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert_eq!(fs::read(scratch.file()).expect("read"), content);
    }
}

#[tokio::test]
async fn database_of_something_else_is_refused() {
    let scratch = Scratch::new();
    let other = redb::Database::create(scratch.file()).expect("creates");
    let txn = other.begin_write().expect("begins");
    txn.open_table(redb::TableDefinition::<u64, u64>::new("other")).expect("opens");
    txn.commit().expect("commits");
    drop(other);
    let error = open_error(&scratch);
    assert!(error.to_string().contains("not a store of this program"), "{error}");
}

#[tokio::test]
async fn later_format_is_refused_with_both_versions() {
    let scratch = Scratch::new();
    image(&scratch).await;
    let db = redb::Database::open(scratch.file()).expect("opens");
    let txn = db.begin_write().expect("begins");
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    txn.open_table(meta).expect("opens").insert("format", 2u64.to_be_bytes().as_slice()).expect("inserts");
    txn.commit().expect("commits");
    drop(db);
    assert!(matches!(open_error(&scratch), Error::FormatVersion { found: 2, supported: 1 }));
}

#[tokio::test]
async fn truncated_file_is_reported_not_repaired_away() {
    let scratch = Scratch::new();
    let whole = image(&scratch).await;
    for part in [1, 100, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(scratch.file(), &whole[..part]).expect("write");
        let error = open_error(&scratch);
        assert!(matches!(error, Error::Corrupt { .. }), "{part} bytes: {error}");
    }
}

/// Whatever a flipped byte does, it ends in an answer: no panic, no hang, no other value under a key.
#[tokio::test]
async fn flipped_bytes_end_in_an_error_or_do_no_harm() {
    let scratch = Scratch::new();
    let whole = image(&scratch).await;
    let mut random = Random::new(Random::seed("flipped_bytes"));
    for round in 0..150 {
        let mut damaged = whole.clone();
        let area = if round % 3 == 0 { 512 } else { damaged.len() as u64 };
        for _ in 0..1 + random.below(4) {
            let at = random.below(area) as usize;
            damaged[at] ^= 1 + random.below(255) as u8;
        }
        let disk = SimDisk::holding(damaged);
        let opened = catch_unwind(AssertUnwindSafe(|| RedbStore::open_on(disk, tiny())));
        let Ok(store) = opened.expect("opening does not panic") else { continue };
        // The checksums are not read along with the data: a flip inside a value may pass. Structure may not.
        let _ = store.range(RangeQuery::default()).await;
        let _ = store.txn(Txn::new().put("key/1", "x")).await;
    }
}
