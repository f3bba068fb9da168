//! Messages to objects.

use base64::Engine as _;
use serde_json::{Map, Number, Value};

use super::wire::{self, Wire};
use super::{MAGIC, ProtoError};
use crate::decode::NESTING_MAX;
use crate::table::{Container, Element, Field, TypeView};

type Object = Map<String, Value>;

/// The object of a message of type `view`.
pub(super) fn message(view: TypeView<'_>, bytes: &[u8]) -> Result<Value, ProtoError> {
    object(view, bytes, 0).map(Value::Object)
}

fn object(view: TypeView<'_>, bytes: &[u8], depth: usize) -> Result<Object, ProtoError> {
    let mut map = Object::new();
    level(view, bytes, [0, 0], depth, &mut map)?;
    map.retain(|key, value| {
        let zero = matches!(value, Value::Bool(false)) || *value == "" || value.as_f64() == Some(0.0);
        !zero || !view.field(key).is_some_and(|field| field.zero_is_absent)
    });
    Ok(map)
}

fn level(view: TypeView<'_>, bytes: &[u8], outer: [u8; 2], depth: usize, map: &mut Object) -> Result<(), ProtoError> {
    if depth > NESTING_MAX {
        return Err(ProtoError::TooDeep);
    }
    for field in wire::fields(bytes) {
        let (tag, value) = field?;
        if let Some(field) = view.field_tagged(outer, tag) {
            put(view, &field, tag, value, depth, map)?;
        } else if let (Some(inner), Wire::Bytes(embedded)) = (view.embeds(outer, tag), value) {
            level(view, embedded, inner, depth + 1, map)?;
        }
    }
    Ok(())
}

fn put(view: TypeView<'_>, field: &Field<'_>, tag: u32, value: Wire<'_>, depth: usize, map: &mut Object) -> Result<(), ProtoError> {
    let name = field.name.to_owned();
    match field.container {
        Container::Single => {
            let value = element(view, field, tag, value, depth)?;
            if !value.is_null() {
                map.insert(name, value);
            }
        }
        Container::List => {
            let Value::Array(list) = map.entry(name).or_insert_with(|| Value::Array(Vec::new())) else { return Ok(()) };
            match (field.element, value) {
                // Numbers may come packed.
                (Element::Int32 | Element::Int64 | Element::Bool, Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        list.push(element(view, field, tag, Wire::Varint(wire::take_varint(&mut packed)?), depth)?);
                    }
                }
                (_, value) => list.push(element(view, field, tag, value, depth)?),
            }
        }
        Container::Map | Container::MapOfList => {
            let Wire::Bytes(entry) = value else { return Err(ProtoError::WireType(tag)) };
            let (key, value) = map_entry(view, field, entry, depth)?;
            if let Value::Object(entries) = map.entry(name).or_insert_with(|| Value::Object(Object::new())) {
                entries.insert(key, value);
            }
        }
    }
    Ok(())
}

fn map_entry(view: TypeView<'_>, field: &Field<'_>, entry: &[u8], depth: usize) -> Result<(String, Value), ProtoError> {
    let mut key = String::new();
    let mut value = if field.container == Container::MapOfList { Value::Array(Vec::new()) } else { absent(field) };
    for part in wire::fields(entry) {
        match part? {
            (1, Wire::Bytes(text)) => key = wire::text(1, text)?,
            (2, Wire::Bytes(items)) if field.container == Container::MapOfList => {
                let items: Result<Vec<Value>, ProtoError> =
                    wire::fields(items).map(|item| element(view, field, 1, item?.1, depth)).collect();
                value = Value::Array(items?);
            }
            (2, found) => value = element(view, field, 2, found, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The value of a map entry that was not written because it is the zero of its type.
fn absent(field: &Field<'_>) -> Value {
    match field.element {
        Element::String | Element::Bytes => Value::from(""),
        Element::Quantity => Value::from("0"),
        Element::Bool => Value::Bool(false),
        Element::Int32 | Element::Int64 => Value::from(0),
        _ => Value::Object(Object::new()),
    }
}

fn element(view: TypeView<'_>, field: &Field<'_>, tag: u32, value: Wire<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match (field.element, value) {
        (Element::Bool, Wire::Varint(n)) => Value::Bool(n != 0),
        (Element::Int32, Wire::Varint(n)) => Value::from(n as i32),
        (Element::Int64, Wire::Varint(n)) => Value::from(n as i64),
        (Element::Float, Wire::Fixed64(bits)) => Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number),
        (Element::String | Element::Duration, Wire::Bytes(text)) => Value::String(wire::text(tag, text)?),
        (Element::Bytes, Wire::Bytes(bytes)) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        (Element::Time, Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ")?,
        (Element::MicroTime, Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
        (Element::Quantity, Wire::Bytes(bytes)) => match first_bytes(bytes, 1)? {
            Some(text) => Value::String(wire::text(tag, text)?),
            None => Value::from("0"),
        },
        (Element::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Element::Any | Element::AnyObject, Wire::Bytes(bytes)) => raw(tag, first_bytes(bytes, 1)?)?,
        (Element::Object, Wire::Bytes(bytes)) => match view.target(field) {
            Some(target) => Value::Object(object(target, bytes, depth + 1)?),
            None => Value::Null,
        },
        (Element::SchemaOrBool | Element::SchemaOrArray | Element::SchemaOrStrings, Wire::Bytes(bytes)) => {
            schema_union(view, field, bytes, depth)?
        }
        _ => return Err(ProtoError::WireType(tag)),
    })
}

fn first_bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, ProtoError> {
    for field in wire::fields(message) {
        if let (found, Wire::Bytes(bytes)) = field?
            && found == number
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// An empty message is no time.
fn time(bytes: &[u8], shape: &str) -> Result<Value, ProtoError> {
    let (mut seconds, mut nanos, mut any) = (0_i64, 0_i32, false);
    for field in wire::fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => (seconds, any) = (n as i64, true),
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos.clamp(0, 999_999_999)).ok().filter(|_| any);
    Ok(time.map_or(Value::Null, |time| Value::String(time.strftime(shape).to_string())))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut kind, mut number, mut text) = (0, 0, String::new());
    for field in wire::fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => kind = n,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(bytes)) => text = wire::text(3, bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { Value::from(number) } else { Value::String(text) })
}

/// An embedded object: JSON, or a body of this same format, whose kind the schema must know.
fn raw(tag: u32, bytes: Option<&[u8]>) -> Result<Value, ProtoError> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(Value::Null) };
    if !bytes.starts_with(MAGIC) {
        return serde_json::from_slice(bytes).map_err(|_| ProtoError::Json(tag));
    }
    let envelope = super::unwrap(bytes)?;
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let known = crate::resource::kind_type(group, version, &envelope.kind).and_then(|id| crate::Schema::builtin().get(id));
    let mut value = message(known.ok_or(ProtoError::Json(tag))?, envelope.raw)?;
    value["apiVersion"] = Value::String(envelope.api_version);
    value["kind"] = Value::String(envelope.kind);
    Ok(value)
}

fn schema_union(view: TypeView<'_>, field: &Field<'_>, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let Some(target) = view.target(field) else { return Ok(Value::Null) };
    let schema = |bytes: &[u8]| object(target, bytes, depth + 1).map(Value::Object);
    let (mut allowed, mut one, mut many) = (false, None, Vec::new());
    for part in wire::fields(bytes) {
        match (field.element, part?) {
            (Element::SchemaOrBool, (1, Wire::Varint(n))) => allowed = n != 0,
            (Element::SchemaOrBool, (2, Wire::Bytes(bytes))) => one = Some(schema(bytes)?),
            (Element::SchemaOrArray, (2, Wire::Bytes(bytes))) => many.push(schema(bytes)?),
            (Element::SchemaOrStrings, (2, Wire::Bytes(bytes))) => many.push(Value::String(wire::text(2, bytes)?)),
            (_, (1, Wire::Bytes(bytes))) => one = Some(schema(bytes)?),
            _ => {}
        }
    }
    Ok(match (one, field.element) {
        (Some(schema), _) => schema,
        (None, Element::SchemaOrBool) => Value::Bool(allowed),
        (None, _) => Value::Array(many),
    })
}
