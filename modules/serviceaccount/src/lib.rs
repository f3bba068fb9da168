//! Every namespace has a service account called `default`. This module creates it, and creates it again when someone deletes it.
//!
//! Not here: tokens, and which pod uses which account (admission does that).
//! Invariant: it writes only what is missing; an account that exists is never touched.

mod plan;

use pintle_sdk::prelude::*;

struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn start(_: &Start) -> Result<Self> {
        Ok(ServiceAccounts)
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(namespace) = request.object::<Partial>()? else { return Ok(Plan::new()) };
        plan::plan(&namespace.metadata, &request.related::<Partial>("serviceaccounts")?)
    }
}

pintle_sdk::controller!(ServiceAccounts);
