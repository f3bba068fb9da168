//! Controllers of pods beyond replicas: Jobs, CronJobs, DaemonSets, StatefulSets and PodDisruptionBudgets.
//!
//! One instance serves them all: each is a function of what it is shown, and they share what pods have in common.
//! Not here: which pods run where (the scheduler), and restarts (the machines).
//! Invariant: a plan made from an old view does no harm. What is made has a name that follows from what was seen, and what is changed or
//! deleted is named by its uid.

mod cronjob;
mod daemonset;
mod disruption;
mod job;
mod statefulset;

#[doc(hidden)]
pub use cronjob::Schedule;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Map, Value};
use serde::Serialize;

/// The controllers; they remember nothing.
pub struct Workloads;

impl Controller for Workloads {
    fn start(_: &Start) -> Result<Self> {
        Ok(Workloads)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        match request.target.resource.as_str() {
            "jobs" => job::reconcile(now, request),
            "pods" => job::release_orphan(request),
            "daemonsets" => daemonset::reconcile(now, request),
            "statefulsets" => statefulset::reconcile(now, request),
            "poddisruptionbudgets" => disruption::reconcile(now, request),
            "cronjobs" => cronjob::reconcile(now, request),
            other => Err(Error::undecided(format!("this module does not reconcile {other}"))),
        }
    }
}

pintle_sdk::controller!(Workloads);

/// `{"status": ...}` as a merge patch from one status to the next: all of it, so that zeroes are said. Nothing when they are the same.
pub(crate) fn status_change<T: Serialize>(old: &T, new: &T) -> Option<Value> {
    let (old, new) = (json!(old), json!(new));
    (old != new).then(|| json!({"status": whole(&old, &new)}))
}

/// RFC 7386: the new value, with null for what is gone.
fn whole(old: &Value, new: &Value) -> Value {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch: Map<String, Value> =
        after.iter().map(|(key, value)| (key.clone(), before.get(key).map_or_else(|| value.clone(), |was| whole(was, value)))).collect();
    patch.extend(before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    Value::Object(patch)
}
