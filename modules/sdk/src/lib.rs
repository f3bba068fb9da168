//! What the author of a Pintle module depends on.
//!
//! A module is a type that implements one trait and one line that exports it:
//!
//! ```
//! use pintle_sdk::prelude::*;
//!
//! struct Greeter;
//!
//! impl Controller for Greeter {
//!     fn start(_: &Start) -> Result<Self> {
//!         Ok(Greeter)
//!     }
//!
//!     fn reconcile(&mut self, _now: Time, request: &Request) -> Result<Plan> {
//!         let Some(namespace) = request.object::<Partial>()? else { return Ok(Plan::new()) };
//!         let greeting = json!({
//!             "apiVersion": "v1", "kind": "ConfigMap",
//!             "metadata": {"name": "greeting", "namespace": namespace.metadata.name},
//!             "data": {"text": "hello"},
//!         });
//!         Ok(Plan::new().create(&Untyped::new(greeting)?))
//!     }
//! }
//!
//! pintle_sdk::controller!(Greeter);
//! ```
//!
//! What is not here: I/O, a clock, randomness, threads, tasks. The kernel watches, queues, retries and writes; a module is a function from
//! what it is given to what should be done, so the same inputs give the same outputs, natively under `cargo test` (see
//! [`testing::FakeKernel`]) as in WebAssembly.

mod admission;
mod controller;
mod error;
pub mod guest;
pub mod logging;
mod object;
mod plan;
mod provisioner;
mod provisioning;
mod reading;
mod scheduler;
mod scheduler_plugin;
mod selector;
mod snapshots;
mod start;
pub mod storage;
pub mod testing;
mod time;
#[cfg(target_family = "wasm")]
pub mod wasm;
pub mod workload;

pub use admission::{Admission, Edit, Failure, Operation, Phase, Review, Verdict};
pub use controller::{Controller, Request};
pub use error::{Error, Result};
pub use object::{Condition, Metadata, Object, ObjectRef, OwnerReference, Partial, Untyped, plural};
pub use pintle_values::network;
pub use plan::{Action, DeleteOptions, Event, PatchKind, Plan, Propagation, Write};
pub use provisioner::{Provisioner, SnapshotRemoval, SnapshotRequest, TakenSnapshot, VolumeRemoval, VolumeRequest, VolumeSource};
pub use provisioning::{PROVISIONED_FINALIZER, Provisioned};
pub use reading::Query;
pub use scheduler::{Decision, Delta, Freshness, Opinion, Scheduler};
pub use scheduler_plugin::{Permit, Place, Places, Pods, Reason, SchedulerPlugin};
pub use selector::{Requirement, Selector};
pub use start::{ClusterFacts, Start};
pub use time::Time;

#[cfg(feature = "k8s")]
pub use k8s_openapi;
pub use serde;
pub use serde_json;

/// Everything a module usually needs, for one `use`.
pub mod prelude {
    pub use crate::{
        Admission, Controller, Edit, Error, Metadata, Object, ObjectRef, OwnerReference, Partial, Plan, Query, Request, Result, Review,
        Selector, Start, Time, Untyped, Verdict, Write,
    };
    pub use serde_json::json;
    pub use std::time::Duration;
}

/// Exports a [`Controller`] as a module.
#[macro_export]
macro_rules! controller {
    ($type:ty) => {
        $crate::__export_module!($crate::guest::start_controller::<$type>);
    };
}

/// Exports an [`Admission`] as a module.
#[macro_export]
macro_rules! admission {
    ($type:ty) => {
        $crate::__export_module!($crate::guest::start_admission::<$type>);
    };
}

/// Exports a [`Scheduler`] as a module.
#[macro_export]
macro_rules! scheduler {
    ($type:ty) => {
        $crate::__export_module!($crate::guest::start_scheduler::<$type>);
    };
}

/// Exports a [`SchedulerPlugin`] as a module.
#[macro_export]
macro_rules! scheduler_plugin {
    ($type:ty) => {
        $crate::__export_module!($crate::guest::start_scheduler_plugin::<$type>);
    };
}

/// Exports a [`Provisioner`] as a module.
#[macro_export]
macro_rules! provisioner {
    ($type:ty) => {
        $crate::__export_module!($crate::guest::start_provisioner::<$type>);
    };
}

/// The part that the five macros share. On a native target it only type-checks the module.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_module {
    ($factory:expr) => {
        #[cfg(not(target_family = "wasm"))]
        const _: $crate::guest::Factory = $factory;

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, missing_docs, reason = "the export of the pipe is generated, and an export is `unsafe` by its nature")]
        mod pintle_export {
            use super::*;
            struct Pipe;
            impl $crate::wasm::Guest for Pipe {
                fn pump(frames: ::std::vec::Vec<u8>) -> $crate::wasm::Pumped {
                    $crate::wasm::pump($factory, frames)
                }
                fn call(iface: u64, method: u16, params: ::std::vec::Vec<u8>) -> ::std::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                    $crate::wasm::call($factory, iface, method, params)
                }
            }
            $crate::wasm::export_pipe!(Pipe with_types_in $crate::wasm);
        }
    };
}
