//! A pod's one-word status, as users know it, out of its phase and its containers' states.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::duration;
use crate::resource::Resource;

/// What `kubectl get pods` shows of a pod.
#[derive(Debug, PartialEq)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub(crate) fn ready(pod: &Value) -> Value {
    let summary = summary(pod);
    json!(format!("{}/{}", summary.ready, summary.total))
}

pub(crate) fn status(pod: &Value) -> Value {
    json!(summary(pod).reason)
}

pub(crate) fn restarts(pod: &Value, now: Timestamp) -> Value {
    let Summary { restarts, last_restart, .. } = summary(pod);
    match last_restart.filter(|_| restarts != 0) {
        Some(time) => json!(format!("{restarts} ({} ago)", duration::human_duration(now.as_second() - time.as_second()))),
        None => json!(restarts.to_string()),
    }
}

pub(crate) fn address(pod: &Value) -> Value {
    let first = pod["status"]["podIPs"][0]["ip"].as_str().or_else(|| pod["status"]["podIP"].as_str());
    json!(first.filter(|ip| !ip.is_empty()).unwrap_or("<none>"))
}

pub(crate) fn readiness_gates(pod: &Value) -> Value {
    let Some(gates) = pod["spec"]["readinessGates"].as_array().filter(|gates| !gates.is_empty()) else { return json!("<none>") };
    let open = gates.iter().filter(|gate| condition(pod, gate["conditionType"].as_str().unwrap_or_default())).count();
    json!(format!("{open}/{}", gates.len()))
}

/// Finished pods say so in their row, so that clients can leave them out.
pub(crate) fn row_conditions(resource: &Resource, pod: &Value) -> Option<Value> {
    if resource.plural != "pods" || !resource.group.is_empty() {
        return None;
    }
    let phase = pod["status"]["phase"].as_str().filter(|phase| matches!(*phase, "Succeeded" | "Failed"))?;
    let message = if phase == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

fn list<'a>(pod: &'a Value, part: &str, key: &str) -> &'a [Value] {
    pod[part][key].as_array().map_or(&[], Vec::as_slice)
}

fn condition(pod: &Value, kind: &str) -> bool {
    list(pod, "status", "conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn summary(pod: &Value) -> Summary {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let own_reason = pod["status"]["reason"].as_str().filter(|r| !r.is_empty());
    let mut found = Summary {
        reason: own_reason.unwrap_or(phase).to_owned(),
        ready: 0,
        total: list(pod, "spec", "containers").len(),
        restarts: 0,
        last_restart: None,
    };
    if list(pod, "status", "conditions").iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        found.reason = "SchedulingGated".to_owned();
    }
    let sidecars: Vec<&str> =
        list(pod, "spec", "initContainers").iter().filter(|c| c["restartPolicy"] == "Always").filter_map(|c| c["name"].as_str()).collect();
    found.total += sidecars.len();
    let initializing = init_containers(pod, &sidecars, &mut found);
    if !initializing || condition(pod, "Initialized") {
        main_containers(pod, &sidecars, &mut found);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if own_reason == Some("NodeLost") {
            found.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            found.reason = "Terminating".to_owned();
        }
    }
    found
}

/// Looks at init containers in order up to the first that is under way; answers whether there is one.
fn init_containers(pod: &Value, sidecars: &[&str], found: &mut Summary) -> bool {
    let total = list(pod, "spec", "initContainers").len();
    for (index, status) in list(pod, "status", "initContainerStatuses").iter().enumerate() {
        count_restarts(status, found);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated["exitCode"].as_i64() == Some(0) {
            continue;
        }
        if sidecars.contains(&status["name"].as_str().unwrap_or_default()) && status["started"] == true {
            found.ready += usize::from(status["ready"] == true);
            continue;
        }
        found.reason = if terminated.is_object() {
            format!("Init:{}", end_of(terminated))
        } else {
            match waiting["reason"].as_str().filter(|reason| !reason.is_empty() && *reason != "PodInitializing") {
                Some(reason) => format!("Init:{reason}"),
                None => format!("Init:{index}/{total}"),
            }
        };
        return true;
    }
    false
}

fn main_containers(pod: &Value, sidecars: &[&str], found: &mut Summary) {
    (found.restarts, found.last_restart) = (0, None);
    let sidecar = |status: &&Value| sidecars.contains(&status["name"].as_str().unwrap_or_default());
    list(pod, "status", "initContainerStatuses").iter().filter(sidecar).for_each(|status| count_restarts(status, found));
    let mut running = false;
    for status in list(pod, "status", "containerStatuses").iter().rev() {
        count_restarts(status, found);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if let Some(reason) = waiting["reason"].as_str().filter(|reason| !reason.is_empty()) {
            found.reason = reason.to_owned();
        } else if terminated.is_object() {
            found.reason = end_of(terminated);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            found.ready += 1;
        }
    }
    // One container ended well and another still runs: the pod as a whole does.
    if found.reason == "Completed" && running {
        found.reason = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

fn end_of(terminated: &Value) -> String {
    let number = |key: &str| terminated[key].as_i64().unwrap_or(0);
    match terminated["reason"].as_str().filter(|reason| !reason.is_empty()) {
        Some(reason) => reason.to_owned(),
        None if number("signal") != 0 => format!("Signal:{}", number("signal")),
        None => format!("ExitCode:{}", number("exitCode")),
    }
}

fn count_restarts(status: &Value, found: &mut Summary) {
    found.restarts += status["restartCount"].as_i64().unwrap_or(0);
    found.last_restart = found.last_restart.max(duration::parse(&status["lastState"]["terminated"]["finishedAt"]));
}
