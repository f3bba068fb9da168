//! Bodies: JSON, YAML, protobuf, and what becomes of objects on their way out again.

use std::fmt::Write as _;

use pintle_api::decode::{self, Format};
use pintle_api::printer::{self, IncludeObject};
use pintle_api::{Resource, defaults, proto, validate};
use serde_json::{Value, json};

use crate::draw::Draw;
use crate::input::{choice, chosen, halves, resource, resources, schema, text, texts};
use crate::sample::{self, Fill};

/// Bytes of text and values that one body may come to, whatever it says of itself: aliases of YAML multiply.
const WEIGHT_MAX: usize = 128 << 20;

/// What is read from JSON is the same when it is written and read again.
pub fn json(data: &[u8]) {
    let Ok((value, _)) = decode::parse(data, Format::Json) else { return };
    let (again, duplicates) = decode::parse(value.to_string().as_bytes(), Format::Json).expect("what was written is read");
    assert!(same(&value, &again), "{value} is not {again}");
    assert!(duplicates.is_empty(), "{duplicates:?}");
}

/// Hand-made bodies.
pub fn json_seeds() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        r#"{"a":1,"a":2,"b":[1.5,-0,1e3,12345678901234567890,-9223372036854775808],"c":{"d":null,"e":[[],{}]}}"#,
        r#""\u0000\ud83d\ude00 \"\\\/\b""#,
        "[0.1,1e-7,123456789.123456789,1.7976931348623157e308]",
        " [ true , false ] ",
    ]);
    seeds.push([vec![b'['; 127], vec![b']'; 127]].concat());
    seeds
}

/// What is read from YAML has a bound, and is the same when the server writes it as YAML and reads it again.
pub fn yaml(data: &[u8]) {
    let Ok((value, _)) = decode::parse(data, Format::Yaml) else { return };
    let weight = weight(&value);
    assert!(weight <= WEIGHT_MAX, "{} bytes of YAML came to {weight}", data.len());
    if weight > 1 << 20 {
        return;
    }
    let written = decode::to_yaml(&value).expect("any value is written");
    let (again, _) = decode::parse(written.as_bytes(), Format::Yaml).unwrap_or_else(|e| panic!("{e}\n{written}"));
    assert!(same(&value, &again), "{value} is not {again} of {written}");
}

/// Whether values are the same, but for the last digit of numbers with a fraction: the parser takes the nearer road, not the exact one.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other)),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() => match one.as_f64().zip(other.as_f64()) {
            Some((one, other)) => (one - other).abs() <= one.abs() * 1e-15,
            None => false,
        },
        (one, other) => one == other,
    }
}

/// Bytes of text, and some for each value.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        Value::Array(list) => 32 + list.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 32 + map.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>(),
        _ => 32,
    }
}

/// Hand-made documents: every style of scalar, anchors, and what looks like something else.
pub fn yaml_seeds() -> Vec<Vec<u8>> {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x]\n");
    for (of, name) in "abc".chars().zip("bcd".chars()) {
        let _ = writeln!(bomb, "{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]");
    }
    let mut seeds = texts(&[
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a # comment\n  labels: {a: b, \"c\": 'd'}\nspec:\n  containers:\n  - name: c\n    command: [sh, -c]\n    args:\n    - |\n      one\n        two\n    - >-\n      folded\n      text\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n",
        "- yes\n- on\n- n\n- ~\n- null\n- 0x1f\n- 0o17\n- 010\n- 1_000\n- .inf\n- 1e3\n- 2024-01-02\n- 12:30:45\n- '0'\n- \"\\x41\\u263a\"\n- ''\n",
        "%YAML 1.2\n---\na: b\n...\n",
        "? complex\n: value\n? [a, b]\n: c\n",
        "a: !!str 1\nb: !!binary AAEC\nc: ! x\n",
        "{\"a\":[1,2.5,\"x\"],\"b\":null}",
        "\"a\\nb\": \"- x\\n: y\\t# z\"\n",
    ]);
    seeds.push(bomb.into_bytes());
    seeds
}

/// An object that decodes is canonical, can be defaulted, checked and shown as a row, and is the same through protobuf.
pub fn object(data: &[u8]) {
    let (choice, body) = choice(data);
    let resource = resource(choice);
    if let Ok((value, _)) = decode::decode(schema(), resource, body, Format::Json) {
        canonical(resource, value);
    }
}

/// Bytes of protobuf that are an object at all are one that stays the same.
pub fn protobuf(data: &[u8]) {
    let (choice, raw) = choice(data);
    let resource = resource(choice);
    // The envelope, too, may be theirs.
    let body = if raw.starts_with(proto::MAGIC) { raw.to_vec() } else { proto::wrap(&resource.api_version(), &resource.kind, raw) };
    let Ok(mut value) = proto::decode_object(schema(), resource, &body) else { return };
    if decode::check_type_meta(resource, &mut value).is_err() || decode::conform_resource(schema(), resource, &mut value).is_err() {
        return;
    }
    canonical(resource, value);
}

/// What holds of every decoded object.
fn canonical(resource: &Resource, mut value: Value) {
    conformed(resource, &value);
    through_protobuf(resource, &value);
    defaults::apply(schema(), resource, &mut value);
    let mut again = value.clone();
    defaults::apply(schema(), resource, &mut again);
    assert_eq!(value, again, "defaults of defaults");
    let failures = validate::create(schema(), resource, &value);
    assert!(failures.len() <= validate::FAILURES_MAX, "{} failures", failures.len());
    let now = jiff::Timestamp::UNIX_EPOCH;
    let row = printer::row(resource, &value, IncludeObject::None, "v1", now);
    let columns = printer::column_definitions(resource);
    assert_eq!(row["cells"].as_array().map(Vec::len), columns.as_array().map(Vec::len));
    if failures.is_empty() {
        conformed(resource, &value);
        through_protobuf(resource, &value);
    }
}

/// To hold it against its type again changes nothing.
fn conformed(resource: &Resource, value: &Value) {
    let mut again = value.clone();
    let issues = decode::conform_resource(schema(), resource, &mut again).expect("it conformed before");
    assert!(issues.is_empty(), "{issues:?}");
    assert_eq!(*value, again, "conformed twice");
}

/// Through protobuf it loses nothing but values that say nothing, and then nothing more.
pub fn through_protobuf(resource: &Resource, value: &Value) {
    let pass = |value: &Value| {
        let body = proto::encode_object(schema(), resource, value).expect("a built-in kind");
        let mut decoded = proto::decode_object(schema(), resource, &body).unwrap_or_else(|e| panic!("{e}: {value}"));
        decode::conform_resource(schema(), resource, &mut decoded).unwrap_or_else(|e| panic!("{e}: {value}"));
        decoded
    };
    let once = pass(value);
    let (mut before, mut after) = (telling(value), telling(&once));
    for value in [&mut before, &mut after] {
        // Protobuf has no place for the kind of these; defaults tell it.
        let templates = value.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
        for template in templates.into_iter().flatten().filter_map(Value::as_object_mut) {
            template.retain(|key, _| !matches!(key.as_str(), "kind" | "apiVersion"));
        }
    }
    assert_eq!(before, after);
    assert_eq!(once, pass(&once), "through protobuf twice");
}

/// Holds an object against its type: what it has too much.
pub fn conform(resource: &Resource, value: &mut Value) -> Vec<decode::FieldIssue> {
    decode::conform_resource(schema(), resource, value).unwrap_or_else(|e| panic!("{}: {e}", resource.kind))
}

/// What comes of an object through each form that it has: the form's name and what was read.
pub fn through_every_form(resource: &Resource, value: &Value) -> Vec<(&'static str, Value)> {
    let read = |body: &[u8], format| {
        let (value, issues) = decode::decode(schema(), resource, body, format).unwrap_or_else(|e| panic!("{}: {e}", resource.kind));
        assert!(issues.is_empty(), "{issues:?}");
        value
    };
    let yaml = decode::to_yaml(value).expect("any value is written");
    let mut forms = vec![("JSON", read(value.to_string().as_bytes(), Format::Json)), ("YAML", read(yaml.as_bytes(), Format::Yaml))];
    if proto::has_form(resource) {
        let body = proto::encode_object(schema(), resource, value).expect("it has a form");
        let mut decoded = proto::decode_object(schema(), resource, &body).expect("what was written is read");
        conform(resource, &mut decoded);
        forms.push(("protobuf", decoded));
    }
    forms
}

/// The value without what says nothing: nulls, zeros and empty things in objects.
fn telling(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| (key.clone(), telling(value)));
            Value::Object(members.filter(|(_, value)| !is_zero(value)).collect())
        }
        Value::Array(list) => list.iter().map(telling).collect(),
        Value::Number(number) if number.as_f64() == Some(0.0) => json!(0),
        other => other.clone(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

fn samples() -> impl Iterator<Item = (u8, &'static Resource, Value)> {
    let mut draw = Draw::new(3);
    (0..=u8::MAX).zip(resources()).map(move |(at, resource)| (at, resource, sample::object(resource, Fill::OneIn(3), &mut draw)))
}

/// One object of every kind.
pub fn object_seeds() -> Vec<Vec<u8>> {
    samples().map(|(at, _, value)| [vec![at], value.to_string().into_bytes()].concat()).collect()
}

/// One object of every kind, and whole envelopes.
pub fn protobuf_seeds() -> Vec<Vec<u8>> {
    let conformed = samples().filter_map(|(at, resource, mut value)| {
        decode::conform_resource(schema(), resource, &mut value).ok()?;
        Some((at, proto::encode_object(schema(), resource, &value).ok()?))
    });
    let raw = |body: &[u8]| proto::unwrap(body).map(|envelope| envelope.raw.to_vec()).unwrap_or_default();
    conformed.flat_map(|(at, body)| [[vec![at], raw(&body)].concat(), [vec![at], body].concat()]).collect()
}

/// A projection holds what its pointers name, and nothing else.
pub fn projection(data: &[u8]) {
    let (pointers, body) = halves(data);
    let Some(pointers) = text(pointers) else { return };
    let pointers: Vec<&str> = pointers.split_whitespace().filter(|pointer| pointer.starts_with('/')).collect();
    let Ok((whole, duplicates)) = decode::parse(body, Format::Json) else { return };
    if pointers.is_empty() || !duplicates.is_empty() {
        return;
    }
    let Ok(projected) = pintle_registry::project(&body.to_vec().into(), &pointers) else { return };
    let projected: Value = serde_json::from_slice(&projected).expect("a projection is JSON");
    let mut wanted = json!({});
    for pointer in &pointers {
        let path: Vec<String> = pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        copy(&whole, &mut wanted, &path);
    }
    assert_eq!(projected, wanted, "{pointers:?}");
}

/// Copies what `path` leads to, each object on the way at its place; what is no object ends the way.
fn copy(from: &Value, to: &mut Value, path: &[String]) {
    let (Some((name, rest)), Some(map)) = (path.split_first(), from.as_object()) else { return };
    let Some(child) = map.get(name) else { return };
    match rest {
        rest if !rest.is_empty() && child.is_object() => {
            if to[name].is_null() {
                to[name] = json!({});
            }
            copy(child, &mut to[name], rest);
        }
        _ => to[name] = child.clone(),
    }
}

/// Pointers and an object.
pub fn projection_seeds() -> Vec<Vec<u8>> {
    let (_, pods) = chosen("Pod");
    let pod = sample::object(pods, Fill::OneIn(2), &mut Draw::new(5)).to_string();
    let pointers = [
        "/metadata/name /spec/nodeName",
        "/spec/containers",
        "/metadata/labels/a~1b /metadata/labels",
        "/status /metadata/ownerReferences/0",
    ];
    pointers.iter().map(|pointers| format!("{pointers}\0{pod}").into_bytes()).collect()
}
