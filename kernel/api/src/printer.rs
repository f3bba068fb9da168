//! Tables for people: `meta.k8s.io` Table objects, as `kubectl get` prints them.
//!
//! Which columns a kind has and how its cells come about is told in `schema/resources.rows`; functions are for what rows cannot say.
//! Kinds without columns there have their name and age. Ages are relative to a time that the caller passes in.

pub(crate) mod cells;
mod duration;
pub(crate) mod pods;

pub use duration::human_duration;
pub(crate) use duration::since;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom;
use crate::resource::Resource;
use crate::table::Schema;

/// What comes with each row: `includeObject` of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing but the cells.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// One column.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// OpenAPI type: string, integer or boolean.
    pub(crate) kind: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub(crate) priority: u8,
    pub(crate) cell: Cell,
}

/// How a cell comes about.
#[derive(Clone, Copy)]
pub(crate) enum Cell {
    /// `metadata.name`.
    Name,
    /// The time since creation.
    Age,
    /// What is at a JSON pointer, or this text where nothing is.
    At(&'static str, &'static str),
    /// A number at a JSON pointer; 0 where nothing is.
    Count(&'static str),
    /// The time since what is at a JSON pointer.
    Since(&'static str),
    /// How many elements or entries there are at a JSON pointer.
    Length(&'static str),
    /// Whether what is at a JSON pointer is true, as text.
    Flag(&'static str),
    /// The texts of the list at a JSON pointer, or what its elements have at a second one.
    List(&'static str, &'static str),
    /// The texts at JSON pointers with slashes between them, or the first text where there is none.
    Path(&'static str, &'static [&'static str]),
    /// Anything else.
    Of(fn(&Value, Timestamp) -> Value),
}

impl Column {
    pub(crate) const NAME: Self = Self { name: "Name", kind: "string", priority: 0, cell: Cell::Name };
    pub(crate) const AGE: Self = Self { name: "Age", kind: "string", priority: 0, cell: Cell::Age };

    fn value(&self, object: &Value, now: Timestamp) -> Value {
        match self.cell {
            Cell::Name => object["metadata"]["name"].clone(),
            Cell::Age => json!(duration::since(&object["metadata"]["creationTimestamp"], now)),
            Cell::At(pointer, otherwise) => match object.pointer(pointer) {
                None | Some(Value::Null) => json!(otherwise),
                Some(Value::String(text)) if text.is_empty() => json!(otherwise),
                Some(value) if self.kind == "string" && !value.is_string() => json!(value.to_string()),
                Some(value) => value.clone(),
            },
            Cell::Count(pointer) => object.pointer(pointer).filter(|v| v.is_number()).cloned().unwrap_or_else(|| json!(0)),
            Cell::Since(pointer) => json!(duration::since(object.pointer(pointer).unwrap_or(&Value::Null), now)),
            Cell::Length(pointer) => json!(object.pointer(pointer).map_or(0, cells::length)),
            Cell::Flag(pointer) => json!((object.pointer(pointer) == Some(&Value::Bool(true))).to_string()),
            Cell::List(pointer, field) => cells::joined(cells::texts(object, pointer, field)),
            Cell::Path(otherwise, pointers) => cells::path(object, otherwise, pointers),
            Cell::Of(compute) => compute(object, now),
        }
    }

    fn definition(&self, resource: &Resource) -> Value {
        let (pointer, format) = match self.cell {
            Cell::Name => ("/metadata/name", "name"),
            Cell::Age => ("/metadata/creationTimestamp", ""),
            Cell::At(pointer, _) | Cell::Count(pointer) | Cell::Since(pointer) => (pointer, ""),
            Cell::Length(pointer) | Cell::Flag(pointer) | Cell::List(pointer, _) => (pointer, ""),
            Cell::Path(..) | Cell::Of(_) => ("", ""),
        };
        let description = documentation(resource, pointer).unwrap_or_default();
        json!({"name": self.name, "type": self.kind, "format": format, "description": description, "priority": self.priority})
    }
}

/// What the schema says of the field at a JSON pointer.
fn documentation(resource: &Resource, pointer: &str) -> Option<&'static str> {
    let schema = Schema::builtin();
    let metadata = pointer.strip_prefix("/metadata/").map(|_| "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let (mut view, path) = match metadata {
        Some(name) => (schema.type_named(name)?, pointer.strip_prefix("/metadata")?),
        None => (schema.get(resource.type_id?)?, pointer),
    };
    let mut keys = path.split('/').skip(1).peekable();
    loop {
        let field = view.field(keys.next()?)?;
        if keys.peek().is_none() {
            return Some(field.doc);
        }
        view = view.target(&field)?;
    }
}

/// The column definitions of a resource's tables.
pub fn column_definitions(resource: &Resource) -> Value {
    if let Some(version) = &resource.custom {
        return custom::definitions(version);
    }
    resource.facts().columns.iter().map(|column| column.definition(resource)).collect()
}

/// One row: the cells, and what the request wants of the object.
pub fn row(resource: &Resource, object: &Value, include: IncludeObject, version: &str, now: Timestamp) -> Value {
    let cells: Vec<Value> = match &resource.custom {
        Some(version) => custom::cells(version, object, now),
        None => resource.facts().columns.iter().map(|column| column.value(object, now)).collect(),
    };
    let shown = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"]})
        }
    };
    let mut row = json!({"cells": cells, "object": shown});
    if let Some(conditions) = pods::row_conditions(resource, object) {
        row["conditions"] = conditions;
    }
    row
}

/// A whole table. `version` is that of `meta.k8s.io`: v1 or v1beta1; `metadata` is the list's.
pub fn table<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: IncludeObject,
    version: &str,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(resource, object, include, version, now)).collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": column_definitions(resource), "rows": rows,
    })
}
