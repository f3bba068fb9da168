//! The store: every object of the cluster, under one global revision.
//!
//! This is the only room that knows a database. It knows keys, values and revisions; it does not know what an
//! object is, who may see it, or how it travels.
//!
//! What holds, whatever the engine:
//! 1. There is one [`Revision`] for the whole store. Each transaction that changes something takes the next one, alone.
//! 2. A transaction is all or nothing, and is acknowledged only once it is durable.
//! 3. An acknowledged transaction is seen by every later read; a read at a revision answers the same for as long as
//!    that revision is not compacted.
//! 4. A watch sees every change under its prefix after its start: in revision order, once, a transaction in one piece.
//!    If it cannot, it ends with an error that says so. It never skips.
//! 5. Nothing above the [`Store`] trait can tell which engine runs.
//!
//! Reading order: `store` (the trait and its vocabulary), `watch`, `error`, `limits`, then the engine in `embedded`:
//! `layout` (what is on disk), `snapshot` (reads), `group`, `turn` and `writer` (writes), `hub` (live watches), `disk` (the file).

mod embedded;
mod error;
pub mod limits;
mod store;
mod watch;

pub use embedded::{Disk, Options, RedbStore, Spending};
pub use error::{Conflict, Error, Limit, Result};
pub use store::{Entry, Expect, Expectation, RangePage, RangeQuery, Remaining, Revision, Store, Txn, Write, prefix_end};
pub use watch::{Batch, Change, Event, Watch, WatchSource};
