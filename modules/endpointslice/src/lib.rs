//! Says which addresses stand behind a Service: its EndpointSlices, and the older Endpoints that some clients still read.
//!
//! Not here: Services without a selector (their endpoints are somebody else's), and what a proxy makes of it.
//! Invariants: an endpoint stays in the slice that it is in, so a change of one pod is one write; slices that gain are written before
//! slices that lose, so an address that moves is never in none. A node's zone is read when something of a Service changes, and every five minutes.

mod endpoints;
mod model;
mod plan;
mod slices;
mod topology;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn start(_: &Start) -> Result<Self> {
        Ok(EndpointSlices)
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let endpoints = request.related::<model::Endpoints>("endpoints")?.into_iter().next();
        match request.object::<model::Service>()? {
            Some(service) => {
                let nodes = request.related("nodes")?;
                let zones = model::zones(&nodes);
                let processors = topology::is_wanted(&service).then(|| topology::processors(&nodes, &zones));
                let around = plan::Around { zones: &zones, processors: processors.as_ref() };
                plan::plan(request.attempt, &service, &request.related("pods")?, around, &request.related("slices")?, endpoints)
            }
            None => Ok(plan::gone(endpoints)),
        }
    }
}

pintle_sdk::controller!(EndpointSlices);
