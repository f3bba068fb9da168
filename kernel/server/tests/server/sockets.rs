//! Watches and ports over WebSockets, spoken by hand.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::cluster::{As, Cluster, stop};
use crate::machine::Machine;
use crate::node::running_pod;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The answer's head, and the socket after it.
async fn open(cluster: &Cluster, path: &str, protocol: &str) -> (String, Socket) {
    let mut stream = cluster.tls(As::Admin, b"http/1.1").await;
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    if !protocol.is_empty() {
        request.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(std::time::Duration::from_secs(30), socket.next())
        .await
        .expect("a message in time")
        .expect("a message")
        .expect("sound")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_a_websocket_is_a_message_an_event() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin().await;
    for name in ["a", "b"] {
        assert_eq!(client.post(MAPS, json!({"metadata": {"name": name}})).await.status, 201);
    }
    let (head, mut socket) = open(&cluster, &format!("{MAPS}?watch=1&timeoutSeconds=600"), "").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut event = async || -> Value { serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap() };
    for name in ["a", "b"] {
        let event = event().await;
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
    }
    assert_eq!(client.send("DELETE", &format!("{MAPS}/a"), &[], "").await.status, 200);
    assert_eq!(event().await["type"], "DELETED");
    // A watch that ends says goodbye; a protocol that nobody speaks is refused before.
    let (_, mut socket) = open(&cluster, &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0&labelSelector=no=such"), "").await;
    assert!(next(&mut socket).await.is_close());
    let (head, _) = open(&cluster, &format!("{MAPS}?watch=1"), "v9.something").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_in_numbered_channels() {
    let cluster = Cluster::start().await;
    let _machine = Machine::connect(&cluster, "n1").await;
    running_pod(&cluster, "p", "n1", &["c"]).await;
    let path = "/api/v1/namespaces/default/pods/p/portforward";
    let (head, mut socket) = open(&cluster, &format!("{path}?ports=80&ports=8080"), "v4.channel.k8s.io").await;
    assert!(head.contains("v4.channel.k8s.io"), "{head}");
    let mut first = Vec::new();
    let mut greetings = Vec::new();
    while first.len() < 4 || greetings.len() < 2 {
        let data = next(&mut socket).await.into_data();
        if data[1..].starts_with(b"port") { greetings.push(data) } else { first.push(data) }
    }
    // Each channel begins with its port's number.
    assert_eq!(first, [&[0, 80, 0][..], &[1, 80, 0], &[2, 0x90, 0x1f], &[3, 0x90, 0x1f]]);
    greetings.sort();
    assert_eq!(greetings, [&b"\0port 80\n"[..], b"\x02port 8080\n"]);
    socket.send(Message::Binary(b"\x02echo".to_vec().into())).await.unwrap();
    assert_eq!(next(&mut socket).await.into_data(), &b"\x02echo"[..]);
    for bad in ["", "?ports=x", "?ports=70000"] {
        let (head, _) = open(&cluster, &format!("{path}{bad}"), "v4.channel.k8s.io").await;
        assert!(head.starts_with("HTTP/1.1 400"), "{bad}: {head}");
    }
    stop(cluster).await;
}
