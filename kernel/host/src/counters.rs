//! A module in numbers. Written from every thread that calls it, read by status and metrics.

use crate::engine::CpuShare;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Buckets of the duration histogram: four to each power of two of microseconds.
const BUCKETS: usize = 4 * 32;
/// When the histogram has seen this many, it is halved, so that it tells about recent calls.
const HALVE_AT: u64 = 8192;

/// The counters of one module, over all its generations.
#[derive(Debug)]
pub struct Counters {
    pub calls: AtomicU64,
    pub errors: AtomicU64,
    pub traps: AtomicU64,
    pub restarts: AtomicU64,
    pub denied: AtomicU64,
    pub writes: AtomicU64,
    pub memory_bytes: AtomicU64,
    pub queue_length: AtomicU64,
    pub cpu: Arc<CpuShare>,
    durations: [AtomicU32; BUCKETS],
    recorded: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
            queue_length: AtomicU64::new(0),
            cpu: Arc::default(),
            durations: [const { AtomicU32::new(0) }; BUCKETS],
            recorded: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// One more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// A call that took this long.
    pub fn call(&self, took: Duration) {
        Self::add(&self.calls);
        self.durations[bucket(took)].fetch_add(1, Relaxed);
        if self.recorded.fetch_add(1, Relaxed) + 1 >= HALVE_AT {
            self.recorded.store(HALVE_AT / 2, Relaxed);
            for bucket in &self.durations {
                bucket.store(bucket.load(Relaxed) / 2, Relaxed);
            }
        }
    }

    /// The duration that this share of recent calls stayed within.
    pub fn quantile(&self, share: f64) -> Duration {
        let counts: Vec<u32> = self.durations.iter().map(|b| b.load(Relaxed)).collect();
        let total: u64 = counts.iter().map(|c| u64::from(*c)).sum();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among some thousands"
        )]
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, count) in counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank && total > 0 {
                return upper_bound(i);
            }
        }
        Duration::ZERO
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2() as usize;
    let quarter = if power >= 2 { (micros >> (power - 2)) & 3 } else { (micros << (2 - power)) & 3 };
    (power * 4 + usize::try_from(quarter).unwrap_or(0)).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let (power, quarter) = (bucket / 4, bucket % 4);
    Duration::from_micros((1u64 << power) + ((quarter as u64 + 1) << power).div_ceil(4))
}

#[cfg(test)]
mod tests;
