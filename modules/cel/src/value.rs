//! Values: JSON as it is, and what expressions make.

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;

use crate::authorizer::Stage;
use crate::opaque::Opaque;
use crate::{Budget, Error};

/// A value. Objects and arrays of the input are borrowed, with the schema that says what their parts are.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are CEL's")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<Vec<(Value<'a>, Value<'a>)>>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    Type(&'static str),
    Optional(Option<Arc<Value<'a>>>),
    /// A part of an object or an operation of a patch, that an expression made: the name of its type, and its fields by name.
    Message(Arc<str>, Arc<Vec<(Value<'a>, Value<'a>)>>),
    /// A value of one of Kubernetes' libraries.
    Opaque(Arc<Opaque>),
    /// An object or an array of the input, and its schema.
    Json(&'a Json, &'a Json),
}

static NONE: Json = Json::Null;

impl<'a> Value<'a> {
    /// A part of the input. The schema says which text is a time or a duration, and which number is a double.
    pub fn of(json: &'a Json, schema: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) if schema["type"] != "number" => Value::Int(value),
                _ => Value::Double(number.as_f64().unwrap_or_default()),
            },
            Json::String(text) => match schema["format"].as_str() {
                Some("date-time" | "datetime") => text.parse().map_or_else(|_| Value::text(text), Value::Timestamp),
                Some("duration") => text.parse().map_or_else(|_| Value::text(text), Value::Duration),
                _ => Value::text(text),
            },
            Json::Array(_) | Json::Object(_) => Value::Json(json, schema),
        }
    }

    /// A part of the input of which nothing is known.
    pub fn free(json: &'a Json) -> Value<'a> {
        Value::of(json, &NONE)
    }

    /// Text.
    pub fn text(text: &str) -> Value<'a> {
        Value::String(text.into())
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(Arc::new(items))
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) | Value::Json(Json::Array(_), _) => "list",
            Value::Map(_) | Value::Json(..) => "map",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Message(..) => "message",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The elements of a list, or the keys of a map; `None` for other values. Paid for by their number.
    pub(crate) fn elements(&self, budget: &Budget) -> Result<Option<Vec<Value<'a>>>, Error> {
        let found: Vec<Value<'a>> = match self {
            Value::List(items) => items.to_vec(),
            Value::Map(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Value::Json(Json::Array(items), schema) => items.iter().map(|item| Value::of(item, &schema["items"])).collect(),
            Value::Json(Json::Object(map), _) => map.keys().map(|key| Value::text(key)).collect(),
            _ => return Ok(None),
        };
        budget.pay(found.len())?;
        Ok(Some(found))
    }

    /// The member of a map under a name.
    pub(crate) fn member(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Value::Json(json @ Json::Object(map), schema) => {
                let unescaped;
                let name = if map.contains_key(name) || !name.contains("__") {
                    name
                } else {
                    unescaped = unescape(name);
                    &unescaped
                };
                Some(Value::of(json.get(name)?, below(schema, name)))
            }
            Value::Map(entries) | Value::Message(_, entries) => {
                entries.iter().find(|(key, _)| matches!(key, Value::String(text) if **text == *name)).map(|(_, value)| value.clone())
            }
            Value::Opaque(opaque) => match &**opaque {
                Opaque::Access(Stage::Authorizer, _, Some(request)) if name == "requestResource" => {
                    Some(Value::Opaque(Arc::new(Opaque::Access(Stage::Resource, (**request).clone(), None))))
                }
                _ => None,
            },
            Value::Optional(Some(inner)) => Some(Value::Optional(inner.member(name).map(Arc::new))),
            Value::Optional(None) => Some(Value::Optional(None)),
            _ => None,
        }
    }

    /// The element of a list or map under an index or key.
    pub(crate) fn at(&self, key: &Value<'a>) -> Option<Value<'a>> {
        let index = || key.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as usize);
        match (self, key) {
            (Value::List(items), _) => items.get(index()?).cloned(),
            (Value::Json(Json::Array(items), schema), _) => Some(Value::of(items.get(index()?)?, &schema["items"])),
            (Value::Map(entries), _) => entries.iter().find(|(have, _)| scalar_eq(have, key) == Some(true)).map(|(_, value)| value.clone()),
            (Value::Json(..), Value::String(name)) => self.member(name),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Uint(n) => Some(*n as f64),
            Value::Double(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether two values are the same; lists and maps member by member. Paid for by what is looked at.
    pub(crate) fn same(&self, other: &Value<'a>, budget: &Budget) -> Result<bool, Error> {
        budget.pay(1)?;
        if let Some(equal) = scalar_eq(self, other) {
            if let Value::String(text) = self {
                budget.pay_text(text.len())?;
            }
            return Ok(equal);
        }
        if let (Value::Optional(a), Value::Optional(b)) = (self, other) {
            return match (a, b) {
                (Some(a), Some(b)) => a.same(b, budget),
                (a, b) => Ok(a.is_none() && b.is_none()),
            };
        }
        if let (Value::Opaque(a), Value::Opaque(b)) = (self, other) {
            return Ok(a.same(b));
        }
        if let (Value::Message(mine, a), Value::Message(theirs, b)) = (self, other) {
            return Ok(mine == theirs && Value::Map(a.clone()).same(&Value::Map(b.clone()), budget)?);
        }
        if self.type_name() != other.type_name() {
            return Ok(false);
        }
        let (Some(mine), Some(theirs)) = (self.elements(budget)?, other.elements(budget)?) else { return Ok(false) };
        if mine.len() != theirs.len() {
            return Ok(false);
        }
        let is_map = self.type_name() == "map";
        for (a, b) in mine.iter().zip(&theirs) {
            let equal = match is_map {
                true => match (self.at(a), other.at(a)) {
                    (Some(a), Some(b)) => a.same(&b, budget)?,
                    _ => false,
                },
                false => a.same(b, budget)?,
            };
            if !equal {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As JSON. Lists and maps share what they hold, JSON does not: `bytes` says how much it may grow to, and is reduced.
    ///
    /// # Errors
    /// [`Error::Evaluation`]: it has no form in JSON, or is too large.
    pub fn to_json(&self, bytes: &mut usize) -> Result<Json, Error> {
        let size = match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len() * 2,
            Value::Json(json, _) => size(json),
            _ => 8,
        };
        *bytes = bytes.checked_sub(size + 8).ok_or_else(|| Error::Evaluation("the value is too large".into()))?;
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Uint(value) => (*value).into(),
            Value::Double(value) => (*value).into(),
            Value::String(text) => (**text).into(),
            Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Value::Duration(_) | Value::Timestamp(_) => crate::functions::shown(self).into(),
            Value::List(items) => Json::Array(items.iter().map(|item| item.to_json(bytes)).collect::<Result<_, _>>()?),
            Value::Map(fields) | Value::Message(_, fields) => {
                let mut map = serde_json::Map::new();
                for (key, value) in fields.iter() {
                    let Value::String(name) = key else {
                        return Err(Error::Evaluation(format!("a key of type {} cannot be JSON", key.type_name())));
                    };
                    map.insert((**name).to_owned(), value.to_json(bytes)?);
                }
                Json::Object(map)
            }
            Value::Json(json, _) => (*json).clone(),
            Value::Type(_) | Value::Optional(_) | Value::Opaque(_) => {
                return Err(Error::Evaluation(format!("a value of type {} cannot be JSON", self.type_name())));
            }
        })
    }

    /// The order of two values of one sort.
    pub(crate) fn order(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (a, b) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        }
    }
}

/// About how many bytes a value takes.
fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len() + 8,
        Json::Array(items) => items.iter().map(size).sum::<usize>() + 8,
        Json::Object(map) => map.iter().map(|(key, value)| key.len() + size(value) + 8).sum::<usize>() + 8,
        _ => 8,
    }
}

/// The schema of a member.
pub(crate) fn below<'a>(schema: &'a Json, name: &str) -> &'a Json {
    schema["properties"].get(name).unwrap_or(&schema["additionalProperties"])
}

fn scalar_eq(a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
    match (a, b) {
        (Value::Null, Value::Null) => Some(true),
        (Value::Type(a), Value::Type(b)) => Some(a == b),
        _ => a.order(b).map(Ordering::is_eq).or_else(|| (a.as_f64().is_some() && b.as_f64().is_some()).then_some(false)),
    }
}

/// Kubernetes' spelling of names that CEL cannot say.
pub(crate) fn unescape(name: &str) -> String {
    let plain = name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/").replace("__underscores__", "__");
    match plain.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")) {
        Some(word) if !word.is_empty() => word.to_owned(),
        _ => plain,
    }
}
