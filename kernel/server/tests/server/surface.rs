//! The surface that clients rely on, item by item: the files of `tests/transcripts`, one a section of the list of items, each on its own
//! server and each readable by itself. A case names its item's number.

use crate::cluster::Cluster;
use crate::transcript;

async fn section(name: &str) {
    let path = format!("{}/tests/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let cluster = Cluster::start().await;
    let failures = transcript::failures(&cluster, &text).await;
    assert!(failures.is_empty(), "{name}: {} cases fail\n\n{}", failures.len(), failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_version_health_and_openapi() {
    section("discovery").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn representation() {
    section("representation").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_lists_and_watches() {
    section("reads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes() {
    section("writes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources() {
    section("subresources").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_every_kind() {
    section("columns").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_policies() {
    section("policies").await;
}
