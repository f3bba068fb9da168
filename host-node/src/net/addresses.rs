//! Which pod has which address: host-local allocation from the node's podCIDR, one file an address.
//!
//! A file is named by the address and holds the pod's uid, made with O_EXCL: two pods never hold one address, and a crash between
//! allocation and use loses nothing but an address until its pod is cleaned up. Invariant: the first address (the gateway), the network
//! and the broadcast address are never given out. Pools of both families share the directory.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pintle_values::network::{Network, address, number};

use crate::error::{Error, Result, Step};
use crate::file;

/// The bridge's address in a node's network: the first.
pub fn gateway(network: Network) -> IpAddr {
    network.nth(1)
}

/// Refuses networks that are too small or too large to give addresses from.
pub fn usable(network: Network) -> Result<Network> {
    let lengths = if network.address().is_ipv4() { 8..=30 } else { 16..=126 };
    let bad = || Error::invalid(format!("podCIDR {network}"), format!("prefix length outside {} to {}", lengths.start(), lengths.end()));
    lengths.contains(&network.length()).then_some(network).ok_or_else(bad)
}

/// The lowest and the highest address that pods get; version 6 knows no broadcast address.
fn first_and_last(network: Network) -> (u128, u128) {
    (network.first() + 2, network.last() - u128::from(network.address().is_ipv4()))
}

/// The addresses of one node, of one family.
#[derive(Debug)]
pub struct Pool {
    directory: PathBuf,
    network: Network,
    last: u128,
}

impl Pool {
    /// Opens the pool kept in `directory`.
    pub fn open(directory: PathBuf, network: Network) -> Result<Self> {
        file::make_dir(&directory, 0o700)?;
        let mut pool = Self { directory, network, last: 0 };
        let held = pool.holders()?.into_iter().map(|(address, _)| address).filter(|address| network.contains(*address));
        pool.last = held.map(number).max().unwrap_or(0);
        Ok(pool)
    }

    /// The network it gives from.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Gives the pod an address; the same one when it has one already. Addresses go round, so that one just freed is not reused at once.
    pub fn allocate(&mut self, uid: &str) -> Result<IpAddr> {
        if let Some((held, _)) = self.holders()?.into_iter().find(|(address, holder)| holder == uid && self.network.contains(*address)) {
            return Ok(held);
        }
        let (first, last) = first_and_last(self.network);
        let start = if (first..last).contains(&self.last) { self.last + 1 } else { first };
        for candidate in (start..=last).chain(first..start) {
            if self.claim(address(candidate), uid)? {
                self.last = candidate;
                return Ok(address(candidate));
            }
        }
        Err(Error::AddressesExhausted(self.network.to_string()))
    }

    /// All addresses in use and their pods.
    pub fn holders(&self) -> Result<Vec<(IpAddr, String)>> {
        holders(&self.directory)
    }

    fn claim(&self, address: IpAddr, uid: &str) -> Result<bool> {
        let path = self.directory.join(address.to_string());
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => file.write_all(uid.as_bytes()).step(|| format!("claiming {address}")).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::io(format!("claiming {address}"), error)),
        }
    }
}

/// Frees whatever the pod holds, of both families.
pub fn release(directory: &Path, uid: &str) -> Result<()> {
    for (address, holder) in holders(directory)? {
        if holder == uid {
            std::fs::remove_file(directory.join(address.to_string())).step(|| format!("freeing {address}"))?;
        }
    }
    Ok(())
}

fn holders(directory: &Path) -> Result<Vec<(IpAddr, String)>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.step(|| format!("reading {}", directory.display()))?,
    };
    let read = |entry: std::fs::DirEntry| {
        let address = entry.file_name().to_str()?.parse().ok()?;
        Some((address, std::fs::read_to_string(entry.path()).ok()?))
    };
    Ok(entries.filter_map(|entry| read(entry.ok()?)).collect())
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
            let found = text.parse().ok().and_then(|network| usable(network).ok());
            assert_eq!(found.map(|c| c.to_string()), expected.map(str::to_owned), "{text}");
        };
        check("10.244.1.0/24", Some("10.244.1.0/24"));
        check("10.244.1.77/24", Some("10.244.1.0/24"));
        check("fd00::/64", Some("fd00::/64"));
        for bad in ["10.244.1.0", "10.244.1.0/31", "10.244.1.0/0", "fd00::/127", "x/24", "10.0.0.0/33"] {
            check(bad, None);
        }
    }

    #[test]
    fn pools_of_both_families_share_a_directory() {
        let (dir, mut first) = pool("10.0.0.0/24");
        let mut second = Pool::open(dir.0.clone(), "fd00::/64".parse().expect("a network")).expect("a pool");
        let given = [first.allocate("a"), second.allocate("a"), second.allocate("b")].map(|ip| ip.expect("free").to_string());
        assert_eq!(given, ["10.0.0.2", "fd00::2", "fd00::3"]);
        release(&dir.0, "a").expect("released");
        assert_eq!(second.holders().expect("read").len(), 1, "a pod's addresses of both families are freed together");
        assert_eq!(
            Pool::open(dir.0.clone(), "fd00::/64".parse().expect("a network")).expect("a pool").allocate("b").expect("kept").to_string(),
            "fd00::3"
        );
    }

    #[test]
    fn gateway_network_and_broadcast_are_never_given_out_and_exhaustion_is_told() {
        let (_dir, mut pool) = pool("10.0.0.0/29");
        let given: Vec<_> = (0..5).map(|n| pool.allocate(&format!("pod{n}")).expect("free").to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(matches!(pool.allocate("pod5"), Err(Error::AddressesExhausted(_))));
        release(&pool.directory, "pod2").expect("released");
        assert_eq!(pool.allocate("pod5").expect("free").to_string(), "10.0.0.4");
    }

    #[test]
    fn a_pod_keeps_its_address_over_a_restart_and_freed_ones_rest() {
        let (dir, mut first) = pool("10.0.0.0/24");
        let a = first.allocate("a").expect("free");
        let b = first.allocate("b").expect("free");
        release(&dir.0, "a").expect("released");
        drop(first);
        let mut second = Pool::open(dir.0.clone(), "10.0.0.0/24".parse().expect("a network")).expect("a pool");
        assert_eq!(second.allocate("b").expect("kept"), b);
        assert_ne!(second.allocate("c").expect("free"), a, "an address just freed is not reused at once");
    }
}
