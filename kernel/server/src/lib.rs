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
//! Reading order: `config`, `server` (start and stop), `listener`, `pipeline` (the heart), then what it calls: `request`, `identity`,
//! `limits`, `dispatch` with `objects`, `watching`, `connect`, `proxy`, `reviews`, `discovery`, `openapi`, `health`; `negotiate`, `encode`, `shape`, `body`.
//! Beside them `node` (the link to machines), `outbound` (calls to pods, Services and webhooks) and
//! `webhook` (admission by other people's servers).

mod body;
mod config;
mod connect;
mod discovery;
mod dispatch;
mod encode;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod identity;
mod limits;
mod listener;
mod metrics;
mod negotiate;
mod node;
mod objects;
mod openapi;
mod outbound;
mod pipeline;
mod policies;
mod proxy;
mod request;
mod reviews;
mod server;
mod shape;
#[cfg(test)]
mod testing;
mod tls;
mod watching;
mod webhook;

pub use config::{Check, ClusterSettings, Introspection, Metric, Nothing, ServerConfig};
pub use error::{Error, Result};
pub use server::{RunningServer, Server};
pub use tls::ALPN_NODE;
