//! The machinery of the API under many objects, many watchers and large objects: lists, fan-out, patches, memory.

use crate::{
    Options,
    api::{self, PODS, closed_loop, expect},
    summary,
};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pintle_tests::{
    Error,
    https::{Api, Connection},
};
use serde_json::{Value, json};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const WATCHED: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Connections that share the watchers, as some processes with many informers each do.
const WATCHER_CONNECTIONS: usize = 10;
/// Containers of the patched Deployment.
const CONTAINERS: usize = 20;

/// Bytes of a line of `/proc/PID/status`.
fn memory(kernel: u32, line: &str) -> Result<f64, Error> {
    let status = fs::read_to_string(format!("/proc/{kernel}/status")).map_err(Error::io("reading the kernel's status"))?;
    let kb = status.lines().find_map(|l| l.strip_prefix(line)).and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kb.map(|kb| kb * 1024.0).ok_or_else(|| Error::Http { what: "the kernel's status".into(), reason: format!("no {line}") })
}

/// Seconds of processor time that the kernel has used.
fn processor(kernel: u32) -> Result<f64, Error> {
    let stat = fs::read_to_string(format!("/proc/{kernel}/stat")).map_err(Error::io("reading the kernel's times"))?;
    // After the name in parentheses: state is the first field, user and system time the 12th and 13th, in hundredths of a second.
    let fields: Vec<f64> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    Ok((fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0)
}

/// Waits until the kernel's memory no longer falls: what writing took goes back to the system within a second or so.
async fn settled(kernel: u32) -> Result<f64, Error> {
    let mut last = memory(kernel, "VmRSS:")?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = memory(kernel, "VmRSS:")?;
        if now > last - 1e6 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Fills the kernel with `count` pods of 2 KB: what each takes of its memory.
pub async fn pods(options: &Options) -> Result<Value, Error> {
    let (api, kernel) = (options.api()?, options.kernel()?);
    let (share, before) = (options.count.div_ceil(options.clients), settled(kernel).await?);
    let tasks: Vec<_> = (0..options.clients)
        .map(|task| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut connection = api.connect().await?;
                for i in 0..share {
                    api::create(&mut connection, PODS, api::pod(&format!("fill-{task}-{i}"), "nobody")).await?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| Error::Http { what: "pods".into(), reason: e.to_string() })??;
    }
    let pods = (share * options.clients) as f64;
    let after = settled(kernel).await?;
    let one = api.connect().await?.get(&format!("{PODS}/fill-0-0")).await?;
    Ok(json!({"pods": pods, "bytes_each": (after - before) / pods, "json_bytes": one.body.len(), "rss_mb": after / 1e6}))
}

/// Lists all pods some times in one form: latency, and how far the kernel's memory rose above what it was.
pub async fn list(options: &Options) -> Result<Value, Error> {
    let kernel = options.kernel()?;
    let accept = match options.form.as_str() {
        "json" => "application/json",
        "protobuf" => "application/vnd.kubernetes.protobuf",
        "table" => "application/json;as=Table;g=meta.k8s.io;v=v1",
        other => return Err(Error::Http { what: "--form".into(), reason: other.into() }),
    };
    let mut connection = options.api()?.connect().await?;
    let (mut latencies, mut bytes) = (Vec::new(), 0);
    let (before, used) = (settled(kernel).await?, processor(kernel)?);
    // The peak counts from here.
    fs::write(format!("/proc/{kernel}/clear_refs"), "5").map_err(Error::io("resetting the kernel's peak"))?;
    for _ in 0..options.count {
        let begin = Instant::now();
        let answer = connection.exchange(Method::GET, PODS, [accept; 2], Default::default()).await?;
        latencies.push(begin.elapsed().as_secs_f64() * 1e3);
        expect("list", answer.status, 200, &answer.body[..answer.body.len().min(300)])?;
        bytes = answer.body.len();
    }
    let cpu = (processor(kernel)? - used) * 1e3 / latencies.len() as f64;
    let first = latencies[0];
    let peak = memory(kernel, "VmHWM:")? - before;
    Ok(json!({"ms": summary(latencies), "first_ms": first, "bytes": bytes, "peak_mb": peak / 1e6, "kernel_cpu_ms": cpu}))
}

/// `clients` watchers of one kind, and writes at `count` a second for the duration: the time from before each write to its event's
/// arrival at each of some watchers, events delivered to all, the kernel's processor time.
pub async fn watchers(options: &Options) -> Result<Value, Error> {
    let (api, kernel) = (options.api()?, options.kernel()?);
    let delivered = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let (mut counting, mut timing) = (Vec::new(), Vec::new());
    for connection in 0..WATCHER_CONNECTIONS {
        let mut streams = api.multiplexed().await?;
        for watcher in 0..options.clients / WATCHER_CONNECTIONS {
            let body = streams.stream(&format!("{WATCHED}?watch=1&labelSelector=load=yes")).await?;
            if watcher == connection {
                timing.push(tokio::spawn(time(body, began, delivered.clone())));
            } else {
                counting.push(tokio::spawn(count(body, delivered.clone())));
            }
        }
    }
    let (used, start) = (processor(kernel)?, Instant::now());
    let writers: Vec<_> = (0..8).map(|writer| tokio::spawn(write(api.clone(), writer, options.count, options.duration(), began))).collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await.map_err(|e| Error::Http { what: "a writer".into(), reason: e.to_string() })??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let wanted = written * (counting.len() + timing.len()) as u64;
    let given_up = Instant::now() + Duration::from_secs(60);
    while delivered.load(Ordering::Relaxed) < wanted && Instant::now() < given_up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let all_seconds = start.elapsed().as_secs_f64();
    let cpu = processor(kernel)? - used;
    let arrived = delivered.load(Ordering::Relaxed);
    // The watches end when their tasks do; what they timed is theirs to give.
    api::clear(options, WATCHED).await?;
    counting.iter().for_each(tokio::task::JoinHandle::abort);
    let mut latencies = Vec::new();
    for task in timing {
        latencies.extend(task.await.map_err(|e| Error::Http { what: "a watcher".into(), reason: e.to_string() })?);
    }
    Ok(json!({"ms": summary(latencies), "writes_per_s": written as f64 / seconds, "delivered": arrived, "wanted": wanted,
        "deliveries_per_s": arrived as f64 / all_seconds, "kernel_cores": cpu / all_seconds, "kernel_us_per_delivery": cpu * 1e6 / arrived as f64}))
}

/// One writer's share of `per_second` creates; each object says in its data when its write began.
async fn write(api: Api, writer: usize, per_second: usize, duration: Duration, began: Instant) -> Result<u64, Error> {
    let mut connection = api.connect().await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(8.0 / per_second as f64));
    let (deadline, mut number) = (Instant::now() + duration, 0);
    while Instant::now() < deadline {
        tick.tick().await;
        let at = began.elapsed().as_micros().to_string();
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("fan-{writer}-{number}"), "labels": {"load": "yes"}}, "data": {"at": at}});
        api::create(&mut connection, WATCHED, body.to_string()).await?;
        number += 1;
    }
    Ok(number)
}

/// Counts a watcher's events until it is aborted.
async fn count(mut body: Incoming, delivered: Arc<AtomicU64>) {
    while let Some(Ok(frame)) = body.frame().await {
        let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|b| **b == b'\n').count());
        delivered.fetch_add(lines as u64, Ordering::Relaxed);
    }
}

/// Counts a watcher's events, and notes how long each of an addition took; ends with the first deletion.
async fn time(mut body: Incoming, began: Instant, delivered: Arc<AtomicU64>) -> Vec<f64> {
    let (mut buffer, mut latencies) = (Vec::new(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        let now = began.elapsed();
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let event: Value = serde_json::from_slice(&buffer[..end]).unwrap_or_default();
            buffer.drain(..=end);
            if event["type"] == "DELETED" {
                return latencies;
            }
            delivered.fetch_add(1, Ordering::Relaxed);
            let at = event["object"]["data"]["at"].as_str().and_then(|at| at.parse::<f64>().ok());
            latencies.extend(at.map(|at| now.as_secs_f64() * 1e3 - at / 1e3));
        }
    }
    latencies
}

/// What is sent again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The whole configuration, by server-side apply.
    Apply,
    /// One container's image, by strategic merge patch.
    Strategic,
}

/// A Deployment of many containers that no controller rolls out.
fn deployment(name: &str, image: u64) -> Value {
    let containers: Vec<Value> = (0..CONTAINERS)
        .map(|i| {
            json!({"name": format!("c{i}"), "image": format!("registry.example.com/app:{}", if i == 7 { image } else { 0 }),
                "env": [{"name": "A", "value": "x"}, {"name": "B", "value": "y"}], "ports": [{"name": format!("p{i}"), "containerPort": 8000 + i}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}})
        })
        .collect();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"load": "yes"}}, "spec": {
        "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}})
}

/// Changes one container of a Deployment, each client its own, until the time is up.
pub async fn patches(options: &Options, kind: Patch) -> Result<Value, Error> {
    let (kernel, mut connection) = (options.kernel()?, options.api()?.connect().await?);
    for client in 0..options.clients {
        patch(&mut connection, &format!("patched-{client}"), Patch::Apply, 0).await?;
    }
    let used = processor(kernel)?;
    let loops = match kind {
        // The number begins with the client's own.
        Patch::Apply => {
            closed_loop(options, async |c, number| patch(c, &format!("patched-{}", number >> 40), Patch::Apply, number + 1).await).await
        }
        Patch::Strategic => {
            closed_loop(options, async |c, number| patch(c, &format!("patched-{}", number >> 40), Patch::Strategic, number + 1).await).await
        }
    };
    let mut numbers = loops?;
    numbers["kernel_cores"] = json!((processor(kernel)? - used) / options.seconds as f64);
    api::clear(options, DEPLOYMENTS).await?;
    Ok(numbers)
}

async fn patch(connection: &mut Connection, name: &str, kind: Patch, image: u64) -> Result<(), Error> {
    let whole = deployment(name, image);
    let (query, content_type, body) = match kind {
        Patch::Apply => ("?fieldManager=load&force=true", "application/apply-patch+yaml", whole),
        Patch::Strategic => {
            let container = whole["spec"]["template"]["spec"]["containers"][7].clone();
            let only = json!({"name": container["name"], "image": container["image"]});
            ("", "application/strategic-merge-patch+json", json!({"spec": {"template": {"spec": {"containers": [only]}}}}))
        }
    };
    let answer = connection.request(Method::PATCH, &format!("{DEPLOYMENTS}/{name}{query}"), content_type, body.to_string().into()).await?;
    let created = answer.status == 201 && kind == Patch::Apply;
    if created { Ok(()) } else { expect("patch", answer.status, 200, &answer.body) }
}
