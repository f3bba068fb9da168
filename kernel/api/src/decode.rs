//! From bytes to an object that fits its type.
//!
//! Two steps. [`parse`] reads JSON or YAML and notes duplicate keys; [`conform`] holds the value against the schema
//! table: fields that no row knows are removed and noted, nulls mean absent, quantities and times take their canonical
//! form, and a value of the wrong type is an error that names the field. What to do about the notes (ignore, warn,
//! refuse) is the caller's choice, as it is the client's upstream.
//!
//! Bodies are hostile: nesting is bounded by the parsers, size by whoever read the bytes.

use std::fmt;

use base64::Engine as _;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::path::Path;
use crate::quantity::{self, Quantity};
use crate::resource::Resource;
use crate::status::ApiError;
use crate::table::{Container, Element, Field, Schema, TypeView};

/// How deep a body may nest; the JSON parser's own bound, asked of YAML too.
pub const NESTING_MAX: usize = 128;
/// What YAML's aliases may repeat in a document, in events of the parser: a few small ones may stand for no more than a large text could.
const ALIASED_EVENTS_MAX: usize = 50_000;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML, of which JSON is nearly a part.
    Yaml,
}

/// Something about a field that the client may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIssue {
    /// Path of the field, such as `spec.containers[0].imagee`.
    pub path: String,
    /// What about it.
    pub kind: IssueKind,
}

/// See [`FieldIssue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueKind {
    /// The type has no such field; it was dropped.
    Unknown,
    /// The key occurs twice; the last one counts. In YAML the line of the first of them is known; upstream says it instead of the path.
    Duplicate(Option<u64>),
}

/// What the client asked to be done about issues: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// Answer with warnings.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; empty means the default.
    pub fn parse(text: &str) -> Result<FieldValidation, ApiError> {
        match text {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    /// Turns issues into warnings for the client, or into the refusal that it asked for.
    pub fn settle(self, resource: &Resource, issues: &[FieldIssue]) -> Result<Vec<String>, ApiError> {
        match self {
            _ if issues.is_empty() => Ok(Vec::new()),
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(issues.iter().map(ToString::to_string).collect()),
            FieldValidation::Strict => {
                let (unknown, duplicate): (Vec<_>, Vec<_>) = issues.iter().partition(|issue| issue.kind == IssueKind::Unknown);
                let list: Vec<String> = unknown.into_iter().chain(duplicate).map(ToString::to_string).collect();
                Err(ApiError::bad_request(format!("{}strict decoding error: {}", prefix(resource), list.join(", "))))
            }
        }
    }
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IssueKind::Unknown => write!(f, "unknown field {:?}", self.path),
            IssueKind::Duplicate(None) => write!(f, "duplicate field {:?}", self.path),
            IssueKind::Duplicate(Some(line)) => write!(f, "yaml: unmarshal errors:\n  line {line}: key {:?} already set in map", self.path),
        }
    }
}

/// Reads `body` into a value, with a note for each duplicate key.
pub fn parse(body: &[u8], format: Format) -> Result<(Value, Vec<FieldIssue>), ApiError> {
    let tracked = match format {
        Format::Json => serde_json::from_slice::<Tracked>(body)
            .map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized (must be of type JSON): {e}")))?,
        Format::Yaml => parse_yaml(body)?,
    };
    let mut issues: Vec<_> = tracked.duplicates.into_iter().map(|path| FieldIssue { path, kind: IssueKind::Duplicate(None) }).collect();
    if format == Format::Yaml
        && let Some(first) = issues.first_mut()
    {
        *first = duplicate_line(body).unwrap_or_else(|| first.clone());
    }
    Ok((tracked.value, issues))
}

/// Reads and conforms an object of `resource`: the whole way in for a create or update.
/// `apiVersion` and `kind` may be left out of the body, but not contradict the path.
pub fn decode(schema: &Schema, resource: &Resource, body: &[u8], format: Format) -> Result<(Value, Vec<FieldIssue>), ApiError> {
    let (mut value, mut issues) = parse(body, format)?;
    check_type_meta(resource, &mut value)?;
    issues.extend(conform_resource(schema, resource, &mut value)?);
    Ok((value, issues))
}

/// Holds an object of `resource` against its type. See the module's documentation.
pub fn conform_resource(schema: &Schema, resource: &Resource, value: &mut Value) -> Result<Vec<FieldIssue>, ApiError> {
    if let Some(version) = &resource.custom {
        return version.conform(schema, value).map_err(|e| ApiError::bad_request(format!("{}{e}", prefix(resource))));
    }
    match resource.type_id.and_then(|id| schema.get(id)) {
        Some(view) => conform(view, value).map_err(|e| ApiError::bad_request(format!("{}{e}", prefix(resource)))),
        None => Ok(Vec::new()),
    }
}

/// Holds `value` against a type. The error is the first wrong type, with its field named.
pub fn conform(view: TypeView<'_>, value: &mut Value) -> Result<Vec<FieldIssue>, TypeMismatch> {
    let mut walk = Walk { issues: Vec::new() };
    walk.object(view, value, &Path::Root)?;
    Ok(walk.issues)
}

/// A value of the wrong type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeMismatch(String);

fn prefix(resource: &Resource) -> String {
    format!("{kind} in version {:?} cannot be handled as a {kind}: ", resource.version, kind = resource.kind)
}

/// Fills `apiVersion` and `kind` in, or refuses those that are not the path's.
pub fn check_type_meta(resource: &Resource, value: &mut Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        return Err(ApiError::bad_request(format!(
            "{}json: cannot unmarshal {} into Go value of type {}.{}",
            prefix(resource),
            json_type(value),
            resource.version,
            resource.kind
        )));
    };
    let api_version = resource.api_version();
    for (key, expected) in [("apiVersion", api_version.as_ref()), ("kind", resource.kind.as_ref())] {
        match map.get(key) {
            None | Some(Value::Null) => {
                map.insert(key.to_owned(), Value::from(expected));
            }
            Some(Value::String(found)) if found == expected => {}
            Some(Value::String(found)) if found.is_empty() => {
                map.insert(key.to_owned(), Value::from(expected));
            }
            Some(found) => {
                return Err(ApiError::bad_request(format!(
                    "the {key} in the data ({}) does not match the expected {key} ({expected})",
                    text_of(found)
                )));
            }
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn parse_yaml(body: &[u8]) -> Result<Tracked, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("error converting YAML to JSON: the body is not UTF-8"))?;
    let options = yaml_options(serde_saphyr::options::DuplicateKeyPolicy::LastWins);
    serde_saphyr::from_str_with_options(text, options).map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")))
}

/// The first duplicate key of a YAML text, with its line.
fn duplicate_line(body: &[u8]) -> Option<FieldIssue> {
    let options = yaml_options(serde_saphyr::options::DuplicateKeyPolicy::Error);
    let Err(serde_saphyr::Error::Message { msg, location }) =
        serde_saphyr::from_str_with_options::<Tracked>(std::str::from_utf8(body).ok()?, options)
    else {
        return None;
    };
    let path = msg.strip_prefix("duplicate mapping key: ")?.to_owned();
    Some(FieldIssue { path, kind: IssueKind::Duplicate(Some(location.line())) })
}

fn yaml_options(duplicates: serde_saphyr::options::DuplicateKeyPolicy) -> serde_saphyr::Options {
    let budget = serde_saphyr::Budget { max_depth: NESTING_MAX, max_documents: 1, max_nodes: 500_000, ..serde_saphyr::Budget::default() };
    let mut options = serde_saphyr::Options { budget: Some(budget), with_snippet: false, ..serde_saphyr::Options::default() };
    // `n` and `on` are names more often than booleans; a field that wants a boolean says so.
    options.strict_booleans = true;
    options.alias_limits.max_total_replayed_events = ALIASED_EVENTS_MAX;
    options.duplicate_keys = duplicates;
    options
}

/// A value as YAML, all text in quotes or plain: the writer's blocks are indented wrongly within lists, and folding loses spaces. Where the
/// writer would lose something else, the value is written as JSON, which is YAML, too.
///
/// # Errors
/// 500: it cannot be written, which no value of JSON is.
pub fn to_yaml(value: &Value) -> Result<String, ApiError> {
    let options = serde_saphyr::SerializerOptions { prefer_block_scalars: false, ..Default::default() };
    let written = serde_saphyr::to_string_with_options(value, options).map_err(ApiError::internal)?;
    let is_kept = parse_yaml(written.as_bytes()).is_ok_and(|read| read.value == *value);
    Ok(if is_kept { written } else { value.to_string() })
}

/// A value with the paths of its duplicate keys, relative to itself.
struct Tracked {
    value: Value,
    duplicates: Vec<String>,
}

impl<'de> Deserialize<'de> for Tracked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tracked, D::Error> {
        deserializer.deserialize_any(TrackedVisitor)
    }
}

struct TrackedVisitor;

impl TrackedVisitor {
    fn plain<E>(value: Value) -> Result<Tracked, E> {
        Ok(Tracked { value, duplicates: Vec::new() })
    }
}

impl<'de> Visitor<'de> for TrackedVisitor {
    type Value = Tracked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tracked, E> {
        Self::plain(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Tracked, E> {
        Self::plain(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tracked, D::Error> {
        Tracked::deserialize(deserializer)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tracked, E> {
        Self::plain(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tracked, E> {
        Self::plain(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tracked, E> {
        Self::plain(Value::from(v))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Tracked, E> {
        let number = Number::from_f64(v).ok_or_else(|| E::custom("not a finite number"))?;
        Self::plain(Value::Number(number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tracked, E> {
        Self::plain(Value::from(v))
    }

    fn visit_string<E>(self, v: String) -> Result<Tracked, E> {
        Self::plain(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tracked, A::Error> {
        let mut list = Vec::new();
        let mut duplicates = Vec::new();
        while let Some(item) = seq.next_element::<Tracked>()? {
            duplicates.extend(item.duplicates.iter().map(|path| join(&format!("[{}]", list.len()), path)));
            list.push(item.value);
        }
        Ok(Tracked { value: Value::Array(list), duplicates })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tracked, A::Error> {
        let mut object = Map::new();
        let mut duplicates = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let item = map.next_value::<Tracked>()?;
            duplicates.extend(item.duplicates.iter().map(|path| join(&key, path)));
            if object.contains_key(&key) {
                duplicates.push(key.clone());
            }
            object.insert(key, item.value);
        }
        Ok(Tracked { value: Value::Object(object), duplicates })
    }
}

fn join(parent: &str, child: &str) -> String {
    if child.starts_with('[') { format!("{parent}{child}") } else { format!("{parent}.{child}") }
}

/// One pass over an object beside its type.
struct Walk {
    issues: Vec<FieldIssue>,
}

impl Walk {
    fn object(&mut self, view: TypeView<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        let Value::Object(map) = value else { return Err(mismatch(value, path, None, view.short_name())) };
        let mut drops = false;
        for (key, item) in map.iter_mut() {
            match view.field(key) {
                None => {
                    self.issues.push(FieldIssue { path: path.key(key).to_string(), kind: IssueKind::Unknown });
                    *item = Value::Null;
                    drops = true;
                }
                Some(_) if item.is_null() => drops = true,
                Some(field) => self.field(view, &field, item, &path.key(key))?,
            }
        }
        if drops {
            map.retain(|_, item| !item.is_null());
        }
        Ok(())
    }

    fn field(&mut self, view: TypeView<'_>, field: &Field<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        match (field.container, value) {
            (Container::Single, value) => self.element(view, field, value, path),
            (Container::List, value) => self.list(view, field, value, path),
            (container, Value::Object(map)) => {
                for (key, item) in map.iter_mut() {
                    let path = path.key(key);
                    match container {
                        Container::MapOfList => self.list(view, field, item, &path)?,
                        _ => self.element(view, field, item, &path)?,
                    }
                }
                Ok(())
            }
            (_, value) => Err(mismatch(value, path, Some(view), &format!("map[string]{}", go_type(view, field)))),
        }
    }

    fn list(&mut self, view: TypeView<'_>, field: &Field<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        let Value::Array(list) = value else { return Err(mismatch(value, path, Some(view), &format!("[]{}", go_type(view, field)))) };
        for (index, item) in list.iter_mut().enumerate() {
            self.element(view, field, item, &path.index(index))?;
        }
        Ok(())
    }

    fn element(&mut self, view: TypeView<'_>, field: &Field<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        if value.is_null() {
            // An absent element of a list or map: the type's zero value, as upstream's decoder makes it.
            *value = zero(field);
            return Ok(());
        }
        let wrong = |value: &Value| Err(mismatch(value, path, Some(view), &go_type(view, field)));
        match (field.element, &mut *value) {
            (Element::Any, _)
            | (Element::AnyObject, Value::Object(_))
            | (Element::Bool, Value::Bool(_))
            | (Element::String | Element::Duration, Value::String(_))
            | (Element::Float, Value::Number(_))
            | (Element::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Element::Int32 | Element::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            (Element::Int64, Value::Number(n)) if n.is_i64() => Ok(()),
            (Element::IntOrString, Value::String(_)) => Ok(()),
            (Element::Bytes, Value::String(text)) => check_base64(text, path),
            (Element::Time, Value::String(text)) => canonical_time(text, Precision::Seconds, path),
            (Element::MicroTime, Value::String(text)) => canonical_time(text, Precision::Micros, path),
            (Element::Quantity, Value::String(_) | Value::Number(_)) => canonical_quantity(value, path),
            (Element::Object, _) => match view.target(field) {
                Some(target) => self.nested(view, target, value, path),
                None => Ok(()),
            },
            (Element::SchemaOrBool | Element::SchemaOrArray | Element::SchemaOrStrings, _) => self.schema_union(view, field, value, path),
            (_, value) => wrong(value),
        }
    }

    fn nested(&mut self, view: TypeView<'_>, target: TypeView<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        match value {
            Value::Object(_) => self.object(target, value, path),
            other => Err(mismatch(other, path, Some(view), &qualified(target))),
        }
    }

    fn schema_union(&mut self, view: TypeView<'_>, field: &Field<'_>, value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
        let Some(target) = view.target(field) else { return Ok(()) };
        match (field.element, value) {
            (Element::SchemaOrArray, Value::Array(list)) => {
                list.iter_mut().enumerate().try_for_each(|(i, item)| self.nested(view, target, item, &path.index(i)))
            }
            (Element::SchemaOrStrings, Value::Array(list)) if list.iter().all(Value::is_string) => Ok(()),
            (_, value) => self.nested(view, target, value, path),
        }
    }
}

fn zero(field: &Field<'_>) -> Value {
    match (field.container, field.element) {
        (Container::MapOfList, _) => Value::Array(Vec::new()),
        (_, Element::Bool) => Value::Bool(false),
        (_, Element::Int32 | Element::Int64 | Element::Float | Element::IntOrString) => Value::from(0),
        (_, Element::String | Element::Bytes | Element::Duration) => Value::from(""),
        (_, Element::Quantity) => Value::from("0"),
        (_, Element::Object | Element::AnyObject) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn check_base64(text: &str, path: &Path<'_>) -> Result<(), TypeMismatch> {
    // Upstream's decoder skips line breaks; so does this one.
    let clean: String;
    let compact = if text.contains(['\n', '\r']) {
        clean = text.replace(['\n', '\r'], "");
        &clean
    } else {
        text
    };
    base64::engine::general_purpose::STANDARD
        .decode(compact)
        .map(|_| ())
        .map_err(|e| TypeMismatch(format!("{path}: illegal base64 data: {e}")))
}

#[derive(Clone, Copy, PartialEq)]
enum Precision {
    Seconds,
    Micros,
}

fn canonical_time(text: &mut String, precision: Precision, path: &Path<'_>) -> Result<(), TypeMismatch> {
    let layout = if precision == Precision::Seconds { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
    let fail = || TypeMismatch(format!("{path}: parsing time {text:?} as {layout:?}: cannot parse"));
    if !text.contains(['T', 't']) {
        return Err(fail());
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| fail())?;
    let shape = if precision == Precision::Seconds { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    let canonical = time.strftime(shape).to_string();
    if *text != canonical {
        *text = canonical;
    }
    Ok(())
}

fn canonical_quantity(value: &mut Value, path: &Path<'_>) -> Result<(), TypeMismatch> {
    let text = text_of(value);
    let parsed = Quantity::parse(text.trim()).ok_or_else(|| TypeMismatch(format!("{path}: {}", quantity::MALFORMED)))?;
    let canonical = parsed.canonical();
    if value.as_str() != Some(canonical.as_str()) {
        *value = Value::String(canonical);
    }
    Ok(())
}

/// Upstream's sentence: the struct that holds the field, the path without indices, and Go's name of the type.
fn mismatch(value: &Value, path: &Path<'_>, owner: Option<TypeView<'_>>, expected: &str) -> TypeMismatch {
    let found = match value {
        Value::Number(n) if expected.starts_with("int") || expected.starts_with("intstr") => format!("number {n}"),
        other => json_type(other).to_owned(),
    };
    let struct_name = owner.map_or("", TypeView::short_name);
    let dotted = field_path(path);
    TypeMismatch(match dotted.as_str() {
        "" => format!("json: cannot unmarshal {found} into Go value of type {expected}"),
        dotted => format!("json: cannot unmarshal {found} into Go struct field {struct_name}.{dotted} of type {expected}"),
    })
}

fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Index(parent, _) => field_path(parent),
        Path::Key(parent, name) | Path::MapKey(parent, name) => {
            let parent = field_path(parent);
            if parent.is_empty() { (*name).to_owned() } else { format!("{parent}.{name}") }
        }
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(view: TypeView<'_>, field: &Field<'_>) -> String {
    match field.element {
        Element::Any | Element::AnyObject => "map[string]interface {}".into(),
        Element::Bool => "bool".into(),
        Element::Int32 => "int32".into(),
        Element::Int64 => "int64".into(),
        Element::Float => "float64".into(),
        Element::String => "string".into(),
        Element::Bytes => "[]uint8".into(),
        Element::Time => "v1.Time".into(),
        Element::MicroTime => "v1.MicroTime".into(),
        Element::Duration => "v1.Duration".into(),
        Element::Quantity => "resource.Quantity".into(),
        Element::IntOrString => "intstr.IntOrString".into(),
        Element::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
        Element::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
        Element::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
        Element::Object => view.target(field).map_or_else(|| "struct".into(), qualified),
    }
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn qualified(view: TypeView<'_>) -> String {
    let mut parts = view.name().rsplit('.');
    let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{version}.{name}")
}
