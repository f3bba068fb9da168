//! Rolls a Deployment's pods from one template to the next by moving replicas between ReplicaSets.
//!
//! Not here: pods. A deployment sees ReplicaSets and what they say about their pods; `terminatingReplicas` tells it when a Recreate may go on.
//! Invariant: at no step are there more than `replicas + maxSurge` pods asked for, nor does a step take the available ones below
//! `replicas - maxUnavailable`. Each write to a ReplicaSet holds only while the set is as it was seen, so an old view cannot break this.

mod conditions;
mod model;
mod plan;
mod scale;
mod template;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct Deployments;

impl Controller for Deployments {
    fn start(_: &Start) -> Result<Self> {
        Ok(Deployments)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(deployment) = request.object::<model::Deployment>()? else { return Ok(Plan::new()) };
        plan::plan(now, request.attempt, &deployment, request.related("replicasets")?)
    }
}

pintle_sdk::controller!(Deployments);
