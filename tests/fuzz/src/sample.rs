//! Objects made from the schema table: every field that a kind has, or some of them.

use pintle_api::{Container, Element, Field, Relation, Resource, Schema, TypeView};
use serde_json::{Map, Value, json};

use crate::draw::Draw;

/// Levels of objects below which only what must be there is filled in: schemas contain schemas.
const DEPTH_MAX: usize = 9;

/// How much of an object is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Every field.
    Whole,
    /// What is required, and about one other field in this many.
    OneIn(usize),
}

/// An object of `resource`.
pub fn object(resource: &Resource, fill: Fill, draw: &mut Draw) -> Value {
    let view = resource.type_id.and_then(|id| Schema::builtin().get(id)).expect("a built-in kind");
    let mut value = members(view, fill, draw, 0);
    value["apiVersion"] = json!(resource.api_version());
    value["kind"] = json!(resource.kind);
    value["metadata"]["name"] = json!("sample");
    if resource.namespaced() {
        value["metadata"]["namespace"] = json!("default");
    }
    value
}

fn members(view: TypeView<'_>, fill: Fill, draw: &mut Draw, depth: usize) -> Value {
    let mut map = Map::new();
    for field in view.fields() {
        // Protobuf has no place for the kind of an object within another; defaults tell it.
        let embedded = depth > 0 && matches!(field.name, "kind" | "apiVersion") && view.field("metadata").is_some();
        let wanted = match fill {
            _ if embedded => false,
            _ if field.required => true,
            _ if depth >= DEPTH_MAX => false,
            Fill::Whole => field.element != Element::Object || !again(view, &field, depth),
            Fill::OneIn(count) => draw.below(count) == 0,
        };
        if wanted {
            map.insert(field.name.to_owned(), contained(view, &field, fill, draw, depth));
        }
    }
    Value::Object(map)
}

/// A schema within a schema within a schema says nothing new, and there is no end of them.
fn again(view: TypeView<'_>, field: &Field<'_>, depth: usize) -> bool {
    depth >= 6 && view.target(field).is_some_and(|target| target.id == view.id)
}

fn contained(view: TypeView<'_>, field: &Field<'_>, fill: Fill, draw: &mut Draw, depth: usize) -> Value {
    // What is told apart by keys comes once: two might be the same.
    let many = if fill == Fill::Whole || matches!(field.relation, Relation::Map | Relation::Set) { 1 } else { 1 + draw.below(2) };
    let mut list = || -> Value { (0..many).map(|_| element(view, field, fill, draw, depth)).collect() };
    match field.container {
        Container::Single => element(view, field, fill, draw, depth),
        Container::List => list(),
        Container::Map => json!({ "key": element(view, field, fill, draw, depth) }),
        Container::MapOfList => json!({ "key": list() }),
    }
}

fn element(view: TypeView<'_>, field: &Field<'_>, fill: Fill, draw: &mut Draw, depth: usize) -> Value {
    let texts = ["web", "a-b", "Always", "TCP", "10.0.0.1", "/path", "x.example.com", "1h", "{}", "é\u{1f600}\n"];
    let numbers = [1, 2, 80, 443, -1, i64::from(i32::MAX)];
    let text = |draw: &mut Draw| if fill == Fill::Whole { json!(field.name) } else { json!(*draw.pick(&texts)) };
    match field.element {
        Element::Any => json!({"any": [1, "two", {"three": true}]}),
        Element::AnyObject => json!({"any": {"object": "x"}}),
        Element::Bool => json!(true),
        Element::Int32 => json!(*draw.pick(&numbers)),
        Element::Int64 => json!(draw.pick(&numbers) << draw.below(20)),
        Element::Float => json!(1.5),
        Element::String => text(draw),
        Element::Duration => json!("1m30s"),
        Element::Bytes => json!("AAEC/w=="),
        Element::Time => json!("2024-01-02T03:04:05Z"),
        Element::MicroTime => json!("2024-01-02T03:04:05.000006Z"),
        Element::Quantity => json!(*draw.pick(&["1", "100m", "1Gi", "2k", "1500m"])),
        Element::IntOrString => draw.pick(&[json!(80), json!("http"), json!("25%")]).clone(),
        Element::SchemaOrBool if depth % 2 == 0 => json!(true),
        Element::SchemaOrStrings if depth % 2 == 0 => json!(["a", "b"]),
        _ => view.target(field).map_or_else(|| json!({}), |target| members(target, fill, draw, depth + 1)),
    }
}
