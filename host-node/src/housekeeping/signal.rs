//! Eviction signals: what is watched of a machine, how thresholds are written, what is observed.
//!
//! The names, defaults and conditions are the kubelet's:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What may run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that is neither used nor cached for use.
    MemoryAvailable,
    /// Space for pods' files.
    NodefsAvailable,
    /// Files for pods.
    NodefsInodesFree,
    /// Space for images and writable layers.
    ImagefsAvailable,
    /// Files for images and writable layers.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// What a signal is a matter of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes of disk.
    Storage,
    /// Files.
    Inodes,
    /// Processes.
    Pids,
}

impl Resource {
    /// As the kubelet's messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Storage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// Condition types of a Node that signals set.
pub const CONDITIONS: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

/// Signal, its name on the command line, what it is a matter of, the condition it sets. In the order in which pressure is dealt with.
const SIGNALS: &[(Signal, &str, Resource, &str)] = &[
    (Signal::MemoryAvailable, "memory.available", Resource::Memory, CONDITIONS[0]),
    (Signal::NodefsAvailable, "nodefs.available", Resource::Storage, CONDITIONS[1]),
    (Signal::NodefsInodesFree, "nodefs.inodesFree", Resource::Inodes, CONDITIONS[1]),
    (Signal::ImagefsAvailable, "imagefs.available", Resource::Storage, CONDITIONS[1]),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree", Resource::Inodes, CONDITIONS[1]),
    (Signal::PidAvailable, "pid.available", Resource::Pids, CONDITIONS[2]),
];

impl Signal {
    fn row(self) -> &'static (Signal, &'static str, Resource, &'static str) {
        SIGNALS.iter().find(|row| row.0 == self).unwrap_or(&SIGNALS[0])
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// What it is a matter of.
    pub fn resource(self) -> Resource {
        self.row().2
    }

    /// The condition that it sets.
    pub fn condition(self) -> &'static str {
        self.row().3
    }
}

impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = SIGNALS.iter().find(|row| row.1 == text).map(|row| row.0);
        known.ok_or_else(|| Error::invalid("eviction signal", format!("{text:?} is not one of {}", names())))
    }
}

fn names() -> String {
    SIGNALS.iter().map(|row| row.1).collect::<Vec<_>>().join(", ")
}

/// An amount of a threshold: a quantity, or a share of the capacity.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    /// Bytes, files or processes.
    Whole(u64),
    /// Of the capacity, 0 to 1.
    Share(f64),
}

impl Amount {
    /// In units, for a capacity.
    pub fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Whole(units) => *units,
            // A share lies between 0 and 1, so the product fits.
            Self::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("eviction threshold", format!("{text:?} is neither a quantity nor a percentage up to 100%"));
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().map_err(|_| bad())? / 100.0;
            return if (0.0..=1.0).contains(&share) { Ok(Self::Share(share)) } else { Err(bad()) };
        }
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
        let units = crate::quantity::units(&quantity).and_then(|units| u64::try_from(units).ok());
        units.map(Self::Whole).ok_or_else(bad)
    }
}

/// `memory.available<100Mi,nodefs.available<10%`, or with another sign between name and amount.
pub fn amounts(text: &str, sign: char) -> Result<BTreeMap<Signal, Amount>> {
    pairs(text, sign)
}

/// `memory.available=1m30s`: how long a soft threshold may be passed. Durations as Go writes them, of hours, minutes and seconds.
pub fn graces(text: &str) -> Result<BTreeMap<Signal, Grace>> {
    pairs(text, '=')
}

/// A duration in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(pub i64);

impl FromStr for Grace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("eviction grace period", format!("{text:?} is not a duration such as 1m30s"));
        let duration: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
        if duration.is_negative() { Err(bad()) } else { Ok(Self(duration.as_secs())) }
    }
}

fn pairs<T: FromStr<Err = Error>>(text: &str, sign: char) -> Result<BTreeMap<Signal, T>> {
    let mut found = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) =
            part.split_once(sign).ok_or_else(|| Error::invalid("eviction setting", format!("{part:?} is not SIGNAL{sign}VALUE")))?;
        if found.insert(name.trim().parse()?, value.trim().parse()?).is_some() {
            return Err(Error::invalid("eviction setting", format!("{name:?} is given twice")));
        }
    }
    Ok(found)
}

/// One signal as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What is left.
    pub available: u64,
    /// What there is.
    pub capacity: u64,
}

/// Signals as they are now; one that cannot be read is not among them.
pub type Observations = BTreeMap<Signal, Observed>;

/// Reads all signals. `nodefs` and `imagefs`: directories on the file systems of these names.
pub fn observe(nodefs: &Path, imagefs: &Path) -> Observations {
    let disk = |path: &Path, space: Signal, files: Signal| {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let block = stat.fragment_size();
        let bytes = Observed { available: stat.blocks_available() * block, capacity: stat.blocks() * block };
        let inodes = Observed { available: stat.files_available(), capacity: stat.files() };
        // A file system without a fixed number of files has none to run out of.
        Some([Some((space, bytes)), (inodes.capacity > 0).then_some((files, inodes))])
    };
    let disks = [
        disk(nodefs, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        disk(imagefs, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    let machine = [memory().map(|seen| (Signal::MemoryAvailable, seen)), pids().map(|seen| (Signal::PidAvailable, seen))];
    disks.into_iter().flatten().flatten().chain(machine).flatten().collect()
}

/// All that is not in the working set, which is what is in use without the file cache that is not.
fn memory() -> Option<Observed> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let capacity = field("MemTotal")?;
    Some(Observed { available: (field("MemFree")? + field("Inactive(file)").unwrap_or(0)).min(capacity), capacity })
}

fn pids() -> Option<Observed> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let capacity = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used = load.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok()?;
    Some(Observed { available: capacity.saturating_sub(used), capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_kubelet_writes_them() {
        let read = amounts("memory.available<100Mi, nodefs.available<10%,pid.available<1k", '<').expect("read");
        assert_eq!(read[&Signal::MemoryAvailable], Amount::Whole(100 << 20));
        assert_eq!(read[&Signal::NodefsAvailable].of(5000), 500);
        assert_eq!(read[&Signal::PidAvailable], Amount::Whole(1000));
        assert!(amounts("", '<').expect("read").is_empty());
        assert_eq!(graces("memory.available=1m30s").expect("read")[&Signal::MemoryAvailable], Grace(90));
        for bad in [
            "memory<1",
            "memory.available",
            "memory.available<-1",
            "memory.available<101%",
            "memory.available<x",
            "pid.available<1,pid.available<2",
        ] {
            assert!(amounts(bad, '<').is_err(), "{bad}");
        }
        for bad in ["memory.available=-1s", "memory.available=soon"] {
            assert!(graces(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_has_every_signal_and_less_left_than_there_is() {
        let seen = observe(Path::new("/"), Path::new("/"));
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::PidAvailable] {
            let now = seen[&signal];
            assert!(now.available <= now.capacity && now.capacity > 0, "{signal:?} {now:?}");
        }
    }
}
