//! A structural schema as rows of the schema table, so that whoever reads rows (server-side apply) need not know the
//! difference. What a row cannot say (lists of lists, values of several types) is [`Element::Any`]: taken as a whole.

use serde_json::Value;

use super::{flag, list, text};
use crate::resource::Resource;
use crate::table::{Container, DynamicField, DynamicType, Element, Relation, Schema, TypeId};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a version of a resource, that of its objects first, with identities as [`Schema::with_types`] gives them.
pub(super) fn of(schema: &Schema, resource: &Resource, root: &Value) -> Vec<DynamicType> {
    let mut group: Vec<&str> = resource.group.split('.').rev().collect();
    group.extend([resource.version.as_ref(), resource.kind.as_ref()]);
    let mut made = Made { first: schema.next_type(), types: Vec::new() };
    made.add(root, &group.join("."));
    let metadata = schema.type_named(OBJECT_META).map(|view| view.id);
    for (name, target) in [("apiVersion", None), ("kind", None), ("metadata", metadata)] {
        let element = if target.is_some() { Element::Object } else { Element::String };
        let fields = &mut made.types[0].fields;
        fields.retain(|field| field.name != name);
        fields.push(DynamicField { target, ..field(name, &Value::Null, Container::Single, element) });
    }
    made.types
}

struct Made {
    first: TypeId,
    types: Vec<DynamicType>,
}

impl Made {
    /// Adds the type of an object, and those below it.
    fn add(&mut self, node: &Value, name: &str) -> TypeId {
        let index = self.types.len();
        self.types.push(DynamicType { name: name.to_owned(), doc: text(node, "description").to_owned(), fields: Vec::new() });
        let required = list(node, "required");
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            let inner = |key: &str| property.get(key).filter(|child| child.is_object());
            let (container, value) = match (text(property, "type"), inner("items"), inner("additionalProperties")) {
                ("array", Some(items), _) => (Container::List, items),
                ("object", _, Some(values)) => (Container::Map, values),
                _ => (Container::Single, property),
            };
            let element = element(value);
            let mut made = field(key, property, container, element);
            made.required = required.iter().any(|name| name == key);
            if element == Element::Object {
                made.target = Some(self.add(value, &format!("{name}.{key}")));
            }
            self.types[index].fields.push(made);
        }
        Schema::type_after(self.first, index)
    }
}

fn element(node: &Value) -> Element {
    match text(node, "type") {
        _ if flag(node, "x-kubernetes-int-or-string") => Element::IntOrString,
        "object" if node["properties"].is_object() && !flag(node, "x-kubernetes-embedded-resource") => Element::Object,
        "object" if !node["additionalProperties"].is_object() => Element::AnyObject,
        "string" => Element::String,
        "boolean" => Element::Bool,
        "integer" => Element::Int64,
        "number" => Element::Float,
        _ => Element::Any,
    }
}

fn field(name: &str, node: &Value, container: Container, element: Element) -> DynamicField {
    let word = if container == Container::List { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
    let keys: Vec<&str> = list(node, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    DynamicField {
        name: name.to_owned(),
        doc: text(node, "description").to_owned(),
        container,
        element,
        target: None,
        required: false,
        relation: Relation::parse(text(node, word)),
        list_keys: keys.join(","),
        merge_key: String::new(),
        strategy: String::new(),
        default: node.get("default").map_or_else(String::new, Value::to_string),
    }
}
