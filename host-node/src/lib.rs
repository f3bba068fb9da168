//! The daemon of one machine: it registers a Node, runs the pods bound to it, and answers the kernel's requests about them.
//!
//! Reading order:
//! - [`options`]: what a machine is told on the command line; [`node`]: the daemon's parts, assembled in one place;
//! - [`link`]: the one connection, opened from here, that carries everything between kernel and machine;
//! - [`pod`]: what a pod is to this machine: `plan` (pure: desired and observed in, actions out), `status` (pure), `worker` (acts);
//! - [`follow`], [`service`]: the cluster's Services as the kernel tells them, and the rules that carry packets to their endpoints;
//! - [`ingress`]: the HTTP proxy that RouteTables programme;
//! - [`manifest`]: pods of a directory of the machine, which run without a kernel, and their mirrors in the API;
//! - [`policy`]: what each pod here may get and send, as the cluster's policies say;
//! - [`dns`]: the cluster's resolver, on this node for this node;
//! - [`trust`]: the cluster's trust bundles, for volumes;
//! - [`engine`]: who runs the containers: the bridge's own runtime, or another one through CRI, which plugs pods in by [`plugin`];
//! - [`cni`]: the pods' network by plugins, where the machine is told so;
//! - [`volume`], [`net`], [`image`], [`container`], [`probe`]: what actions are made of;
//! - [`housekeeping`]: logs of bounded size, unused images, eviction by pressure;
//! - [`shutdown`]: what happens when the machine goes down;
//! - [`agent`], [`log_file`]: what the kernel may ask: logs, exec, attach, port-forward; [`kubelet`], [`stats`]: what it shows of itself over HTTP.
//!
//! What is absent: no knowledge of the kernel beyond `wit/node.capnp`, no listening port but the resolver's and the ingress's, no namespaces or cgroups by hand (that is
//! runtime-bridge's), no forked programs but the network's plugins.
//!
//! Invariants: whatever must outlive this process is in a file before it is acted upon; one task owns a pod; a failure of one pod
//! never reaches another; losing the kernel changes nothing for what runs.

pub mod agent;
pub mod api;
pub mod backoff;
pub mod cni;
pub mod container;
pub mod csi;
pub mod dns;
pub mod engine;
mod error;
pub mod event;
pub mod file;
pub mod follow;
pub mod housekeeping;
pub mod image;
pub mod ingress;
pub mod kubelet;
pub mod link;
pub mod log_file;
pub mod machine;
pub mod manifest;
pub mod net;
pub mod node;
pub mod options;
pub mod plugin;
pub mod pod;
pub mod policy;
pub mod probe;
pub mod purge;
pub mod quantity;
pub mod service;
pub mod shutdown;
pub mod stats;
pub mod trust;
pub mod volume;

pub use error::{Error, Result};
