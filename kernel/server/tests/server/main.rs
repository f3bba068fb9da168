//! The server against a real registry on a real store in a temporary directory, through real TLS on loopback.
//!
//! `cluster` starts and speaks; `transcript` reads requests and expectations from text; then one module a subject: `api` (objects, negotiation,
//! discovery), `hostile` (bodies and requests that mean harm), `sockets` (watches and ports over WebSockets), `surface` (the items that clients rely on, case by case), `access` (who may what), `audit` (its log), `watch`, `node` (the link, with a pretended machine), `webhooks` (with a real HTTPS
//! server that judges), `conversion` (of custom resources, by the same server), `kubectl` (the real one, where it is installed).

mod access;
mod api;
mod audit;
mod cluster;
mod conversion;
mod hostile;
mod kubectl;
mod machine;
mod node;
mod sockets;
mod surface;
mod transcript;
mod watch;
mod webhooks;
