use std::collections::BTreeSet;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

use super::model::{FAILURES, INDEX, TRACKING};
use crate::Workloads;

const MANIFEST: &str = include_str!("../../module.json");

fn job(spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "sum", "namespace": "shop"},
        "spec": {
            "parallelism": 2, "completions": 4, "backoffLimit": 6, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"job": "sum"}},
            "template": {
                "metadata": {"labels": {"job": "sum", "batch.kubernetes.io/job-name": "sum"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn start(spec: Value) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    kernel.put(job(spec))?;
    Ok(kernel)
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("batch/jobs", "shop", "sum").map(|job| job["status"].clone()).unwrap_or_default()
}

fn names(kernel: &FakeKernel, wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    kernel.list("/pods").into_iter().filter(|pod| wanted(pod)).map(|pod| text(&pod["metadata"]["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_running(pod: &Value) -> bool {
    let phase = &pod["status"]["phase"];
    phase != "Succeeded" && phase != "Failed" && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Ends a pod.
fn end(kernel: &mut FakeKernel, name: &str, code: i32) {
    let now = kernel.now();
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let ended =
        json!({"phase": phase, "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]});
    kernel.edit("/pods", "shop", name, |pod| pod["status"] = ended);
}

/// Ends the running pods with the code that `code` chooses, and takes away pods that were deleted.
fn play(kernel: &mut FakeKernel, code: impl Fn(&Value) -> i32) {
    let pods: Vec<Value> = kernel.list("/pods").into_iter().cloned().collect();
    for pod in &pods {
        let name = text(&pod["metadata"]["name"]);
        if is_running(pod) {
            end(kernel, &name, code(pod));
        } else if !pod["metadata"]["deletionTimestamp"].is_null() && pod["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            kernel.remove("/pods", "shop", &name);
        }
    }
}

fn condition(kernel: &FakeKernel, kind: &str) -> (String, String) {
    let status = status(kernel);
    let found = status["conditions"].as_array().and_then(|list| list.iter().find(|c| c["type"] == kind)).cloned().unwrap_or_default();
    (text(&found["status"]), text(&found["reason"]))
}

/// Lets the Job run to its end, an hour at most.
fn finish(kernel: &mut FakeKernel, code: impl Fn(&Value) -> i32 + Copy) -> Result<()> {
    for _ in 0..60 {
        kernel.settle_with(&mut Workloads, |kernel| {
            play(kernel, code);
            Ok(())
        })?;
        kernel.pass(&mut Workloads, Duration::from_secs(60))?;
    }
    Ok(())
}

fn index(pod: &Value) -> usize {
    text(&pod["metadata"]["annotations"][INDEX]).parse().unwrap_or(usize::MAX)
}

#[test]
fn pods_run_so_many_at_a_time_until_so_many_have_succeeded() -> Result<()> {
    let mut kernel = start(json!({}))?;
    kernel.settle(&mut Workloads)?;
    assert_eq!(kernel.list("/pods").len(), 2);
    let pod = kernel.list("/pods")[0];
    assert_eq!((&pod["metadata"]["finalizers"], &pod["metadata"]["generateName"]), (&json!([TRACKING]), &json!("sum-")));
    assert_eq!((&status(&kernel)["active"], &status(&kernel)["ready"]), (&json!(2), &json!(0)));
    let one = names(&kernel, is_running)[0].clone();
    end(&mut kernel, &one, 0);
    kernel.settle(&mut Workloads)?;
    assert_eq!((&status(&kernel)["active"], &status(&kernel)["succeeded"]), (&json!(2), &json!(1)));
    finish(&mut kernel, |_| 0)?;
    assert_eq!((&status(&kernel)["succeeded"], &status(&kernel)["active"]), (&json!(4), &Value::Null));
    assert_eq!(condition(&kernel, "Complete"), ("True".into(), "CompletionsReached".into()));
    assert_eq!(status(&kernel)["uncountedTerminatedPods"], json!({}));
    assert!(status(&kernel)["completionTime"].is_string());
    assert_eq!((kernel.list("/pods").len(), names(&kernel, |pod| pod["metadata"]["finalizers"] != json!([])).len()), (4, 0));
    Ok(())
}

#[test]
fn a_job_without_completions_is_done_with_its_first_success() -> Result<()> {
    let mut kernel = start(json!({"completions": null, "parallelism": 3}))?;
    kernel.settle(&mut Workloads)?;
    let one = names(&kernel, is_running)[0].clone();
    end(&mut kernel, &one, 0);
    kernel.settle(&mut Workloads)?;
    assert_eq!(condition(&kernel, "Complete").0, "");
    finish(&mut kernel, |_| 0)?;
    assert_eq!((kernel.list("/pods").len(), condition(&kernel, "Complete").0), (3, "True".into()));
    Ok(())
}

#[test]
fn failures_wait_longer_each_time_and_end_the_job_beyond_the_limit() -> Result<()> {
    let mut kernel = start(json!({"backoffLimit": 2, "parallelism": 1, "completions": 1}))?;
    kernel.settle(&mut Workloads)?;
    play(&mut kernel, |_| 1);
    kernel.settle(&mut Workloads)?;
    assert_eq!(names(&kernel, is_running).len(), 0);
    kernel.pass(&mut Workloads, Duration::from_secs(11))?;
    assert_eq!(names(&kernel, is_running).len(), 1);
    play(&mut kernel, |_| 1);
    kernel.pass(&mut Workloads, Duration::from_secs(15))?;
    assert_eq!(names(&kernel, is_running).len(), 0);
    finish(&mut kernel, |_| 1)?;
    assert_eq!((kernel.list("/pods").len(), &status(&kernel)["failed"]), (3, &json!(3)));
    assert_eq!(condition(&kernel, "Failed"), ("True".into(), "BackoffLimitExceeded".into()));
    assert_eq!(condition(&kernel, "FailureTarget").0, "True");
    Ok(())
}

#[test]
fn an_indexed_job_runs_each_number_once() -> Result<()> {
    let mut kernel = start(json!({"completionMode": "Indexed", "parallelism": 3, "completions": 5}))?;
    kernel.settle(&mut Workloads)?;
    assert_eq!(kernel.list("/pods").iter().map(|pod| index(pod)).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
    let pod = kernel.list("/pods")[1];
    assert_eq!((&pod["spec"]["hostname"], &pod["metadata"]["generateName"]), (&json!("sum-1"), &json!("sum-1-")));
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    let second = text(&pod["metadata"]["name"]);
    end(&mut kernel, &second, 0);
    kernel.settle(&mut Workloads)?;
    assert_eq!((&status(&kernel)["completedIndexes"], &status(&kernel)["succeeded"]), (&json!("1"), &json!(1)));
    finish(&mut kernel, |_| 0)?;
    assert_eq!((&status(&kernel)["completedIndexes"], kernel.list("/pods").len()), (&json!("0-4"), 5));
    assert_eq!(condition(&kernel, "Complete").0, "True");
    Ok(())
}

#[test]
fn indexes_with_limits_of_their_own_fail_alone() -> Result<()> {
    let mut kernel = start(json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": null, "parallelism": 4}))?;
    finish(&mut kernel, |pod| i32::from(index(pod) % 2 == 0))?;
    let status = status(&kernel);
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("1,3"), &json!("0,2")));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(4)));
    assert_eq!(condition(&kernel, "Failed"), ("True".into(), "FailedIndexes".into()));
    let tries: BTreeSet<String> =
        kernel.list("/pods").iter().filter(|pod| index(pod) == 0).map(|pod| text(&pod["metadata"]["annotations"][FAILURES])).collect();
    assert_eq!(tries, BTreeSet::from(["0".to_owned(), "1".to_owned()]));
    Ok(())
}

#[test]
fn too_many_failed_indexes_end_the_job() -> Result<()> {
    let mut kernel = start(json!({
        "completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": null, "maxFailedIndexes": 1, "parallelism": 1, "completions": 5,
    }))?;
    finish(&mut kernel, |_| 1)?;
    assert_eq!(condition(&kernel, "Failed"), ("True".into(), "MaxFailedIndexesExceeded".into()));
    assert_eq!((kernel.list("/pods").len(), &status(&kernel)["failedIndexes"]), (2, &json!("0-1")));
    Ok(())
}

#[test]
fn a_failure_policy_fails_the_job_or_the_index_or_looks_away() -> Result<()> {
    let rule = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [42]}}]});
    let mut kernel = start(json!({"podFailurePolicy": rule("FailJob")}))?;
    finish(&mut kernel, |_| 42)?;
    assert_eq!(condition(&kernel, "Failed"), ("True".into(), "PodFailurePolicy".into()));

    let mut kernel = start(
        json!({"podFailurePolicy": rule("FailIndex"), "completionMode": "Indexed", "backoffLimitPerIndex": 5, "backoffLimit": null}),
    )?;
    finish(&mut kernel, |pod| if index(pod) == 3 { 42 } else { 0 })?;
    assert_eq!((&status(&kernel)["failedIndexes"], &status(&kernel)["failed"]), (&json!("3"), &json!(1)));

    let disrupted = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    let mut kernel = start(json!({"podFailurePolicy": disrupted, "backoffLimit": 0, "completions": 1, "parallelism": 1}))?;
    kernel.settle(&mut Workloads)?;
    let name = names(&kernel, is_running)[0].clone();
    end(&mut kernel, &name, 1);
    kernel.edit("/pods", "shop", &name, |pod| pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]));
    finish(&mut kernel, |_| 0)?;
    assert_eq!((condition(&kernel, "Complete").0, &status(&kernel)["failed"]), ("True".into(), &Value::Null));
    Ok(())
}

#[test]
fn a_success_policy_ends_the_job_early_and_stops_the_rest() -> Result<()> {
    let policy = json!({"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]});
    let mut kernel = start(json!({"completionMode": "Indexed", "parallelism": 4, "successPolicy": policy}))?;
    kernel.settle(&mut Workloads)?;
    let first = names(&kernel, |pod| index(pod) == 0)[0].clone();
    end(&mut kernel, &first, 0);
    kernel.settle(&mut Workloads)?;
    assert_eq!(condition(&kernel, "SuccessCriteriaMet"), ("True".into(), "SuccessPolicy".into()));
    finish(&mut kernel, |_| 0)?;
    assert_eq!(condition(&kernel, "Complete"), ("True".into(), "SuccessPolicy".into()));
    assert_eq!((&status(&kernel)["completedIndexes"], names(&kernel, is_running).len()), (&json!("0"), 0));
    Ok(())
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() -> Result<()> {
    let mut kernel = start(json!({}))?;
    kernel.settle(&mut Workloads)?;
    kernel.edit("batch/jobs", "shop", "sum", |job| job["spec"]["suspend"] = json!(true));
    kernel.settle(&mut Workloads)?;
    assert_eq!((kernel.list("/pods").len(), condition(&kernel, "Suspended").0), (0, "True".into()));
    assert_eq!(status(&kernel)["failed"], Value::Null);
    kernel.advance(Duration::from_secs(100));
    kernel.edit("batch/jobs", "shop", "sum", |job| job["spec"]["suspend"] = json!(false));
    kernel.settle(&mut Workloads)?;
    assert_eq!((kernel.list("/pods").len(), condition(&kernel, "Suspended").0), (2, "False".into()));
    assert_eq!(status(&kernel)["startTime"], json!(kernel.now()));
    Ok(())
}

#[test]
fn the_deadline_ends_the_job_and_its_pods_and_the_time_to_live_the_job() -> Result<()> {
    let mut kernel = start(json!({"activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 60}))?;
    kernel.settle(&mut Workloads)?;
    kernel.pass(&mut Workloads, Duration::from_secs(31))?;
    assert_eq!(condition(&kernel, "Failed"), ("True".into(), "DeadlineExceeded".into()));
    assert_eq!(names(&kernel, is_running).len(), 0);
    kernel.pass(&mut Workloads, Duration::from_secs(40))?;
    assert!(status(&kernel).is_object());
    kernel.pass(&mut Workloads, Duration::from_secs(40))?;
    assert!(kernel.get("batch/jobs", "shop", "sum").is_none_or(|job| job["metadata"]["deletionTimestamp"].is_string()));
    Ok(())
}

#[test]
fn orphans_are_adopted_and_strangers_let_go() -> Result<()> {
    let mut kernel = start(json!({}))?;
    kernel.settle(&mut Workloads)?;
    let name = names(&kernel, is_running)[0].clone();
    kernel.edit("/pods", "shop", &name, |pod| pod["metadata"]["ownerReferences"] = json!([]));
    kernel.settle(&mut Workloads)?;
    let pod = kernel.get("/pods", "shop", &name).cloned().unwrap_or_default();
    assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "sum");
    kernel.edit("/pods", "shop", &name, |pod| pod["metadata"]["labels"]["job"] = json!("other"));
    kernel.settle(&mut Workloads)?;
    let pod = kernel.get("/pods", "shop", &name).cloned().unwrap_or_default();
    assert_eq!((&pod["metadata"]["ownerReferences"], &pod["metadata"]["finalizers"]), (&json!([]), &json!([])));
    assert_eq!(kernel.list("/pods").len(), 3);
    Ok(())
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() -> Result<()> {
    let mut kernel = start(json!({}))?;
    kernel.settle(&mut Workloads)?;
    kernel.remove("batch/jobs", "shop", "sum");
    kernel.settle(&mut Workloads)?;
    assert_eq!(names(&kernel, |pod| pod["metadata"]["finalizers"] != json!([])).len(), 0);
    Ok(())
}

#[test]
fn a_job_that_somebody_else_manages_is_left_alone() -> Result<()> {
    let mut kernel = start(json!({"managedBy": "example.com/queue"}))?;
    kernel.settle(&mut Workloads)?;
    assert!(kernel.writes.is_empty());
    Ok(())
}

#[test]
fn a_job_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || start(json!({"parallelism": 3, "completions": 5}));
    let others = |kernel: &mut FakeKernel| {
        play(kernel, |_| 0);
        Ok(())
    };
    Disturbed::new(begin, || Ok(Workloads)).with_others(others).check()?;
    let begin = || start(json!({"completionMode": "Indexed", "parallelism": 3, "completions": 5}));
    Disturbed::new(begin, || Ok(Workloads)).with_others(others).check()?;
    Ok(())
}

#[test]
fn who_takes_the_place_of_a_pod_that_is_gone_has_another_name() -> Result<()> {
    for spec in [json!({}), json!({"completionMode": "Indexed"})] {
        let mut kernel = start(spec)?;
        kernel.settle(&mut Workloads)?;
        let before: BTreeSet<String> = names(&kernel, |_| true).into_iter().collect();
        before.iter().for_each(|name| kernel.remove("/pods", "shop", name));
        kernel.settle(&mut Workloads)?;
        let after: BTreeSet<String> = names(&kernel, |_| true).into_iter().collect();
        assert_eq!((before.len(), after.len()), (2, 2));
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    }
    Ok(())
}
