//! Spans of time as people read them: two units at most, coarser the longer.

use jiff::Timestamp;
use serde_json::Value;

/// `seconds` as kubectl prints ages: `45s`, `3m12s`, `5h`, `12d`, `2y30d`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: char, small: i64, minor: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{minor}") }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..=119 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// The time since an RFC 3339 text; `<unknown>` where there is none.
pub(crate) fn since(time: &Value, now: Timestamp) -> String {
    parse(time).map_or_else(|| "<unknown>".to_owned(), |time| human_duration(now.as_second() - time.as_second()))
}

/// An RFC 3339 text as a time.
pub(super) fn parse(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations_grow_coarser_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (195, "3m15s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (65_664_000, "2y30d"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
