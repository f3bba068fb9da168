//! Admission webhooks: a real HTTPS server that judges, and what clients see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pintle_registry::{Body, Caller, WriteOptions};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Client, Cluster, stop, until};
use crate::conversion;

/// Answers by path; counts what it was asked.
pub struct Judge {
    pub port: u16,
    pub bundle: String,
    asked: Arc<AtomicUsize>,
}

fn base64(text: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// `response` of the review, by the path that was asked.
async fn answer(path: &str, request: &Value) -> Value {
    let patch = |operations: Value| json!({"allowed": true, "patchType": "JSONPatch", "patch": base64(operations.to_string())});
    match path {
        "/deny" => {
            json!({"allowed": false, "status": {"message": "not today", "code": 409, "reason": "Conflict"}})
        }
        "/silent" => json!({"allowed": false}),
        "/note" => json!({"allowed": true, "auditAnnotations": {"why": "because"}}),
        "/warn" => json!({"allowed": true, "warnings": ["ask tomorrow"]}),
        "/patch" => patch(json!([{"op": "add", "path": "/data/patched", "value": request["userInfo"]["username"]}])),
        "/move" => patch(json!([{"op": "move", "from": "/data/a", "path": "/data/b"}])),
        "/count" => {
            let seen = request["object"]["data"]["seen"].as_str().unwrap_or_default().to_owned() + "x";
            patch(json!([{"op": "add", "path": "/data/seen", "value": seen}]))
        }
        "/stranger" => json!({"allowed": true, "uid": "somebody else's"}),
        "/convert" => conversion::converted(request),
        "/fail" => json!({"result": {"status": "Failure", "message": "no such host"}}),
        "/rename" => conversion::renamed(request),
        "/slow" => std::future::pending().await,
        _ => json!({"allowed": true}),
    }
}

pub async fn judge() -> Judge {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let bundle = base64(made.cert.pem());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, acceptor) = (Arc::new(AtomicUsize::new(0)), TlsAcceptor::from(Arc::new(config)));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let serve = |request: http::Request<Incoming>| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let (parts, body) = request.into_parts();
                        let review: Value = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap();
                        let mut response = answer(parts.uri.path(), &review["request"]).await;
                        if response["uid"].is_null() {
                            response["uid"] = review["request"]["uid"].clone();
                        }
                        let review = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(review.to_string()))))
                    }
                };
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(serve)).await;
            });
        }
    });
    Judge { port, bundle, asked }
}

impl Judge {
    /// A webhook on the creation of ConfigMaps, with more said by `more`.
    pub fn webhook(&self, path: &str, more: Value) -> Value {
        let mut webhook = json!({
            "name": "judge.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        for (key, value) in more.as_object().unwrap() {
            webhook[key] = value.clone();
        }
        webhook
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// Register; it counts a moment later.
pub async fn register(client: &mut Client, phase: &str, webhooks: Value) {
    let kind = format!("{phase}WebhookConfiguration");
    let path = format!("{CONFIGURATIONS}/{}webhookconfigurations", phase.to_lowercase());
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "judge"}, "webhooks": webhooks});
    let _ = client.send("DELETE", &format!("{path}/judge"), &[], "").await;
    let answer = client.post(&path, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

async fn create(client: &mut Client, name: &str, data: Value) -> (u16, Value, Option<String>) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let answer = client.post("/api/v1/namespaces/default/configmaps", body).await;
    let warning = answer.headers.get("warning").map(|w| w.to_str().unwrap().to_owned());
    (answer.status, answer.json(), warning)
}

/// Create ConfigMaps until the answer is as wanted: registrations are followed, not waited for.
async fn create_until(client: &mut Client, data: Value, wanted: impl Fn(u16, &Value) -> bool) -> (Value, Option<String>) {
    until("the answer is as wanted", async || {
        let (status, body, warning) = create(client, &format!("attempt-{}", next()), data.clone()).await;
        if wanted(status, &body) { Ok((body, warning)) } else { Err(body) }
    })
    .await
}

fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_in_upstreams_words_with_its_code_and_warnings() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    register(&mut client, "Validating", json!([judge.webhook("/deny", json!({}))])).await;
    let (body, _) = create_until(&mut client, json!({}), |status, _| status == 409).await;
    assert_eq!(body["message"], r#"admission webhook "judge.example.com" denied the request: not today"#);
    assert_eq!(body["reason"], "Conflict");
    register(&mut client, "Validating", json!([judge.webhook("/silent", json!({}))])).await;
    let silent =
        |status, body: &Value| status == 400 && body["message"].as_str().unwrap().ends_with("denied the request without explanation");
    create_until(&mut client, json!({}), silent).await;
    register(&mut client, "Validating", json!([judge.webhook("/warn", json!({}))])).await;
    let (_, warning) = create_until(&mut client, json!({}), |status, _| status == 201).await;
    assert!(warning.unwrap().contains("ask tomorrow"));
    // What registers judges is not judged, and stays removable.
    let any = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    register(&mut client, "Validating", json!([judge.webhook("/deny", json!({"rules": any}))])).await;
    create_until(&mut client, json!({}), |status, _| status == 409).await;
    // The kernel itself is not judged either: it must start without the webhook's server.
    let target = cluster.registry.resolve("", "v1", "configmaps", "", "default", "").unwrap();
    let own = Body::Value(json!({"metadata": {"name": "own"}}));
    cluster.registry.create(&Caller::kernel(), &target, own, &WriteOptions::default()).await.unwrap();
    let gone = client.send("DELETE", &format!("{CONFIGURATIONS}/validatingwebhookconfigurations/judge"), &[], "").await;
    assert_eq!(gone.status, 200, "{gone:?}");
    create_until(&mut client, json!({}), |status, _| status == 201).await;
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_are_applied_in_order_and_who_asked_for_it_sees_later_ones() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    let counting = judge.webhook("/count", json!({"name": "a.example.com", "reinvocationPolicy": "IfNeeded"}));
    let moving = judge.webhook("/move", json!({"name": "b.example.com"}));
    let patching = judge.webhook("/patch", json!({"name": "c.example.com"}));
    register(&mut client, "Mutating", json!([counting, moving, patching])).await;
    let (body, _) = create_until(&mut client, json!({"a": "1"}), |status, body| status == 201 && body["data"]["patched"].is_string()).await;
    assert_eq!(body["data"], json!({"b": "1", "patched": "kubernetes-admin", "seen": "xx"}));
    // An edit that does not apply is the webhook's failure.
    let (status, body, _) = create(&mut client, "without-a", json!({"c": "1"})).await;
    assert_eq!(status, 500, "{body}");
    assert!(body["message"].as_str().unwrap().contains(r#"failed calling webhook "b.example.com""#), "{body}");
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_refuses_or_is_ignored_as_its_policy_says() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    let says = |what: &'static str| {
        move |status: u16, body: &Value| {
            let message = body["message"].as_str().unwrap_or_default();
            status == 500
                && message.starts_with(r#"Internal error occurred: failed calling webhook "judge.example.com": "#)
                && message.contains(what)
        }
    };
    register(&mut client, "Validating", json!([judge.webhook("/slow", json!({"timeoutSeconds": 1}))])).await;
    create_until(&mut client, json!({}), says("context deadline exceeded")).await;
    create_until(&mut client, json!({}), says("/slow?timeout=1s")).await;
    register(&mut client, "Validating", json!([judge.webhook("/stranger", json!({}))])).await;
    create_until(&mut client, json!({}), says("expected response.uid")).await;
    let mut untrusted = judge.webhook("/allow", json!({}));
    untrusted["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    register(&mut client, "Validating", json!([untrusted.clone()])).await;
    create_until(&mut client, json!({}), says("tls: ")).await;
    untrusted["failurePolicy"] = "Ignore".into();
    register(&mut client, "Validating", json!([untrusted])).await;
    create_until(&mut client, json!({}), |status, _| status == 201).await;
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_selectors_and_conditions_leave_is_judged() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    let condition = json!([{"name": "not-me", "expression": "object.metadata.name != 'skip-me' && request.userInfo.username != ''"}]);
    register(&mut client, "Validating", json!([judge.webhook("/deny", json!({"matchConditions": condition}))])).await;
    create_until(&mut client, json!({}), |status, _| status == 409).await;
    let before = judge.asked();
    assert_eq!(create(&mut client, "skip-me", json!({})).await.0, 201);
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other-kind"}});
    assert_eq!(client.post("/api/v1/namespaces/default/secrets", body).await.status, 201);
    assert_eq!(judge.asked(), before);
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}});
    register(&mut client, "Validating", json!([judge.webhook("/deny", json!({"namespaceSelector": selector}))])).await;
    create_until(&mut client, json!({}), |status, _| status == 201).await;
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_does_not_compile_is_refused_when_it_is_written() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    let condition = json!([{"name": "bad", "expression": "... [] bad expression"}]);
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "bad"},
        "webhooks": [judge.webhook("/deny", json!({"matchConditions": condition}))],
    });
    let answer = client.post(&format!("{CONFIGURATIONS}/validatingwebhookconfigurations"), body).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("webhooks[0].matchConditions[0].expression") && message.contains("compilation failed"), "{message}");
    assert_eq!(judge.asked(), 0);
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_speaks_https_to_whoever_answers() {
    let cluster = Cluster::start().await;
    let (mut admin, judge) = (cluster.admin().await, judge().await);
    let spec = json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "tls", "port": judge.port}]});
    let made = admin.post("/api/v1/namespaces/default/services", json!({"metadata": {"name": "safe"}, "spec": spec})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = "/api/v1/namespaces/default/services/https:safe:tls/proxy/allow";
    let answer = admin.post(path, json!({"request": {"uid": "mine"}})).await;
    assert_eq!((answer.status, &answer.json()["response"]["uid"]), (200, &json!("mine")), "{answer:?}");
    stop(cluster).await;
}
