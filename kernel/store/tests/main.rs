//! Tests of the store, as its users see it. Reading order:
//!
//! - `suite`: what every engine must do; engine-independent. A new engine is one more call of `suite::run`.
//! - `model`: random operations against an ordered map, from a printed seed.
//! - `compaction`: that it gives space back.
//! - `opening`: locks, formats, damaged files.
//! - `faults`: the disks that fail: `disk` simulates one; `power_cut` cuts its power at every sync, `disk_full` fills it.
//! - `random`: the generator; `PINTLE_SEED=n` repeats a run.

mod compaction;
mod disk;
mod disk_full;
mod model;
mod opening;
mod power_cut;
mod random;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::FutureExt;
use pintle_store::{Options, RedbStore, Store};

/// A directory of the test's own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("pintle-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// So small that every fallback is taken.
fn tiny() -> Options {
    Options { cache_bytes: 64 * 1024, reserve_bytes: 1024 * 1024, window_bytes: 2 * 1024, watch_buffer_bytes: 1024 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_on_a_file_passes_the_suite() {
    let scratch = Scratch::new();
    let mut next = 0;
    suite::run(|| {
        next += 1;
        let path = scratch.path().join(format!("{next}.redb"));
        async move { Arc::new(RedbStore::open(&path, Options::default()).expect("opens")) as Arc<dyn Store> }.boxed()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_in_memory_with_tiny_buffers_passes_the_suite() {
    suite::run(|| async { Arc::new(RedbStore::in_memory(tiny()).expect("opens")) as Arc<dyn Store> }.boxed()).await;
}
