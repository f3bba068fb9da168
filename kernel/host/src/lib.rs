//! The module host: runs modules, gives them what their manifests were granted, and owns everything they must not lose.

pub mod engine;
mod fault;
mod host;
pub mod limits;

pub use fault::{Fault, FaultKind, Generation, HostError, ModuleId};
pub use host::{ClusterFacts, HostConfig, HostStats, ModuleStats};
