//! The helper: the single-threaded parent of all containers.

/// Becomes the helper and never returns, when the process was started as one; otherwise returns at once. To be called first thing in `main`,
/// before any thread or async runtime starts.
pub fn maybe_run() {}
