//! The formats of text that a schema may ask for. Others are taken for documentation, as upstream does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

type Format = fn(&str) -> bool;

static FORMATS: &[(&str, Format)] = &[
    ("byte", |text| base64::engine::general_purpose::STANDARD.decode(text).is_ok()),
    ("cidr", is_cidr),
    ("date", |text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()),
    ("date-time", |text| text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok()),
    ("datetime", |text| text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok()),
    ("duration", |text| text.parse::<jiff::SignedDuration>().is_ok()),
    ("email", |text| text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_hostname(host))),
    ("hostname", is_hostname),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("ip", |text| text.parse::<IpAddr>().is_ok()),
    ("mac", is_mac),
    ("uri", is_uri),
    ("uuid", is_uuid),
];

/// Whether `text` is of `format`.
pub(crate) fn is(format: &str, text: &str) -> bool {
    FORMATS.iter().find(|(name, _)| *name == format).is_none_or(|(_, check)| check(text))
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= 63 && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 255 && text.trim_end_matches('.').split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = if address.contains(':') { 128 } else { 32 };
    address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8) && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
}

/// A scheme and something behind it, or an absolute path.
fn is_uri(text: &str) -> bool {
    let scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    let plain = !text.bytes().any(|b| b <= b' ' || b == 0x7f);
    plain && (text.starts_with('/') || text.split_once(':').is_some_and(|(before, _)| scheme(before)))
}

fn is_uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && matches!(text.len(), 32 | 36)
}
