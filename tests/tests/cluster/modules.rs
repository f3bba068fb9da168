//! Third-party modules: loaded, swapped and deleted while the cluster runs.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{kubectl::items, workspace};
use serde_json::Value;
use std::{collections::BTreeSet, time::{Duration, Instant}};

pub const TESTS: &[Test] = &[
    ("modules_the_built_in_ones_are_running_objects", built_in),
];

const MINUTE: Duration = Duration::from_secs(60);

fn built_in(setup: &Setup) -> Outcome {
    let modules = setup.kubectl.wait_for("every built-in module runs", &["modules"], MINUTE, |l| {
        match items(l).iter().find(|m| m["status"]["state"] != "Running") {
            Some(m) => Err(format!("{}: {}", m["metadata"]["name"], m["status"])),
            None => Ok(()),
        }
    })?;
    let names: BTreeSet<&str> = items(&modules).iter().filter_map(|m| m["metadata"]["name"].as_str()).collect();
    for expected in ["deployment", "replicaset", "scheduler", "serviceaccount", "root-ca-publisher", "namespace", "garbage-collector", "node-lifecycle"] {
        ensure!(names.contains(expected), "{expected} is not among {names:?}");
    }
    Ok(())
}
