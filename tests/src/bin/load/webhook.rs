//! The peer of an admission module: the same check as an HTTPS webhook on loopback, called the way an API server calls one; and both as the kernel
//! asks them about what is created.

use crate::{Options, api, summary};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http2 as client,
    server::conn::{http1, http2 as server},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle_tests::{Error, https::Connection};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn fail(reason: &dyn std::fmt::Display) -> Error {
    Error::Http { what: "the webhook".into(), reason: reason.to_string() }
}

/// Calls a webhook `count` times with a review of a 4 KB pod over one kept connection; microseconds a call.
pub async fn webhook(options: &Options) -> Result<Value, Error> {
    let (acceptor, connector, _) = tls()?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| fail(&e))?;
    let address = listener.local_addr().map_err(|e| fail(&e))?;
    tokio::spawn(serve(listener, acceptor));

    let stream = TcpStream::connect(address).await.map_err(|e| fail(&e))?;
    stream.set_nodelay(true).map_err(|e| fail(&e))?;
    let stream = connector.connect(ServerName::from(address.ip()), stream).await.map_err(|e| fail(&e))?;
    let (mut sender, connection) = client::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
    tokio::spawn(connection);
    let review = review();
    let mut samples = Vec::new();
    for call in 0..options.count + 100 {
        let begin = Instant::now();
        let request = Request::post("https://webhook/validate").body(Full::new(review.clone())).map_err(|e| fail(&e))?;
        let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let body = response.into_body().collect().await.map_err(|e| fail(&e))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).map_err(|e| fail(&e))?;
        if answer["response"]["allowed"] != true {
            return Err(fail(&answer));
        }
        if call >= 100 {
            samples.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(json!({"us": summary(samples)}))
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    Nobody,
    Module,
    Webhook,
}

const ROUNDS: usize = 5;
const PODS: &str = "/api/v1/namespaces/default/pods?dryRun=All";
const MODULES: &str = "/apis/pintle.dev/v1/modules";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Creates of a 4 KB pod that stores nothing, judged by nobody, by the module of `examples/module-admission`, and by the same check as a webhook, in turns:
/// microseconds from a client with one kept connection. What a judge costs is the difference.
pub async fn judged(options: &Options) -> Result<Value, Error> {
    let (acceptor, _, pem) = tls()?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| fail(&e))?;
    let url = format!("https://{}/validate", listener.local_addr().map_err(|e| fail(&e))?);
    tokio::spawn(serve(listener, acceptor));
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]);
    let module = json!({"apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": "judge"}, "spec": {"type": "admission",
        "source": {"file": "module_admission.wasm"}, "admission": {"phases": ["validating"], "rules": rules}}});
    let ca = base64::engine::general_purpose::STANDARD.encode(pem);
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "judge"},
        "webhooks": [{"name": "judge.bench.local", "clientConfig": {"url": url, "caBundle": ca}, "rules": rules, "sideEffects": "None", "admissionReviewVersions": ["v1"]}]});
    let mut api = options.api()?.connect().await?;
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (judge, made) in
            [(Judge::Nobody, None), (Judge::Module, Some((MODULES, &module))), (Judge::Webhook, Some((WEBHOOKS, &webhook)))]
        {
            if let Some((path, object)) = made {
                api::create(&mut api, path, object.to_string()).await?;
            }
            until_judged(&mut api, judge != Judge::Nobody).await?;
            let good = subject("1.0").to_string();
            for _ in 0..options.count {
                let begin = Instant::now();
                let answer = api.post(PODS, good.clone()).await?;
                samples[judge as usize].push(begin.elapsed().as_secs_f64() * 1e6);
                api::expect("a create", answer.status, 201, &answer.body)?;
            }
            if let Some((path, _)) = made {
                api.request(hyper::Method::DELETE, &format!("{path}/judge"), "application/json", Bytes::new()).await?;
            }
            until_judged(&mut api, false).await?;
        }
    }
    let [nobody, module, webhook] = samples.map(summary);
    Ok(json!({"nobody": nobody, "module": module, "webhook": webhook}))
}

/// Waits until a pod that the check is against is refused, or is not.
async fn until_judged(api: &mut Connection, judged: bool) -> Result<(), Error> {
    let bad = subject("latest").to_string();
    let begin = Instant::now();
    loop {
        let answer = api.post(PODS, bad.clone()).await?;
        if (answer.status == 403) == judged {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(30) {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(fail(&format!("judged is not {judged} within 30 s: {} {said}", answer.status)));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A pod of about 4 KB.
fn subject(tag: &str) -> Value {
    let containers: Vec<Value> = (0..20)
        .map(|i| json!({"name": format!("c{i}"), "image": format!("registry.example/app{i}:{tag}"), "env": [{"name": "A", "value": "x".repeat(90)}]}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reviewed", "namespace": "default"}, "spec": {"containers": containers}})
}

/// An AdmissionReview of it.
fn review() -> Bytes {
    let pod = subject("1.0");
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE", "object": pod}})
        .to_string()
        .into()
}

/// Server and client around one certificate of their own, which is the last, PEM.
fn tls() -> Result<(TlsAcceptor, TlsConnector, String), Error> {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).map_err(|e| fail(&e))?;
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).map_err(|e| fail(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .map_err(|e| fail(&e))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)), own.cert.pem()))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let Ok(stream) = acceptor.accept(tcp).await else { continue };
        // Of HTTP/2 as API servers mostly call, or of HTTP/1.1 as this kernel does.
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            tokio::spawn(server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(validate)));
        } else {
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(validate)));
        }
    }
}

/// The check: no image may be without a tag or `latest`.
async fn validate(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let pinned =
        |c: &Value| c["image"].as_str().and_then(|i| i.rsplit('/').next()).is_some_and(|i| i.contains(':') && !i.ends_with(":latest"));
    let allowed = review["request"]["object"]["spec"]["containers"].as_array().is_some_and(|all| all.iter().all(pinned));
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {
        "uid": review["request"]["uid"], "allowed": allowed, "status": {"code": if allowed { 200 } else { 403 }, "message": "an image must have a tag other than latest"}}});
    Ok(Response::new(Full::new(answer.to_string().into())))
}
