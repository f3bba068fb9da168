//! Says when a machine is lost, keeps pods off machines in trouble, and ends the pods of those that stay lost.
//!
//! Not here: heartbeats (a machine renews its Lease), replacements (the owners of the ended pods see to that), and how many machines may be
//! given up at once: there is no limit yet.
//! Invariant: a machine is called lost only after a whole grace period in which this instance was running. A kernel that was down itself
//! blames nobody.

mod evict;
mod model;
mod plan;

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    /// How old a Lease may be.
    grace_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { grace_seconds: 40 }
    }
}

/// The controller. What it remembers it can lose: it then waits a grace period longer.
pub struct NodeLifecycle {
    grace: Duration,
    started: Option<Time>,
    /// When a node was first found to be gone while pods are still bound to it.
    vanished: BTreeMap<String, Time>,
}

impl Controller for NodeLifecycle {
    fn start(start: &Start) -> Result<Self> {
        let config: Config = start.config()?;
        Ok(NodeLifecycle { grace: Duration::from_secs(config.grace_seconds), started: None, vanished: BTreeMap::new() })
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        let started = *self.started.get_or_insert(now);
        let name = &request.target.name;
        let Some(node) = request.object::<model::Node>()? else {
            let pods: Vec<model::Pod> = request.related("pods")?;
            if name.is_empty() || pods.is_empty() {
                self.vanished.remove(name);
                return Ok(Plan::new());
            }
            let since = *self.vanished.entry(name.clone()).or_insert(now);
            return Ok(evict::orphans(now, since.after(self.grace), &pods));
        };
        self.vanished.remove(name);
        let lease: Option<model::Lease> = request.related("lease")?.into_iter().next();
        let heartbeat = plan::heartbeat(&node, lease.as_ref()).max(started);
        // Pods are many: they are read only when the node is in trouble.
        let pods = if plan::concerns_pods(now, self.grace, heartbeat, &node) { request.related("pods")? } else { Vec::new() };
        Ok(plan::plan(now, self.grace, heartbeat, &node, &pods))
    }
}

pintle_sdk::controller!(NodeLifecycle);
