//! The link to the machines, and what clients reach through it.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use pintle_wit::node_capnp::node_session;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::{As, Cluster};
use crate::machine::{Machine, Row, read_outcome};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod that is bound to a node and says it runs.
pub async fn running_pod(cluster: &Cluster, name: &str, node: &str, containers: &[&str]) {
    let mut admin = cluster.admin().await;
    let containers: Vec<Value> = containers.iter().map(|name| json!({ "name": name, "image": "i" })).collect();
    let pod = json!({ "metadata": { "name": name }, "spec": { "nodeName": node, "containers": containers } });
    let answer = admin.post(PODS, pod).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let patch = [("content-type", "application/merge-patch+json")];
    let answer = admin.send("PATCH", &format!("{PODS}/{name}/status"), &patch, r#"{"status":{"phase":"Running"}}"#).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

/// Update one pod's status from the machine.
async fn report(machine: &Machine, name: &'static str, status: Value) -> Result<Value, (u16, String)> {
    machine
        .run(move |session: node_session::Client| async move {
            let mut request = session.update_pod_statuses_request();
            let mut list = request.get().init_statuses(1);
            let mut item = list.reborrow().get(0);
            let mut pod = item.reborrow().init_pod();
            pod.set_namespace("default");
            pod.set_name(name);
            item.set_status(status.to_string().as_bytes());
            let response = request.send().promise.await.unwrap();
            read_outcome(response.get().unwrap().get_outcomes().unwrap().get(0))
        })
        .await
}

/// Get an object as the machine.
async fn get(machine: &Machine, resource: &'static str, namespace: &'static str, name: &'static str) -> Result<Value, (u16, String)> {
    machine
        .run(move |session: node_session::Client| async move {
            let mut request = session.get_request();
            let mut of = request.get().init_ref();
            of.set_resource(resource);
            of.set_namespace(namespace);
            of.set_name(name);
            let response = request.send().promise.await.unwrap();
            read_outcome(response.get().unwrap().get_outcome().unwrap())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_registers_renews_reports_and_sees_its_pods() {
    let cluster = Cluster::start().await;
    let mut machine = Machine::connect(&cluster, "n1").await;
    let mut admin = cluster.admin().await;
    let node = admin.get("/api/v1/nodes/n1").await.json();
    assert_eq!(node["status"]["capacity"]["cpu"], "2");
    assert_eq!(machine.pods.recv().await, Some(Row::Synced));

    for _ in 0..2 {
        let code = machine.run(|session| async move {
            session.renew_lease_request().send().promise.await.unwrap().get().unwrap().get_failure().unwrap().get_code()
        });
        assert_eq!(code.await, 0);
    }
    let lease = admin.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1").await.json();
    assert_eq!(lease["spec"]["holderIdentity"], "n1");

    running_pod(&cluster, "p", "n1", &["c"]).await;
    running_pod(&cluster, "other", "n2", &["c"]).await;
    let Some(Row::Put(pod)) = machine.pods.recv().await else { panic!() };
    assert_eq!(pod["metadata"]["name"], "p");
    let reported = report(&machine, "p", json!({ "phase": "Failed", "reason": "Evicted" })).await.unwrap();
    assert_eq!(reported["status"]["reason"], "Evicted");
    assert_eq!(report(&machine, "other", json!({ "phase": "Failed" })).await.unwrap_err().0, 404, "bound to another node");

    let removed = machine.run(|session| async move {
        let mut request = session.remove_pod_request();
        let mut pod = request.get().init_pod();
        pod.set_namespace("default");
        pod.set_name("p");
        request.send().promise.await.unwrap().get().unwrap().get_failure().unwrap().get_code()
    });
    assert_eq!(removed.await, 0);
    assert_eq!(admin.get(&format!("{PODS}/p")).await.status, 404);
}

/// Shows a pod of the machine's own: the object that was made, or the code of the refusal.
async fn mirror(machine: &Machine, pod: Value) -> Result<Value, (u16, String)> {
    machine
        .run(move |session: node_session::Client| async move {
            let mut request = session.create_mirror_pod_request();
            request.get().set_pod(pod.to_string().as_bytes());
            read_outcome(request.send().promise.await.unwrap().get().unwrap().get_outcome().unwrap())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_shows_pods_of_its_own_and_nobody_elses() {
    let cluster = Cluster::start().await;
    let machine = Machine::connect(&cluster, "n1").await;
    let mut admin = cluster.admin().await;
    let pod = |node: &str, annotation: &str, account: Option<&str>| {
        json!({ "metadata": { "name": "web-n1", "namespace": "default", "annotations": { annotation: "0af3" } },
            "spec": { "nodeName": node, "serviceAccountName": account, "containers": [{ "name": "c", "image": "i" }] } })
    };
    const MIRROR: &str = "kubernetes.io/config.mirror";
    for refused in [pod("n2", MIRROR, None), pod("n1", "kubernetes.io/config.hash", None), pod("n1", MIRROR, Some("robot"))] {
        assert_eq!(mirror(&machine, refused).await.unwrap_err().0, 403);
    }
    let made = mirror(&machine, pod("n1", MIRROR, None)).await.unwrap();
    let owner = &made["metadata"]["ownerReferences"][0];
    assert_eq!((owner["kind"].as_str(), owner["name"].as_str(), owner["controller"].as_bool()), (Some("Node"), Some("n1"), Some(true)));
    let node = admin.get("/api/v1/nodes/n1").await.json();
    assert_eq!(owner["uid"], node["metadata"]["uid"]);
    assert_eq!(mirror(&machine, pod("n1", MIRROR, None)).await.unwrap_err().0, 409);
    let reported = report(&machine, "web-n1", json!({ "phase": "Running" })).await.unwrap();
    assert_eq!(reported["metadata"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reads_what_its_pods_mention_and_nothing_else() {
    let cluster = Cluster::start().await;
    let machine = Machine::connect(&cluster, "n1").await;
    let mut admin = cluster.admin().await;
    for name in ["mentioned", "other"] {
        admin.post("/api/v1/namespaces/default/secrets", json!({ "metadata": { "name": name } })).await;
    }
    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }], "volumes": [{ "name": "v", "secret": { "secretName": "mentioned" } }],
    } });
    assert_eq!(admin.post(PODS, pod).await.status, 201);
    assert_eq!(get(&machine, "secrets", "default", "mentioned").await.unwrap()["kind"], "Secret");
    assert_eq!(get(&machine, "secrets", "default", "other").await.unwrap_err().0, 403);
    assert_eq!(get(&machine, "namespaces", "", "default").await.unwrap()["kind"], "Namespace");
    assert_eq!(get(&machine, "namespaces", "", "kube-system").await.unwrap_err().0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_ends_the_one_before() {
    let cluster = Cluster::start().await;
    let first = Machine::connect(&cluster, "n1").await;
    let _second = Machine::connect(&cluster, "n1").await;
    let refused = first.run(|session| async move { session.renew_lease_request().send().promise.await.is_err() }).await;
    assert!(refused);
    crate::cluster::stop(cluster).await;
    assert!(first.gone.await.is_err(), "a stopping server hangs up");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_nodes_certificate_opens_a_link() {
    let cluster = Cluster::start().await;
    let mut stream = cluster.tls(As::Admin, pintle_server::ALPN_NODE).await;
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_lies_about_its_size_ends_the_link_and_nothing_else() {
    let cluster = Cluster::start().await;
    let issued = cluster.server.pki().issue_node_cert("evil").unwrap();
    let mut stream = cluster.tls(As::Certificate(&issued), pintle_server::ALPN_NODE).await;
    // One segment of 2^32 - 1 words.
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0, 0, 0, 0, 255, 255, 255, 255]).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    assert_eq!(cluster.admin().await.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_over_the_nodes_own_connection() {
    let cluster = Cluster::start().await;
    let _machine = Machine::connect(&cluster, "n1").await;
    running_pod(&cluster, "p", "n1", &["c"]).await;
    running_pod(&cluster, "many", "n1", &["a", "silent"]).await;
    running_pod(&cluster, "lost", "gone", &["c"]).await;
    let mut admin = cluster.admin().await;
    assert_eq!(admin.get(&format!("{PODS}/p/log")).await.body, "one\ntwo\nthree\n");
    assert_eq!(admin.get(&format!("{PODS}/p/log?tailLines=1")).await.body, "three\n");
    let answer = admin.get(&format!("{PODS}/many/log")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["message"], "a container name must be specified for pod many, choose one of: [a silent]");
    assert_eq!(admin.get(&format!("{PODS}/many/log?container=silent")).await.json()["message"], "container \"silent\" is waiting to start");
    assert_eq!(admin.get(&format!("{PODS}/p/log?tailLines=-1")).await.status, 422);
    let lost = admin.get(&format!("{PODS}/lost/log")).await;
    assert_eq!((lost.status, lost.json()["message"].as_str()), (503, Some("node \"gone\" is not connected")));
}

/// Run an exec over a WebSocket: what came on each channel.
async fn exec(cluster: &Cluster, query: &str, protocol: &str, stdin: Option<&'static [u8]>) -> [String; 4] {
    let stream = cluster.tls(As::Admin, b"http/1.1").await;
    let request = http::Request::get(format!("wss://localhost{PODS}/p/exec?{query}"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(())
        .unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    if let Some(stdin) = stdin {
        let mut message = vec![0];
        message.extend_from_slice(stdin);
        socket.send(Message::binary(message)).await.unwrap();
        socket.send(Message::binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    }
    let mut channels: [String; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].push_str(std::str::from_utf8(&data[1..]).unwrap());
        }
    }
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_websockets_carries_streams_and_the_exit_code() {
    let cluster = Cluster::start().await;
    let _machine = Machine::connect(&cluster, "n1").await;
    running_pod(&cluster, "p", "n1", &["c"]).await;
    let [_, out, _, status] = exec(&cluster, "command=hello&command=world&stdout=true&stderr=true", "v5.channel.k8s.io", None).await;
    assert_eq!((out.as_str(), status.as_str()), ("hello world\n", r#"{"metadata":{},"status":"Success"}"#));
    let [_, _, err, _] = exec(&cluster, "command=err&command=oops&stdout=true&stderr=true", "v4.channel.k8s.io", None).await;
    assert_eq!(err, "oops");
    let [.., status] = exec(&cluster, "command=exit&command=3&stdout=true", "v5.channel.k8s.io", None).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((status["reason"].as_str(), &status["details"]["causes"][0]["message"]), (Some("NonZeroExitCode"), &json!("3")));
    let [_, out, ..] = exec(&cluster, "command=cat&stdin=true&stdout=true", "v5.channel.k8s.io", Some(b"through")).await;
    assert_eq!(out, "through");
    let [_, out, ..] = exec(&cluster, "command=old&stdout=true", "channel.k8s.io", None).await;
    assert_eq!(out, "old\n");
    let answer = cluster.admin().await.send("POST", &format!("{PODS}/p/exec?command=x&stdout=true"), &[], "").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (400, Some("Upgrade request required")));
}
