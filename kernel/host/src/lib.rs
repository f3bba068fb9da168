//! The module host: runs modules, gives them what their manifests were granted, and owns everything they must not lose.
//!
//! Two layers. `engine` runs WebAssembly behind the pipe and knows nothing of Kubernetes: code cache, deadlines, memory limits, the two
//! lanes, nothing ambient. The rest are services on the registry: Module objects and their life cycle, capabilities behind a membrane,
//! work queues for controllers, the loop around schedulers, admission.
//!
//! Not here: any decision about the cluster. The host decides who runs and what it may touch, never what should be.
//!
//! What holds: a guest cannot stop the kernel, nor another guest; it can touch what its manifest was granted and nothing else; and no work is
//! lost or done twice when it crashes or is replaced.
//!
//! Reading order: `spec`, `grants`, `policy`, `limits`, `fault` (the vocabulary); `engine`; `membrane`, `audit`, `objects`, `write` (capabilities); `queue`,
//! `feed`, `gather`, `project`, `controller` (controllers); `scheduler`; `judge` (admission); `launch`, `slot`, `supervisor`, `tap`, `shadow` (life cycle);
//! `host`, `builtin`, `source`, `shard`, `state`, `status` (the frame).

mod audit;
mod builtin;
mod controller;
mod counters;
pub mod engine;
mod events;
mod fault;
mod feed;
mod gather;
mod grants;
mod host;
mod judge;
mod launch;
pub mod limits;
mod membrane;
mod objects;
mod policy;
mod project;
mod queue;
mod scheduler;
mod shadow;
mod shard;
mod slot;
mod source;
mod spec;
mod state;
mod status;
mod supervisor;
mod tap;
mod wire;
mod write;

pub use fault::{Fault, FaultKind, Generation, HostError, ModuleId};
pub use host::{ClusterFacts, Host, HostConfig, HostStats, ModuleStats};

/// The clock that modules are told: milliseconds since 1970.
fn now_millis() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// The clock as API objects write it, seconds.
fn now_rfc3339() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
