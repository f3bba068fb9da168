//! Jobs, CronJobs, DaemonSets and StatefulSets with real pods on real nodes.

use crate::{
    Outcome, Test, ensure,
    setup::{NODES, Setup},
};
use pintle_tests::kubectl::{is_ready, items};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

pub const TESTS: &[Test] = &[
    ("workloads_an_indexed_job_runs_each_number_and_a_failing_one_fails", jobs),
    ("workloads_a_cron_job_makes_the_job_that_is_due", cron_job),
    ("workloads_a_daemon_set_runs_on_every_node_and_goes_back", daemon_set),
    ("workloads_a_stateful_set_starts_in_order_updates_and_goes_back", stateful_set),
    ("workloads_a_pod_of_higher_priority_takes_the_place_of_another", preemption),
];

const MINUTE: Duration = Duration::from_secs(60);

fn pod(command: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", command]}
    ]})
}

fn apply(setup: &Setup, object: &Value) -> Outcome {
    setup.kubectl.run_with(&["apply", "-f", "-"], &object.to_string())?;
    Ok(())
}

fn jobs(setup: &Setup) -> Outcome {
    let mut work = pod("test \"$(hostname)\" = count-$JOB_COMPLETION_INDEX");
    work["restartPolicy"] = json!("Never");
    apply(
        setup,
        &json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "count"},
            "spec": {"completions": 3, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": work}},
        }),
    )?;
    setup.kubectl.run(&["wait", "--for=condition=complete", "job/count", "--timeout=60s"])?;
    let job = setup.kubectl.get(&["job", "count"])?;
    ensure!(job["status"]["completedIndexes"] == "0-2" && job["status"]["succeeded"] == 3, "status {}", job["status"]);
    let mut fails = pod("exit 42");
    fails["restartPolicy"] = json!("Never");
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    apply(
        setup,
        &json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fails"},
            "spec": {"podFailurePolicy": policy, "ttlSecondsAfterFinished": 0, "template": {"spec": fails}},
        }),
    )?;
    // It fails at its first pod, and then goes with all that it made.
    setup.kubectl.wait_for("both jobs' ends are carried out", &["jobs,pods", "-l", "batch.kubernetes.io/job-name=fails"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} are left", items(l).len())) }
    })?;
    setup.kubectl.run(&["delete", "job", "count", "--timeout=60s"])?;
    setup.kubectl.wait_for("its pods are gone", &["pods", "-l", "batch.kubernetes.io/job-name=count"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} are left", items(l).len())) }
    })?;
    Ok(())
}

fn cron_job(setup: &Setup) -> Outcome {
    let mut work = pod("true");
    work["restartPolicy"] = json!("OnFailure");
    apply(
        setup,
        &json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "yearly"},
            "spec": {
                "schedule": "0 0 1 1 *", "timeZone": "Europe/Berlin", "suspend": true,
                "jobTemplate": {"spec": {"template": {"spec": work}}},
            },
        }),
    )?;
    let last = r#"{"status":{"lastScheduleTime":"2020-06-01T00:00:00Z"}}"#;
    setup.kubectl.run(&["patch", "cronjob", "yearly", "--subresource=status", "--type=merge", "-p", last])?;
    setup.kubectl.run(&["patch", "cronjob", "yearly", "-p", r#"{"spec":{"suspend":false}}"#])?;
    setup.kubectl.wait_for("the last year's job has run", &["cronjob", "yearly"], MINUTE, |c| {
        let status = &c["status"];
        let done = status["lastSuccessfulTime"].is_string()
            && status["lastScheduleTime"].as_str().is_some_and(|t| t.ends_with("-12-31T23:00:00Z"));
        if done { Ok(()) } else { Err(status.to_string()) }
    })?;
    setup.kubectl.run(&["delete", "cronjob", "yearly", "--timeout=60s"])?;
    setup.kubectl.wait_for("its jobs are gone", &["jobs"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} are left", items(l).len())) }
    })?;
    Ok(())
}

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.2; done";

fn set(kind: &str, name: &str, spec: Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": pod(SLEEP)}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        set["spec"][key] = value.clone();
    }
    set
}

/// Changes the image, watches the rollout, looks at the history, and goes back.
fn update_and_undo(setup: &Setup, name: &str) -> Outcome {
    let (label, images) =
        (format!("app={}", name.rsplit('/').next().unwrap_or_default()), ["registry.pintle.test/web:2", "registry.pintle.test/web:1"]);
    for (image, undo) in images.into_iter().zip([false, true]) {
        if undo {
            setup.kubectl.run(&["rollout", "undo", name])?;
        } else {
            setup.kubectl.run(&["set", "image", name, &format!("main={image}")])?;
        }
        setup.kubectl.run(&["rollout", "status", name, "--timeout=60s"])?;
        setup.kubectl.wait_for("every pod has the image", &["pods", "-l", &label], MINUTE, |l| {
            let right = items(l).iter().filter(|p| is_ready(p) && p["spec"]["containers"][0]["image"] == image).count();
            if right == items(l).len() { Ok(()) } else { Err(format!("{right} of {} have {image}", items(l).len())) }
        })?;
    }
    let history = setup.kubectl.run(&["rollout", "history", name])?;
    ensure!(history.contains('3') && !history.lines().any(|l| l.starts_with("1 ")), "history after going back:\n{history}");
    Ok(())
}

fn daemon_set(setup: &Setup) -> Outcome {
    apply(setup, &set("DaemonSet", "agent", json!({})))?;
    setup.kubectl.run(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    let pods = setup.kubectl.get(&["pods", "-l", "app=agent"])?;
    let nodes: BTreeSet<&str> = items(&pods).iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    ensure!(nodes.len() == usize::from(NODES) && items(&pods).len() == nodes.len(), "daemons on {nodes:?}");
    update_and_undo(setup, "daemonset/agent")?;
    setup.kubectl.run(&["delete", "daemonset", "agent", "--timeout=60s"])?;
    gone(setup, "agent")
}

fn stateful_set(setup: &Setup) -> Outcome {
    apply(setup, &set("StatefulSet", "db", json!({"replicas": 2, "serviceName": "db"})))?;
    setup.kubectl.run(&["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    let hostname = setup.kubectl.run(&["exec", "db-1", "--", "hostname"])?;
    ensure!(hostname.trim() == "db-1", "hostname {hostname}");
    update_and_undo(setup, "statefulset/db")?;
    setup.kubectl.run(&["scale", "statefulset/db", "--replicas=1"])?;
    setup.kubectl.wait_for("the first pod is left", &["pods", "-l", "app=db"], MINUTE, |l| {
        let names: Vec<&Value> = items(l).iter().map(|p| &p["metadata"]["name"]).collect();
        if names == [&json!("db-0")] { Ok(()) } else { Err(format!("{names:?}")) }
    })?;
    setup.kubectl.run(&["delete", "statefulset", "db", "--timeout=60s"])?;
    gone(setup, "db")
}

fn gone(setup: &Setup, app: &str) -> Outcome {
    setup.kubectl.wait_for("its children are gone", &["pods,controllerrevisions", "-l", &format!("app={app}")], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} are left", items(l).len())) }
    })?;
    Ok(())
}

fn preemption(setup: &Setup) -> Outcome {
    const KEEP: &str = "pintle.test/keep";
    let node = setup.kubectl.get(&["nodes"])?["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let one_slot = r#"{"status":{"capacity":{"pintle.test/slot":"1"},"allocatable":{"pintle.test/slot":"1"}}}"#;
    setup.kubectl.run(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", one_slot])?;
    apply(setup, &json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000}))?;
    let with_slot = |name: &str, class: &str, finalizers: &[&str]| {
        let mut spec = pod("sleep 1000");
        spec["containers"][0]["resources"] = json!({"limits": {"pintle.test/slot": "1"}});
        spec["priorityClassName"] = json!(class);
        apply(setup, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "finalizers": finalizers}, "spec": spec}))
    };
    with_slot("patient", "", &[KEEP])?;
    setup.kubectl.run(&["wait", "--for=condition=Ready", "pod/patient", "--timeout=60s"])?;
    with_slot("pressing", "urgent", &[])?;
    // The finalizer keeps the victim, so that what it says of its end can be read.
    setup.kubectl.run(&["wait", "--for=condition=DisruptionTarget", "pod/patient", "--timeout=60s"])?;
    setup.kubectl.run(&["wait", "--for=condition=Ready", "pod/pressing", "--timeout=60s"])?;
    let victim = setup.kubectl.get(&["pod", "patient"])?;
    let conditions = victim["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let said = conditions.iter().find(|c| c["type"] == "DisruptionTarget").ok_or("the victim's condition is gone")?;
    ensure!(said["reason"] == "PreemptionByScheduler", "condition {said}");
    ensure!(victim["metadata"]["deletionTimestamp"].is_string(), "the victim is not ending");
    setup.kubectl.run(&["patch", "pod", "patient", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    setup.kubectl.run(&["delete", "pod/pressing", "priorityclass/urgent", "--timeout=60s"])?;
    let no_slot = r#"{"status":{"capacity":{"pintle.test/slot":null},"allocatable":{"pintle.test/slot":null}}}"#;
    setup.kubectl.run(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", no_slot])?;
    Ok(())
}
