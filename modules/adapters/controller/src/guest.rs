//! The guest, as `wit/module.wit` says it: bindings, nothing else.
#![allow(unsafe_code, missing_docs, reason = "the bindings are generated; a call to an import is `unsafe` by its nature")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the blocks are the generator's: they move lists over the component boundary")]

wit_bindgen::generate!({ path: "../../../wit/module.wit", world: "controller-adapter" });

pub use pintle::module::controller::*;
pub use pintle::module::reads::{Query, wanted};
