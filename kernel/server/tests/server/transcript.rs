//! Requests and what must come back, as text. Steps are separated by blank lines; lines that begin with `#` are for people:
//!
//! ```text
//! # 2.4 #32: a merge patch
//! PATCH /api/v1/namespaces/default/configmaps/a
//! Content-Type: application/merge-patch+json
//! {"data":{"k":"v"}}
//! => 200
//! /data/k = "v"
//! header audit-id
//! ```
//!
//! After `=>` comes the status, then what must hold, a line each:
//!
//! | line | holds when |
//! | --- | --- |
//! | `/pointer = JSON` | that value stands there (`null`: nothing stands there) |
//! | `/pointer ~ text` | what stands there has this text in it |
//! | `/pointer # 3` | a list or map of this length stands there |
//! | `header name`, `header name = v`, `header name ~ v` | the answer has the header; once with this value; with this text in one of its values |
//! | `no header name` | it has not |
//! | `body ~ text`, `body ! text` | the text is, is not in the body |
//! | `columns Name \| Data:integer \| Node*` | the table has these columns; `:type` unless it is text, `*` when only for wide tables |
//! | `let x = /pointer`, `let x = header name` | always; later steps say `${x}` |
//!
//! Before the request, `until` sends it again until all that is expected holds, `repeat 12` sends it twelve times with `${i}` counting from 0, and `watch 3` reads three events of a stream and holds
//! the expectations against the list of them. `${now}` is the cluster's revision. Protobuf answers are read into the values they stand for.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use pintle_api::{Schema, proto, resource};
use serde_json::{Value, json};

use crate::cluster::{Answer, Client, Cluster};

/// Events of a watch come, and what is waited for holds, within this time, or the step fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Run steps that need nothing but a connection; the first that fails panics.
pub async fn check(client: &mut Client, text: &str) {
    let mut variables = HashMap::new();
    for step in steps(text) {
        let failure = run(client, None, &mut variables, &step).await;
        assert!(failure.is_empty(), "{step}\n{failure}");
    }
}

/// Run all steps against a cluster; the failures, each with its step.
pub async fn failures(cluster: &Cluster, text: &str) -> Vec<String> {
    let mut client = cluster.admin().await;
    let (mut variables, mut failures) = (HashMap::new(), Vec::new());
    for step in steps(text) {
        variables.insert("now".to_owned(), cluster.registry.revision().to_string());
        let failure = run(&mut client, Some(cluster), &mut variables, &step).await;
        if !failure.is_empty() {
            failures.push(format!("{step}\n{failure}"));
        }
    }
    failures
}

fn steps(text: &str) -> impl Iterator<Item = String> {
    text.split("\n\n").filter_map(|step| {
        let lines: Vec<&str> = step.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    })
}

/// A step, taken apart.
#[derive(Default)]
struct Step<'a> {
    until: bool,
    repeat: usize,
    watch: usize,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: String,
    status: u16,
    expected: Vec<&'a str>,
}

fn read(text: &str) -> Step<'_> {
    let mut step = Step { repeat: 1, ..Step::default() };
    let mut lines = text.lines();
    for line in lines.by_ref() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "until" => step.until = true,
            "repeat" => step.repeat = rest.parse().unwrap(),
            "watch" => step.watch = rest.parse().unwrap(),
            method => {
                (step.method, step.path) = (method, rest);
                break;
            }
        }
    }
    for line in lines.by_ref() {
        if let Some(code) = line.strip_prefix("=> ") {
            step.status = code.parse().unwrap();
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if step.body.is_empty() && !line.starts_with(['{', '[', '"']) => step.headers.push((name, value)),
            _ => step.body.push_str(&format!("{line}\n")),
        }
    }
    if !step.body.is_empty() && !step.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        step.headers.push(("Content-Type", "application/json"));
    }
    step.expected.extend(lines);
    step
}

/// What is wrong, or nothing.
async fn run(client: &mut Client, cluster: Option<&Cluster>, variables: &mut HashMap<String, String>, text: &str) -> String {
    let (begun, mut count) = (Instant::now(), 0);
    while count < read(text).repeat {
        let text = variables
            .iter()
            .fold(text.replace("${i}", &count.to_string()), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        let step = read(&text);
        let (answer, value) = match (step.watch, cluster) {
            (0, _) => {
                let answer = client.send(step.method, step.path, &step.headers, step.body.clone()).await;
                let value = value_of(&answer);
                (answer, value)
            }
            (events, Some(cluster)) => watch(cluster, &step, events).await,
            (_, None) => panic!("a watch needs a cluster"),
        };
        let failure = compare(&step, &answer, &value, variables);
        count += usize::from(failure.is_empty());
        if step.until && !failure.is_empty() && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else if !failure.is_empty() {
            let shown: String = value.to_string().chars().take(3000).collect();
            return format!("{failure}answered {} {:?}\n{shown}", answer.status, answer.headers);
        }
    }
    String::new()
}

fn compare(step: &Step<'_>, answer: &Answer, value: &Value, variables: &mut HashMap<String, String>) -> String {
    let mut failure = String::new();
    if answer.status != step.status {
        failure.push_str(&format!("FAILS: status {}\n", answer.status));
    }
    for line in &step.expected {
        if let Some(assignment) = line.strip_prefix("let ") {
            let (name, source) = assignment.split_once(" = ").unwrap();
            let found = match source.strip_prefix("header ") {
                Some(header) => answer.headers.get(header).map(|value| value.to_str().unwrap().to_owned()),
                None => value.pointer(source).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
            };
            variables.insert(name.to_owned(), found.unwrap_or_default());
        } else if !holds(line, answer, value) {
            failure.push_str(&format!("FAILS: {line}\n"));
        }
    }
    failure
}

fn holds(line: &str, answer: &Answer, value: &Value) -> bool {
    if let Some(name) = line.strip_prefix("no header ") {
        return !answer.headers.contains_key(name);
    }
    if let Some(header) = line.strip_prefix("header ") {
        let mut words = header.splitn(3, ' ');
        let all: Vec<&str> = answer.headers.get_all(words.next().unwrap()).iter().map(|value| value.to_str().unwrap()).collect();
        return match (words.next(), words.next()) {
            (Some("="), Some(text)) => all == [text],
            (Some("~"), Some(text)) => all.iter().any(|value| value.contains(text)),
            _ => !all.is_empty(),
        };
    }
    if let Some((word, text)) = line.strip_prefix("body ").and_then(|rest| rest.split_once(' ')) {
        return String::from_utf8_lossy(&answer.body).contains(text) == (word == "~");
    }
    if let Some(columns) = line.strip_prefix("columns ") {
        return columns_of(value) == columns;
    }
    let (pointer, rest) = line.split_once(' ').unwrap();
    let (word, text) = rest.split_once(' ').unwrap();
    let found = value.pointer(pointer).unwrap_or(&Value::Null);
    match word {
        "=" => *found == serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{line}: {error}")),
        "~" => found.as_str().map_or_else(|| found.to_string(), str::to_owned).contains(text),
        "#" => found.as_array().map(Vec::len).or(found.as_object().map(serde_json::Map::len)) == text.parse().ok(),
        _ => panic!("not understood: {line}"),
    }
}

/// A table's columns in a line: `Name | Count:integer | Node*`.
fn columns_of(table: &Value) -> String {
    let column = |column: &Value| {
        let kind = column["type"].as_str().filter(|kind| *kind != "string").map_or_else(String::new, |kind| format!(":{kind}"));
        let wide = if column["priority"] == 0 { "" } else { "*" };
        format!("{}{kind}{wide}", column["name"].as_str().unwrap())
    };
    table["columnDefinitions"].as_array().into_iter().flatten().map(column).collect::<Vec<_>>().join(" | ")
}

/// The first events of a watch, as a list.
async fn watch(cluster: &Cluster, step: &Step<'_>, events: usize) -> (Answer, Value) {
    let mut client = cluster.admin().await;
    let response = client.open(step.method, step.path, &step.headers, step.body.clone()).await;
    let (parts, mut body) = response.into_parts();
    let mut answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body: Bytes::new() };
    let mut seen = Vec::new();
    let mut list = Vec::new();
    while list.len() < events {
        let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, body.frame()).await else { break };
        seen.extend_from_slice(&frame.into_data().unwrap());
        list = if is_protobuf(&answer) { protobuf_events(&seen) } else { json_events(&seen) };
    }
    answer.body = seen.into();
    list.truncate(events);
    (answer, Value::Array(list))
}

fn json_events(text: &[u8]) -> Vec<Value> {
    serde_json::Deserializer::from_slice(text).into_iter().map_while(Result::ok).collect()
}

fn is_protobuf(answer: &Answer) -> bool {
    answer.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(proto::MEDIA_TYPE.as_bytes()))
}

/// The body as a value: whatever it is written in.
fn value_of(answer: &Answer) -> Value {
    let mut plain = Vec::new();
    let body = match answer.headers.get("content-encoding") {
        Some(_) => {
            flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).unwrap();
            &plain[..]
        }
        None => &answer.body[..],
    };
    if is_protobuf(answer) {
        return protobuf_value(body);
    }
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

fn protobuf_events(mut bytes: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some((length, rest)) = bytes.split_at_checked(4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some((event, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let (mut kind, mut object) = (String::new(), Value::Null);
        for (tag, content) in members(event) {
            match tag {
                1 => kind = String::from_utf8(content.to_vec()).unwrap(),
                _ => object = protobuf_value(members(content)[0].1),
            }
        }
        events.push(json!({ "type": kind, "object": object }));
    }
    events
}

/// A body in Kubernetes' protobuf: by its own type, or as a list of one.
fn protobuf_value(body: &[u8]) -> Value {
    let Ok(envelope) = proto::unwrap(body) else { return Value::Null };
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let named = |name: &str| Schema::builtin().type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    let decode = |view, raw: &[u8]| proto::decode_kind(view, &proto::wrap(&envelope.api_version, &envelope.kind, raw)).unwrap();
    if envelope.kind.starts_with("PartialObjectMetadata") {
        let metadata = |raw: &[u8]| json!({ "metadata": decode(named("ObjectMeta").unwrap(), members(raw)[0].1) });
        if !envelope.kind.ends_with("List") {
            let mut value = metadata(envelope.raw);
            value["kind"] = json!(envelope.kind);
            return value;
        }
        let items: Vec<Value> = members(envelope.raw).into_iter().filter(|(tag, _)| *tag == 2).map(|(_, raw)| metadata(raw)).collect();
        return json!({ "kind": envelope.kind, "items": items });
    }
    let view = |kind: &str| resource::kind_type(group, version, kind).and_then(|id| Schema::builtin().get(id)).or_else(|| named(kind));
    if let Some(view) = view(&envelope.kind) {
        return decode(view, envelope.raw);
    }
    let item = view(envelope.kind.strip_suffix("List").unwrap()).unwrap();
    let mut list = json!({ "kind": envelope.kind, "apiVersion": envelope.api_version, "items": [] });
    for (tag, raw) in members(envelope.raw) {
        match tag {
            1 => list["metadata"] = decode(named("ListMeta").unwrap(), raw),
            _ => list["items"].as_array_mut().unwrap().push(decode(item, raw)),
        }
    }
    list
}

/// Length-delimited members of a message, in order.
fn members(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if *first < 0x80 {
                break;
            }
        }
        value
    }
    let mut members = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        assert_eq!(tag & 7, 2, "a length-delimited member");
        let length = varint(&mut message) as usize;
        let (content, rest) = message.split_at(length);
        members.push((tag >> 3, content));
        message = rest;
    }
    members
}
