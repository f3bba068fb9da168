//! What a Deployment says about itself: counts, and the conditions Available and Progressing.

use std::borrow::Cow;

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;

use crate::model::{Deployment, ReplicaSet, Status};

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What the plan has just done about the newest ReplicaSet, for the Progressing condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest<'a> {
    /// There is none.
    None,
    /// It was made now.
    Created(&'a str),
    /// It was there.
    Found(&'a str),
}

/// The status as it should be, and when the progress deadline should be looked at again.
pub fn observe(
    now: Time,
    deployment: &Deployment,
    sets: &[ReplicaSet],
    newest: Option<&ReplicaSet>,
    made: Newest<'_>,
) -> (Status, Option<Duration>) {
    let mut status = counts(deployment, sets, newest);
    status.conditions = deployment.status.conditions.clone();
    let availability = available(deployment, status.available_replicas);
    set(&mut status, now, availability);
    pause_or_resume(&mut status, now, deployment);
    if !deployment.spec.paused && deployment.spec.progress_deadline_seconds.is_some() {
        announce(&mut status, now, made);
        let wake = progress(&mut status, now, deployment, newest);
        return (status, wake);
    }
    (status, None)
}

fn counts(deployment: &Deployment, sets: &[ReplicaSet], newest: Option<&ReplicaSet>) -> Status {
    let sum = |count: fn(&ReplicaSet) -> i64| sets.iter().map(count).sum::<i64>();
    let available = sum(|set| set.status.available_replicas);
    Status {
        observed_generation: deployment.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: newest.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(ReplicaSet::replicas) - available).max(0),
        terminating_replicas: sum(|set| set.status.terminating_replicas),
        collision_count: deployment.status.collision_count,
        conditions: Vec::new(),
    }
}

/// Whether every pod asked for is of the newest template and available.
pub fn is_complete(deployment: &Deployment, status: &Status) -> bool {
    let wanted = deployment.replicas();
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn available(deployment: &Deployment, available: i64) -> Condition {
    if available >= deployment.replicas() - deployment.max_unavailable() {
        condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into())
    } else {
        condition("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".into())
    }
}

fn pause_or_resume(status: &mut Status, now: Time, deployment: &Deployment) {
    if deployment.spec.progress_deadline_seconds.is_none() {
        return;
    }
    let reason = progressing(status).map(|c| c.reason.clone()).unwrap_or_default();
    let paused = deployment.spec.paused;
    // A deadline that has passed is not forgotten by pausing.
    if paused && reason != PAUSED && reason != TIMED_OUT {
        set(status, now, condition("Progressing", "Unknown", PAUSED, "Deployment is paused".into()));
    } else if !paused && reason == PAUSED {
        set(status, now, condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into()));
    }
}

fn announce(status: &mut Status, now: Time, made: Newest<'_>) {
    let known = progressing(status).is_some();
    match made {
        Newest::Created(name) => {
            set(status, now, condition("Progressing", "True", "NewReplicaSetCreated", format!("Created new replica set {name:?}")));
        }
        Newest::Found(name) if !known => {
            set(status, now, condition("Progressing", "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}")));
        }
        _ => {}
    }
}

fn progress(status: &mut Status, now: Time, deployment: &Deployment, newest: Option<&ReplicaSet>) -> Option<Duration> {
    let old = &deployment.status;
    let reason = progressing(status).map(|c| c.reason.clone()).unwrap_or_default();
    let what = newest.map_or(format!("Deployment {:?}", deployment.metadata.name), |set| format!("ReplicaSet {:?}", set.metadata.name));
    let settled = status.replicas == status.updated_replicas && reason == NEW_SET_AVAILABLE;
    let moved = status.updated_replicas > old.updated_replicas
        || status.replicas - status.updated_replicas < old.replicas - old.updated_replicas
        || status.ready_replicas > old.ready_replicas
        || status.available_replicas > old.available_replicas;
    if settled {
        return None;
    }
    if is_complete(deployment, status) {
        set(status, now, condition("Progressing", "True", NEW_SET_AVAILABLE, format!("{what} has successfully progressed.")));
        return None;
    }
    if moved {
        touch(status, now, condition("Progressing", "True", "ReplicaSetUpdated", format!("{what} is progressing.")));
    }
    let deadline = Duration::from_secs(deployment.spec.progress_deadline_seconds?);
    let since = progressing(status).filter(|c| c.reason != TIMED_OUT)?.last_update_time?;
    let end = since.after(deadline);
    if end > now {
        // One second more, because times are kept in whole seconds.
        return Some(now.until(end) + Duration::from_secs(1));
    }
    set(status, now, condition("Progressing", "False", TIMED_OUT, format!("{what} has timed out progressing.")));
    None
}

fn progressing(status: &Status) -> Option<&Condition> {
    status.conditions.iter().find(|c| c.kind == "Progressing")
}

fn condition(kind: &str, status: &'static str, reason: &'static str, message: String) -> Condition {
    Condition { kind: kind.into(), status: Cow::Borrowed(status), reason: Cow::Borrowed(reason), message, ..Condition::default() }
}

/// Puts a condition in, unless it says the same already.
fn set(status: &mut Status, now: Time, condition: Condition) {
    let same = status.conditions.iter().any(|c| c.kind == condition.kind && c.status == condition.status && c.reason == condition.reason);
    if !same {
        touch(status, now, condition);
    }
}

/// Puts a condition in and notes when, even if it says the same.
fn touch(status: &mut Status, now: Time, mut condition: Condition) {
    let now = Time(now.0 / 1_000 * 1_000);
    let old = status.conditions.iter().position(|c| c.kind == condition.kind).map(|at| status.conditions.remove(at));
    condition.last_update_time = Some(now);
    condition.last_transition_time =
        old.filter(|old| old.status == condition.status).and_then(|old| old.last_transition_time).or(Some(now));
    status.conditions.push(condition);
}
