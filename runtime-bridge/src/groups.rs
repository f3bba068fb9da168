//! Cgroups of pods for a daemon whose containers another runtime runs: that runtime makes its containers' groups below them.

use std::io;

use crate::cgroup::{DevicePolicy, Hierarchies};
use crate::spec::Resources;
use crate::state::Stats;

/// The machine's cgroup hierarchies. Paths are below every hierarchy's root, as `/pintle/n1/podX`.
pub struct Groups(Hierarchies);

impl Groups {
    /// Looks which hierarchies the machine has.
    pub fn detect() -> Self {
        Self(Hierarchies::detect())
    }

    /// Makes a group with limits; one that exists gets them.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn create(&self, path: &str, resources: &Resources) -> io::Result<()> {
        self.0.create(path, resources, &DevicePolicy::All)
    }

    /// Changes the limits of a group.
    ///
    /// # Errors
    /// What the kernel refuses, such as less memory than is in use.
    pub fn limit(&self, path: &str, resources: &Resources) -> io::Result<()> {
        self.0.limit(path, resources)
    }

    /// Removes a group with all below it; a missing one is not an error.
    ///
    /// # Errors
    /// A group in which something runs.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    /// Use of resources by all of a group.
    pub fn stats(&self, path: &str) -> Stats {
        self.0.stats(path)
    }
}
