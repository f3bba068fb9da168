//! Empties a namespace that is to go, and lets it go when it is empty. Adds up what the others use of their quotas.
//!
//! Not here: keeping new content out meanwhile, or what a quota has no room for (admission does).
//! Invariant: a namespace is let go only on a view that shows it empty; without a view of its content nothing is decided.

mod plan;
mod quota;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct Namespaces;

impl Controller for Namespaces {
    fn start(_: &Start) -> Result<Self> {
        Ok(Namespaces)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        if request.target.resource == "resourcequotas" {
            return quota::reconcile(request);
        }
        let Some(namespace) = request.object::<plan::Namespace>()? else { return Ok(Plan::new()) };
        if !namespace.metadata.is_terminating() {
            return Ok(Plan::new());
        }
        if !request.has_related("content") {
            return Err(Error::undecided("the kernel did not say what the namespace contains"));
        }
        Ok(plan::plan(now, &namespace, &request.related_partials("content")?))
    }
}

pintle_sdk::controller!(Namespaces);
