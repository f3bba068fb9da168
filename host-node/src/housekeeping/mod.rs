//! What a machine does so that it lasts: logs of bounded size, images that make room, pods that go before the machine does.
//!
//! - [`options`]: the settings, with the kubelet's defaults;
//! - [`logs`]: rotation; - [`images`], [`remains`]: what nobody uses;
//! - [`signal`] (what is watched), [`pressure`] (pure: which threshold is passed), [`ranking`] (pure: who goes first), [`usage`] (measured on demand),
//!   [`eviction`] (acts).
//!
//! Facts: <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>,
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>, <https://kubernetes.io/docs/concepts/cluster-administration/logging/>.

pub mod eviction;
pub mod images;
pub mod logs;
pub mod options;
pub mod pressure;
pub mod ranking;
pub mod remains;
pub mod signal;
pub mod usage;

use std::rc::Rc;

use crate::error::Result;
use crate::node::Node;

/// Starts all of it.
///
/// # Errors
/// Thresholds that make no sense.
pub fn start(node: &Rc<Node>) -> Result<()> {
    let device = |path: &std::path::Path| nix::sys::stat::stat(path).map(|found| found.st_dev).ok();
    let own_imagefs = device(&node.options.state_dir) != device(&node.images_dir());
    let thresholds = node.options.housekeeping.thresholds(own_imagefs)?;
    tokio::task::spawn_local(logs::run(node.clone()));
    tokio::task::spawn_local(images::run(node.clone()));
    tokio::task::spawn_local(eviction::run(node.clone(), thresholds));
    Ok(())
}
