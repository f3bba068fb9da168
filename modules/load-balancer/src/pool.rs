//! A range of addresses.

use std::net::IpAddr;

use pintle_sdk::network::{Network, address, family, number};
use pintle_sdk::prelude::*;

/// From the first address to the last, both included, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    first: u128,
    last: u128,
}

impl Pool {
    /// `192.0.2.0/28`, all of it, or `192.0.2.10-192.0.2.20`; of version 6 likewise.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::undecided(format!("pool {text:?} is neither ADDRESS/LENGTH nor ADDRESS-ADDRESS"));
        if let Some((first, last)) = text.split_once('-') {
            let ip = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| bad());
            let (first, last) = (ip(first)?, ip(last)?);
            let right = family(first) == family(last) && number(first) <= number(last);
            return if right { Ok(Pool { first: number(first), last: number(last) }) } else { Err(bad()) };
        }
        let network: Network = text.trim().parse().map_err(|_| bad())?;
        if network.length() == 0 { Err(bad()) } else { Ok(Pool { first: network.first(), last: network.last() }) }
    }

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        family(address(self.first))
    }

    /// Whether the address is of this pool.
    pub fn holds(&self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&number(address))
    }

    /// Its addresses, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (self.first..=self.last).map(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_prefix_or_a_range() -> Result<()> {
        let all = |text: &str| Pool::parse(text).map(|pool| pool.addresses().map(|a| a.to_string()).collect::<Vec<_>>());
        assert_eq!(all("192.0.2.5/31")?, ["192.0.2.4", "192.0.2.5"]);
        assert_eq!(all("192.0.2.7/32")?, ["192.0.2.7"]);
        assert_eq!(all("192.0.2.9-192.0.2.10")?, ["192.0.2.9", "192.0.2.10"]);
        assert_eq!(all("2001:db8::fffe/127")?, ["2001:db8::fffe", "2001:db8::ffff"]);
        assert!(Pool::parse("10.0.0.0/8")?.holds(IpAddr::from([10, 255, 255, 255])));
        assert!(!Pool::parse("2001:db8::/64")?.holds(IpAddr::from([10, 255, 255, 255])));
        for bad in ["", "x", "192.0.2.1", "192.0.2.0/33", "192.0.2.0/0", "192.0.2.2-192.0.2.1", "2001:db8::/129", "192.0.2.1-2001:db8::"] {
            assert!(Pool::parse(bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
