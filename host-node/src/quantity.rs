//! Kubernetes resource quantities as numbers: `250m`, `1.5Gi`, `2e3`.
//!
//! Pure. Values saturate instead of wrapping; what is not a quantity is `None`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pintle_values::quantity::Quantity as Amount;

/// The size of pages, bytes, that a resource is of, as `hugepages-2Mi`.
pub fn huge_page_size(resource: &str) -> Option<u64> {
    let size = units(&Quantity(resource.strip_prefix("hugepages-")?.to_owned()))?;
    u64::try_from(size).ok()
}

/// The value in units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).map(|amount| saturate(amount.units()))
}

/// The value in thousandths, rounded up: millicores for CPU.
pub fn millis(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).map(|amount| saturate(amount.millis()))
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
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
