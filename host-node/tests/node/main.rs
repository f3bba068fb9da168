//! The daemon against a kernel that the test plays itself: real TLS, real containers, root only.
//!
//! - `kernel`: the kernel's side of the link, in memory; - `machine`: a `host-node` process with its directories and image;
//! - `service`: the Service rules and real packets, in a network namespace of their own;
//! - `ingress`: the HTTP proxy with real sockets; `routes`: which request meets which rule;
//! - `cni`: the network of plugins; `overlay`: the tunnel between nodes, and how long packets may be;
//! - `containerd`: another runtime; with `PINTLE_RUNTIME=cri` every test runs its pods on it, `cri` always;
//! - `life`, `volumes`, `adoption`, `pressure`, `security`, `csi`, `users`, `manifest`, `churn`: what is tested. One binary, so that the tests share one build; each test has its own node.

mod adoption;
mod churn;
mod cni;
mod containerd;
mod cri;
mod csi;
mod ingress;
mod kernel;
mod life;
mod machine;
mod manifest;
mod overlay;
mod pressure;
mod resize;
mod routes;
mod security;
mod service;
mod users;
mod volumes;
