//! From a Job and the pods around it to what should be written. Pure.
//!
//! A pod's end must be counted once although pods vanish and plans are made again. So each pod carries a finalizer until its end is on
//! record: its uid enters `status.uncountedTerminatedPods` (or its index `status.completedIndexes`), then it loses the finalizer, then the
//! uid becomes a number. Each write of the status holds only while the Job is as it was seen.

use std::collections::{BTreeMap, BTreeSet};

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::{Claimed, Names, Owner, Pod, Template, cheapest_first, claim};
use pintle_sdk::{DeleteOptions, OwnerReference, Propagation};

use super::indexes::Indexes;
use super::model::{FAILURES, IGNORED_FAILURES, INDEX, Job, Status, TRACKING, Uncounted};
use super::policy::{self, Meaning};
use crate::status_change;

/// Pods created or deleted in one go at most.
const BURST_MAX: usize = 500;
/// Failed tries after which names are varied: the name must then be taken by something that is not in view.
const VARY_NAMES_ATTEMPT: u32 = 3;
/// Events of one plan at most.
const EVENTS_MAX: usize = 16;

/// What to do about one Job.
pub fn plan(now: Time, attempt: u32, job: &Job<'_>, pods: Vec<Pod>) -> Result<Plan> {
    if job.is_foreign() {
        return Ok(Plan::new());
    }
    if job.status.finished().is_some() || job.metadata.is_terminating() {
        let owned = pods.iter().filter(|pod| pod.metadata.is_controlled_by(&job.metadata.uid));
        let released: Plan = owned.filter(|pod| is_tracked(pod)).map(release).collect();
        return Ok(released.then(expire(now, job)));
    }
    let owner =
        Owner { metadata: &job.metadata, api_version: "batch/v1", kind: "Job", selector: &job.spec.selector, finalizer: Some(TRACKING) };
    let Claimed { writes, ours } = claim(&owner, pods);
    if !writes.is_empty() {
        return Ok(writes.into_iter().collect());
    }
    Work::new(now, job, &ours).plan(attempt, owner.reference())
}

/// Deletes a Job that has been over for long enough.
fn expire(now: Time, job: &Job<'_>) -> Plan {
    let (Some(seconds), Some(finished)) = (job.spec.ttl_seconds_after_finished, job.status.finished()) else { return Plan::new() };
    if job.metadata.is_terminating() {
        return Plan::new();
    }
    let end = finished.last_transition_time.unwrap_or_default().after(Duration::from_secs(seconds));
    if end > now {
        return Plan::new().requeue_after(now.until(end));
    }
    let resource_version = job.metadata.resource_version.clone();
    let options = DeleteOptions { propagation: Propagation::Foreground, resource_version, ..DeleteOptions::default() };
    Plan::new().write(Write::delete_with(job.target(), options))
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|f| f == TRACKING)
}

/// Takes the finalizer off a pod.
pub fn release(pod: &Pod) -> Write {
    let mut body = pod.metadata.precondition();
    body["metadata"]["finalizers"] = pod.metadata.finalizers.iter().filter(|f| *f != TRACKING).map(|f| json!(f)).collect();
    Write::merge(pod.target(), body)
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Success { reason: String, message: String },
    Failure { reason: String, message: String },
}

/// What was seen, sorted out.
struct Work<'a> {
    now: Time,
    job: &'a Job<'a>,
    pods: &'a [Pod],
    active: Vec<Pod>,
    stopping: usize,
    /// Pods whose end is on record: they may go.
    released: Vec<&'a Pod>,
    succeeded: usize,
    failed: usize,
    completed: Indexes,
    failed_indexes: Indexes,
    /// The last failed pod of each index that waits for its next try: it keeps the count of failures.
    retained: BTreeMap<usize, &'a Pod>,
    next: Status,
}

impl<'a> Work<'a> {
    fn new(now: Time, job: &'a Job<'a>, pods: &'a [Pod]) -> Self {
        let active: Vec<Pod> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let stopping = pods.iter().filter(|pod| pod.is_stopping()).count();
        let (completed, failed_indexes) = (job.completed_indexes(), job.failed_indexes());
        let mut work = Work {
            now,
            job,
            pods,
            active,
            stopping,
            released: Vec::new(),
            succeeded: 0,
            failed: 0,
            completed,
            failed_indexes,
            retained: BTreeMap::new(),
            next: job.status.clone(),
        };
        work.sort_out_indexes();
        work.count_ends();
        work
    }

    fn tracked(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.pods.iter().filter(|pod| is_tracked(pod))
    }

    fn sort_out_indexes(&mut self) {
        let job = self.job;
        for pod in self.tracked().filter(|pod| pod.has_succeeded()) {
            self.completed.0.extend(job.index_of(pod));
        }
        if !job.is_per_index() {
            return;
        }
        let running: BTreeSet<usize> = self.active.iter().filter_map(|pod| job.index_of(pod)).collect();
        for pod in self.tracked().filter(|pod| job.counts_as_failed(pod)) {
            let Some(index) = job.index_of(pod) else { continue };
            if !self.completed.has(index) && policy::ends_index(job, pod) {
                self.failed_indexes.0.insert(index);
            }
        }
        for pod in self.tracked().filter(|pod| job.counts_as_failed(pod)) {
            let Some(index) = job.index_of(pod) else { continue };
            if running.contains(&index) || self.completed.has(index) || self.failed_indexes.has(index) {
                continue;
            }
            let later = |known: &&Pod| policy::index_failures(known) < policy::index_failures(pod);
            if self.retained.get(&index).is_none_or(later) {
                self.retained.insert(index, pod);
            }
        }
        self.next.failed_indexes = Some(self.failed_indexes.to_string());
    }

    /// Moves ends on: from seen to on record, from on record to counted.
    fn count_ends(&mut self) {
        let job = self.job;
        let held: BTreeSet<&str> = self.tracked().map(|pod| pod.metadata.uid.as_str()).collect();
        let known = job.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let (still, gone): (Vec<String>, Vec<String>) = known.succeeded.iter().cloned().partition(|uid| held.contains(uid.as_str()));
        let (still_failed, gone_failed): (Vec<_>, Vec<_>) = known.failed.iter().cloned().partition(|uid| held.contains(uid.as_str()));
        let mut uncounted = Uncounted { succeeded: still, failed: still_failed };
        self.next.succeeded += gone.len();
        self.next.failed += gone_failed.len();
        let ends_for_good = self.job.status.holds("FailureTarget").is_some() || self.job.status.holds("SuccessCriteriaMet").is_some();
        let mut ahead = 0;
        for pod in self.tracked() {
            let uid = &pod.metadata.uid;
            if known.all().contains(uid.as_str()) {
                self.released.push(pod);
            } else if pod.has_succeeded() {
                if !job.is_indexed() {
                    uncounted.succeeded.push(uid.clone());
                }
                self.released.push(pod);
            } else if job.counts_as_failed(pod) {
                let counts = policy::meaning(job, pod) != Meaning::Ignore && (!job.is_indexed() || job.index_of(pod).is_some());
                let kept =
                    !ends_for_good && job.index_of(pod).is_some_and(|i| self.retained.get(&i).is_some_and(|p| p.metadata.uid == *uid));
                match (kept, counts) {
                    (true, counts) => ahead += usize::from(counts),
                    (false, true) => uncounted.failed.push(uid.clone()),
                    (false, false) => {}
                }
                if !kept {
                    self.released.push(pod);
                }
            }
        }
        self.failed = self.next.failed + uncounted.failed.len() + ahead;
        self.succeeded = self.next.succeeded + uncounted.succeeded.len();
        if job.is_indexed() {
            self.next.completed_indexes = self.completed.to_string();
            (self.next.succeeded, self.succeeded) = (self.completed.len(), self.completed.len());
        }
        self.next.uncounted_terminated_pods = Some(uncounted);
    }

    fn plan(mut self, attempt: u32, owner: OwnerReference) -> Result<Plan> {
        let (now, job) = (self.now, self.job);
        self.next.active = self.active.len();
        self.next.ready = Some(self.active.iter().filter(|pod| pod.is_ready()).count());
        self.next.terminating = Some(self.stopping);
        let mut plan = self.suspend_or_resume();
        if self.next.start_time.is_none() && !job.spec.suspend {
            self.next.start_time = Some(Time(now.0 / 1_000 * 1_000));
        }
        let end = self.end();
        let change = match &end {
            Some(end) => {
                let (kind, reason, message) = match end {
                    End::Success { reason, message } => ("SuccessCriteriaMet", reason, message),
                    End::Failure { reason, message } => ("FailureTarget", reason, message),
                };
                self.next.set(now, kind, "True", reason, message);
                plan = plan.then(self.finish(end));
                self.active.iter().map(|pod| Write::delete(pod.target())).collect()
            }
            None => self.manage(attempt, owner)?,
        };
        if let Some(mut body) = status_change(&job.status, &self.next) {
            body["metadata"] = job.metadata.precondition()["metadata"].take();
            plan.push(Write::merge(job.target(), body).to("status"));
        }
        plan.writes.extend(self.released.iter().map(|pod| release(pod)));
        plan = plan.then(change);
        if let (Some(seconds), None, Some(start)) = (job.spec.active_deadline_seconds, &end, self.next.start_time)
            && !job.spec.suspend
        {
            plan.wake_after(now.until(start.after(Duration::from_secs(seconds))));
        }
        plan.events.truncate(EVENTS_MAX);
        Ok(plan)
    }

    /// The verdict becomes final when every pod's end has been counted.
    fn finish(&mut self, end: &End) -> Plan {
        let open = self.tracked().next().is_some() || self.next.uncounted_terminated_pods != Some(Uncounted::default());
        if open || !self.active.is_empty() || self.stopping > 0 {
            return Plan::new();
        }
        match end {
            End::Success { reason, message } => {
                self.next.set(self.now, "Complete", "True", reason, message);
                self.next.completion_time = Some(Time(self.now.0 / 1_000 * 1_000));
                Plan::new().event("Completed", "Job completed")
            }
            End::Failure { reason, message } => {
                self.next.set(self.now, "Failed", "True", reason, message);
                Plan::new().warning(reason, message.clone())
            }
        }
    }

    fn suspend_or_resume(&mut self) -> Plan {
        let was = self.job.status.conditions.iter().find(|c| c.kind == "Suspended").map(|c| c.status == "True");
        match (self.job.spec.suspend, was) {
            (true, None | Some(false)) => {
                self.next.set(self.now, "Suspended", "True", "JobSuspended", "Job suspended");
                Plan::new().event("Suspended", "Job suspended")
            }
            (false, Some(true)) => {
                self.next.set(self.now, "Suspended", "False", "JobResumed", "Job resumed");
                self.next.start_time = Some(Time(self.now.0 / 1_000 * 1_000));
                Plan::new().event("Resumed", "Job resumed")
            }
            _ => Plan::new(),
        }
    }

    /// Whether the Job is to end, and how. A verdict once given stays.
    fn end(&self) -> Option<End> {
        let (job, status) = (self.job, &self.job.status);
        if let Some(c) = status.holds("SuccessCriteriaMet") {
            return Some(End::Success { reason: c.reason.to_string(), message: c.message.clone() });
        }
        if let Some(c) = status.holds("FailureTarget") {
            return Some(End::Failure { reason: c.reason.to_string(), message: c.message.clone() });
        }
        self.failure().map(|(reason, message)| End::Failure { reason: reason.into(), message }).or_else(|| {
            let success = |reason: &str, message: String| Some(End::Success { reason: reason.into(), message });
            if let Some(rule) = policy::success(job, &self.completed) {
                return success("SuccessPolicy", format!("Matched rules at index {rule}"));
            }
            let reached = job.spec.completions.map_or(self.succeeded > 0, |wanted| self.succeeded >= wanted);
            let idle = self.active.is_empty() && !job.spec.suspend;
            if reached && idle { success("CompletionsReached", "Reached expected number of succeeded pods".into()) } else { None }
        })
    }

    fn failure(&self) -> Option<(&'static str, String)> {
        let job = self.job;
        for pod in self.pods.iter().filter(|pod| pod.has_failed()) {
            if let Meaning::FailJob(message) = policy::meaning(job, pod) {
                return Some(("PodFailurePolicy", message));
            }
        }
        let limit = job.backoff_limit();
        let restarts: usize = self.active.iter().filter(|pod| pod.spec.restart_policy == "OnFailure").map(restarts).sum();
        if self.failed > limit || (restarts > 0 && restarts >= limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        let deadline = job.spec.active_deadline_seconds.map(Duration::from_secs);
        if let (Some(deadline), Some(start), false) = (deadline, job.status.start_time, job.spec.suspend)
            && self.now.since(start) >= deadline
        {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
        }
        if job.spec.max_failed_indexes.is_some_and(|most| self.failed_indexes.len() > most) {
            return Some(("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".into()));
        }
        let decided = self.completed.len() + self.failed_indexes.len();
        if !self.failed_indexes.is_empty() && job.spec.completions.is_some_and(|all| decided >= all) {
            return Some(("FailedIndexes", "Job has failed indexes".into()));
        }
        None
    }

    /// Makes the active pods as many as there should be.
    fn manage(&self, attempt: u32, owner: OwnerReference) -> Result<Plan> {
        let job = self.job;
        let wanted = match (job.spec.suspend, job.spec.completions) {
            (true, _) => 0,
            (false, None) if self.succeeded > 0 => self.active.len().min(job.parallelism()),
            (false, None) => job.parallelism(),
            (false, Some(all)) => all.saturating_sub(self.succeeded + self.failed_indexes.len()).min(job.parallelism()),
        };
        let (mut kept, mut surplus) = self.without_doubles();
        cheapest_first(&mut kept);
        let too_many = kept.len().saturating_sub(wanted);
        surplus.extend(kept.drain(..too_many));
        if !surplus.is_empty() {
            let drop = |plan: Plan, pod: &Pod| {
                let plan = if is_tracked(pod) { plan.write(release(pod)) } else { plan };
                plan.delete(pod.target()).event("SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name))
            };
            return Ok(surplus.iter().take(BURST_MAX).fold(Plan::new(), drop));
        }
        let waiting = if job.waits_for_ends() { self.stopping } else { 0 };
        let missing = wanted.saturating_sub(kept.len() + waiting).min(BURST_MAX);
        if missing == 0 {
            return Ok(Plan::new());
        }
        let pause = if job.is_per_index() { Duration::ZERO } else { policy::pause(self.now, job, self.pods) };
        if !pause.is_zero() {
            return Ok(Plan::new().requeue_after(pause));
        }
        let template = Template::parse(job.spec.template)?;
        if job.is_indexed() {
            Ok(self.create_indexed(&template, &kept, missing, owner))
        } else {
            Ok(self.create(attempt, &template, missing, owner))
        }
    }

    /// Of an Indexed Job: the active pods with a number of their own that is still open, and the others.
    fn without_doubles(&self) -> (Vec<Pod>, Vec<Pod>) {
        if !self.job.is_indexed() {
            return (self.active.clone(), Vec::new());
        }
        let mut active = self.active.clone();
        // The dearest first: of two pods of a number it stays.
        cheapest_first(&mut active);
        active.reverse();
        let mut seen = BTreeSet::new();
        active.into_iter().partition(|pod| {
            let open = |index: &usize| !self.completed.has(*index) && !self.failed_indexes.has(*index);
            self.job.index_of(pod).filter(open).is_some_and(|index| seen.insert(index))
        })
    }

    fn create(&self, attempt: u32, template: &Template, missing: usize, owner: OwnerReference) -> Plan {
        let meta = &self.job.metadata;
        let seen: BTreeSet<String> = self.pods.iter().map(|pod| pod.metadata.name.clone()).collect();
        let variation = if attempt >= VARY_NAMES_ATTEMPT { attempt.to_string() } else { String::new() };
        // The Job's revision is among them, so that a pod that takes the place of one that is gone does not take its name.
        let facts =
            [meta.uid.clone(), meta.resource_version.clone(), variation].into_iter().chain(seen.iter().cloned()).collect::<Vec<_>>();
        let names = Names::new(&meta.name, facts.iter().map(String::as_str), seen);
        let mut template = template.clone();
        track(&mut template);
        names.take(missing).fold(Plan::new(), |plan, name| {
            let write = template.create(&meta.namespace, &name, &format!("{}-", meta.name), owner.clone());
            plan.write(write).event("SuccessfulCreate", format!("Created pod: {name}"))
        })
    }

    fn create_indexed(&self, template: &Template, kept: &[Pod], missing: usize, owner: OwnerReference) -> Plan {
        let job = self.job;
        let mut taken: BTreeSet<usize> = kept.iter().filter_map(|pod| job.index_of(pod)).collect();
        if job.waits_for_ends() {
            taken.extend(self.pods.iter().filter(|pod| pod.is_stopping()).filter_map(|pod| job.index_of(pod)));
        }
        let all = job.spec.completions.unwrap_or(0);
        let open = (0..all).filter(|i| !taken.contains(i) && !self.completed.has(*i) && !self.failed_indexes.has(*i));
        let mut plan = Plan::new();
        let mut made = 0;
        for index in open {
            if made == missing {
                break;
            }
            let failed = self.retained.get(&index);
            let pause = failed.map_or(Duration::ZERO, |pod| policy::index_pause(self.now, pod));
            if !pause.is_zero() {
                plan.wake_after(pause);
                continue;
            }
            let name = self.index_name(index);
            let template = self.of_index(template, index, failed.copied());
            plan.push(template.create(&job.metadata.namespace, &name, &format!("{}-{index}-", job.metadata.name), owner.clone()));
            plan = plan.event("SuccessfulCreate", format!("Created pod: {name}"));
            made += 1;
        }
        plan
    }

    fn index_name(&self, index: usize) -> String {
        let meta = &self.job.metadata;
        let base = format!("{}-{index}", meta.name);
        let seen: BTreeSet<String> = self.pods.iter().map(|pod| pod.metadata.name.clone()).collect();
        let facts = [meta.uid.as_str(), meta.resource_version.as_str()].into_iter().chain(seen.iter().map(String::as_str));
        let mut names = Names::new(&base, facts, seen.clone());
        names.next().unwrap_or(base)
    }

    /// The template of one number: it is told in a label, an annotation, the host name and the environment.
    fn of_index(&self, template: &Template, index: usize, failed: Option<&Pod>) -> Template {
        let mut template = template.clone();
        track(&mut template);
        let number = index.to_string();
        template.metadata.labels.insert(INDEX.into(), number.clone());
        template.metadata.annotations.insert(INDEX.into(), number);
        if self.job.is_per_index() {
            let (mut failures, mut ignored) = failed.map_or((0, 0), policy::index_failures);
            if let Some(pod) = failed {
                let is_ignored = policy::meaning(self.job, pod) == Meaning::Ignore;
                *(if is_ignored { &mut ignored } else { &mut failures }) += 1;
            }
            template.metadata.annotations.insert(FAILURES.into(), failures.to_string());
            if ignored > 0 {
                template.metadata.annotations.insert(IGNORED_FAILURES.into(), ignored.to_string());
            }
        }
        let mut hostname = format!("{}-{index}", self.job.metadata.name);
        hostname.truncate(63);
        template.spec["hostname"] = json!(hostname);
        for list in ["containers", "initContainers"] {
            template.spec[list].as_array_mut().into_iter().flatten().for_each(tell_index);
        }
        template
    }
}

fn track(template: &mut Template) {
    if !template.metadata.finalizers.iter().any(|f| f == TRACKING) {
        template.metadata.finalizers.push(TRACKING.into());
    }
}

fn tell_index(container: &mut Value) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = &mut container["env"];
    if env.is_null() {
        *env = json!([]);
    }
    if let Some(list) = env.as_array_mut().filter(|list| list.iter().all(|variable| variable["name"] != VARIABLE)) {
        let path = format!("metadata.labels['{INDEX}']");
        list.push(json!({"name": VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}

fn restarts(pod: &Pod) -> usize {
    let containers = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    containers.map(|c| c.restart_count as usize).sum()
}
