//! A controller's work queue. The kernel owns it, so that a module can be swapped, crash or be late without losing a key.
//!
//! Invariants: a key is in at most one of waiting, delayed and in flight; a key added while in flight is looked at again when it comes
//! back; a key that keeps failing waits longer each time, and a success forgets that.

use crate::limits::KEY_BACKOFF;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// The queue. Not a shared structure: it lives with the loop that works it.
#[derive(Debug)]
pub struct Queue<K> {
    waiting: VecDeque<K>,
    waiting_set: HashSet<K>,
    in_flight: HashMap<K, Again>,
    delayed: BTreeMap<(Instant, u64), K>,
    delayed_at: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

/// Whether a key in flight changed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    Yes,
}

/// How a key comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing more to do until it is added again.
    Settled,
    /// Look again after this long.
    After(Duration),
    /// At once: what was decided on was stale.
    Now,
    /// It failed: with back-off.
    Failed,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_set: HashSet::new(),
            in_flight: HashMap::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Adds a key, unless it is waiting already.
    pub fn add(&mut self, key: K) {
        if let Some(again) = self.in_flight.get_mut(&key) {
            *again = Again::Yes;
            return;
        }
        self.undelay(&key);
        if self.waiting_set.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    /// Adds a key for later, unless it is due earlier anyway or in flight.
    pub fn add_after(&mut self, key: K, delay: Duration, now: Instant) {
        let due = now + delay;
        let earlier = self.delayed_at.get(&key).is_some_and(|(at, _)| *at <= due);
        if !earlier && !self.waiting_set.contains(&key) && !self.in_flight.contains_key(&key) {
            self.delay(key, due);
        }
    }

    /// Forgets a key that is not in flight.
    pub fn forget(&mut self, key: &K) {
        self.undelay(key);
        self.failures.remove(key);
        if self.waiting_set.remove(key) {
            self.waiting.retain(|waiting| waiting != key);
        }
    }

    /// The keys that could be taken now, for who wants them in another order.
    pub fn ready(&mut self, now: Instant) -> &mut [K] {
        self.wake(now);
        self.waiting.make_contiguous()
    }

    /// Takes up to `max` keys; they are in flight until `done`.
    pub fn take(&mut self, max: usize, now: Instant) -> Vec<K> {
        self.wake(now);
        let count = max.min(self.waiting.len());
        let keys: Vec<K> = self.waiting.drain(..count).collect();
        for key in &keys {
            self.waiting_set.remove(key);
            self.in_flight.insert(key.clone(), Again::No);
        }
        keys
    }

    /// Puts a key back that was taken but never worked on, at the front.
    pub fn put_back(&mut self, key: K) {
        self.in_flight.remove(&key);
        if self.waiting_set.insert(key.clone()) {
            self.waiting.push_front(key);
        }
    }

    /// A key comes back from flight.
    pub fn done(&mut self, key: &K, how: Done, now: Instant) {
        let again = self.in_flight.remove(key) == Some(Again::Yes);
        let delay = match how {
            Done::Failed => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                *failures = failures.saturating_add(1);
                Some(backoff(*failures))
            }
            Done::Settled => {
                self.failures.remove(key);
                None
            }
            Done::After(delay) => {
                self.failures.remove(key);
                Some(delay)
            }
            Done::Now => Some(Duration::ZERO),
        };
        match delay {
            _ if again && how != Done::Failed => self.add(key.clone()),
            Some(Duration::ZERO) => self.add(key.clone()),
            Some(delay) => self.delay(key.clone(), now + delay),
            None => {}
        }
    }

    /// How often this key has failed in a row.
    pub fn attempt(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// When the next delayed key is due, if nothing is waiting before.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.keys().next().map(|(at, _)| *at)
    }

    /// Whether a key can be taken now.
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.waiting.is_empty() || self.next_due().is_some_and(|at| at <= now)
    }

    /// Keys waiting or delayed.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.delayed.len()
    }

    /// Keys in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.delayed_at.remove(&key);
            if self.waiting_set.insert(key.clone()) {
                self.waiting.push_back(key);
            }
        }
    }

    fn delay(&mut self, key: K, at: Instant) {
        self.undelay(&key);
        self.sequence += 1;
        self.delayed.insert((at, self.sequence), key.clone());
        self.delayed_at.insert(key, (at, self.sequence));
    }

    fn undelay(&mut self, key: &K) {
        if let Some(slot) = self.delayed_at.remove(key) {
            self.delayed.remove(&slot);
        }
    }
}

/// Waits until something is due; for ever when nothing is.
pub async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// 5 ms doubling to a minute.
pub fn backoff(failures: u32) -> Duration {
    let (first, longest) = KEY_BACKOFF;
    first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(longest)
}

#[cfg(test)]
mod tests;
