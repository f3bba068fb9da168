//! What was said to a module and what it answered, on both lanes: kept in a file, shown as JSON, compared.
//!
//! The problem: whether another version of a module would do the same can only be known by asking it the same. A module's only inputs are its
//! messages (the clock is in them, randomness is a fixed sequence), so the messages are the whole of what must be kept. The answer: one
//! entry a call, with the parameters and the answer as they were on the wire. Answers are compared by what they mean, not by their bytes:
//! `show` makes JSON of them, `differences` tells two of those apart. What a controller read between question and answer travels in its answer; `with_reads`
//! puts it into the question.
//!
//! Reading order: `entry` (what is kept), `file` (how), `show` and `compare`, `reads`. Not here: who records, and who asks again.

mod compare;
mod entry;
mod file;
mod reads;
mod show;

pub use compare::differences;
pub use entry::{Entry, Header, Outcome, Step};
pub use file::{BYTES_DEFAULT, BYTES_MAX, RecordError, Recorder, read};
pub use reads::with_reads;
pub use show::show;

pub(crate) use show::options;
