//! Objects to messages, fields in the order of their tags.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::wire;
use crate::table::{Container, Element, Field, TypeView};

/// The message of `value`, which is of type `view`. What does not fit the type is left out.
pub(super) fn message(view: TypeView<'_>, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Object(map) = value {
        level(view, map, [0, 0], &mut out);
    }
    out
}

/// The fields that sit directly inside the embedded messages `outer`, and those messages inside it.
fn level(view: TypeView<'_>, map: &Map<String, Value>, outer: [u8; 2], out: &mut Vec<u8>) {
    let depth = outer.iter().filter(|tag| **tag != 0).count();
    let mut parts: Vec<(u32, Option<(Field<'_>, &Value)>)> = Vec::new();
    for (key, value) in map {
        let Some(field) = view.field(key).filter(|field| field.tag != 0 && field.outer[..depth] == outer[..depth]) else { continue };
        if field.outer == outer {
            parts.push((u32::from(field.tag), Some((field, value))));
        } else {
            parts.push((u32::from(field.outer[depth]), None));
        }
    }
    parts.sort_by_key(|(tag, _)| *tag);
    parts.dedup_by(|a, b| a.0 == b.0 && a.1.is_none() && b.1.is_none());
    for (tag, part) in parts {
        match part {
            Some((field, value)) => write_field(view, &field, tag, value, out),
            None => {
                let mut inner = outer;
                inner[depth] = tag as u8;
                wire::message(out, tag, |out| level(view, map, inner, out));
            }
        }
    }
}

fn write_field(view: TypeView<'_>, field: &Field<'_>, tag: u32, value: &Value, out: &mut Vec<u8>) {
    match (field.container, value) {
        (Container::Single, value) => element(view, field, tag, value, out),
        (Container::List, Value::Array(list)) => list.iter().for_each(|item| element(view, field, tag, item, out)),
        (Container::Map, Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for key in keys {
                wire::message(out, tag, |out| {
                    wire::bytes(out, 1, key.as_bytes());
                    element(view, field, 2, &map[key], out);
                });
            }
        }
        (Container::MapOfList, Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for key in keys {
                wire::message(out, tag, |out| {
                    wire::bytes(out, 1, key.as_bytes());
                    wire::message(out, 2, |out| {
                        map[key].as_array().into_iter().flatten().for_each(|item| element(view, field, 1, item, out))
                    });
                });
            }
        }
        _ => {}
    }
}

fn element(view: TypeView<'_>, field: &Field<'_>, tag: u32, value: &Value, out: &mut Vec<u8>) {
    match (field.element, value) {
        (Element::Bool, Value::Bool(flag)) => wire::varint(out, tag, u64::from(*flag)),
        (Element::Int32 | Element::Int64, Value::Number(n)) => wire::varint(out, tag, n.as_i64().unwrap_or(0) as u64),
        (Element::Float, Value::Number(n)) => wire::fixed64(out, tag, n.as_f64().unwrap_or(0.0).to_bits()),
        (Element::String, Value::String(text)) => wire::bytes(out, tag, text.as_bytes()),
        (Element::Bytes, Value::String(text)) => {
            let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            wire::bytes(out, tag, &base64::engine::general_purpose::STANDARD.decode(compact).unwrap_or_default());
        }
        (Element::Time | Element::MicroTime, Value::String(text)) => time(tag, text, out),
        (Element::Time | Element::MicroTime, Value::Null) => wire::bytes(out, tag, b""),
        (Element::Quantity, Value::String(text)) => wire::message(out, tag, |out| wire::bytes(out, 1, text.as_bytes())),
        (Element::IntOrString, Value::Number(n)) => wire::message(out, tag, |out| {
            wire::varint(out, 1, 0);
            wire::varint(out, 2, n.as_i64().unwrap_or(0) as u64);
            wire::bytes(out, 3, b"");
        }),
        (Element::IntOrString, Value::String(text)) => wire::message(out, tag, |out| {
            wire::varint(out, 1, 1);
            wire::varint(out, 2, 0);
            wire::bytes(out, 3, text.as_bytes());
        }),
        (Element::Any | Element::AnyObject, value) => wire::message(out, tag, |out| wire::bytes(out, 1, value.to_string().as_bytes())),
        (Element::Object, value) => {
            if let Some(target) = view.target(field) {
                wire::bytes(out, tag, &message(target, value));
            }
        }
        (Element::SchemaOrBool | Element::SchemaOrArray | Element::SchemaOrStrings, value) => schema_union(view, field, tag, value, out),
        _ => {}
    }
}

/// Seconds and nanoseconds since 1970.
fn time(tag: u32, text: &str, out: &mut Vec<u8>) {
    let Ok(time) = text.parse::<jiff::Timestamp>() else { return };
    wire::message(out, tag, |out| {
        wire::varint(out, 1, time.as_second() as u64);
        wire::varint(out, 2, time.subsec_nanosecond() as u64);
    });
}

/// A JSON schema (1 for lists and names, 2 beside a boolean) or its alternative.
fn schema_union(view: TypeView<'_>, field: &Field<'_>, tag: u32, value: &Value, out: &mut Vec<u8>) {
    let Some(target) = view.target(field) else { return };
    wire::message(out, tag, |out| match (field.element, value) {
        (Element::SchemaOrBool, Value::Bool(flag)) => wire::varint(out, 1, u64::from(*flag)),
        (Element::SchemaOrBool, schema) => {
            wire::varint(out, 1, 1);
            wire::bytes(out, 2, &message(target, schema));
        }
        (Element::SchemaOrArray, Value::Array(list)) => list.iter().for_each(|schema| wire::bytes(out, 2, &message(target, schema))),
        (Element::SchemaOrStrings, Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).for_each(|name| wire::bytes(out, 2, name.as_bytes()));
        }
        (_, schema) => wire::bytes(out, 1, &message(target, schema)),
    });
}
