//! Requests and what must come back, as text. Steps are separated by blank lines:
//!
//! ```text
//! PATCH /api/v1/namespaces/default/configmaps/a
//! Content-Type: application/merge-patch+json
//! {"data":{"k":"v"}}
//! => 200
//! /data/k = "v"
//! header audit-id
//! ```
//!
//! After `=>` come the status, then JSON pointers with the value that must stand there (`null`: nothing there), or headers that must be there.

use serde_json::Value;

use crate::cluster::Client;

pub async fn check(client: &mut Client, text: &str) {
    for step in text.split("\n\n").map(str::trim).filter(|step| !step.is_empty()) {
        run(client, step).await;
    }
}

async fn run(client: &mut Client, step: &str) {
    let mut lines = step.lines().map(str::trim);
    let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
    let (mut headers, mut body, mut status) = (Vec::new(), String::new(), 0);
    for line in lines.by_ref() {
        if let Some(code) = line.strip_prefix("=> ") {
            status = code.parse::<u16>().unwrap();
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if body.is_empty() && !line.starts_with(['{', '[']) => headers.push((name, value)),
            _ => {
                body.push_str(line);
                body.push('\n');
            }
        }
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("Content-Type", "application/json"));
    }
    let answer = client.send(method, path, &headers, body).await;
    assert_eq!(answer.status, status, "{step}\nanswered {}", String::from_utf8_lossy(&answer.body));
    for line in lines {
        if let Some(name) = line.strip_prefix("header ") {
            assert!(answer.headers.contains_key(name), "{step}\nanswered {:?}", answer.headers);
            continue;
        }
        let (pointer, expected) = line.split_once(" = ").unwrap();
        let expected: Value = serde_json::from_str(expected).unwrap();
        let value = answer.json();
        assert_eq!(value.pointer(pointer).unwrap_or(&Value::Null), &expected, "{step}\nanswered {value}");
    }
}
