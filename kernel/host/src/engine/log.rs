//! A module's log: its standard output, standard error, `abort` and `Logger` lines, held to a rate and a length.

use crate::{
    fault::{Generation, ModuleId},
    limits::{LOG_LINE_BYTES_MAX, LOG_LINES_PER_SECOND_MAX},
};
use std::time::{Duration, Instant};

/// Turns bytes into log lines of one instance.
pub struct ModuleLog {
    module: ModuleId,
    generation: Generation,
    partial: Vec<u8>,
    window: Instant,
    lines_in_window: u32,
    dropped: u64,
}

impl ModuleLog {
    /// The log of one instance.
    pub fn new(module: ModuleId, generation: Generation) -> Self {
        Self { module, generation, partial: Vec::new(), window: Instant::now(), lines_in_window: 0, dropped: 0 }
    }

    /// Bytes of standard output or error; whole lines are logged, the rest waits for its newline.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() >= LOG_LINE_BYTES_MAX {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
                self.line(tracing::Level::INFO, &line);
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
    }

    /// One line, unless the module is over its rate.
    pub fn line(&mut self, level: tracing::Level, line: &str) {
        if self.window.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                tracing::warn!(target: "module", module = %self.module, generation = self.generation.0, dropped = self.dropped, "log lines dropped");
            }
            (self.window, self.lines_in_window, self.dropped) = (Instant::now(), 0, 0);
        }
        if self.lines_in_window >= LOG_LINES_PER_SECOND_MAX {
            self.dropped += 1;
            return;
        }
        self.lines_in_window += 1;
        let (module, generation) = (&self.module, self.generation.0);
        let end = line.floor_char_boundary(LOG_LINE_BYTES_MAX.min(line.len()));
        let line = &line[..end];
        match level {
            tracing::Level::ERROR => tracing::error!(target: "module", %module, generation, "{line}"),
            tracing::Level::WARN => tracing::warn!(target: "module", %module, generation, "{line}"),
            tracing::Level::INFO => tracing::info!(target: "module", %module, generation, "{line}"),
            _ => tracing::debug!(target: "module", %module, generation, "{line}"),
        }
    }
}
