//! Which pod has which address: host-local allocation from the node's podCIDR, one file an address.
//!
//! A file is named by the address and holds the pod's uid, made with O_EXCL: two pods never hold one address, and a crash between
//! allocation and use loses nothing but an address until its pod is cleaned up. Invariant: the first address (the gateway), the network
//! and the broadcast address are never given out.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result, Step};
use crate::file;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address.
    pub network: Ipv4Addr,
    /// Length of the prefix, 8 to 30.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::invalid(format!("podCIDR {text:?}"), reason);
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("no prefix length"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("prefix length is not a number"))?;
        if !(8..=30).contains(&prefix) {
            return Err(bad("prefix length outside 8 to 30"));
        }
        let address: Ipv4Addr = address.parse().map_err(|_| bad("not an IPv4 network"))?;
        let network = Ipv4Addr::from(u32::from(address) & mask(prefix));
        Ok(Self { network, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Cidr {
    /// The bridge's address: the first of the network.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Whether an address belongs to the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    fn first_and_last(&self) -> (u32, u32) {
        let base = u32::from(self.network);
        (base + 2, (base | !mask(self.prefix)) - 1)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

/// The addresses of one node.
#[derive(Debug)]
pub struct Pool {
    directory: PathBuf,
    cidr: Cidr,
    last: u32,
}

impl Pool {
    /// Opens the pool kept in `directory`.
    pub fn open(directory: PathBuf, cidr: Cidr) -> Result<Self> {
        file::make_dir(&directory, 0o700)?;
        let mut pool = Self { directory, cidr, last: 0 };
        pool.last = pool.holders()?.iter().map(|(address, _)| u32::from(*address)).max().unwrap_or(0);
        Ok(pool)
    }

    /// The network it gives from.
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// Gives the pod an address; the same one when it has one already. Addresses go round, so that one just freed is not reused at once.
    pub fn allocate(&mut self, uid: &str) -> Result<Ipv4Addr> {
        if let Some((address, _)) = self.holders()?.into_iter().find(|(address, holder)| holder == uid && self.cidr.contains(*address)) {
            return Ok(address);
        }
        let (first, last) = self.cidr.first_and_last();
        let start = if (first..last).contains(&self.last) { self.last + 1 } else { first };
        for candidate in (start..=last).chain(first..start) {
            if self.claim(Ipv4Addr::from(candidate), uid)? {
                self.last = candidate;
                return Ok(Ipv4Addr::from(candidate));
            }
        }
        Err(Error::AddressesExhausted(self.cidr.to_string()))
    }

    /// Frees whatever the pod holds.
    pub fn release(&mut self, uid: &str) -> Result<()> {
        for (address, holder) in self.holders()? {
            if holder == uid {
                let path = self.directory.join(address.to_string());
                std::fs::remove_file(&path).step(|| format!("freeing {address}"))?;
            }
        }
        Ok(())
    }

    /// All addresses in use and their pods.
    pub fn holders(&self) -> Result<Vec<(Ipv4Addr, String)>> {
        let entries = std::fs::read_dir(&self.directory).step(|| format!("reading {}", self.directory.display()))?;
        let read = |entry: std::fs::DirEntry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            Some((address, std::fs::read_to_string(entry.path()).ok()?))
        };
        Ok(entries.filter_map(|entry| read(entry.ok()?)).collect())
    }

    fn claim(&self, address: Ipv4Addr, uid: &str) -> Result<bool> {
        let path = self.directory.join(address.to_string());
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => file.write_all(uid.as_bytes()).step(|| format!("claiming {address}")).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::io(format!("claiming {address}"), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> (crate::file::TestDir, Pool) {
        let dir = crate::file::TestDir::new("addresses");
        let pool = Pool::open(dir.0.clone(), cidr.parse().expect("a network")).expect("a pool");
        (dir, pool)
    }

    #[test]
    fn networks_are_read_strictly() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(text.parse::<Cidr>().ok().map(|c| c.to_string()), expected.map(str::to_owned), "{text}");
        };
        check("10.244.1.0/24", Some("10.244.1.0/24"));
        check("10.244.1.77/24", Some("10.244.1.0/24"));
        for bad in ["10.244.1.0", "10.244.1.0/31", "10.244.1.0/0", "fd00::/64", "x/24", "10.0.0.0/33"] {
            check(bad, None);
        }
    }

    #[test]
    fn gateway_network_and_broadcast_are_never_given_out_and_exhaustion_is_told() {
        let (_dir, mut pool) = pool("10.0.0.0/29");
        let given: Vec<_> = (0..5).map(|n| pool.allocate(&format!("pod{n}")).expect("free").to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(matches!(pool.allocate("pod5"), Err(Error::AddressesExhausted(_))));
        pool.release("pod2").expect("released");
        assert_eq!(pool.allocate("pod5").expect("free").to_string(), "10.0.0.4");
    }

    #[test]
    fn a_pod_keeps_its_address_over_a_restart_and_freed_ones_rest() {
        let (dir, mut first) = pool("10.0.0.0/24");
        let a = first.allocate("a").expect("free");
        let b = first.allocate("b").expect("free");
        first.release("a").expect("released");
        drop(first);
        let mut second = Pool::open(dir.0.clone(), "10.0.0.0/24".parse().expect("a network")).expect("a pool");
        assert_eq!(second.allocate("b").expect("kept"), b);
        assert_ne!(second.allocate("c").expect("free"), a, "an address just freed is not reused at once");
    }
}
