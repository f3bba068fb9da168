//! The contract between the kernel, modules, and machines: the Cap'n Proto schemas beside this crate, as Rust.
//!
//! The schemas are the manual; read `../*.capnp`. The code in `generated/` is made from them by `cargo xtask wit` and
//! committed, so that a third party's build needs no extra tool; `cargo xtask wit --check` fails when it is stale.
//! `WORLD` is the WIT world, the pipe that carries all of this into a WebAssembly module.

/// The WIT world of the pipe, as text (for bindings generated elsewhere).
pub const WORLD: &str = include_str!("../world.wit");

/// The version of the pipe that `Hello.pipeVersion` carries.
pub const PIPE_VERSION: u16 = 1;

/// The newest interface semantics this tree knows (`Hello.apiLevel`, `ModuleInfo.apiLevel`).
pub const API_LEVEL: u16 = 1;

#[allow(missing_docs, unsafe_code, clippy::all, clippy::unimplemented, unused_qualifications)]
mod generated {
    #[rustfmt::skip]
    pub mod admission_capnp;
    #[rustfmt::skip]
    pub mod common_capnp;
    #[rustfmt::skip]
    pub mod controller_capnp;
    #[rustfmt::skip]
    pub mod module_capnp;
    #[rustfmt::skip]
    pub mod node_capnp;
    #[rustfmt::skip]
    pub mod objects_capnp;
    #[rustfmt::skip]
    pub mod provisioner_capnp;
    #[rustfmt::skip]
    pub mod scheduler_capnp;
}

pub use generated::{
    admission_capnp, common_capnp, controller_capnp, module_capnp, node_capnp, objects_capnp, provisioner_capnp, scheduler_capnp,
};
