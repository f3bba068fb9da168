//! Kubernetes quantities as whole numbers, which is what controllers count in.

use pintle_values::quantity::Quantity;

/// Thousandths of the unit, rounded up. What is no quantity is 0: the kernel has validated what comes here.
pub fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| saturate(quantity.millis()))
}

/// Whole units, rounded up.
pub fn units(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| saturate(quantity.units()))
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
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
