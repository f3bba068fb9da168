//! Keeps pods that have a number, a name and volumes of their own.

mod model;
mod plan;

use pintle_sdk::prelude::*;

/// Decides about one StatefulSet.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(set) = request.object::<model::StatefulSet>()? else { return Ok(Plan::new()) };
    plan::plan(
        now,
        request.attempt,
        &set,
        request.related("pods")?,
        &request.related::<model::Claim>("claims")?,
        request.related("revisions")?,
    )
}

#[cfg(test)]
mod tests;
