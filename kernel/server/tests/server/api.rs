//! Objects, negotiation, discovery, health: what any client sees.

use std::io::Read as _;

use serde_json::json;

use crate::cluster::{As, Cluster};
use crate::transcript::check;

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_says_its_manager_and_is_told_of_conflicts() {
    let cluster = Cluster::start().await;
    check(
        &mut cluster.admin().await,
        r#"
        PATCH /api/v1/namespaces/default/configmaps/a
        Content-Type: application/apply-patch+yaml
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}
        => 422
        /message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"

        PATCH /api/v1/namespaces/default/configmaps/a?force=true
        Content-Type: application/merge-patch+json
        {}
        => 422
        /details/causes/0/field = "force"

        PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m
        Content-Type: application/apply-patch+cbor
        {}
        => 415

        PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m
        Content-Type: application/apply-patch+yaml
        {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}
        => 201
        /data/k = "v"
        /metadata/managedFields/0/manager = "m"
        /metadata/managedFields/0/operation = "Apply"
        /metadata/managedFields/0/fieldsV1 = {"f:data":{"f:k":{}}}

        PATCH /api/v1/namespaces/default/configmaps/a
        Content-Type: application/merge-patch+json
        User-Agent: agent/v1.0 (linux)
        {"data":{"l":"w"}}
        => 200
        /metadata/managedFields/1/manager = "agent"
        /metadata/managedFields/1/operation = "Update"

        PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m
        Content-Type: application/apply-patch+yaml
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"l":"x"}}
        => 409
        /reason = "Conflict"
        /details/causes/0/reason = "FieldManagerConflict"
        /details/causes/0/field = ".data.l"
        /details/causes/0/message = "conflict with \"agent\" using v1"

        PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m&force=true
        Content-Type: application/apply-patch+yaml
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"l":"x"}}
        => 200
        /data = {"l":"x"}
        "#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_read_changed_and_deleted() {
    let cluster = Cluster::start().await;
    check(
        &mut cluster.admin().await,
        r#"
        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"},"data":{"k":"v"}}
        => 201
        /kind = "ConfigMap"
        /metadata/namespace = "default"
        /data/k = "v"
        header audit-id

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"}}
        => 409
        /reason = "AlreadyExists"
        /message = "configmaps \"a\" already exists"

        GET /api/v1/namespaces/default/configmaps/a
        => 200
        /data/k = "v"

        PATCH /api/v1/namespaces/default/configmaps/a
        Content-Type: application/merge-patch+json
        {"data":{"k":null,"l":"w"}}
        => 200
        /data/k = null
        /data/l = "w"

        PATCH /api/v1/namespaces/default/configmaps/a
        Content-Type: application/json-patch+json
        [{"op":"replace","path":"/data/l","value":"x"}]
        => 200
        /data/l = "x"

        PATCH /api/v1/namespaces/default/configmaps/a
        Content-Type: text/plain
        {}
        => 415
        /reason = "UnsupportedMediaType"

        PUT /api/v1/namespaces/default/configmaps/a
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}
        => 409
        /reason = "Conflict"

        GET /api/v1/namespaces/default/configmaps?labelSelector=a=b
        => 200
        /kind = "ConfigMapList"
        /items = []

        DELETE /api/v1/namespaces/default/configmaps/a?dryRun=All
        => 200

        DELETE /api/v1/namespaces/default/configmaps/a
        {"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}
        => 200
        /status = "Success"
        /details/kind = "configmaps"

        GET /api/v1/namespaces/default/configmaps/a
        => 404
        /reason = "NotFound"
        /message = "configmaps \"a\" not found"

        GET /api/v1/namespaces/default/nothings
        => 404
        /message = "the server could not find the requested resource"

        POST /api/v1/namespaces/default/configmaps?fieldValidation=Strict
        {"metadata":{"name":"b"},"dta":{}}
        => 400
        /reason = "BadRequest"

        POST /api/v1/namespaces/default/configmaps?dryRun=Some
        {"metadata":{"name":"b"}}
        => 422
        /reason = "Invalid"
        "#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_warn_and_yaml_goes_in_and_out() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    let answer = admin.post("/api/v1/namespaces/default/configmaps", json!({ "metadata": { "name": "w" }, "dta": {} })).await;
    assert_eq!(answer.status, 201);
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"unknown field"), "{warning}");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  k: v\n";
    let path = "/api/v1/namespaces/default/configmaps";
    let answer = admin.send("POST", path, &[("content-type", "application/yaml"), ("accept", "application/yaml")], yaml).await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (201, "application/yaml"));
    assert!(String::from_utf8_lossy(&answer.body).contains("\n  k: v\n"), "{:?}", answer.body);
    let answer = admin.send("GET", "/api/v1/namespaces/default/configmaps/y", &[("accept", "text/html")], "").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (406, Some("NotAcceptable")));
    let pretty = admin.get("/api/v1/namespaces/default/configmaps/y?pretty=true").await;
    assert!(pretty.body.starts_with(b"{\n  \""));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_are_made_for_who_asks() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    admin.post("/api/v1/namespaces/default/configmaps", json!({ "metadata": { "name": "t" }, "data": { "a": "1", "b": "2" } })).await;
    check(
        &mut admin,
        r#"
        GET /api/v1/namespaces/default/configmaps
        Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json
        => 200
        /kind = "Table"
        /columnDefinitions/0/name = "Name"
        /columnDefinitions/1/name = "Data"
        /rows/0/cells/0 = "t"
        /rows/0/cells/1 = 2
        /rows/0/object/kind = "PartialObjectMetadata"

        GET /api/v1/namespaces/default/configmaps/t?includeObject=Object
        Accept: application/json;as=Table;v=v1;g=meta.k8s.io
        => 200
        /rows/0/object/data/a = "1"

        GET /api/v1/namespaces/default/configmaps
        Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1
        => 200
        /kind = "PartialObjectMetadataList"
        /items/0/kind = "PartialObjectMetadata"
        /items/0/metadata/name = "t"
        /items/0/data = null

        POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews
        Accept: application/json;as=Table;v=v1;g=meta.k8s.io
        {"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}
        => 406
        /reason = "NotAcceptable"
        "#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_are_compressed_and_in_pages() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    let filler = "x".repeat(2000);
    for index in 0..120 {
        let object = json!({ "metadata": { "name": format!("c{index:03}") }, "data": { "k": filler } });
        assert_eq!(admin.post("/api/v1/namespaces/default/configmaps", object).await.status, 201);
    }
    let path = "/api/v1/namespaces/default/configmaps";
    let plain = admin.get(path).await.json();
    assert_eq!(plain["items"].as_array().unwrap().len(), 120);
    let zipped = admin.send("GET", path, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), plain);
    let page = admin.get(&format!("{path}?limit=30")).await.json();
    assert_eq!((page["items"].as_array().unwrap().len(), page["metadata"]["remainingItemCount"].as_u64()), (30, Some(90)));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let next = admin.get(&format!("{path}?limit=30&continue={token}")).await.json();
    assert_eq!(next["items"][0]["metadata"]["name"], "c030");
    // A long table is made while it is sent; a short one beforehand. They are the same but for the age.
    let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let long = admin.send("GET", path, &[accept], "").await.json();
    let short = admin.send("GET", &format!("{path}?limit=30"), &[accept], "").await.json();
    assert_eq!(long["rows"].as_array().unwrap().len(), 120);
    assert_eq!(long["columnDefinitions"], short["columnDefinitions"]);
    for (long, short) in long["rows"].as_array().unwrap().iter().zip(short["rows"].as_array().unwrap()) {
        assert_eq!((&long["object"], &long["cells"][0], &long["cells"][1]), (&short["object"], &short["cells"][0], &short["cells"][1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_limit_are_refused() {
    let cluster = Cluster::start().await;
    let big = vec![b' '; 4 << 20];
    let answer =
        cluster.admin().await.send("POST", "/api/v1/namespaces/default/configmaps", &[("content-type", "application/json")], big).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_version_and_openapi_are_served() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    check(
        &mut admin,
        r#"
        GET /version
        => 200
        /major = "1"
        /minor = "37"

        GET /api
        => 200
        /versions = ["v1"]

        GET /apis
        => 200
        /kind = "APIGroupList"

        GET /apis/apps
        => 200
        /preferredVersion/groupVersion = "apps/v1"

        GET /api/v1
        => 200
        /kind = "APIResourceList"

        GET /apis/nothing/v1
        => 404

        GET /apis
        Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json
        => 200
        /kind = "APIGroupDiscoveryList"
        header etag
        header vary

        GET /openapi/v3/apis/apps/v1?hash=wrong
        => 301
        header location
        "#,
    )
    .await;
    let first = admin.get("/api").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(admin.send("GET", "/api", &[("if-none-match", &tag)], "").await.status, 304);
    let index = admin.get("/openapi/v3").await.json();
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = admin.get(address).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    assert!(document.json()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = admin.send("GET", "/openapi/v2", &[("accept", accept)], "").await;
    assert_eq!(protobuf.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_and_metrics_count_requests() {
    let cluster = Cluster::start().await;
    let mut nobody = cluster.connect(As::Nobody).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(nobody.get(path).await.body, "ok");
    }
    let verbose = nobody.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&verbose.body).ends_with("readyz check passed\n"), "{:?}", verbose.body);
    let mut admin = cluster.admin().await;
    admin.get("/api/v1/pods").await;
    let metrics = admin.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains(r#"apiserver_request_total{verb="list",resource="pods",code="200"} 1"#), "{text}");
    assert!(text.contains("pintle_store_revision "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_too() {
    let cluster = Cluster::start().await;
    let stream = cluster.tls(As::Admin, b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::get("https://localhost/api/v1/namespaces/default").body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}
