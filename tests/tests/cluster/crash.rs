//! The kernel killed under load: what was acknowledged is there, nothing is half-written, watches and controllers carry on.

use crate::{Outcome, Test, ensure, setup::Setup};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pintle_tests::{
    https::Api,
    kubectl::{is_ready, items},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub const TESTS: &[Test] = &[("crash_a_kernel_killed_among_a_thousand_creates_loses_nothing_acknowledged", killed_among_creates)];

const OBJECTS: usize = 1_000;
const CLIENTS: usize = 16;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

/// Large enough that a torn write would show.
fn payload(name: &str) -> String {
    name.repeat(100)
}

fn killed_among_creates(setup: &Setup) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(scenario(setup))
}

async fn scenario(setup: &Setup) -> Outcome {
    let api = Api::new(&setup.cluster)?;
    let before =
        api.connect().await?.get(COLLECTION).await?.json()["metadata"]["resourceVersion"].as_str().ok_or("no revision")?.to_owned();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(create(api.clone(), next.clone(), acknowledged.clone()))).collect();
    while acknowledged.lock().map_err(|_| "poisoned")?.len() < OBJECTS / 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    setup.cluster.kill("kernel")?;
    for client in clients {
        client.await?;
    }
    let acknowledged = acknowledged.lock().map_err(|_| "poisoned")?.clone();
    ensure!(acknowledged.len() < OBJECTS, "the kernel was killed too late: all {OBJECTS} were acknowledged");
    setup.repair()?;

    let list = api.connect().await?.get(&format!("{COLLECTION}?labelSelector=test=crash")).await?.json();
    let mut present = BTreeSet::new();
    for item in items(&list) {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(item["data"]["payload"] == payload(name).as_str(), "{name} is half-written");
        ensure!(item["metadata"]["uid"].as_str().is_some_and(|u| !u.is_empty()), "{name} has no uid");
        present.insert(name.to_owned());
    }
    let lost: Vec<_> = acknowledged.difference(&present).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    println!("{} acknowledged, {} present", acknowledged.len(), present.len());

    let watch = api.connect().await?.stream(&format!("{COLLECTION}?watch=1&resourceVersion={before}&labelSelector=test=crash")).await?;
    let seen = added(watch, present.len()).await?;
    ensure!(seen == present, "the resumed watch saw {} of {}", seen.len(), present.len());

    let answer = api
        .connect()
        .await?
        .request(http::Method::DELETE, &format!("{COLLECTION}?labelSelector=test=crash"), "application/json", "".into())
        .await?;
    ensure!(answer.status == 200, "deletecollection answered {}", answer.status);
    controllers_carry_on(setup)
}

/// Creates objects until all are made or the connection breaks, noting each that was acknowledged.
async fn create(api: Api, next: Arc<AtomicUsize>, acknowledged: Arc<Mutex<BTreeSet<String>>>) {
    let Ok(mut connection) = api.connect().await else { return };
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= OBJECTS {
            return;
        }
        let name = format!("crash-{index}");
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"test": "crash"}}, "data": {"payload": payload(&name)},
        });
        match connection.post(COLLECTION, body.to_string()).await {
            Ok(answer) if answer.status == 201 => {
                if let Ok(mut all) = acknowledged.lock() {
                    all.insert(name);
                }
            }
            _ => return,
        }
    }
}

/// Names of the first `count` ADDED events, each of which may come only once.
async fn added(mut watch: Incoming, count: usize) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let (mut seen, mut buffer, mut revision) = (BTreeSet::new(), Vec::new(), 0);
    while seen.len() < count {
        let frame = tokio::time::timeout(Duration::from_secs(20), watch.frame()).await?.ok_or("the watch ended")??;
        buffer.extend_from_slice(frame.data_ref().ok_or("a frame without data")?);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let event: Value = serde_json::from_slice(&buffer[..end])?;
            buffer.drain(..=end);
            let at: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or_default().parse()?;
            ensure!(event["type"] == "ADDED", "event {}", event["type"]);
            ensure!(at > revision, "revision {at} came after {revision}");
            revision = at;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            ensure!(seen.insert(name.clone()), "{name} came twice");
        }
    }
    Ok(seen)
}

fn controllers_carry_on(setup: &Setup) -> Outcome {
    setup.kubectl.run(&["create", "deployment", "after-crash", "--image=registry.pintle.test/web:1", "--", "sleep", "1000"])?;
    setup.kubectl.wait_for("a deployment made after the crash runs", &["pods", "-l", "app=after-crash"], Duration::from_secs(60), |l| {
        if items(l).len() == 1 && is_ready(&items(l)[0]) { Ok(()) } else { Err(l["items"].to_string()) }
    })?;
    setup.kubectl.run(&["delete", "deployment", "after-crash"])?;
    Ok(())
}
