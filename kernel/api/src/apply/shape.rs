//! What a place in an object is to a merge: replaced as a whole, or taken apart, and by what names.
//!
//! This is the one reader of the schema table's merge facts here, for built-in rows and rows added at runtime alike. Objects
//! without a type, and members that a runtime type does not know, are taken apart as far as they are JSON objects; their
//! lists are replaced.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::table::{Container, Element, Field, Relation, Schema, TypeView};

/// See the module's documentation.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// One value, or a list, map or struct that is replaced as a whole.
    Whole,
    /// An object with known fields.
    Struct(TypeView<'a>),
    /// A JSON object: each value is one of the field's elements.
    Map(TypeView<'a>, Field<'a>),
    /// A list whose elements are told apart by their keys.
    Keyed(TypeView<'a>, Field<'a>),
    /// A list of distinct scalars.
    Set,
    /// Any JSON.
    Free,
}

/// A member of an object.
pub(super) struct Member<'a> {
    pub(super) shape: Shape<'a>,
    /// A field of a struct, not a key of a map.
    pub(super) declared: bool,
    /// Upstream has an empty value where nothing is.
    pub(super) inline: bool,
}

impl<'a> Shape<'a> {
    /// Of the objects of a resource.
    pub(super) fn of(schema: &'a Schema, resource: &Resource) -> Shape<'a> {
        resource.type_id.and_then(|id| schema.get(id)).map_or(Shape::Free, Shape::Struct)
    }

    fn of_field(view: TypeView<'a>, field: &Field<'a>) -> Shape<'a> {
        match (field.container, field.relation) {
            (Container::Single, Relation::Atomic) => Shape::Whole,
            (Container::Single, _) => Shape::of_element(view, field),
            (Container::List, Relation::Set) => Shape::Set,
            (Container::List, Relation::Map) => Shape::Keyed(view, *field),
            (Container::List, _) | (_, Relation::Atomic) => Shape::Whole,
            (Container::Map | Container::MapOfList, _) => Shape::Map(view, *field),
        }
    }

    fn of_element(view: TypeView<'a>, field: &Field<'a>) -> Shape<'a> {
        match (field.element, view.target(field)) {
            (Element::Object, Some(target)) if !target.is_atomic() => Shape::Struct(target),
            // Raw JSON in a built-in type is replaced; in a custom resource it is what preserves unknown fields.
            (Element::Any | Element::AnyObject, _) if !view.id.is_builtin() => Shape::Free,
            _ => Shape::Whole,
        }
    }

    /// The member `key` of an object of this shape.
    pub(super) fn member(self, key: &str) -> Member<'a> {
        let found = match self {
            Shape::Struct(view) => view.field(key).map(|field| (view, field)),
            Shape::Map(view, field) => {
                let list = field.container == Container::MapOfList;
                let shape = if list { Shape::Whole } else { Shape::of_element(view, &field) };
                return Member { shape, declared: false, inline: false };
            }
            _ => None,
        };
        let Some((view, field)) = found else { return Member { shape: Shape::Free, declared: false, inline: false } };
        let shape = Shape::of_field(view, &field);
        let list = field.container != Container::Single && !matches!(shape, Shape::Whole);
        Member { shape, declared: true, inline: field.inline || (list && field.required && view.id.is_builtin()) }
    }

    /// What an element of a list of this shape is.
    pub(super) fn element(self) -> Shape<'a> {
        match self {
            Shape::Keyed(view, field) => Shape::of_element(view, &field),
            _ => Shape::Whole,
        }
    }

    /// Whether values of this shape are JSON objects that are taken apart.
    pub(super) fn opens_objects(self) -> bool {
        matches!(self, Shape::Struct(_) | Shape::Map(..) | Shape::Free)
    }

    /// Whether values of this shape are lists that are taken apart.
    pub(super) fn opens_lists(self) -> bool {
        matches!(self, Shape::Keyed(..) | Shape::Set)
    }

    /// The path's part for an element of a list of this shape: `k:{...}` or `v:...`. The error names the key that it lacks.
    pub(super) fn part(self, item: &Value) -> Result<String, &'a str> {
        let Shape::Keyed(view, field) = self else { return Ok(format!("v:{item}")) };
        let target = view.target(&field);
        let mut keys = Map::new();
        for key in field.list_keys() {
            let default = || serde_json::from_str(target?.field(key)?.default).ok();
            let value = item.get(key).cloned().or_else(default).ok_or(key)?;
            keys.insert(key.to_owned(), value);
        }
        Ok(format!("k:{}", Value::Object(keys)))
    }

    /// A list's elements by their parts; of several with the same part, the last. `None`: an element lacks a key.
    pub(super) fn by_part(self, list: &[Value]) -> Option<BTreeMap<String, &Value>> {
        list.iter().map(|item| Some((self.part(item).ok()?, item))).collect()
    }
}
