//! Pods: from created to bound, from created to running.

use crate::{Options, api, summary};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pintle_tests::{Error, https::Connection};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Reads watch events until `enough` says so; fails after a minute.
async fn until(mut watch: Incoming, mut enough: impl FnMut(&Value) -> bool) -> Result<(), Error> {
    let fail = |reason: String| Error::Http { what: "watching pods".into(), reason };
    let mut buffer = Vec::new();
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(60), watch.frame()).await.map_err(|e| fail(e.to_string()))?;
        let frame = frame.ok_or_else(|| fail("the watch ended".into()))?.map_err(|e| fail(e.to_string()))?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let event = serde_json::from_slice(&buffer[..end]).unwrap_or_default();
            buffer.drain(..=end);
            if enough(&event) {
                return Ok(());
            }
        }
    }
}

/// Registers three nodes that no machine stands behind, so that only the scheduling is measured, and binds `count` pods.
pub async fn bind(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let mut connection = api.connect().await?;
    for i in 0..3 {
        ready_node(&mut connection, &format!("bench-{i}")).await?;
    }
    let mut samples = Vec::new();
    for run in 0..5 {
        let watch = api.connect().await?.stream(&format!("{PODS}?watch=1&labelSelector=load=yes")).await?;
        let begin = Instant::now();
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (api, share) = (api.clone(), options.count.div_ceil(8));
                let count = options.count;
                tokio::spawn(async move {
                    let mut connection = api.connect().await?;
                    for i in (task * share..(task + 1) * share).filter(|i| *i < count) {
                        api::create(&mut connection, PODS, api::pod(&format!("bind-{run}-{i}"), "default-scheduler")).await?;
                    }
                    Ok::<(), Error>(())
                })
            })
            .collect();
        let mut bound = HashSet::new();
        until(watch, |event| {
            if event["object"]["spec"]["nodeName"].is_string() {
                bound.insert(event["object"]["metadata"]["name"].to_string());
            }
            bound.len() == options.count
        })
        .await?;
        samples.push(begin.elapsed().as_secs_f64());
        for task in tasks {
            task.await.map_err(|e| Error::Http { what: "creating".into(), reason: e.to_string() })??;
        }
        for name in bound {
            let path = format!("{PODS}/{}?gracePeriodSeconds=0", name.trim_matches('"'));
            connection.request(http::Method::DELETE, &path, "application/json", "".into()).await?;
        }
    }
    for i in 0..3 {
        connection.request(http::Method::DELETE, &format!("/api/v1/nodes/bench-{i}"), "application/json", "".into()).await?;
    }
    Ok(json!({"s": summary(samples)}))
}

async fn ready_node(connection: &mut Connection, name: &str) -> Result<(), Error> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    api::create(connection, "/api/v1/nodes", node.to_string()).await?;
    let amount = json!({"cpu": "64", "memory": "64Gi", "pods": "1000"});
    let status = json!({"status": {"capacity": amount, "allocatable": amount, "conditions": [{"type": "Ready", "status": "True", "reason": "Bench",
        "message": "registered by the load generator", "lastHeartbeatTime": "2030-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}});
    let path = format!("/api/v1/nodes/{name}/status");
    let answer = connection.request(http::Method::PATCH, &path, "application/merge-patch+json", status.to_string().into()).await?;
    if answer.status != 200 {
        return Err(Error::Http { what: path, reason: answer.status.to_string() });
    }
    // The Lease says that it is alive, and the taint that admission put on a new node goes.
    let untaint = json!({"spec": {"taints": null}});
    connection
        .request(http::Method::PATCH, &format!("/api/v1/nodes/{name}"), "application/merge-patch+json", untaint.to_string().into())
        .await?;
    Ok(())
}

/// Creates `count` pods at once on real nodes: from the first create until all run. They stay.
pub async fn burst(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let watch = api.connect().await?.stream(&format!("{PODS}?watch=1&labelSelector=load=yes")).await?;
    let begin = Instant::now();
    let clients = options.clients.max(1);
    let share = options.count.div_ceil(clients);
    let creating: Vec<_> = (0..clients)
        .map(|client| {
            let (api, count) = (api.clone(), options.count);
            tokio::spawn(async move {
                let mut connection = api.connect().await?;
                for number in (client * share..(client + 1) * share).filter(|number| *number < count) {
                    api::create(&mut connection, PODS, api::pod(&format!("burst-{number}"), "default-scheduler")).await?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    let mut running = HashSet::new();
    until(watch, |event| {
        if event["object"]["status"]["phase"] == "Running" {
            running.insert(event["object"]["metadata"]["name"].to_string());
        }
        running.len() == options.count
    })
    .await?;
    let seconds = begin.elapsed().as_secs_f64();
    for task in creating {
        task.await.map_err(|e| Error::Http { what: "creating".into(), reason: e.to_string() })??;
    }
    Ok(json!({"s": seconds}))
}

/// Starts pods one after the other on real nodes: from the create to the event that says Running.
pub async fn start(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let mut connection = api.connect().await?;
    let mut samples = Vec::new();
    // The first one pulls the image and is not counted.
    for run in 0..=options.count {
        let name = format!("start-{run}");
        let selector = format!("{PODS}?watch=1&fieldSelector=metadata.name={name}");
        let watch = api.connect().await?.stream(&selector).await?;
        let begin = Instant::now();
        api::create(&mut connection, PODS, api::pod(&name, "default-scheduler")).await?;
        until(watch, |event| event["object"]["status"]["phase"] == "Running").await?;
        if run > 0 {
            samples.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let watch = api.connect().await?.stream(&selector).await?;
        connection.request(http::Method::DELETE, &format!("{PODS}/{name}?gracePeriodSeconds=1"), "application/json", "".into()).await?;
        until(watch, |event| event["type"] == "DELETED").await?;
    }
    Ok(json!({"ms": summary(samples)}))
}
