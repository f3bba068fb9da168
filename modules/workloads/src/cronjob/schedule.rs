//! Cron schedules: five fields or a name like `@daily`, in a time zone.
//!
//! Rules: minute, hour, day of month, month, day of week; `*` (or `?`), lists, ranges, steps and names. When both kinds of days are
//! restricted, a day that either names counts. A local time that a change of the clock skips does not come; one that it repeats comes once.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use pintle_sdk::prelude::*;

/// A schedule that names no day at all is given up on after so many days.
const DAYS_MAX: usize = 366 * 5;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
    zone: TimeZone,
}

/// Names of months and days, by their numbers from the first one.
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule. An error says what is wrong with it, for people.
    pub fn parse(text: &str, zone: &str) -> Result<Self, String> {
        let zone =
            if zone.is_empty() { TimeZone::UTC } else { TimeZone::get(zone).map_err(|e| format!("unknown time zone {zone}: {e}"))? };
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {text}", fields.len()));
        };
        let weekdays = bits(weekday, 0, 7, &WEEKDAYS)?;
        Ok(Schedule {
            minutes: bits(minute, 0, 59, &[])?,
            hours: bits(hour, 0, 23, &[])?,
            days: bits(day, 1, 31, &[])?,
            months: bits(month, 1, 12, &MONTHS)?,
            // Seven is Sunday, too.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_day: is_any(day),
            any_weekday: is_any(weekday),
            zone,
        })
    }

    /// The first time after `time`.
    pub fn next(&self, time: Time) -> Option<Time> {
        let mut date = self.local(time)?.date();
        for _ in 0..DAYS_MAX {
            if self.has(date)
                && let Some(found) = self.times(date).into_iter().find(|at| *at > time)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time that is not after `time`, but after `earliest`.
    pub fn last(&self, earliest: Time, time: Time) -> Option<Time> {
        let mut date = self.local(time)?.date();
        let first = self.local(earliest)?.date().yesterday().ok()?;
        while date >= first {
            if self.has(date)
                && let Some(found) = self.times(date).into_iter().rfind(|at| *at <= time)
            {
                return (found > earliest).then_some(found);
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    fn local(&self, time: Time) -> Option<DateTime> {
        Some(self.zone.to_datetime(Timestamp::from_millisecond(time.0).ok()?))
    }

    fn has(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let fits = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        fits && self.months >> date.month() & 1 == 1
    }

    /// The times of one day, in order.
    fn times(&self, date: Date) -> Vec<Time> {
        let mut times = Vec::new();
        for hour in (0..24i8).filter(|hour| self.hours >> hour & 1 == 1) {
            for minute in (0..60i8).filter(|minute| self.minutes >> minute & 1 == 1) {
                let local = date.at(hour, minute, 0, 0);
                let zoned = self.zone.to_zoned(local).ok().filter(|zoned| zoned.datetime() == local);
                times.extend(zoned.map(|zoned| Time(zoned.timestamp().as_millisecond())));
            }
        }
        times
    }
}

fn is_any(field: &str) -> bool {
    field.starts_with('*') || field.starts_with('?')
}

fn bits(field: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| -> Result<u32, String> {
        let named = names.iter().position(|name| *name == text.to_ascii_lowercase()).and_then(|at| u32::try_from(at).ok());
        let value = named.map(|at| at + least).or_else(|| text.parse().ok());
        value.filter(|value| (least..=most).contains(value)).ok_or_else(|| format!("{text:?} is not between {least} and {most}"))
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step = step.map_or(Ok(1), |step| step.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(|| format!("bad step in {part:?}")))?;
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, if most == 7 { 6 } else { most }),
            Some((first, last)) => (number(first)?, number(last)?),
            // A single number with a step goes on to the end.
            None => (number(range)?, if part.contains('/') { most } else { number(range)? }),
        };
        if first > last {
            return Err(format!("the range {range:?} is backwards"));
        }
        set |= (first..=last).step_by(step as usize).fold(0, |set, value| set | 1u64 << value);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, from: &str, expected: &str) {
        let schedule = Schedule::parse(schedule, zone).expect("a schedule");
        let from = Time::parse(from).expect("a time");
        let next = schedule.next(from).map(|t| t.to_string()).unwrap_or_default();
        assert_eq!(next, expected, "{schedule:?}");
        if let Some(next) = Time::parse(&next) {
            assert_eq!(schedule.last(from, next), Some(next));
            assert_eq!(schedule.last(from, Time(next.0 - 1)), None);
        }
    }

    #[test]
    fn the_next_time_is_found() {
        check("* * * * *", "", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z");
        check("*/15 3-4 * * *", "", "2026-01-01T04:45:00Z", "2026-01-02T03:00:00Z");
        check("0 0 1 jan *", "", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        check("@hourly", "", "2026-02-28T23:30:00Z", "2026-03-01T00:00:00Z");
        check("0 12 13 * fri", "", "2026-01-01T00:00:00Z", "2026-01-02T12:00:00Z");
        check("0 0 * * 7", "", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("5/20 * * * ?", "", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z");
        check("0 0 30 2 *", "", "2026-01-01T00:00:00Z", "");
        check("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z");
    }

    #[test]
    fn a_skipped_hour_does_not_come_and_a_repeated_one_comes_once() {
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
        check("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z");
        check("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "x * * * *"] {
            assert!(Schedule::parse(text, "").is_err(), "{text}");
        }
        assert!(Schedule::parse("* * * * *", "Mars/Olympus").is_err());
    }
}
