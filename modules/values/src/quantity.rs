//! Quantities: `100m`, `1Gi`, `2e3`. Parsed into exact billionths, compared, and written in upstream's canonical form.

/// A quantity, exact to a billionth (finer amounts round away from zero, as upstream does).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: &[(&str, i32)] = &[("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: &[(&str, u32)] = &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// What upstream says about text that is no quantity.
pub const MALFORMED: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

impl Quantity {
    /// Parses text; `None` when it is no quantity. Amounts beyond 2^63-1 are capped there, as upstream does.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return None;
        }
        let (factor, format) = parse_suffix(suffix)?;
        let magnitude = scale(whole, fraction, factor)?.min(i128::from(i64::MAX) * NANO);
        Some(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    /// The amount in thousandths, rounded up: what CPU is counted in.
    pub fn millis(self) -> i128 {
        div_up(self.nanos, 1_000_000)
    }

    /// The amount in whole units, rounded up.
    pub fn units(self) -> i128 {
        div_up(self.nanos, NANO)
    }

    /// Whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// A whole number.
    pub fn of_integer(number: i64) -> Quantity {
        Quantity { nanos: i128::from(number) * NANO, format: Format::DecimalSi }
    }

    /// The amount, if it is a whole number.
    pub fn as_integer(self) -> Option<i64> {
        if self.is_whole() { i64::try_from(self.nanos / NANO).ok() } else { None }
    }

    /// The amount, as near as a double comes.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// 1, 0 or -1: above zero, zero, below zero.
    pub fn sign(self) -> i64 {
        self.nanos.signum() as i64
    }

    /// The sum, in this one's notation (the other's, if this is zero); capped like what is parsed.
    pub fn plus(self, other: Quantity) -> Quantity {
        let cap = i128::from(i64::MAX) * NANO;
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos).clamp(-cap, cap), format }
    }

    /// The difference, likewise.
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity { nanos: -other.nanos, ..other })
    }

    /// Order of the amounts, whatever their notation.
    pub fn compare(self, other: Quantity) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The one way upstream writes this amount.
    pub fn canonical(self) -> String {
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !small && self.is_whole() => self.binary(),
            Format::DecimalExponent => self.decimal(|exponent, _| if exponent == 0 { String::new() } else { format!("e{exponent}") }),
            _ => self.decimal(|_, suffix| suffix.to_owned()),
        }
    }

    fn binary(self) -> String {
        let units = self.nanos / NANO;
        let best = BINARY.iter().rev().find(|(_, shift)| units % (1_i128 << shift) == 0);
        best.map_or_else(|| units.to_string(), |(suffix, shift)| format!("{}{suffix}", units >> shift))
    }

    fn decimal(self, suffix_of: impl Fn(i32, &str) -> String) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let fits = |exponent: i32| 10_i128.checked_pow((exponent + 9) as u32).filter(|power| self.nanos % power == 0);
        let best = DECIMAL.iter().rev().find_map(|(suffix, exponent)| Some((suffix, exponent, fits(*exponent)?)));
        best.map_or_else(String::new, |(suffix, exponent, power)| format!("{}{}", self.nanos / power, suffix_of(*exponent, suffix)))
    }
}

/// The factor as (multiplier, power of ten), and the notation.
fn parse_suffix(suffix: &str) -> Option<((i128, i32), Format)> {
    if let Some((_, shift)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some(((1_i128 << shift, 0), Format::BinarySi));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some(((1, *exponent), Format::DecimalSi));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 40).then_some(((1, exponent), Format::DecimalExponent))
}

fn scale(whole: &str, fraction: &str, (multiplier, exponent): (i128, i32)) -> Option<i128> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // Beyond this many digits the amount is far above the cap, or far below a billionth.
    let power = exponent + 9 - i32::try_from(fraction.len()).ok()?;
    if digits.len() > 30 {
        return if digits.len() as i32 + power > 30 { Some(i128::MAX) } else { Some(1) };
    }
    let value = digits.parse::<i128>().ok()?.checked_mul(multiplier).unwrap_or(i128::MAX);
    if power >= 0 {
        let factor = 10_i128.checked_pow(power as u32);
        return Some(factor.and_then(|f| value.checked_mul(f)).unwrap_or(i128::MAX));
    }
    Some(10_i128.checked_pow(power.unsigned_abs()).map_or(1, |f| div_up(value, f)))
}

fn div_up(value: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (value / divisor, value % divisor);
    if rest > 0 { quotient + 1 } else { quotient }
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
