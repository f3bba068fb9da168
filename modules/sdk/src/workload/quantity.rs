//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as whole thousandths.

/// Thousandths of the unit, rounded up. What is no quantity is 0: the kernel has validated what comes here.
pub fn milli(text: &str) -> i64 {
    parse(text).unwrap_or(0)
}

/// Whole units, rounded up.
pub fn units(text: &str) -> i64 {
    let milli = milli(text);
    milli / 1_000 + i64::from(milli % 1_000 > 0)
}

fn parse(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-' && c != '+').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = factor(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole: i128 = match whole.trim_start_matches(['-', '+']) {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = whole.checked_mul(scale)?.checked_add(fraction)?.checked_mul(numerator)?;
    let divisor = scale.checked_mul(denominator)?;
    let value = scaled / divisor + i128::from(scaled % divisor > 0);
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

/// The suffix in thousandths, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_000 * (1i128 << (10 * power)), 1));
    let decimal = |power: i32| {
        let power = power.checked_add(3)?;
        let size = 10i128.checked_pow(power.unsigned_abs())?;
        Some(if power < 0 { (1, size) } else { (size, 1) })
    };
    match suffix {
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        exponent => decimal(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_quantity_is_read() {
        for (text, expected) in [
            ("1", 1_000),
            ("100m", 100),
            ("0.1", 100),
            ("1.5", 1_500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2k", 2_000_000),
            ("2e3", 2_000_000),
            ("1n", 1),
            ("0.0001", 1),
            ("-1", -1_000),
            ("", 0),
            ("9999999999E", i64::MAX),
            ("nonsense", 0),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!((units("1500m"), units("128Mi")), (2, 134_217_728));
    }
}
