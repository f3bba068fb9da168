use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

use crate::Workloads;

const MANIFEST: &str = include_str!("../../module.json");

fn start(spec: Value) -> Result<FakeKernel> {
    let mut cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tidy", "namespace": "shop"},
        "spec": {
            "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow",
            "jobTemplate": {"metadata": {"labels": {"app": "tidy"}}, "spec": {"managedBy": "the/test", "template": {}}},
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        cron["spec"][key] = value.clone();
    }
    let mut kernel = FakeKernel::new(MANIFEST)?;
    kernel.put(cron)?;
    Ok(kernel)
}

fn jobs(kernel: &FakeKernel) -> Vec<String> {
    let going = |job: &&&Value| job["metadata"]["deletionTimestamp"].is_null();
    kernel.list("batch/jobs").iter().filter(going).map(|job| job["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("batch/cronjobs", "shop", "tidy").map(|cron| cron["status"].clone()).unwrap_or_default()
}

fn end(kernel: &mut FakeKernel, name: &str, how: &str) {
    let now = kernel.now();
    kernel.edit("batch/jobs", "shop", name, |job| {
        job["status"] = json!({"startTime": now, "completionTime": now, "conditions": [{"type": how, "status": "True"}]});
    });
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_job_is_made_when_the_schedule_says_so() -> Result<()> {
    let mut kernel = start(json!({}))?;
    kernel.pass(&mut Workloads, 4 * MINUTE)?;
    assert!(jobs(&kernel).is_empty());
    kernel.pass(&mut Workloads, 2 * MINUTE)?;
    assert_eq!(jobs(&kernel), ["tidy-29453765"]);
    let job = kernel.list("batch/jobs")[0];
    assert_eq!((&job["metadata"]["labels"]["app"], &job["metadata"]["ownerReferences"][0]["kind"]), (&json!("tidy"), &json!("CronJob")));
    assert_eq!(status(&kernel)["lastScheduleTime"], "2026-01-01T00:05:00Z");
    assert_eq!(status(&kernel)["active"][0]["name"], "tidy-29453765");
    kernel.pass(&mut Workloads, 10 * MINUTE)?;
    assert_eq!(jobs(&kernel).len(), 3);
    end(&mut kernel, "tidy-29453765", "Complete");
    kernel.settle(&mut Workloads)?;
    assert_eq!(status(&kernel)["active"].as_array().map(Vec::len), Some(2));
    assert!(status(&kernel)["lastSuccessfulTime"].is_string());
    Ok(())
}

#[test]
fn forbid_waits_and_replace_deletes() -> Result<()> {
    let mut kernel = start(json!({"concurrencyPolicy": "Forbid"}))?;
    kernel.pass(&mut Workloads, 11 * MINUTE)?;
    assert_eq!(jobs(&kernel), ["tidy-29453765"]);
    let mut kernel = start(json!({"concurrencyPolicy": "Replace"}))?;
    kernel.pass(&mut Workloads, 11 * MINUTE)?;
    assert_eq!(jobs(&kernel), ["tidy-29453770"]);
    Ok(())
}

#[test]
fn a_suspended_one_makes_nothing_and_a_late_one_only_the_last() -> Result<()> {
    let mut kernel = start(json!({"suspend": true}))?;
    kernel.pass(&mut Workloads, 60 * MINUTE)?;
    assert!(jobs(&kernel).is_empty());
    kernel.edit("batch/cronjobs", "shop", "tidy", |cron| cron["spec"]["suspend"] = json!(false));
    kernel.settle(&mut Workloads)?;
    assert_eq!(jobs(&kernel), ["tidy-29453820"]);
    let mut kernel = start(json!({"startingDeadlineSeconds": 60}))?;
    kernel.advance(8 * MINUTE);
    kernel.settle(&mut Workloads)?;
    assert!(jobs(&kernel).is_empty());
    Ok(())
}

#[test]
fn history_is_kept_within_its_limits() -> Result<()> {
    let mut kernel = start(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}))?;
    for how in ["Complete", "Complete", "Failed", "Complete"] {
        kernel.pass(&mut Workloads, 5 * MINUTE + Duration::from_secs(1))?;
        for name in jobs(&kernel) {
            let open = kernel.get("batch/jobs", "shop", &name).is_some_and(|job| job["status"].is_null());
            if open {
                end(&mut kernel, &name, how);
            }
        }
        kernel.settle(&mut Workloads)?;
    }
    assert_eq!(jobs(&kernel), ["tidy-29453770", "tidy-29453780"]);
    Ok(())
}

#[test]
fn a_schedule_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = start(json!({"concurrencyPolicy": "Replace"}))?;
        kernel.settle(&mut Workloads)?;
        kernel.note_view();
        kernel.advance(6 * MINUTE);
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(Workloads)).check()?;
    Ok(())
}
