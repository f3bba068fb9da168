//! Bodies and requests that mean harm: each is refused with a clear 4xx, and the server goes on.

use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::{As, Client, Cluster, stop};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const APPLY: &str = "application/apply-patch+yaml";

/// Nine levels that each repeat the one below nine times.
fn bomb() -> String {
    let mut text = "kind: ConfigMap\ndata:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let below = level - 1;
        text.push_str(&format!("  a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 9].join(",")));
    }
    text
}

/// The same by merge keys, which YAML 1.1 has.
fn merging_bomb() -> String {
    let mut text = "kind: ConfigMap\ndata:\n  a0: &a0 {k: v}\n".to_owned();
    for level in 1..30 {
        let below = level - 1;
        text.push_str(&format!("  a{level}: &a{level} {{x: *a{below}, y: *a{below}}}\n"));
    }
    text
}

async fn refused(client: &mut Client, method: &str, path: &str, kind: &str, body: Vec<u8>, codes: &[u16]) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
    let answer = client.send(method, path, &[("Content-Type", kind)], body).await;
    assert!(codes.contains(&answer.status), "{method} {kind} {shown}: {} {:?}", answer.status, answer.body);
    let status = answer.json();
    assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(u64::from(answer.status))), "{shown}");
    assert_eq!(client.get("/version").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_refused_in_every_language() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin().await;
    assert_eq!(client.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.status, 201);
    let deep = |open: &str, close: &str| format!("{{\"data\":{}1{}}}", open.repeat(100_000), close.repeat(100_000)).into_bytes();
    let replicas = |number: &str| format!("{{\"metadata\":{{\"name\":\"d\"}},\"spec\":{{\"replicas\":{number}}}}}").into_bytes();
    let bodies: Vec<(&str, &str, Vec<u8>)> = vec![
        (MAPS, JSON, deep("[", "]")),
        (MAPS, JSON, deep("{\"a\":", "}")),
        (MAPS, YAML, deep("[", "]")),
        (MAPS, YAML, format!("data:\n{}", (0..1500).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>()).into_bytes()),
        (MAPS, YAML, bomb().into_bytes()),
        (MAPS, YAML, merging_bomb().into_bytes()),
        (MAPS, YAML, b"a: &a [*a]".to_vec()),
        (DEPLOYMENTS, JSON, replicas("1e999999")),
        (DEPLOYMENTS, JSON, replicas(&"9".repeat(10_000))),
        (DEPLOYMENTS, JSON, replicas("99999999999")),
        (DEPLOYMENTS, YAML, replicas("1e999999")),
        (MAPS, JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec()),
        (MAPS, YAML, b"metadata: {name: \"\xc3\x28\"}".to_vec()),
        (MAPS, JSON, Vec::new()),
        (MAPS, JSON, vec![0; 1000]),
        (MAPS, "application/vnd.kubernetes.protobuf", b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec()),
        (MAPS, "application/vnd.kubernetes.protobuf", vec![0x0a; 10_000]),
    ];
    for (path, kind, body) in bodies {
        refused(&mut client, "POST", path, kind, body, &[400]).await;
    }
    refused(&mut client, "POST", MAPS, JSON, vec![b' '; 3 * 1024 * 1024 + 1], &[413]).await;
    let one = format!("{MAPS}/a?fieldManager=m");
    let moves = r#"{"op":"copy","from":"/data","path":"/data/x"}"#;
    let patches: Vec<(&str, Vec<u8>, &[u16])> = vec![
        (
            "application/json-patch+json",
            format!("[{}]", vec![r#"{"op":"test","path":"/kind","value":"ConfigMap"}"#; 10_001].join(",")).into_bytes(),
            &[413],
        ),
        // Doubled forty times, it would be a terabyte.
        ("application/json-patch+json", format!("[{}]", vec![moves; 40].join(",")).into_bytes(), &[400, 413, 422]),
        ("application/merge-patch+json", deep("{\"a\":", "}"), &[400]),
        ("application/strategic-merge-patch+json", deep("{\"a\":", "}"), &[400]),
        (APPLY, bomb().into_bytes(), &[400]),
        (APPLY, deep("{\"a\":", "}"), &[400]),
        (APPLY, b"\xff\xff".to_vec(), &[400]),
    ];
    for (kind, body, codes) in patches {
        let path = if kind == APPLY { one.as_str() } else { one.split('?').next().unwrap() };
        refused(&mut client, "PATCH", path, kind, body, codes).await;
    }
    let review = bomb().replace("ConfigMap", "SelfSubjectReview").into_bytes();
    refused(&mut client, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", YAML, review, &[400]).await;
    let options = bomb().replace("ConfigMap", "DeleteOptions").into_bytes();
    refused(&mut client, "DELETE", &format!("{MAPS}/a"), YAML, options, &[400]).await;
    assert_eq!(client.get(&one).await.json()["data"], json!({"k": "v"}));
    stop(cluster).await;
}

/// Status of the answer to these bytes; `None`: the server hung up.
async fn raw(cluster: &Cluster, text: String) -> Option<StatusCode> {
    let mut stream = cluster.tls(As::Admin, b"http/1.1").await;
    // It may hang up before it has read everything.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let code = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    StatusCode::from_bytes(code).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_lie_about_themselves_get_a_4xx_or_nothing() {
    let cluster = Cluster::start().await;
    let post = |headers: &str, body: &str| {
        format!("POST {MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}\r\n{body}")
    };
    let body = r#"{"metadata":{"name":"lied"}}"#;
    let lies = [
        post("Content-Length: 5000\r\n", body),
        post("Content-Length: 5\r\n", body),
        post("Content-Length: -1\r\n", body),
        post("Content-Length: 28\r\nContent-Length: 29\r\n", body),
        post("Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\n{}"),
        post("Transfer-Encoding: chunked\r\n", "zz\r\n{}"),
        post(&format!("X-Long: {}\r\nContent-Length: 28\r\n", "x".repeat(1 << 20)), body),
        post(&format!("{}Content-Length: 28\r\n", "X-Many: x\r\n".repeat(10_000)), body),
        format!("GET /api/v1/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20)),
        "\0\0\0\0\r\n\r\n".to_owned(),
    ];
    for lie in lies {
        let shown: String = lie.chars().take(200).collect();
        let answer = raw(&cluster, lie).await;
        assert!(answer.is_none_or(|code| code.is_client_error()), "{answer:?} to {shown}");
    }
    let mut client = cluster.admin().await;
    assert_eq!(client.get(&format!("{MAPS}/lied")).await.status, 404);
    stop(cluster).await;
}
