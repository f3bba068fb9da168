//! Processor time of one module over time: counted for all its instances together, and held to a share of one processor.
//!
//! The problem: a deadline bounds one call, not a module that is called without pause. The answer: each entry is paid for
//! afterwards. A module in debt is not entered until it is paid: its RPC lane waits, its hot lane answers that it has no time left.

use crate::limits::{CPU_BURST, CPU_DEBT_MAX};
use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed},
    },
    time::{Duration, Instant},
};

/// What one module has used and may use.
#[derive(Debug)]
pub struct CpuShare {
    began: Instant,
    used_nanos: AtomicU64,
    /// In thousandths of one processor; `u32::MAX`: not held to any.
    millicores: AtomicU32,
    /// When it has paid for what it used, in nanoseconds since `began`.
    paid_nanos: AtomicU64,
    throttled: AtomicU64,
}

impl Default for CpuShare {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            used_nanos: AtomicU64::new(0),
            millicores: AtomicU32::new(u32::MAX),
            paid_nanos: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        }
    }
}

impl CpuShare {
    /// From now on at most so many thousandths of one processor; `u32::MAX`: as much as there is.
    pub fn hold_to(&self, millicores: u32) {
        self.millicores.store(millicores, Relaxed);
        if millicores == u32::MAX {
            self.paid_nanos.store(0, Relaxed);
        }
    }

    /// An entry took this much.
    pub fn spend(&self, cpu: Duration) {
        let nanos = nanos(cpu);
        self.used_nanos.fetch_add(nanos, Relaxed);
        let share = u64::from(self.millicores.load(Relaxed));
        if share < u64::from(u32::MAX) {
            let price = nanos.saturating_mul(1000) / share.max(1);
            let now = nanos_since(self.began);
            let (floor, ceiling) = (now.saturating_sub(self::nanos(CPU_BURST)), now + self::nanos(CPU_DEBT_MAX));
            let _ = self.paid_nanos.fetch_update(Relaxed, Relaxed, |paid| Some(paid.max(floor).saturating_add(price).min(ceiling)));
        }
    }

    /// How long it has to wait, and counts that it had to; `None`: it may run.
    pub fn debt(&self) -> Option<Duration> {
        let left = self.paid_nanos.load(Acquire).saturating_sub(nanos_since(self.began));
        if left == 0 {
            return None;
        }
        self.throttled.fetch_add(1, Relaxed);
        Some(Duration::from_nanos(left))
    }

    /// Processor time of all entries so far.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used_nanos.load(Relaxed))
    }

    /// How often it had to wait.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Relaxed)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// As if it had begun a burst ago: a new module has that much saved up.
fn nanos_since(then: Instant) -> u64 {
    nanos(then.elapsed() + CPU_BURST)
}

#[cfg(test)]
mod tests;
