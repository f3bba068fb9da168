//! Networks of addresses of both families, in one number space: an address of version 4 is the number of its form within version 6.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The families as Kubernetes names them.
pub const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address that a number is of.
pub fn address(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical()
}

/// `IPv4` or `IPv6`.
pub fn family(address: IpAddr) -> &'static str {
    FAMILIES[usize::from(address.is_ipv6())]
}

/// A network of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    base: u128,
    /// Of 128 bits.
    length: u32,
}

impl Network {
    /// The network of an address and a length; `None` when the length is more than the family has.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (bits, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = before + u32::from(Some(length).filter(|length| *length <= bits)?);
        Some(Self { base: number(address) & !rest(length), length })
    }

    /// One network, or one of each family with a comma between.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let all = text.split(',').map(|one| one.trim().parse()).collect::<Result<Vec<Self>, _>>()?;
        match *all.as_slice() {
            [_] => Ok(all),
            [a, b] if a.family() != b.family() => Ok(all),
            _ => Err(format!("{text:?} is not one network or one of each family")),
        }
    }

    /// Its own address.
    pub fn address(&self) -> IpAddr {
        address(self.base)
    }

    /// The length of its prefix, of the bits that its family has.
    pub fn length(&self) -> u8 {
        let before = if self.address().is_ipv4() { 96 } else { 0 };
        u8::try_from(self.length.saturating_sub(before)).unwrap_or(u8::MAX)
    }

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        family(self.address())
    }

    /// The number of its own address.
    pub fn first(&self) -> u128 {
        self.base
    }

    /// The number of its highest address.
    pub fn last(&self) -> u128 {
        self.base | rest(self.length)
    }

    /// The address so many after its own, which is outside when it has fewer.
    pub fn nth(&self, count: u128) -> IpAddr {
        address(self.base.saturating_add(count))
    }

    /// Whether an address is of both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address()) || other.contains(self.address())
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        (self.first()..=self.last()).contains(&number(address)) && self.family() == family(address)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
        // A network in which version 4 is a part would be of both families.
        let plain = |network: &Self| network.family() == FAMILIES[usize::from(text.contains(':'))];
        let network = parts.and_then(|(address, length)| Self::new(address, length)).filter(plain);
        network.ok_or_else(|| format!("{text:?} is not a network, as 10.9.8.0/24 or 2001:db8::/64"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

/// The bits that are not of the prefix.
fn rest(length: u32) -> u128 {
    u128::MAX.checked_shr(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_both_families_are_read_shown_and_hold_their_addresses() {
        let shown = |text: &str| text.parse::<Network>().map(|network| network.to_string()).ok();
        assert_eq!(shown("10.1.2.3/16").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(shown("fd00:1::5/112").as_deref(), Some("fd00:1::/112"));
        assert_eq!(shown("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(shown("::/0").as_deref(), Some("::/0"));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "::ffff:10.0.0.0/112"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
        let holds = |network: &str, ip: &str| network.parse::<Network>().is_ok_and(|n| ip.parse().is_ok_and(|ip| n.contains(ip)));
        let overlap =
            |one: &str, other: &str| one.parse::<Network>().is_ok_and(|one| other.parse().is_ok_and(|other| one.overlaps(&other)));
        assert!(overlap("10.96.0.0/16", "10.0.0.0/8") && overlap("10.0.0.0/8", "10.96.0.0/16") && overlap("::/0", "fd00::/64"));
        assert!(!overlap("10.96.0.0/16", "10.97.0.0/16") && !overlap("0.0.0.0/0", "fd00::/64"));
        assert!(holds("10.1.0.0/16", "10.1.255.255") && holds("fd00::/64", "fd00::ffff:1"));
        assert!(!holds("10.1.0.0/16", "10.2.0.0") && !holds("::/0", "10.2.0.0") && !holds("0.0.0.0/0", "fd00::1"));
    }

    #[test]
    fn a_list_has_one_network_of_each_family_at_most() {
        let count = |text: &str| Network::list(text).map(|all| all.len()).ok();
        assert_eq!((count("10.0.0.0/8"), count("fd00::/64,10.0.0.0/8")), (Some(1), Some(2)));
        assert_eq!((count("10.0.0.0/8,11.0.0.0/8"), count("10.0.0.0/8,fd00::/64,fd01::/64"), count("")), (None, None, None));
    }
}
