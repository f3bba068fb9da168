//! Reads, writes and watches of stored objects.

use crate::{Options, summary};
use http_body_util::BodyExt;
use pintle_tests::{
    Error,
    https::{Api, Connection},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Pods of the default namespace.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A pod of about 2 KB that no scheduler takes.
pub fn pod(name: &str, scheduler: &str) -> String {
    let env: Vec<Value> = (0..24).map(|i| json!({"name": format!("SETTING_{i}"), "value": "x".repeat(24)})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"load": "yes"}},
        "spec": {"schedulerName": scheduler, "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "registry.pintle.test/web:1", "command": ["sleep", "1000"], "env": env,
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}]},
    })
    .to_string()
}

/// Fails unless the status is the wanted one.
pub fn expect(what: &str, status: u16, wanted: u16, body: &[u8]) -> Result<(), Error> {
    if status == wanted {
        return Ok(());
    }
    Err(Error::Http { what: what.into(), reason: format!("{status}: {}", String::from_utf8_lossy(body)) })
}

/// POSTs and checks for 201.
pub async fn create(connection: &mut Connection, path: &str, body: String) -> Result<Value, Error> {
    let answer = connection.post(path, body).await?;
    expect(path, answer.status, 201, &answer.body)?;
    Ok(answer.json())
}

/// How long until `/readyz` says 200, from the start of this program: start it together with the kernel.
pub async fn ready(options: &Options) -> Result<Value, Error> {
    let begin = Instant::now();
    loop {
        if let Ok(api) = options.api()
            && let Ok(mut connection) = api.connect().await
            && connection.get("/readyz").await.is_ok_and(|a| a.status == 200)
        {
            return Ok(json!({"ms": begin.elapsed().as_secs_f64() * 1e3}));
        }
        if begin.elapsed() > Duration::from_secs(30) {
            return Err(Error::Http { what: "/readyz".into(), reason: "not ready in 30 s".into() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs one closed loop per client until the time is up; `work` is called with the connection and a number that never repeats.
pub async fn closed_loop<F>(options: &Options, work: F) -> Result<Value, Error>
where
    F: AsyncFn(&mut Connection, u64) -> Result<(), Error> + Copy + Send + Sync + 'static,
{
    let api = options.api()?;
    let deadline = Instant::now() + options.duration();
    let begin = Instant::now();
    let clients: Vec<_> = (0..options.clients)
        .map(|client| {
            let api = api.clone();
            std::thread::spawn(move || loop_one(&api, client as u64, deadline, work))
        })
        .collect();
    let mut latencies = Vec::new();
    for client in clients {
        let joined = tokio::task::spawn_blocking(move || client.join()).await;
        let sample = joined.ok().and_then(Result::ok).ok_or_else(|| Error::Http { what: "a client".into(), reason: "panicked".into() })?;
        latencies.extend(sample?);
    }
    let per_second = latencies.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(json!({"per_s": per_second.round(), "ms": summary(latencies)}))
}

fn loop_one<F>(api: &Api, client: u64, deadline: Instant, work: F) -> Result<Vec<f64>, Error>
where
    F: AsyncFn(&mut Connection, u64) -> Result<(), Error>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("starting a runtime"))?;
    runtime.block_on(async {
        let mut connection = api.connect().await?;
        let (mut latencies, mut number) = (Vec::new(), client << 40);
        while Instant::now() < deadline {
            let begin = Instant::now();
            work(&mut connection, number).await?;
            latencies.push(begin.elapsed().as_secs_f64() * 1e3);
            number += 1;
        }
        Ok(latencies)
    })
}

/// Durable creates of 2 KB pods.
pub async fn creates(options: &Options) -> Result<Value, Error> {
    let numbers = closed_loop(options, async |connection, number| {
        let name = format!("load-{}-{number}", std::process::id());
        create(connection, PODS, pod(&name, "nobody")).await.map(drop)
    })
    .await?;
    clear(options, PODS).await?;
    Ok(numbers)
}

/// GETs of one pod.
pub async fn gets(options: &Options) -> Result<Value, Error> {
    let mut connection = options.api()?.connect().await?;
    create(&mut connection, PODS, pod("load-get", "nobody")).await?;
    let numbers = closed_loop(options, async |connection, _| {
        let answer = connection.get("/api/v1/namespaces/default/pods/load-get").await?;
        expect("get", answer.status, 200, &answer.body)
    })
    .await?;
    clear(options, PODS).await?;
    Ok(numbers)
}

/// `count` requests a second over `clients` connections, creates of small objects and gets in turn; the time from when each was due.
pub async fn steady(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let period = Duration::from_secs_f64(options.clients as f64 / options.count as f64);
    let (deadline, clients) = (tokio::time::Instant::now() + options.duration(), options.clients);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut connection = api.connect().await?;
                let first = tokio::time::Instant::now() + period.mul_f64(client as f64 / clients as f64);
                let mut tick = tokio::time::interval_at(first, period);
                let (mut latencies, mut number) = (Vec::new(), 0u32);
                while tokio::time::Instant::now() < deadline {
                    let due = tick.tick().await;
                    let name = format!("steady-{}-{client}-{}", std::process::id(), number / 2);
                    if number.is_multiple_of(2) {
                        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"load": "yes"}}, "data": {"k": "v"}});
                        create(&mut connection, CONFIG_MAPS, body.to_string()).await?;
                    } else {
                        let answer = connection.get(&format!("{CONFIG_MAPS}/{name}")).await?;
                        expect("get", answer.status, 200, &answer.body)?;
                    }
                    latencies.push(due.elapsed().as_secs_f64() * 1e3);
                    number += 1;
                }
                Ok::<Vec<f64>, Error>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.map_err(|e| Error::Http { what: "a client".into(), reason: e.to_string() })??);
    }
    clear(options, CONFIG_MAPS).await?;
    Ok(json!({"per_s": latencies.len() as f64 / options.seconds as f64, "ms": summary(latencies)}))
}

/// Fills the kernel with `count` objects of 20 KB.
pub async fn fill(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let share = options.count.div_ceil(8);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut connection = api.connect().await?;
                for i in 0..share {
                    let name = format!("fill-{task}-{i}");
                    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"load": "yes"}},
                        "data": {"payload": name.repeat(20_000 / name.len())}});
                    create(&mut connection, CONFIG_MAPS, body.to_string()).await?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| Error::Http { what: "fill".into(), reason: e.to_string() })??;
    }
    Ok(json!({"objects": share * 8}))
}

/// Deletes what the load made.
pub async fn clear(options: &Options, path: &str) -> Result<(), Error> {
    let mut connection = options.api()?.connect().await?;
    let answer = connection.request(http::Method::DELETE, &format!("{path}?labelSelector=load=yes"), "application/json", "".into()).await?;
    expect("deletecollection", answer.status, 200, &answer.body)
}

/// Writes at `count` a second for the duration; the time from before each write to its event's arrival at a watcher.
pub async fn watch(options: &Options) -> Result<Value, Error> {
    let api = options.api()?;
    let sent: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let latencies: Arc<Mutex<Vec<f64>>> = Arc::default();
    let watcher = tokio::spawn(receive(api.connect().await?, sent.clone(), latencies.clone()));
    let period = Duration::from_secs_f64(8.0 / options.count as f64);
    let deadline = Instant::now() + options.duration();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (api, sent) = (api.clone(), sent.clone());
            tokio::spawn(async move {
                let mut connection = api.connect().await?;
                let mut tick = tokio::time::interval(period);
                let mut number = 0;
                while Instant::now() < deadline {
                    tick.tick().await;
                    let name = format!("watch-{writer}-{number}");
                    number += 1;
                    if let Ok(mut sent) = sent.lock() {
                        sent.insert(name.clone(), Instant::now());
                    }
                    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"load": "yes"}}, "data": {"k": "v"}});
                    create(&mut connection, CONFIG_MAPS, body.to_string()).await?;
                }
                Ok::<u64, Error>(number)
            })
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await.map_err(|e| Error::Http { what: "a writer".into(), reason: e.to_string() })??;
    }
    let taken = |sample: &Mutex<Vec<f64>>| sample.lock().map(|l| l.clone()).unwrap_or_default();
    let drained = Instant::now() + Duration::from_secs(5);
    while (taken(&latencies).len() as u64) < written && Instant::now() < drained {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watcher.abort();
    let latencies = taken(&latencies);
    clear(options, CONFIG_MAPS).await?;
    let delivered = latencies.len();
    Ok(json!({"ms": summary(latencies), "written": written, "delivered": delivered, "per_s": written as f64 / options.seconds as f64}))
}

/// Notes when each object's event arrives, until the stream ends or the task is aborted.
async fn receive(
    mut connection: Connection,
    sent: Arc<Mutex<HashMap<String, Instant>>>,
    latencies: Arc<Mutex<Vec<f64>>>,
) -> Result<(), Error> {
    let mut stream = connection.stream(&format!("{CONFIG_MAPS}?watch=1&labelSelector=load=yes")).await?;
    let mut buffer = Vec::new();
    while let Some(Ok(frame)) = stream.frame().await {
        let now = Instant::now();
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let event: Value = serde_json::from_slice(&buffer[..end]).unwrap_or_default();
            buffer.drain(..=end);
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            let begin = sent.lock().ok().and_then(|mut s| s.remove(name));
            if let (Some(begin), Ok(mut all)) = (begin, latencies.lock()) {
                all.push((now - begin).as_secs_f64() * 1e3);
            }
        }
    }
    Ok(())
}
