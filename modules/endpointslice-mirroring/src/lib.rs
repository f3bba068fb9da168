//! Copies Endpoints that somebody keeps by hand, for a Service without a selector, into EndpointSlices, which is what proxies read.
//!
//! Not here: Services with a selector (`endpointslice` writes their slices). Endpoints that say so (`skip-mirror`) or that only hold a leader's lock
//! are left alone.
//! Invariant: one slice for each subset and address family, named by them, so the same Endpoints always make the same slices.

mod plan;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct Mirror;

impl Controller for Mirror {
    fn start(_: &Start) -> Result<Self> {
        Ok(Mirror)
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        // Slices of Endpoints that are gone go with their owner.
        let Some(endpoints) = request.object::<plan::Endpoints>()? else { return Ok(Plan::new()) };
        plan::plan(&endpoints, request.related::<plan::Service>("service")?.first(), &request.related("slices")?)
    }
}

pintle_sdk::controller!(Mirror);
