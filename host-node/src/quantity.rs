//! Kubernetes resource quantities as numbers: `250m`, `1.5Gi`, `2e3`.
//!
//! Pure. Values saturate instead of wrapping; what is not a quantity is `None`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const SUFFIXES: &[(&str, f64)] = &[
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The value in units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    parse(&quantity.0).map(round_up)
}

/// The value in thousandths, rounded up: millicores for CPU.
pub fn millis(quantity: &Quantity) -> Option<i64> {
    parse(&quantity.0).map(|value| round_up(value * 1000.0))
}

fn round_up(value: f64) -> i64 {
    // A hair of tolerance: 0.1 is not a binary fraction. `as` saturates.
    (value - 1e-9).ceil() as i64
}

fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.is_empty() || text.len() > 64 {
        return None;
    }
    let plain = |t: &str| t.parse::<f64>().ok().filter(|v| v.is_finite());
    for (suffix, factor) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix)
            && number.ends_with(|c: char| c.is_ascii_digit() || c == '.')
        {
            return plain(number).map(|value| value * factor);
        }
    }
    text.ends_with(|c: char| c.is_ascii_digit() || c == '.').then(|| plain(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let check = |text: &str, expected: (Option<i64>, Option<i64>)| {
            let quantity = Quantity(text.to_owned());
            assert_eq!((units(&quantity), millis(&quantity)), expected, "{text}");
        };
        check("1", (Some(1), Some(1000)));
        check("100m", (Some(1), Some(100)));
        check("0.1", (Some(1), Some(100)));
        check("1.5Gi", (Some(1_610_612_736), Some(1_610_612_736_000)));
        check("128Mi", (Some(134_217_728), Some(134_217_728_000)));
        check("2e3", (Some(2000), Some(2_000_000)));
        check("1E", (Some(1_000_000_000_000_000_000), Some(i64::MAX)));
        check("500M", (Some(500_000_000), Some(500_000_000_000)));
        for bad in ["", "abc", "1x", "Mi", "inf", "nan"] {
            check(bad, (None, None));
        }
    }
}
