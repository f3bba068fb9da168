//! Instants as Kubernetes writes them. There is no clock here: a `Time` comes from the kernel or from an object.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY_MILLIS: i64 = 86_400_000;

/// An instant: milliseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 with whole seconds, read with any fraction and offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// From milliseconds since 1970.
    pub fn from_millis(millis: u64) -> Self {
        Time(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: Time) -> Duration {
        later.since(self)
    }

    /// This instant and a while more.
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Reads RFC 3339, e.g. `2026-01-02T03:04:05Z` or `2026-01-02T03:04:05.000006+01:00`.
    pub fn parse(text: &str) -> Option<Time> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            digits.iter().try_fold(0i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
        };
        let shape = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[13] == b':' && bytes[16] == b':';
        if !shape {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut at = 19;
        let mut millis = 0;
        if bytes[at] == b'.' {
            let end = (at + 1..bytes.len()).find(|i| !bytes[*i].is_ascii_digit())?;
            let fraction: String = text[at + 1..end].chars().chain("000".chars()).take(3).collect();
            millis = fraction.parse().ok()?;
            at = end;
        }
        let offset = match bytes.get(at)? {
            b'Z' | b'z' => 0,
            sign @ (b'+' | b'-') => {
                let minutes = number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?;
                if *sign == b'-' { -minutes } else { minutes }
            }
            _ => return None,
        };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + (minute - offset) * 60 + second;
        Some(Time(seconds * 1_000 + millis))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY_MILLIS));
        let second = self.0.rem_euclid(DAY_MILLIS) / 1_000;
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date, counted in 400-year eras that begin on the first of March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn a_time_reads_what_it_writes() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-21T02:23:00Z", "2100-03-01T00:00:00Z"] {
            assert_eq!(Time::parse(text).map(|t| t.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Time::parse("2001-09-09T01:46:40Z"), Some(Time(1_000_000_000_000)));
    }

    #[test]
    fn fractions_and_offsets_are_read() {
        assert_eq!(Time::parse("1970-01-01T01:00:00.250000+01:00"), Some(Time(250)));
        assert_eq!(Time::parse("1969-12-31T23:00:01-01:00"), Some(Time(1_000)));
    }

    #[test]
    fn nonsense_is_no_time() {
        for text in ["", "now", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01 00:00", "2026-01-01T00:00:00.Q"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}
