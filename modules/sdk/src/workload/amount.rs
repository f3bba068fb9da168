//! `IntOrString`: a number of pods, or a part of them.

use serde_json::Value;

/// Which way a percentage that is no whole number of pods goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To more pods.
    Up,
    /// To fewer.
    Down,
}

/// A number as it is, a percentage of `total`; nothing for anything else. Never negative.
pub fn amount(value: Option<&Value>, total: i64, rounding: Rounding) -> Option<i64> {
    let percent: i64 = match value? {
        Value::Number(number) => return number.as_i64().map(|number| number.max(0)),
        Value::String(text) => text.strip_suffix('%')?.parse().ok()?,
        _ => return None,
    };
    let hundredths = percent.max(0).saturating_mul(total);
    Some(match rounding {
        Rounding::Up => hundredths.saturating_add(99) / 100,
        Rounding::Down => hundredths / 100,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_round_as_asked_and_numbers_stay() {
        for (value, up, down) in
            [(json!("25%"), Some(3), Some(2)), (json!(4), Some(4), Some(4)), (json!("0%"), Some(0), Some(0)), (json!("x"), None, None)]
        {
            assert_eq!((amount(Some(&value), 10, Rounding::Up), amount(Some(&value), 10, Rounding::Down)), (up, down), "{value}");
        }
        assert_eq!(amount(None, 10, Rounding::Up), None);
    }
}
