//! Runs pods to their end: so many at a time, so many in all, with a number each or without.

mod indexes;
mod model;
mod plan;
mod policy;

use pintle_sdk::prelude::*;
use pintle_sdk::workload::Pod;

/// Decides about one Job.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(job) = request.object::<model::Job<'_>>()? else { return Ok(Plan::new()) };
    plan::plan(now, request.attempt, &job, request.related("pods")?)
}

/// Lets a pod go whose Job is gone: nobody else would take its finalizer off.
pub fn release_orphan(request: &Request<'_>) -> Result<Plan> {
    let Some(pod) = request.object::<Pod>()? else { return Ok(Plan::new()) };
    let owner = pod.metadata.controller();
    let jobs: Vec<Partial> = request.related("owners")?;
    let has_job = owner.is_some_and(|owner| jobs.iter().any(|job| job.metadata.uid == owner.uid));
    let tracked = pod.metadata.finalizers.iter().any(|f| f == model::TRACKING);
    let adoptable = owner.is_none() && !pod.metadata.is_terminating();
    Ok(if tracked && !has_job && !adoptable { Plan::new().write(plan::release(&pod)) } else { Plan::new() })
}

#[cfg(test)]
mod tests;
