//! Lines for the kernel's log. A line waits in the guest until the kernel next pumps it; a module without a logger loses its lines.

use std::cell::RefCell;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the module's author.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is off, the module carries on.
    Warn,
    /// Something did not work.
    Error,
}

/// Lines kept at most between two pumps; more are dropped.
const PENDING_LINES_MAX: usize = 1_000;

thread_local!(static PENDING: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) });

/// Logs one line.
pub fn log(level: Level, message: impl Into<String>) {
    PENDING.with_borrow_mut(|lines| {
        if lines.len() < PENDING_LINES_MAX {
            lines.push((level, message.into()));
        }
    });
}

/// Takes the lines that have not been sent. Natively, a test reads what a module logged with it.
pub fn take() -> Vec<(Level, String)> {
    PENDING.with_borrow_mut(std::mem::take)
}

/// `info!("{} pods", n)`: logs one line that is worth knowing.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::logging::log($crate::logging::Level::Info, ::std::format!($($arg)*)) };
}

/// `warn!("{} pods", n)`: logs that something is off.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::logging::log($crate::logging::Level::Warn, ::std::format!($($arg)*)) };
}
