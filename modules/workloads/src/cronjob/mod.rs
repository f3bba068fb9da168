//! Makes a Job whenever a schedule says so.
//!
//! A Job's name follows from the minute that it is for, so that no minute has two.

mod schedule;

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::{Action, Condition, DeleteOptions, Propagation};
use serde::{Deserialize, Serialize};

use crate::status_change;
pub use schedule::Schedule;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// How much later than the schedule says it is looked at: clocks differ in the last digits.
const MARGIN: Duration = Duration::from_millis(100);

/// `batch/v1` CronJob.
#[derive(Deserialize)]
struct CronJob {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    schedule: String,
    time_zone: Option<String>,
    starting_deadline_seconds: Option<u64>,
    #[serde(default)]
    concurrency_policy: String,
    suspend: Option<bool>,
    job_template: JobTemplate,
    successful_jobs_history_limit: Option<usize>,
    failed_jobs_history_limit: Option<usize>,
}

#[derive(Deserialize)]
struct JobTemplate {
    #[serde(default)]
    metadata: Labelled,
    spec: Value,
}

#[derive(Default, Deserialize)]
struct Labelled {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<Vec<Reference>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_schedule_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_successful_time: Option<Time>,
}

/// `v1` ObjectReference to a Job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reference {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
}

#[derive(Clone, Deserialize)]
struct Job {
    metadata: Metadata,
    #[serde(default)]
    status: JobStatus,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobStatus {
    conditions: Option<Vec<Condition>>,
    start_time: Option<Time>,
    completion_time: Option<Time>,
}

impl Job {
    fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.kind == kind && c.status == "True")
    }

    fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn target(&self) -> ObjectRef {
        ObjectRef::of("batch", "jobs", &self.metadata)
    }

    fn reference(&self) -> Reference {
        Reference {
            kind: "Job".into(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
            api_version: "batch/v1".into(),
            resource_version: String::new(),
        }
    }
}

/// Decides about one CronJob.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(cron) = request.object::<CronJob>()? else { return Ok(Plan::new()) };
    let mut jobs: Vec<Job> = request.related("jobs")?;
    jobs.retain(|job| job.metadata.is_controlled_by(&cron.metadata.uid));
    Ok(plan(now, &cron, &jobs))
}

fn plan(now: Time, cron: &CronJob, jobs: &[Job]) -> Plan {
    let mut next = cron.status.clone();
    let active: Vec<&Job> = jobs.iter().filter(|job| !job.is_finished()).collect();
    let mut plan = Plan::new();
    for known in next.active.iter().flatten() {
        match jobs.iter().find(|job| job.metadata.uid == known.uid) {
            Some(job) if job.is_finished() => {
                let how = if job.has("Complete") { "Complete" } else { "Failed" };
                plan = plan.event("SawCompletedJob", format!("Saw completed job: {}, condition: {how}", known.name));
            }
            Some(_) => {}
            None => plan = plan.event("MissingJob", format!("Active job went missing: {}", known.name)),
        }
    }
    next.active = Some(active.iter().map(|job| job.reference()).collect::<Vec<_>>()).filter(|list| !list.is_empty());
    let successes = jobs.iter().filter(|job| job.has("Complete")).filter_map(|job| job.status.completion_time);
    next.last_successful_time = successes.chain(next.last_successful_time).max();
    let work =
        if cron.metadata.is_terminating() { Plan::new() } else { forget_old(cron, jobs).then(run(now, cron, jobs, &active, &mut next)) };
    // The record of a schedule comes after the Job that it made: a record without one would skip it.
    let mut plan = plan.then(work);
    if let Some(mut body) = status_change(&cron.status, &next) {
        body["metadata"] = cron.metadata.precondition()["metadata"].take();
        plan.push(Write::merge(ObjectRef::of("batch", "cronjobs", &cron.metadata), body).to("status"));
    }
    plan
}

fn run(now: Time, cron: &CronJob, jobs: &[Job], active: &[&Job], next: &mut Status) -> Plan {
    if cron.spec.suspend == Some(true) {
        return Plan::new();
    }
    let schedule = match Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref().unwrap_or_default()) {
        Ok(schedule) => schedule,
        Err(problem) => return Plan::new().warning("UnparseableSchedule", format!("unparseable schedule: {problem}")),
    };
    let mut plan = Plan::new();
    if let Some(soon) = schedule.next(now) {
        plan.wake_after(now.until(soon) + MARGIN);
    }
    let deadline = cron.spec.starting_deadline_seconds.map(Duration::from_secs);
    let known = cron.status.last_schedule_time.or(cron.metadata.creation_timestamp).unwrap_or(now);
    let Some(due) = schedule.last(known, now) else { return plan };
    if deadline.is_some_and(|deadline| due.after(deadline) < now) {
        return plan.warning("MissSchedule", format!("Missed scheduled time to start a job: {due}"));
    }
    let name = format!("{}-{}", cron.metadata.name, due.0 / 60_000);
    if jobs.iter().any(|job| job.metadata.name == name) {
        next.last_schedule_time = Some(due);
        return plan;
    }
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if !active.is_empty() => {
            return plan.event("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid");
        }
        "Replace" => {
            for job in active.iter().filter(|job| !job.metadata.is_terminating()) {
                plan = plan.write(delete(job)).event("SuccessfulDelete", format!("Deleted job {}", job.metadata.name));
            }
        }
        _ => {}
    }
    next.last_schedule_time = Some(due);
    plan.write(create(cron, &name, due)).event("SuccessfulCreate", format!("Created job {name}"))
}

fn create(cron: &CronJob, name: &str, due: Time) -> Write {
    let template = &cron.spec.job_template;
    let mut annotations = template.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), due.to_string());
    let namespace = &cron.metadata.namespace;
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": Metadata {
            name: name.into(),
            namespace: namespace.clone(),
            labels: template.metadata.labels.clone().unwrap_or_default(),
            annotations,
            owner_references: vec![cron.metadata.as_controller("batch/v1", "CronJob")],
            ..Metadata::default()
        },
        "spec": template.spec,
    });
    Write { target: ObjectRef::named("batch", "jobs", namespace, name), subresource: String::new(), action: Action::Create(job) }
}

fn delete(job: &Job) -> Write {
    Write::delete_with(job.target(), DeleteOptions { propagation: Propagation::Background, ..DeleteOptions::default() })
}

/// Deletes the oldest Jobs that are over, beyond the limits.
fn forget_old(cron: &CronJob, jobs: &[Job]) -> Plan {
    let limits =
        [("Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)), ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1))];
    let mut plan = Plan::new();
    for (kind, limit) in limits {
        let mut over: Vec<&Job> = jobs.iter().filter(|job| job.has(kind) && !job.metadata.is_terminating()).collect();
        over.sort_by_key(|job| (job.status.start_time.or(job.metadata.creation_timestamp), job.metadata.name.clone()));
        let surplus = over.len().saturating_sub(limit);
        for job in over.into_iter().take(surplus) {
            plan = plan.write(delete(job)).event("SuccessfulDelete", format!("Deleted job {}", job.metadata.name));
        }
    }
    plan
}

#[cfg(test)]
mod tests;
