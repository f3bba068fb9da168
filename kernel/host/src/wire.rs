//! Reading what a guest answered on the hot lane: within limits, and wherever its bytes happen to lie in memory.

use crate::limits::{NESTING_MAX, TRAVERSAL_WORDS_MAX};
use capnp::{
    message::{Reader, ReaderOptions},
    serialize::{OwnedSegments, read_message},
};

/// The message in `bytes`.
///
/// # Errors
/// It is none, or exceeds a limit.
pub fn read(bytes: &mut &[u8]) -> capnp::Result<Reader<OwnedSegments>> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(TRAVERSAL_WORDS_MAX)).nesting_limit(NESTING_MAX);
    read_message(bytes, options)
}
