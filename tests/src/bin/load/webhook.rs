//! The peer of an admission module: the same check as an HTTPS webhook on loopback, called the way an API server calls one.

use crate::{Options, summary};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http2 as client, server::conn::http2 as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle_tests::Error;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn fail(reason: &dyn std::fmt::Display) -> Error {
    Error::Http { what: "the webhook".into(), reason: reason.to_string() }
}

/// Calls a webhook `count` times with a review of a 4 KB pod over one kept connection; microseconds a call.
pub async fn webhook(options: &Options) -> Result<Value, Error> {
    let (acceptor, connector) = tls()?;
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

/// An AdmissionReview of a pod of about 4 KB.
fn review() -> Bytes {
    let containers: Vec<Value> = (0..20)
        .map(|i| json!({"name": format!("c{i}"), "image": format!("registry.example/app{i}:1.0"), "env": [{"name": "A", "value": "x".repeat(90)}]}))
        .collect();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reviewed", "namespace": "default"}, "spec": {"containers": containers}});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE", "object": pod}})
        .to_string()
        .into()
}

/// Server and client around one certificate of their own.
fn tls() -> Result<(TlsAcceptor, TlsConnector), Error> {
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
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client))))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let Ok(stream) = acceptor.accept(tcp).await else { continue };
        tokio::spawn(server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(validate)));
    }
}

/// The check: no image may be without a tag or `latest`.
async fn validate(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let pinned =
        |c: &Value| c["image"].as_str().and_then(|i| i.rsplit('/').next()).is_some_and(|i| i.contains(':') && !i.ends_with(":latest"));
    let allowed = review["request"]["object"]["spec"]["containers"].as_array().is_some_and(|all| all.iter().all(pinned));
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": review["request"]["uid"], "allowed": allowed}});
    Ok(Response::new(Full::new(answer.to_string().into())))
}
