//! Validation: what upstream refuses before it stores.
//!
//! Rules are rows beside the schema table. schema/validation.rows says what holds for a type wherever it occurs, so a pod template
//! in a Job is held to the same as a pod; [`immutable`] says what an update may not change; [`metadata`] is about every
//! object. A walk over the object applies them and collects every failure, because users want to see all at once.
//!
//! Objects are defaulted and of the right types before they come here. Not here: quotas, policies, references to other
//! objects: those are for admission.

mod access;
mod batch;
pub(crate) mod devices;
pub mod immutable;
pub mod metadata;
mod network;
mod pods;
mod rules;
mod scaling;
mod storage;
mod volumes;
mod warnings;
mod windows;
mod workloads;

pub(crate) use immutable::Succession;
use pintle_values::formats;
pub use pintle_values::names;
pub use warnings::warnings;

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::path::Path;
use crate::quantity::Quantity;
use crate::resource::Resource;
use crate::status::{ApiError, FieldError, FieldErrorKind};
use crate::table::{Container, Element, Field, Schema, TypeView};

/// Failures that are collected before the walk stops adding more.
pub const FAILURES_MAX: usize = 200;

type Object = Map<String, Value>;

/// One rule about the objects of a type.
enum Rule {
    /// The fields must be present and not empty; `outer.inner` if `outer` is present.
    Required(&'static [&'static str]),
    /// The text, or each of a list, must be one of these, if present. What is wrong in a list is said of its element, or of the list.
    OneOf(&'static str, &'static [&'static str], bool),
    /// The text, or each text of the list, must pass.
    Format(&'static str, names::Check),
    /// The text must pass, even an empty one.
    Text(&'static str, names::Check),
    /// Each key of the map must pass.
    Keys(&'static str, names::Check),
    /// Labels: keys are qualified names, values label values.
    Labels(&'static str),
    /// The numbers, or quantities, must not be below zero.
    NonNegative(&'static [&'static str]),
    /// The number must be within, both ends included.
    Range(&'static str, i64, i64),
    /// A port: 1 to 65535, or a port's name.
    Port(&'static str),
    /// No two elements of the list have the same value of the key; else the later is a duplicate, or invalid.
    Unique(&'static str, &'static str, FieldErrorKind),
    /// Exactly one of the fields is set; else the object is invalid, or one is required and the others forbidden.
    ExactlyOne(&'static [&'static str], &'static str, FieldErrorKind),
    /// At least one of the fields is set.
    AtLeastOne(&'static [&'static str], &'static str),
    /// At most one of the fields is set.
    AtMostOne(&'static [&'static str]),
    /// The list has at most so many elements; else there are too many, or it is invalid.
    AtMost(&'static str, usize, FieldErrorKind),
    /// The text, or a map of texts, has at most so many bytes.
    Longest(&'static str, usize),
    /// No text occurs twice in the list.
    Distinct(&'static str),
    /// A map of amounts: names pass, none is below zero.
    Amounts(&'static str, names::Check),
    /// The fields may be set only while another has one of these values; else they are forbidden, or invalid, for this reason.
    Only(&'static [&'static str], &'static str, &'static [&'static str], &'static str, FieldErrorKind),
    /// The fields are required while another has one of these values, or with `*` any.
    Needs(&'static [&'static str], &'static str, &'static [&'static str], &'static str),
    /// A union: by the value of the first field one of the others is required, and the rest are forbidden.
    Union(&'static str, &'static [(&'static str, &'static str)]),
    /// Anything that looks at more than one field.
    Check(fn(&Object, &Path<'_>, &mut Failures)),
}

/// Failures so far, and what a part tells the parts within it.
#[derive(Default)]
pub(crate) struct Failures {
    found: Vec<FieldError>,
    /// Volumes that a StatefulSet claims for its pods: their template may mount these without listing them.
    claimed: Vec<String>,
}

impl Failures {
    pub(crate) fn push(&mut self, error: FieldError) {
        if self.found.len() < FAILURES_MAX {
            self.found.push(error);
        }
    }
}

/// What is wrong with a new object.
pub fn create(schema: &Schema, resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut failures = Failures::default();
    metadata::check(resource, object, &mut failures);
    check_object(schema, resource, object, &mut failures);
    failures.found.extend(resource.custom.iter().flat_map(|version| version.check(object, None)));
    failures.found
}

/// What is wrong with `new` as the successor of `old`.
pub fn update(schema: &Schema, resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut failures = Failures::default();
    metadata::check(resource, new, &mut failures);
    metadata::check_update(new, old, &mut failures);
    immutable::check(resource, new, old, &mut failures);
    let mut found = Failures::default();
    check_object(schema, resource, new, &mut found);
    if !found.found.is_empty() {
        // What was stored when the rules were others does not bind who changes something else.
        let mut before = Failures::default();
        check_object(schema, resource, old, &mut before);
        failures.found.extend(found.found.into_iter().filter(|failure| !before.found.contains(failure)));
    }
    failures.found.extend(resource.custom.iter().flat_map(|version| version.check(new, Some(old))));
    failures.found
}

/// What is wrong with `new` as a write to a part of `old` other than its status, such as a pod's `resize`. The write was kept
/// to its own fields, so what the whole object may not change does not bind it.
pub fn update_part(schema: &Schema, resource: &Resource, part: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut failures = Failures::default();
    metadata::check_update(new, old, &mut failures);
    immutable::check_part(resource, part, new, old, &mut failures);
    check_object(schema, resource, new, &mut failures);
    failures.found
}

/// What is wrong with `new` as a status update of `old`. The spec was held to its rules when it was written.
pub fn update_status(schema: &Schema, resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut failures = Failures::default();
    metadata::check(resource, new, &mut failures);
    metadata::check_update(new, old, &mut failures);
    // The names that a definition was given may be none, where those that it asks for may not.
    if let Some(view) = resource.type_id.filter(|id| id.is_builtin()).and_then(|id| schema.get(id))
        && let Some(field) = view.field("status").filter(|_| resource.plural != "customresourcedefinitions")
    {
        walk_field(view, &field, &new["status"], &Path::Root.key("status"), &mut failures);
    }
    immutable::check_status(resource, new, old, &mut failures);
    failures.found.extend(resource.custom.iter().flat_map(|version| version.check(new, Some(old))));
    failures.found
}

/// Turns failures into the error that a client sees.
pub fn settle(resource: &Resource, object: &Value, failures: &[FieldError]) -> Result<(), ApiError> {
    if failures.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().or_else(|| object["metadata"]["generateName"].as_str()).unwrap_or_default();
    Err(ApiError::invalid(resource, name, failures))
}

// `RULES`: every row of schema/validation.rows: types' names without the leading `io.k8s.`, and rules about their objects.
include!(concat!(env!("OUT_DIR"), "/validation.rs"));

/// By type: built-in identities count from zero.
static TABLE: LazyLock<Vec<Vec<&'static [Rule]>>> = LazyLock::new(|| {
    let schema = Schema::builtin();
    let mut table: Vec<Vec<&'static [Rule]>> = schema.types().map(|_| Vec::new()).collect();
    for (names, rules) in RULES {
        for view in names.iter().filter_map(|name| schema.type_named(name)) {
            table[view.id.index()].push(rules);
        }
    }
    table
});

fn check_object(schema: &Schema, resource: &Resource, object: &Value, failures: &mut Failures) {
    if let (Some(view), Value::Object(map)) = (resource.type_id.filter(|id| id.is_builtin()).and_then(|id| schema.get(id)), object) {
        walk(view, map, &Path::Root, failures);
    }
}

fn walk(view: TypeView<'_>, map: &Object, path: &Path<'_>, failures: &mut Failures) {
    for rules in TABLE.get(view.id.index()).into_iter().flatten() {
        rules.iter().for_each(|rule| apply(rule, map, path, failures));
    }
    for (key, value) in map {
        // The server's own parts are not the client's to get wrong.
        if matches!(path, Path::Root) && (key == "metadata" || key == "status") {
            continue;
        }
        if let Some(field) = view.field(key)
            && field.element == Element::Object
        {
            walk_field(view, &field, value, &path.key(key), failures);
        }
    }
}

fn walk_field(view: TypeView<'_>, field: &Field<'_>, value: &Value, path: &Path<'_>, failures: &mut Failures) {
    let Some(target) = view.target(field) else { return };
    match (field.container, value) {
        (Container::Single, Value::Object(map)) => walk(target, map, path, failures),
        (Container::List, Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                if let Value::Object(map) = item {
                    walk(target, map, &path.index(index), failures);
                }
            }
        }
        (Container::Map, Value::Object(items)) => {
            for (key, item) in items {
                if let Value::Object(map) = item {
                    walk(target, map, &path.map_key(key), failures);
                }
            }
        }
        _ => {}
    }
}

fn apply(rule: &Rule, map: &Object, path: &Path<'_>, failures: &mut Failures) {
    match rule {
        Rule::Required(fields) => {
            for field in *fields {
                let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
                match map.get(outer) {
                    value if inner.is_empty() && is_empty(value) => failures.push(FieldError::required(path.key(outer), "")),
                    Some(Value::Object(below)) if !inner.is_empty() && is_empty(below.get(inner)) => {
                        failures.push(FieldError::required(path.key(outer).key(inner), ""));
                    }
                    _ => {}
                }
            }
        }
        Rule::OneOf(field, supported, of_element) => {
            let at = path.key(field);
            if let Some(text) = map.get(*field).and_then(Value::as_str).filter(|text| !supported.contains(text)) {
                failures.push(FieldError::not_supported(at, text, supported));
            }
            let texts = list(map, field).iter().enumerate().filter_map(|(index, item)| Some((index, item.as_str()?)));
            for (index, text) in texts.filter(|(_, text)| !supported.contains(text)) {
                let at = if *of_element { at.index(index).to_string() } else { at.to_string() };
                failures.push(FieldError::not_supported(at, text, supported));
            }
        }
        Rule::Format(field, check) => check_format(map.get(*field), *check, &path.key(field), failures),
        Rule::Text(field, check) => {
            if let Some(why) = check(text(map, field)) {
                failures.push(FieldError::invalid(path.key(field), text(map, field), why));
            }
        }
        Rule::Keys(field, check) => {
            let at = path.key(field);
            for key in map.get(*field).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
                if let Some(why) = check(key) {
                    failures.push(FieldError::invalid(at.map_key(key), key.as_str(), why));
                }
            }
        }
        Rule::Labels(field) => metadata::check_labels(map.get(*field), &path.key(field), failures),
        Rule::NonNegative(fields) => {
            for field in *fields {
                check_number(map, field, 0, i64::MAX, path, failures);
            }
        }
        Rule::Range(field, min, max) => check_number(map, field, *min, *max, path, failures),
        Rule::Port(field) => check_port(map.get(*field), &path.key(field), failures),
        Rule::Unique(field, key, kind) => check_unique(list(map, field), key, *kind, &path.key(field), failures),
        Rule::ExactlyOne(fields, what, kind) => check_one(fields, what, *kind, map, path, failures),
        Rule::AtLeastOne(fields, why) => {
            if fields.iter().all(|field| is_empty(map.get(*field))) {
                failures.push(FieldError::required(path, *why));
            }
        }
        Rule::AtMostOne(fields) => {
            let mut set = fields.iter().filter(|field| map.contains_key(**field));
            if let (Some(first), Some(second)) = (set.next(), set.next()) {
                failures.push(FieldError::forbidden(path.key(second), format!("may not be set together with `{first}`")));
            }
        }
        Rule::AtMost(field, most, kind) => {
            let (list, at) = (list(map, field), path.key(field));
            match kind {
                _ if list.len() <= *most => {}
                FieldErrorKind::Invalid => {
                    failures.push(FieldError::invalid(at, list.to_vec(), format!("must not have more than {most} items")))
                }
                _ => failures.push(FieldError::too_many(at, list.len(), *most)),
            }
        }
        Rule::Longest(field, most) => {
            let bytes = |text: &Value| text.as_str().unwrap_or_default().len();
            let all = |map: &Object| map.iter().map(|(key, value)| key.len() + bytes(value)).sum();
            if map.get(*field).map_or(0, |value| value.as_object().map_or(bytes(value), all)) > *most {
                failures.push(FieldError::too_long(path.key(field), *most));
            }
        }
        Rule::Distinct(field) => {
            let items = list(map, field);
            for (index, item) in items.iter().enumerate().filter(|(index, item)| items[..*index].contains(item)) {
                failures.push(FieldError::duplicate(path.key(field).index(index), item.clone()));
            }
        }
        Rule::Amounts(field, check) => check_amounts(map.get(*field), *check, &path.key(field), failures),
        Rule::Only(fields, by, values, why, kind) => {
            for field in fields.iter().filter(|field| !is_so(map, by, values) && !is_empty(map.get(**field))) {
                let shown = if *kind == FieldErrorKind::Invalid { map[*field].clone() } else { Value::Null };
                failures.push(FieldError::new(path.key(field), *kind, shown, *why));
            }
        }
        Rule::Needs(fields, by, values, why) => {
            for field in fields.iter().filter(|field| is_so(map, by, values) && is_empty(map.get(**field))) {
                failures.push(FieldError::required(path.key(field), *why));
            }
        }
        Rule::Union(by, members) => {
            let chosen = text(map, by);
            for (value, field) in *members {
                match (chosen == *value, map.contains_key(*field)) {
                    (true, false) => failures.push(FieldError::required(path.key(field), format!("is required when {by} is {value:?}"))),
                    (false, true) if !members.iter().any(|(value, other)| other == field && *value == chosen) => {
                        failures.push(FieldError::forbidden(path.key(field), format!("may not be set when {by} is {chosen:?}")));
                    }
                    _ => {}
                }
            }
        }
        Rule::Check(check) => check(map, path, failures),
    }
}

fn text<'a>(map: &'a Object, key: &str) -> &'a str {
    map.get(key).and_then(|value| if *value == true { Some("true") } else { value.as_str() }).unwrap_or_default()
}

/// Whether the field has one of these values, or with `*` any.
fn is_so(map: &Object, field: &str, values: &[&str]) -> bool {
    if values == ["*"] { !is_empty(map.get(field)) } else { values.contains(&text(map, field)) }
}

fn list<'a>(map: &'a Object, key: &str) -> &'a [Value] {
    map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(map: &Object, key: &str) -> Option<i64> {
    map.get(key).and_then(Value::as_i64)
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(Quantity::parse)
}

fn check_amounts(amounts: Option<&Value>, check: names::Check, path: &Path<'_>, failures: &mut Failures) {
    for (name, value) in amounts.and_then(Value::as_object).into_iter().flatten() {
        if let Some(why) = check(name) {
            failures.push(FieldError::invalid(path.map_key(name), name.as_str(), why));
        }
        if amount(value).is_some_and(Quantity::is_negative) {
            failures.push(FieldError::invalid(path.map_key(name), value.clone(), "must be greater than or equal to 0"));
        }
        if formats::is_whole(name) && amount(value).is_some_and(|q| !q.is_whole()) {
            failures.push(FieldError::invalid(path.map_key(name), value.clone(), "must be an integer"));
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn check_format(value: Option<&Value>, check: names::Check, path: &Path<'_>, failures: &mut Failures) {
    match value {
        Some(Value::String(text)) if !text.is_empty() => {
            if let Some(why) = check(text) {
                failures.push(FieldError::invalid(path, text.as_str(), why));
            }
        }
        Some(Value::Array(list)) => {
            for (index, text) in list.iter().enumerate().filter_map(|(i, item)| Some((i, item.as_str()?))) {
                if let Some(why) = check(text) {
                    failures.push(FieldError::invalid(path.index(index), text, why));
                }
            }
        }
        _ => {}
    }
}

fn check_number(map: &Object, field: &str, min: i64, max: i64, path: &Path<'_>, failures: &mut Failures) {
    let (at, wrong) = (path.key(field), |value: &Value| {
        let whole = value.as_i64().or_else(|| i64::try_from(amount(value)?.millis().div_euclid(1000)).ok());
        whole.filter(|n| *n < min || *n > max).map(|_| value.clone())
    });
    let why = || match max {
        i64::MAX => format!("must be greater than or equal to {min}"),
        _ => format!("must be between {min} and {max}, inclusive"),
    };
    if let Some(number) = map.get(field).and_then(wrong) {
        failures.push(FieldError::invalid(at, number, why()));
    }
    for (index, number) in list(map, field).iter().enumerate().filter_map(|(index, item)| Some((index, wrong(item)?))) {
        failures.push(FieldError::invalid(at.index(index), number, why()));
    }
}

fn check_port(value: Option<&Value>, path: &Path<'_>, failures: &mut Failures) {
    match value {
        Some(Value::Number(number)) if number.as_i64().is_none_or(|n| !(1..=65535).contains(&n)) => {
            failures.push(FieldError::invalid(path, number.clone(), "must be between 1 and 65535, inclusive"));
        }
        Some(Value::String(name)) => {
            if let Some(why) = names::port_name(name) {
                failures.push(FieldError::invalid(path, name.as_str(), why));
            }
        }
        _ => {}
    }
}

fn check_unique(items: &[Value], key: &str, kind: FieldErrorKind, path: &Path<'_>, failures: &mut Failures) {
    let why = if kind == FieldErrorKind::Invalid { "must be unique" } else { "" };
    for (index, item) in items.iter().enumerate() {
        let Some(value) = item.get(key).filter(|value| !is_empty(Some(value))) else { continue };
        if items[..index].iter().any(|other| other.get(key) == Some(value)) {
            failures.push(FieldError::new(path.index(index).key(key), kind, value.clone(), why));
        }
    }
}

fn check_one(fields: &[&str], what: &str, kind: FieldErrorKind, map: &Object, path: &Path<'_>, failures: &mut Failures) {
    let mut set = fields.iter().filter(|field| map.get(**field).is_some_and(|value| !value.is_null()));
    match (set.next(), set.next()) {
        (None, _) => failures.push(FieldError::new(path, kind, "", what)),
        (Some(_), Some(_)) if kind == FieldErrorKind::Invalid => {
            failures.push(FieldError::invalid(path, "", format!("{what}, but only one")))
        }
        (Some(_), Some(second)) => failures.push(FieldError::forbidden(path.key(second), "may not specify more than 1 of them")),
        _ => {}
    }
}
