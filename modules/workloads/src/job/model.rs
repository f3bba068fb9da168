//! Jobs as far as this module reads and writes them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::value::RawValue;
use pintle_sdk::workload::Pod;
use serde::{Deserialize, Deserializer, Serialize};

use super::indexes::Indexes;

/// Keeps a pod until its end has been counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an Indexed Job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod, and how often that was ignored.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// See [`FAILURES`].
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const OURSELVES: &str = "kubernetes.io/job-controller";

/// `batch/v1` Job.
#[derive(Deserialize)]
pub struct Job<'a> {
    /// Metadata.
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(borrow)]
    pub spec: Spec<'a>,
    /// What was last said.
    #[serde(default)]
    pub status: Status,
}

/// What a Job asks for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec<'a> {
    parallelism: Option<usize>,
    /// Successes to reach; none: the first one does.
    pub completions: Option<usize>,
    /// How long the Job may take.
    pub active_deadline_seconds: Option<u64>,
    backoff_limit: Option<usize>,
    /// Failures that an index may have; makes the indexes independent.
    pub backoff_limit_per_index: Option<usize>,
    /// Indexes that may fail.
    pub max_failed_indexes: Option<usize>,
    /// Which pods.
    #[serde(default)]
    pub selector: Selector,
    /// What the pods are made from; text until one is made.
    #[serde(borrow)]
    pub template: Option<&'a RawValue>,
    /// How long the Job is kept when it is over.
    pub ttl_seconds_after_finished: Option<u64>,
    #[serde(default, deserialize_with = "null_is_empty")]
    completion_mode: String,
    /// No pod may run.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub suspend: bool,
    /// What a failure means.
    #[serde(default)]
    pub pod_failure_policy: Option<FailurePolicy>,
    /// When the Job has succeeded early.
    #[serde(default)]
    pub success_policy: Option<SuccessPolicy>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pod_replacement_policy: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    managed_by: String,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// `spec.podFailurePolicy`: the first rule that matches a failed pod decides.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FailurePolicy {
    /// In order.
    #[serde(default)]
    pub rules: Vec<FailureRule>,
}

/// One rule about failed pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRule {
    /// `FailJob`, `FailIndex`, `Ignore` or `Count`.
    pub action: String,
    /// By exit code.
    pub on_exit_codes: Option<ExitCodes>,
    /// By what the pod says of itself.
    #[serde(deserialize_with = "null_is_empty")]
    pub on_pod_conditions: Vec<PodCondition>,
}

/// Exit codes other than 0 of containers that have ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitCodes {
    /// Of this container; any when there is none.
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: String,
    /// What the operator compares with.
    pub values: Vec<i32>,
}

/// A condition of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its status; `True` when it is not said.
    pub status: String,
}

/// `spec.successPolicy`: any rule that holds ends the Job well.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SuccessPolicy {
    /// In order.
    #[serde(default)]
    pub rules: Vec<SuccessRule>,
}

/// One rule about indexes that succeeded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// These only.
    pub succeeded_indexes: Option<String>,
    /// So many of them; all, when it is not said.
    pub succeeded_count: Option<usize>,
}

/// `.status` of a Job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Suspended, SuccessCriteriaMet, FailureTarget, Complete, Failed.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub conditions: Vec<Condition>,
    /// When it first, or last after a suspension, could run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Pods that run or are going to.
    #[serde(skip_serializing_if = "is_zero")]
    pub active: usize,
    /// Pods, or indexes, that succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: usize,
    /// Pods that failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: usize,
    /// Pods on their way out.
    pub terminating: Option<usize>,
    /// Active pods that are ready.
    pub ready: Option<usize>,
    /// Of an Indexed Job.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Of a Job with a limit for each index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Pods that have ended and will be counted when nothing keeps them any more.
    pub uncounted_terminated_pods: Option<Uncounted>,
}

/// Uids of pods between their end and being counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    /// Of pods that succeeded.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub succeeded: Vec<String>,
    /// Of pods that failed.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub failed: Vec<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Job<'_> {
    /// Pods at a time.
    pub fn parallelism(&self) -> usize {
        self.spec.parallelism.unwrap_or(1)
    }

    /// Failures that the Job may have.
    pub fn backoff_limit(&self) -> usize {
        self.spec.backoff_limit.unwrap_or(if self.is_per_index() { usize::MAX } else { 6 })
    }

    /// Each pod has a number.
    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode == "Indexed"
    }

    /// Each number has a limit of its own.
    pub fn is_per_index(&self) -> bool {
        self.is_indexed() && self.spec.backoff_limit_per_index.is_some()
    }

    /// Somebody else works on it.
    pub fn is_foreign(&self) -> bool {
        !self.spec.managed_by.is_empty() && self.spec.managed_by != OURSELVES
    }

    /// A pod on its way out is replaced when it has ended, not before.
    pub fn waits_for_ends(&self) -> bool {
        self.spec.pod_replacement_policy == "Failed" || self.spec.pod_failure_policy.is_some()
    }

    /// The number of a pod, if it is one of the Job's.
    pub fn index_of(&self, pod: &Pod) -> Option<usize> {
        let index = pod.annotation(INDEX)?.parse().ok()?;
        (self.is_indexed() && index < self.spec.completions.unwrap_or(0)).then_some(index)
    }

    /// Whether a pod is lost for good: it failed, or it is going and nothing waits for its end.
    pub fn counts_as_failed(&self, pod: &Pod) -> bool {
        pod.has_failed() || !self.waits_for_ends() && pod.is_stopping()
    }

    /// Numbers that have succeeded according to the status.
    pub fn completed_indexes(&self) -> Indexes {
        Indexes::parse(&self.status.completed_indexes, self.spec.completions.unwrap_or(0))
    }

    /// Numbers that have failed according to the status.
    pub fn failed_indexes(&self) -> Indexes {
        Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), self.spec.completions.unwrap_or(0))
    }

    /// Which object it is.
    pub fn target(&self) -> ObjectRef {
        ObjectRef::of("batch", "jobs", &self.metadata)
    }
}

impl Status {
    /// The condition of this type, if it holds.
    pub fn holds(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind && c.status == "True")
    }

    /// The condition by which it is over.
    pub fn finished(&self) -> Option<&Condition> {
        self.holds("Complete").or_else(|| self.holds("Failed"))
    }

    /// Puts a condition in; one that says the same stays as it is.
    pub fn set(&mut self, now: Time, kind: &str, status: &'static str, reason: &str, message: &str) {
        let now = Some(Time(now.0 / 1_000 * 1_000));
        let condition = Condition {
            kind: kind.into(),
            status: Cow::Borrowed(status),
            last_transition_time: now,
            reason: Cow::Owned(reason.to_owned()),
            message: message.to_owned(),
            ..Condition::default()
        };
        match self.conditions.iter_mut().find(|c| c.kind == kind) {
            Some(known) if known.status == status && known.reason == reason => {}
            Some(known) => *known = condition,
            None => self.conditions.push(condition),
        }
    }
}

impl Uncounted {
    /// All uids.
    pub fn all(&self) -> BTreeSet<&str> {
        self.succeeded.iter().chain(&self.failed).map(String::as_str).collect()
    }
}
