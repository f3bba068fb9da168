//! The version 2 document in protobuf, by the message layout of gnostic's `openapi.v2` (field numbers are its own).
//!
//! Written by hand because it is one direction of a few messages; checked by a test that reads it back.

use serde_json::{Map, Value};

/// A document under construction.
pub(super) struct Document {
    head: Vec<u8>,
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    pub(super) fn new(title: &str, version: &str) -> Document {
        let mut head = Vec::new();
        text(&mut head, 1, "2.0");
        message(&mut head, 2, |info| {
            text(info, 1, title);
            text(info, 2, version);
        });
        Document { head, paths: Vec::new(), definitions: Vec::new() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        named(&mut self.paths, 2, path, |out| path_item(out, item));
    }

    pub(super) fn definition(&mut self, name: &str, definition: &Value) {
        named(&mut self.definitions, 1, name, |out| schema(out, definition));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        bytes(&mut self.head, 8, &self.paths);
        bytes(&mut self.head, 9, &self.definitions);
        self.head
    }
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = item.get(method) {
            message(out, number, |out| operation(out, value));
        }
    }
    each(item, "parameters", |value| message(out, 9, |out| parameters_item(out, value)));
}

fn operation(out: &mut Vec<u8>, operation: &Value) {
    each(operation, "tags", |tag| text_of(out, 1, tag));
    text_of(out, 3, &operation["description"]);
    text_of(out, 5, &operation["operationId"]);
    each(operation, "produces", |value| text_of(out, 6, value));
    each(operation, "consumes", |value| text_of(out, 7, value));
    each(operation, "parameters", |value| message(out, 8, |out| parameters_item(out, value)));
    message(out, 9, |out| {
        for (code, response) in operation["responses"].as_object().into_iter().flatten() {
            named(out, 1, code, |out| message(out, 1, |out| response_value(out, response)));
        }
    });
    each(operation, "schemes", |value| text_of(out, 10, value));
    extensions(out, 13, operation);
}

fn response_value(out: &mut Vec<u8>, response: &Value) {
    text_of(out, 1, &response["description"]);
    if let Some(value) = response.get("schema") {
        message(out, 2, |out| message(out, 1, |out| schema(out, value)));
    }
}

fn parameters_item(out: &mut Vec<u8>, parameter: &Value) {
    message(out, 1, |out| {
        if parameter["in"] == "body" {
            message(out, 1, |out| {
                text_of(out, 2, &parameter["name"]);
                text(out, 3, "body");
                flag(out, 4, &parameter["required"]);
                message(out, 5, |out| schema(out, &parameter["schema"]));
            });
            return;
        }
        // The two messages number their fields differently after the name.
        let (number, kind, unique) = if parameter["in"] == "path" { (4, 5, 18) } else { (3, 6, 20) };
        message(out, 2, |out| {
            message(out, number, |out| {
                flag(out, 1, &parameter["required"]);
                text_of(out, 2, &parameter["in"]);
                text_of(out, 4, &parameter["name"]);
                text_of(out, kind, &parameter["type"]);
                if parameter["in"] == "query" {
                    flag(out, unique, &parameter["uniqueItems"]);
                }
            });
        });
    });
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    text_of(out, 1, &value["$ref"]);
    text_of(out, 2, &value["format"]);
    text_of(out, 4, &value["description"]);
    if let Some(default) = value.get("default") {
        message(out, 5, |out| any(out, default));
    }
    each(value, "required", |name| text_of(out, 19, name));
    if let Some(inner) = value.get("additionalProperties") {
        message(out, 21, |out| message(out, 1, |out| schema(out, inner)));
    }
    if let Some(kind) = value["type"].as_str() {
        message(out, 22, |out| text(out, 1, kind));
    }
    if let Some(items) = value.get("items") {
        message(out, 23, |out| message(out, 1, |out| schema(out, items)));
    }
    if let Some(properties) = value["properties"].as_object() {
        message(out, 25, |out| {
            for (name, property) in properties {
                named(out, 1, name, |out| schema(out, property));
            }
        });
    }
    extensions(out, 31, value);
}

fn extensions(out: &mut Vec<u8>, number: u32, value: &Value) {
    for (key, item) in value.as_object().into_iter().flat_map(Map::iter).filter(|(key, _)| key.starts_with("x-")) {
        named(out, number, key, |out| any(out, item));
    }
}

/// A value as YAML text, of which JSON is a part.
fn any(out: &mut Vec<u8>, value: &Value) {
    text(out, 2, &format!("{value}\n"));
}

fn each(value: &Value, key: &str, visit: impl FnMut(&Value)) {
    value[key].as_array().into_iter().flatten().for_each(visit);
}

/// A message of a name (1) and a value (2).
fn named(out: &mut Vec<u8>, number: u32, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    message(out, number, |out| {
        text(out, 1, name);
        message(out, 2, value);
    });
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

fn text_of(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(value) = value.as_str() {
        text(out, number, value);
    }
}

fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if *value == Value::Bool(true) {
        varint(out, u64::from(number) << 3);
        varint(out, 1);
    }
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
