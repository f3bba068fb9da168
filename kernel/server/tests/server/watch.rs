//! Watches.

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The lines of a watch.
struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    async fn open(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Lines {
        let mut client = cluster.admin().await;
        let response = client.open("GET", path, headers, Bytes::new()).await;
        assert_eq!(response.status(), 200);
        let body = response.into_body();
        // The connection is driven by its own task for as long as the body is read.
        std::mem::forget(client);
        Lines { body, pending: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame()).await.expect("an event in time")?;
            self.pending.extend_from_slice(&frame.ok()?.into_data().unwrap());
        }
    }

    async fn kind_and_name(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

const PATH: &str = "/api/v1/namespaces/default/configmaps";

async fn put(cluster: &Cluster, name: &str, labels: Value) {
    let answer = cluster.admin().await.post(PATH, json!({ "metadata": { "name": name, "labels": labels } })).await;
    assert_eq!(answer.status, 201);
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_what_is_there_and_what_changes_after() {
    let cluster = Cluster::start().await;
    put(&cluster, "a", json!({ "l": "1" })).await;
    let mut all = Lines::open(&cluster, &format!("{PATH}?watch=1"), &[]).await;
    let mut some = Lines::open(&cluster, "/api/v1/watch/namespaces/default/configmaps?labelSelector=l%3D1", &[]).await;
    assert_eq!(all.kind_and_name().await, event("ADDED", "a"));
    assert_eq!(some.kind_and_name().await, event("ADDED", "a"));
    put(&cluster, "b", json!({})).await;
    assert_eq!(all.kind_and_name().await, event("ADDED", "b"));
    let mut admin = cluster.admin().await;
    let patch = [("content-type", "application/merge-patch+json")];
    admin.send("PATCH", &format!("{PATH}/a"), &patch, r#"{"metadata":{"labels":{"l":"2"}}}"#).await;
    assert_eq!(all.kind_and_name().await, event("MODIFIED", "a"));
    assert_eq!(some.kind_and_name().await, event("DELETED", "a"), "it left the selector");
    admin.send("DELETE", &format!("{PATH}/b"), &[], "").await;
    assert_eq!(all.kind_and_name().await, event("DELETED", "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_ends_its_beginning_with_an_annotated_bookmark() {
    let cluster = Cluster::start().await;
    put(&cluster, "a", json!({})).await;
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let mut lines = Lines::open(&cluster, &format!("{PATH}?{query}"), &[]).await;
    assert_eq!(lines.kind_and_name().await, event("ADDED", "a"));
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    // The timeout ends it, after a last bookmark.
    let last = lines.next().await;
    assert!(last.is_none_or(|last| last["type"] == "BOOKMARK"));
    assert_eq!(lines.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_version_is_an_error_event_and_a_future_one_a_timeout() {
    let cluster = Cluster::start().await;
    put(&cluster, "a", json!({})).await;
    let answer = cluster.admin().await.get(&format!("{PATH}?watch=1&resourceVersion=abc")).await;
    assert_eq!(answer.status, 400);
    let answer = cluster.admin().await.get(&format!("{PATH}?resourceVersion=999999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (504, Some("Timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_watched_with_columns_in_the_first_event_only() {
    let cluster = Cluster::start().await;
    put(&cluster, "a", json!({})).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let mut lines = Lines::open(&cluster, &format!("{PATH}?watch=1"), &accept).await;
    let first = lines.next().await.unwrap();
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["object"]["columnDefinitions"].is_array());
    put(&cluster, "b", json!({})).await;
    let second = lines.next().await.unwrap();
    assert_eq!((&second["object"]["rows"][0]["cells"][0], &second["object"]["columnDefinitions"]), (&json!("b"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_server_ends_watches_and_returns() {
    let cluster = Cluster::start().await;
    let mut lines = Lines::open(&cluster, &format!("{PATH}?watch=1"), &[]).await;
    put(&cluster, "a", json!({})).await;
    assert_eq!(lines.kind_and_name().await, event("ADDED", "a"));
    let ended = tokio::spawn(async move { lines.next().await });
    let registry = cluster.registry.clone();
    let begun = std::time::Instant::now();
    crate::cluster::stop(cluster).await;
    assert_eq!(ended.await.unwrap(), None);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(registry);
}

/// Make `count` config maps by many hands at once, or label each of them anew.
async fn write_many(cluster: &Cluster, count: usize, round: usize) {
    let target = cluster.registry.resolve("", "v1", "configmaps", "", "default", "").unwrap();
    let writes = (0..count).map(|index| {
        let (registry, name) = (cluster.registry.clone(), format!("c{index:05}"));
        let one = if round == 0 { target.clone() } else { target.named("default", &name) };
        async move {
            let (caller, options) = (pintle_registry::Caller::kernel(), pintle_registry::WriteOptions::default());
            if round == 0 {
                let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
                registry.create(&caller, &one, pintle_registry::Body::Value(object), &options).await.unwrap();
            } else {
                let patch = json!({ "metadata": { "labels": { "round": round.to_string() } } }).to_string();
                registry.patch(&caller, &one, pintle_registry::Patch::Merge(patch.into()), &options).await.unwrap();
            }
        }
    });
    futures::stream::iter(writes.collect::<Vec<_>>()).for_each_concurrent(64, |write| write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_over_5000_objects_delivers_every_one_and_then_the_bookmark() {
    let cluster = Cluster::start().await;
    write_many(&cluster, 5000, 0).await;
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::open(&cluster, &format!("{PATH}?{query}"), &[]).await;
    for index in 0..5000 {
        assert_eq!(lines.kind_and_name().await, event("ADDED", &format!("c{index:05}")));
    }
    assert_eq!(lines.next().await.unwrap()["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_reads_late_gets_10000_events_in_order_or_is_told() {
    let cluster = Cluster::start().await;
    write_many(&cluster, 2500, 0).await;
    let start = cluster.registry.revision().0;
    let mut lines = Lines::open(&cluster, &format!("{PATH}?watch=1&resourceVersion={start}"), &[]).await;
    for round in 1..=4 {
        write_many(&cluster, 2500, round).await;
    }
    // Nothing else writes here: each event stands at the revision after the one before.
    let mut seen = start;
    while seen < start + 10_000 {
        let Some(next) = lines.next().await else { return };
        if next["type"] == "ERROR" {
            assert_eq!((&next["object"]["code"], &next["object"]["reason"]), (&json!(410), &json!("Expired")));
            assert_eq!(lines.next().await, None, "nothing follows an error");
            return;
        }
        seen += 1;
        assert_eq!(
            (next["type"].as_str(), next["object"]["metadata"]["resourceVersion"].as_str()),
            (Some("MODIFIED"), Some(seen.to_string().as_str()))
        );
    }
}
