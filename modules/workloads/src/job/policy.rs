//! What failures and successes of single pods mean for the Job: `podFailurePolicy`, `successPolicy`, and the pauses between tries.

use pintle_sdk::prelude::*;
use pintle_sdk::workload::{ContainerStatus, Pod};

use super::indexes::Indexes;
use super::model::{ExitCodes, FAILURES, IGNORED_FAILURES, Job};

/// The first pause; it doubles with each failure in a row.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// One failure more.
    Count,
    /// Nothing.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed; why.
    FailJob(String),
}

/// What a failed pod means by the Job's `podFailurePolicy`.
pub fn meaning(job: &Job<'_>, pod: &Pod) -> Meaning {
    let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    for (at, rule) in job.spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules).enumerate() {
        let matched = if let Some(codes) = &rule.on_exit_codes {
            exit_code(codes, pod).map(|(container, code)| {
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {} rule at index {at}",
                    rule.action
                )
            })
        } else {
            let holds = |pattern: &&super::model::PodCondition| {
                let status = if pattern.status.is_empty() { "True" } else { &pattern.status };
                pod.condition(&pattern.kind).is_some_and(|c| c.status == status)
            };
            let found = rule.on_pod_conditions.iter().find(holds);
            found.map(|c| format!("Pod {namespace}/{name} has condition {} matching {} rule at index {at}", c.kind, rule.action))
        };
        let Some(message) = matched else { continue };
        return match rule.action.as_str() {
            "FailJob" => Meaning::FailJob(message),
            "FailIndex" if job.is_per_index() => Meaning::FailIndex,
            "Ignore" => Meaning::Ignore,
            "Count" => Meaning::Count,
            _ => continue,
        };
    }
    Meaning::Count
}

fn exit_code<'a>(codes: &ExitCodes, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let matches = |status: &&'a ContainerStatus| {
        let named = codes.container_name.as_ref().is_none_or(|name| *name == status.name);
        let code = status.state.terminated.as_ref().map_or(0, |ended| ended.exit_code);
        named && code != 0 && codes.values.contains(&code) == (codes.operator == "In")
    };
    let status = statuses.into_iter().find(matches)?;
    Some((&status.name, status.state.terminated.as_ref()?.exit_code))
}

/// How often a pod's index had failed before it, and how often that was ignored.
pub fn index_failures(pod: &Pod) -> (usize, usize) {
    let number = |key| pod.annotation(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    (number(FAILURES), number(IGNORED_FAILURES))
}

/// Whether a failed pod is the end of its index.
pub fn ends_index(job: &Job<'_>, pod: &Pod) -> bool {
    match meaning(job, pod) {
        Meaning::FailIndex => true,
        Meaning::Count => job.spec.backoff_limit_per_index.is_some_and(|limit| index_failures(pod).0 >= limit),
        Meaning::Ignore | Meaning::FailJob(_) => false,
    }
}

/// Which rule of the `successPolicy` holds, if one does.
pub fn success(job: &Job<'_>, succeeded: &Indexes) -> Option<usize> {
    let completions = job.spec.completions.unwrap_or(0);
    let rules = job.spec.success_policy.as_ref().filter(|_| job.is_indexed()).map(|policy| &policy.rules)?;
    rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| Indexes::parse(text, completions));
        let reached = wanted.as_ref().map_or(succeeded.len(), |wanted| wanted.0.intersection(&succeeded.0).count());
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => reached >= count,
            (None, Some(wanted)) => !wanted.is_empty() && reached == wanted.len(),
            (None, None) => false,
        }
    })
}

/// When a pod ended: its last container's end, else the last news of it.
pub fn ended_at(pod: &Pod) -> Time {
    let containers = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let ends = containers.filter_map(|c| c.state.terminated.as_ref()?.finished_at).max();
    let news = || pod.condition("Ready").and_then(|c| c.last_transition_time);
    ends.or_else(news).or(pod.metadata.deletion_timestamp).or(pod.metadata.creation_timestamp).unwrap_or_default()
}

/// How long to wait before the next try, by the failures since the last success.
pub fn pause(now: Time, job: &Job<'_>, pods: &[Pod]) -> Duration {
    let success = pods.iter().filter(|pod| pod.has_succeeded()).map(ended_at).max();
    let failures = pods.iter().filter(|pod| pod.has_failed() && job.counts_as_failed(pod)).map(ended_at);
    let failures: Vec<Time> = failures.filter(|end| success.is_none_or(|success| *end > success)).collect();
    remaining(now, failures.len(), failures.iter().copied().max())
}

/// How long to wait before the next try of the index that this pod failed.
pub fn index_pause(now: Time, pod: &Pod) -> Duration {
    let (failures, ignored) = index_failures(pod);
    remaining(now, failures + ignored + 1, Some(ended_at(pod)))
}

fn remaining(now: Time, failures: usize, last: Option<Time>) -> Duration {
    let Some(last) = last.filter(|_| failures > 0) else { return Duration::ZERO };
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
    now.until(last.after((BACKOFF_FIRST * 2u32.pow(doublings)).min(BACKOFF_MAX)))
}
