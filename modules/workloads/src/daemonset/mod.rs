//! Keeps one pod on every node that takes it.

mod model;
mod plan;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::Pod;
use serde::Deserialize;

/// Decides about one DaemonSet.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    #[derive(Deserialize)]
    struct Placed {
        #[serde(default)]
        spec: Value,
    }
    let Some(set) = request.object::<model::DaemonSet>()? else { return Ok(Plan::new()) };
    let placements = request.related::<Placed>("pods")?.into_iter().map(|placed| model::Placement::read(&placed.spec));
    let pods = request.related::<Pod>("pods")?.into_iter().zip(placements).collect();
    plan::plan(now, request.attempt, &set, &request.related::<model::Node>("nodes")?, pods, request.related("revisions")?)
}

#[cfg(test)]
mod tests;
