//! Doubling delays, as the kubelet counts them.
//!
//! Pure: times come in from outside. Invariant: the first trouble costs no delay, the second waits `base`, then twice as long each time up
//! to 30 times `base`; quiet for 60 times `base` (10 minutes with the default of 10 s) starts anew.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How delays grow.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// The first delay.
    pub base: SignedDuration,
}

/// Where one thing that keeps failing stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    delay_ms: i64,
    updated_at: Option<Timestamp>,
}

impl Law {
    /// The law with its first delay in milliseconds.
    pub fn from_millis(millis: u64) -> Self {
        Self { base: SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX / 100)) }
    }

    fn longest(self) -> SignedDuration {
        self.base.saturating_mul(30)
    }

    fn forgets_after(self) -> SignedDuration {
        self.base.saturating_mul(60)
    }
}

impl BackOff {
    /// When the next try is allowed, given when the last one failed; `None`: now.
    pub fn allowed_at(&self, law: Law, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let updated_at = self.updated_at?;
        if failed_at.duration_since(updated_at) > law.forgets_after() {
            return None;
        }
        let until = failed_at.saturating_add(self.delay()).unwrap_or(failed_at);
        (until > now).then_some(until)
    }

    /// Notes that a try is made now, after a failure at `failed_at`.
    pub fn grow(&mut self, law: Law, failed_at: Timestamp, now: Timestamp) {
        let forgotten = self.updated_at.is_none_or(|at| failed_at.duration_since(at) > law.forgets_after());
        let next = if forgotten { law.base } else { self.delay().saturating_mul(2).min(law.longest()) };
        self.delay_ms = i64::try_from(next.as_millis()).unwrap_or(i64::MAX);
        self.updated_at = Some(now);
    }

    /// The delay that counts now.
    pub fn delay(&self) -> SignedDuration {
        SignedDuration::from_millis(self.delay_ms)
    }
}

/// A delay in Go's notation, as Kubernetes' messages show it: `10s`, `2m40s`, `200ms`.
pub fn go_duration(delay: SignedDuration) -> String {
    let millis = delay.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = millis / 1000;
    let rest = millis % 1000;
    let tail =
        if rest == 0 { format!("{}s", seconds % 60) } else { format!("{}.{}s", seconds % 60, format!("{rest:03}").trim_end_matches('0')) };
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => tail,
        (0, minutes) => format!("{minutes}m{tail}"),
        (hours, minutes) => format!("{hours}h{minutes}m{tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Law = Law { base: SignedDuration::from_secs(10) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a second")
    }

    #[test]
    fn delays_double_up_to_five_minutes_and_the_first_restart_is_free() {
        let (mut backoff, mut now) = (BackOff::default(), 1000);
        let mut waited = Vec::new();
        for _ in 0..8 {
            let failed = now;
            let allowed = backoff.allowed_at(LAW, at(failed), at(now)).map_or(now, |t| t.as_second());
            waited.push(allowed - failed);
            now = allowed;
            backoff.grow(LAW, at(failed), at(now));
        }
        assert_eq!(waited, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_anew() {
        let mut backoff = BackOff::default();
        for _ in 0..5 {
            backoff.grow(LAW, at(1000), at(1000));
        }
        assert!(backoff.allowed_at(LAW, at(1599), at(1599)).is_some());
        assert_eq!(backoff.allowed_at(LAW, at(1601), at(1601)), None);
        backoff.grow(LAW, at(1601), at(1601));
        assert_eq!(backoff.delay(), SignedDuration::from_secs(10));
    }

    #[test]
    fn delays_are_written_as_go_does() {
        let check = |millis, expected: &str| assert_eq!(go_duration(SignedDuration::from_millis(millis)), expected);
        check(10_000, "10s");
        check(160_000, "2m40s");
        check(300_000, "5m0s");
        check(200, "200ms");
        check(1_500, "1.5s");
    }
}
