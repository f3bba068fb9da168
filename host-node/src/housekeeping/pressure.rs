//! Which thresholds are passed, since when, and which conditions follow.
//!
//! Pure: observations and the time come in. A soft threshold counts when it has been passed for its grace period. One that was passed stays so
//! until the minimum reclaim is regained on top of it, and a condition stays for the transition period after its last sighting, so that
//! neither flickers.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::signal::{Amount, CONDITIONS, Observations, Signal};

/// One limit of one signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this is too little.
    pub amount: Amount,
    /// How long too little is borne; `None`: a hard threshold, not at all.
    pub grace_seconds: Option<i64>,
    /// What must be regained on top, once it was passed.
    pub reclaim: Option<Amount>,
}

impl Threshold {
    /// Whether it is passed; `settling`: it was before.
    fn passed(&self, seen: &Observations, settling: bool) -> bool {
        seen.get(&self.signal).is_some_and(|now| {
            let extra = self.reclaim.as_ref().filter(|_| settling).map_or(0, |amount| amount.of(now.capacity));
            now.available < self.amount.of(now.capacity).saturating_add(extra)
        })
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watch {
    thresholds: Vec<Threshold>,
    transition: SignedDuration,
    /// By index of the threshold: since when it is passed.
    since: BTreeMap<usize, Timestamp>,
    /// Thresholds that were acted upon and have not been left behind.
    settling: Vec<usize>,
    /// When each condition was last justified.
    justified: BTreeMap<&'static str, Timestamp>,
}

impl Watch {
    /// A watch over these thresholds; conditions stay for `transition` after their last sighting.
    pub fn new(thresholds: Vec<Threshold>, transition: SignedDuration) -> Self {
        Self { thresholds, transition, ..Self::default() }
    }

    /// Takes a look; gives the threshold to deal with first.
    pub fn look(&mut self, seen: &Observations, now: Timestamp) -> Option<Threshold> {
        let passed = |index: &usize| self.thresholds[*index].passed(seen, self.settling.contains(index));
        let over: Vec<usize> = (0..self.thresholds.len()).filter(passed).collect();
        self.since.retain(|index, _| over.contains(index));
        for index in &over {
            self.since.entry(*index).or_insert(now);
            self.justified.insert(self.thresholds[*index].signal.condition(), now);
        }
        self.justified.retain(|_, at| now.duration_since(*at) < self.transition || *at == now);
        let waited = |index: &usize| {
            let grace = SignedDuration::from_secs(self.thresholds[*index].grace_seconds.unwrap_or(0));
            self.since.get(index).is_some_and(|since| now.duration_since(*since) >= grace)
        };
        self.settling = over.into_iter().filter(waited).collect();
        let due = self.settling.iter().map(|index| &self.thresholds[*index]);
        // Memory before disk before processes; of one signal the hard threshold, which allows no delay.
        due.min_by_key(|t| (t.signal, t.grace_seconds.is_some())).cloned()
    }

    /// Whether a threshold is still passed by newer observations.
    pub fn persists(threshold: &Threshold, seen: &Observations) -> bool {
        threshold.passed(seen, true)
    }

    /// Conditions that hold now, in a fixed order.
    pub fn conditions(&self) -> Vec<&'static str> {
        CONDITIONS.into_iter().filter(|condition| self.justified.contains_key(condition)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::housekeeping::signal::Observed;

    fn memory(available: u64) -> Observations {
        [(Signal::MemoryAvailable, Observed { available, capacity: 1000 })].into()
    }

    fn threshold(amount: u64, grace_seconds: Option<i64>, reclaim: Option<u64>) -> Threshold {
        Threshold { signal: Signal::MemoryAvailable, amount: Amount::Whole(amount), grace_seconds, reclaim: reclaim.map(Amount::Whole) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a second")
    }

    /// Looks at amounts of memory at seconds: what is to be done, and which conditions hold.
    fn check(thresholds: &[Threshold], story: &[(i64, u64, bool, bool)]) {
        let mut watch = Watch::new(thresholds.to_vec(), SignedDuration::from_secs(100));
        for (second, available, acts, pressed) in story {
            let first = watch.look(&memory(*available), at(*second));
            assert_eq!((first.is_some(), watch.conditions() == ["MemoryPressure"]), (*acts, *pressed), "at {second}: {available}");
        }
    }

    #[test]
    fn a_hard_threshold_acts_at_once_and_its_condition_outlasts_it() {
        check(
            &[threshold(100, None, None)],
            &[(0, 100, false, false), (1, 99, true, true), (2, 100, false, true), (101, 500, false, false)],
        );
    }

    #[test]
    fn a_soft_threshold_acts_after_its_grace_and_begins_anew_when_left() {
        let soft = [threshold(100, Some(10), None)];
        check(
            &soft,
            &[
                (0, 50, false, true),
                (9, 50, false, true),
                (10, 50, true, true),
                (11, 200, false, true),
                (12, 50, false, true),
                (22, 50, true, true),
            ],
        );
    }

    #[test]
    fn what_was_passed_must_regain_the_minimum_on_top() {
        check(
            &[threshold(100, None, Some(50))],
            &[(0, 120, false, false), (1, 99, true, true), (2, 149, true, true), (3, 150, false, true), (4, 120, false, true)],
        );
    }

    #[test]
    fn hard_goes_before_soft() {
        let mut watch = Watch::new(vec![threshold(200, Some(0), None), threshold(100, None, None)], SignedDuration::ZERO);
        assert_eq!(watch.look(&memory(50), at(0)).and_then(|t| t.grace_seconds), None);
        assert_eq!(watch.look(&memory(150), at(1)).and_then(|t| t.grace_seconds), Some(0));
        assert!(watch.look(&memory(500), at(2)).is_none() && watch.conditions().is_empty());
    }
}
