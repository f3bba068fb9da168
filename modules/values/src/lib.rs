//! Small values of the Kubernetes API, read in one way by kernel, modules and nodes: quantities, names, networks, label selectors.
//!
//! Everything is a pure function of its arguments and knows nothing of the kernel.

pub mod formats;
pub mod names;
pub mod network;
pub mod quantity;
pub mod selector;
