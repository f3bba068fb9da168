use super::Quantity;

#[track_caller]
fn check(input: &str, expected: &str) {
    assert_eq!(Quantity::parse(input).map(Quantity::canonical).unwrap_or_else(|| "malformed".into()), expected, "{input}");
}

#[test]
fn quantities_are_written_as_upstream_writes_them() {
    for (input, expected) in [
        ("1", "1"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1500m", "1500m"),
        ("1000", "1k"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("1e3", "1e3"),
        ("100n", "100n"),
        ("0", "0"),
        ("0Gi", "0"),
        ("-5", "-5"),
        ("+5", "5"),
        ("1E", "1E"),
        ("2000000000000000000000000", "9223372036854775807"),
        ("0.0000000001", "1n"),
        (".5", "500m"),
        ("", "malformed"),
        ("m", "malformed"),
        ("1.2.3", "malformed"),
        ("5gi", "malformed"),
        ("1e", "malformed"),
        ("--1", "malformed"),
        ("1 Gi", "malformed"),
    ] {
        check(input, expected);
    }
}

#[test]
fn cpu_is_counted_in_thousandths_rounded_up() {
    for (input, millis) in [("100m", 100), ("0.1", 100), ("1", 1000), ("1500u", 2), ("2", 2000)] {
        assert_eq!(Quantity::parse(input).map(Quantity::millis), Some(millis), "{input}");
    }
}
