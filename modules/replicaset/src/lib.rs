//! Keeps as many pods of a kind as a ReplicaSet or a ReplicationController asks for.
//!
//! Not here: which pods run where (the scheduler), rollouts (the deployment module), and restarts (the machines).
//! Invariant: a plan made from an old view does no harm. Names of new pods follow from what was seen, so the same view makes the same names and
//! the second create fails; a delete names the uid it means.

mod plan;
mod status;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn start(_: &Start) -> Result<Self> {
        Ok(ReplicaSets)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(set) = request.object::<plan::ReplicaSet<'_>>()? else { return Ok(Plan::new()) };
        let [sets, controllers] = &plan::KINDS;
        let kind = if request.target.resource == controllers.resource { controllers } else { sets };
        plan::plan(kind, now, request.attempt, &set, request.related("pods")?)
    }
}

pintle_sdk::controller!(ReplicaSets);
