//! Every limit of the store, in one place. Sizes are bytes. Defaults of [`crate::Options`] are here too.

/// Longest key.
pub const KEY_BYTES_MAX: usize = 2 * 1024;
/// Largest value.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most writes in one transaction.
pub const TXN_WRITES_MAX: usize = 4096;
/// Most expectations in one transaction.
pub const TXN_EXPECTATIONS_MAX: usize = 4096;
/// Most bytes (keys and values together) in one transaction.
pub const TXN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Transactions waiting for the writer, in bytes; callers wait beyond that.
pub const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What one waiting transaction counts for at least, so that the queue is bounded in number too.
pub const QUEUE_TXN_BYTES_MIN: usize = 1024;
/// Most transactions in one durable commit.
pub const GROUP_TXNS_MAX: usize = 1024;
/// A group stops growing once it carries this many bytes.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Page cache of the engine.
pub const CACHE_BYTES_DEFAULT: usize = 24 * 1024 * 1024;
/// Space set aside on the disk, so that there is room to delete and compact when the disk is full.
pub const RESERVE_BYTES_DEFAULT: u64 = 8 * 1024 * 1024;
/// Recent events kept in memory, so that a watch that resumes need not read the disk.
pub const WINDOW_BYTES_DEFAULT: usize = 8 * 1024 * 1024;
/// Undelivered events that one watch may hold in memory before it falls back to reading history from disk.
pub const WATCH_BUFFER_BYTES_DEFAULT: usize = 1024 * 1024;
/// Undelivered batches that one watch may hold in memory.
pub const WATCH_BUFFER_BATCHES_MAX: usize = 4096;
/// What an event costs in memory beside its key and values; counted in window and buffers.
pub const EVENT_OVERHEAD_BYTES: usize = 160;

/// Changes read from disk in one step by a watch that catches up.
pub const CATCH_UP_CHANGES_MAX: usize = 512;
/// Changes looked at in such a step, matching or not.
pub const CATCH_UP_SCAN_MAX: usize = 16 * 1024;
/// Value bytes after which such a step stops early.
pub const CATCH_UP_BYTES_MAX: usize = 1024 * 1024;
/// A larger file is not shrunk when the disk is full: reads would wait too long (it takes about 3 s for 100 MiB).
pub const SHRINK_FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Superseded values removed from disk in one step of compaction; writers get their turn between steps.
pub const COMPACTION_STEP_CHANGES: usize = 512;

const _: () = {
    assert!(TXN_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(VALUE_BYTES_MAX < TXN_BYTES_MAX);
    assert!(TXN_WRITES_MAX <= u32::MAX as usize);
    assert!(QUEUE_TXN_BYTES_MIN > 0);
};
