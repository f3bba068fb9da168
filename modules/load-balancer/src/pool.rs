//! A range of addresses.

use std::net::Ipv4Addr;

use pintle_sdk::prelude::*;

/// From the first address to the last, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    first: u32,
    last: u32,
}

impl Pool {
    /// `192.0.2.0/28`, all of it, or `192.0.2.10-192.0.2.20`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::undecided(format!("pool {text:?} is neither ADDRESS/LENGTH nor ADDRESS-ADDRESS"));
        let address = |text: &str| text.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| bad());
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (address(first)?, address(last)?);
            return if first <= last { Ok(Pool { first, last }) } else { Err(bad()) };
        }
        let (base, length) = text.split_once('/').ok_or_else(bad)?;
        let length: u32 = length.parse().ok().filter(|length| (1..=32).contains(length)).ok_or_else(bad)?;
        let rest = u32::MAX.checked_shr(length).unwrap_or(0);
        let first = address(base)? & !rest;
        Ok(Pool { first, last: first | rest })
    }

    /// Whether the address is of this pool.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    /// Its addresses, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first..=self.last).map(Ipv4Addr::from)
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
        assert!(Pool::parse("10.0.0.0/8")?.holds(Ipv4Addr::new(10, 255, 255, 255)));
        for bad in ["", "x", "192.0.2.1", "192.0.2.0/33", "192.0.2.0/0", "192.0.2.2-192.0.2.1", "2001:db8::/64"] {
            assert!(Pool::parse(bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
