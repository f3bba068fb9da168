//! The values of Kubernetes' libraries: made out of text, and nothing but their own functions can look into them.

use std::net::IpAddr;

use pintle_values::names;
use pintle_values::quantity::Quantity;

use crate::authorizer::{Access, Stage};
use crate::url::Url;

/// See the module.
#[derive(Debug, Clone)]
pub enum Opaque {
    /// An amount: `100m`, `1Gi`.
    Quantity(Quantity),
    /// An address.
    Ip(IpAddr),
    /// A network: an address in it, and how many bits its prefix has.
    Cidr(IpAddr, u8),
    /// An absolute URI or an absolute path.
    Url(Url),
    /// A semantic version.
    Semver(semver::Version),
    /// A named format of text.
    Format(&'static Format),
    /// A question for the authorizer, as far as it is said; and what `requestResource` asks about.
    Access(Stage, Access, Option<Box<Access>>),
    /// The authorizer's answer, and why.
    Decision(bool, String),
}

/// A named format, and what is wrong with a text.
#[derive(Debug)]
pub struct Format {
    /// As expressions call it.
    pub name: &'static str,
    check: fn(&str) -> Option<String>,
}

/// The formats that have names.
static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: names::dns_label },
    Format { name: "dns1123Subdomain", check: names::dns_subdomain },
    Format { name: "dns1035Label", check: names::dns_1035_label },
    Format { name: "qualifiedName", check: names::qualified },
    Format { name: "dns1123LabelPrefix", check: |text| names::dns_label(&unprefixed(text)) },
    Format { name: "dns1123SubdomainPrefix", check: |text| names::dns_subdomain(&unprefixed(text)) },
    Format { name: "dns1035LabelPrefix", check: |text| names::dns_1035_label(&unprefixed(text)) },
    Format { name: "labelValue", check: names::label_value },
    Format { name: "uri", check: |text| Url::parse(text).err() },
    Format { name: "uuid", check: uuid },
    Format { name: "byte", check: byte },
    Format { name: "date", check: |text| text.parse::<jiff::civil::Date>().err().map(|_| "invalid date".to_owned()) },
    Format { name: "datetime", check: |text| text.parse::<jiff::Timestamp>().err().map(|_| "invalid datetime".to_owned()) },
];

/// The start of a generated name: its last dash is followed by what is generated.
fn unprefixed(text: &str) -> String {
    text.strip_suffix('-').filter(|text| !text.is_empty()).map_or_else(|| text.to_owned(), |text| format!("{text}a"))
}

fn uuid(text: &str) -> Option<String> {
    let plain = text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() });
    (!plain).then(|| "does not match the UUID format".to_owned())
}

fn byte(text: &str) -> Option<String> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).err().map(|_| "invalid base64".to_owned())
}

impl Format {
    /// The format of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// What is wrong with a text.
    pub(crate) fn wrong(&self, text: &str) -> Option<String> {
        (self.check)(text)
    }
}

impl Opaque {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(..) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Access(Stage::Authorizer, ..) => "kubernetes.authorization.Authorizer",
            Opaque::Access(Stage::Group, ..) => "kubernetes.authorization.GroupCheck",
            Opaque::Access(Stage::Resource, ..) => "kubernetes.authorization.ResourceCheck",
            Opaque::Access(Stage::Path, ..) => "kubernetes.authorization.PathCheck",
            Opaque::Decision(..) => "kubernetes.authorization.Decision",
        }
    }

    pub(crate) fn same(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a.compare(*b).is_eq(),
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a, n), Opaque::Cidr(b, m)) => a == b && n == m,
            (Opaque::Url(a), Opaque::Url(b)) => a == b,
            (Opaque::Semver(a), Opaque::Semver(b)) => a.cmp_precedence(b).is_eq(),
            (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
            (Opaque::Access(a, b, _), Opaque::Access(c, d, _)) => a == c && b == d,
            (Opaque::Decision(a, b), Opaque::Decision(c, d)) => a == c && b == d,
            _ => false,
        }
    }
}

/// An address without a zone, which is not IPv4 in the form of IPv6.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed")),
        Ok(address) => Ok(address),
        Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string")),
    }
}

/// A network.
pub(crate) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("network address {text:?} parse error during conversion from string");
    let (host, bits) = text.split_once('/').ok_or_else(wrong)?;
    let host = address(host).map_err(|_| wrong())?;
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits = bits.parse::<u8>().ok().filter(|bits| plain && *bits <= width(host)).ok_or_else(wrong)?;
    Ok((host, bits))
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first `bits` bits cleared.
pub(crate) fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or_default()).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or_default()).into()),
    }
}

/// Whether the network holds the address.
pub(crate) fn holds(network: (IpAddr, u8), address: IpAddr) -> bool {
    network.0.is_ipv4() == address.is_ipv4() && masked(network.0, network.1) == masked(address, network.1)
}

/// A semantic version. `normalize` lets go a `v` before it, missing parts and leading zeros.
pub(crate) fn version(text: &str, normalize: bool) -> Result<semver::Version, String> {
    let wrong = |_| format!("{text:?} is not a semantic version");
    if !normalize {
        return semver::Version::parse(text).map_err(wrong);
    }
    let plain = text.strip_prefix('v').unwrap_or(text);
    let (core, rest) = plain.split_at(plain.find(['-', '+']).unwrap_or(plain.len()));
    let part = |part: &str| {
        if part.trim_start_matches('0').is_empty() && !part.is_empty() { "0".to_owned() } else { part.trim_start_matches('0').to_owned() }
    };
    let mut parts: Vec<String> = core.split('.').map(part).collect();
    if parts.len() < 3 && !rest.is_empty() {
        return Err(format!("{text:?} is not a semantic version"));
    }
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    semver::Version::parse(&format!("{}{rest}", parts.join("."))).map_err(wrong)
}
