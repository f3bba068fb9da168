//! The server: the one door through which the world reaches the kernel.
//!
//! It owns TLS and identity, HTTP, the request pipeline, watch streams and streaming subresources, and the link to the machines. It
//! decides nothing about objects (that is the registry and, through it, modules) and stores nothing but keys.
//!
//! What holds:
//! 1. Every HTTP request meets the same stages once, in the order that `pipeline.rs` shows; every failure is a `metav1.Status`.
//! 2. Who shows no identity learns nothing but health and version.
//! 3. Stored objects are not encoded again on their way out: gets, lists and watches share the registry's bytes.
//! 4. Every queue and buffer has a bound; who is too slow is disconnected, not waited for.
//! 5. A machine's connection can do what its node may do, and no more, whatever it sends.
//!
//! Reading order: `config`, `pki`, `tls`, `request`, `pipeline` (the heart), then what it calls.

mod config;
mod error;
mod pki;
mod request;
mod server;
#[cfg(test)]
mod testing;
mod tls;

pub use config::{Check, ClusterSettings, Introspection, Metric, Nothing, ServerConfig};
pub use error::{Error, Result};
pub use pki::{Issued, NodeCredentials, Pki, PkiError, PublicKey, issue_node_credentials};
pub use server::{RunningServer, Server};
pub use tls::ALPN_NODE;
