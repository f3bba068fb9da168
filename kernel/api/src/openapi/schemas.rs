//! Types as JSON schemas, with the extensions that clients read: kinds, merge keys, list types.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::resource::{Resource, Scope, kind_type};
use crate::table::{Container, Element, Field, KINDS, Relation, Schema, TypeId, TypeView};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// The schema of patches' bodies.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Which types are kinds, and under which names.
pub(super) struct Kinds<'a> {
    schema: &'a Schema,
    of_type: BTreeMap<TypeId, Vec<Value>>,
}

impl<'a> Kinds<'a> {
    pub(super) fn new(schema: &'a Schema) -> Kinds<'a> {
        let mut of_type: BTreeMap<TypeId, Vec<Value>> = BTreeMap::new();
        for resource in schema.resources() {
            if let Some(id) = resource.type_id {
                of_type.entry(id).or_default().push(gvk(&resource.group, &resource.version, &resource.kind));
            }
        }
        for kind in KINDS.iter().filter(|kind| kind.scope == Scope::Subresource) {
            let [group, version, name, _] = kind.names();
            of_type.entry(kind.type_id()).or_default().push(gvk(group, version, name));
        }
        for name in ["DeleteOptions", "Status", "APIGroup", "APIGroupList", "APIResourceList", "APIVersions"] {
            if let Some(view) = schema.type_named(&format!("{META}{name}")) {
                of_type.entry(view.id).or_insert_with(|| vec![gvk("", "v1", name)]);
            }
        }
        Kinds { schema, of_type }
    }
}

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The address of a definition within its document.
pub(super) fn reference(dialect: Dialect, name: &str) -> Value {
    let prefix = if dialect == Dialect::V2 { "#/definitions/" } else { "#/components/schemas/" };
    json!({"$ref": format!("{prefix}{name}")})
}

/// The name of the definition of a resource's objects.
pub(super) fn definition_name(schema: &Schema, resource: &Resource) -> String {
    let view = resource.type_id.and_then(|id| schema.get(id));
    view.map_or_else(|| reversed(&resource.group, &resource.version, &resource.kind), |view| view.name().to_owned())
}

/// The name of the definition of a list of them.
pub(super) fn list_name(schema: &Schema, resource: &Resource) -> String {
    let name = definition_name(schema, resource);
    match name.rsplit_once('.') {
        Some((package, _)) => format!("{package}.{}", resource.list_kind),
        None => resource.list_kind.to_string(),
    }
}

/// `com.example.v1.Kind` for a custom resource of `example.com`.
fn reversed(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// Every definition that the resources need, by name.
pub(super) fn for_resources(kinds: &Kinds<'_>, resources: &[&Resource], dialect: Dialect) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    visit(kinds, resources, dialect, |name, definition| {
        found.insert(name.to_owned(), definition.clone());
    });
    found
}

/// Hands every definition that the resources need to `each`, one at a time.
pub(super) fn visit(kinds: &Kinds<'_>, resources: &[&Resource], dialect: Dialect, mut each: impl FnMut(&str, &Value)) {
    let schema = kinds.schema;
    let mut queue: Vec<TypeId> = resources.iter().filter(|r| r.custom.is_none()).filter_map(|r| r.type_id).collect();
    for sub in resources.iter().flat_map(|r| &r.subresources) {
        queue.extend(kind_type(&sub.group, &sub.version, &sub.kind));
    }
    queue.extend(
        ["DeleteOptions", "Status", "ListMeta", "ObjectMeta"]
            .iter()
            .filter_map(|name| Some(schema.type_named(&format!("{META}{name}"))?.id)),
    );
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        let Some(view) = schema.get(id).filter(|_| seen.insert(id)) else { continue };
        queue.extend(view.fields().filter_map(|field| field.target));
        each(view.name(), &type_schema(kinds, view, dialect));
    }
    for resource in resources.iter().filter(|r| r.verbs.contains(crate::resource::Verb::List)) {
        each(&list_name(schema, resource), &list_schema(schema, resource, dialect));
    }
    for (resource, version) in resources.iter().filter_map(|r| Some((r, r.custom.as_ref()?))) {
        each(&definition_name(schema, resource), &custom_schema(resource, version.schema(), dialect));
    }
    for resource in resources.iter().filter(|r| r.type_id.is_none()) {
        let kind = gvk(&resource.group, &resource.version, &resource.kind);
        each(
            &definition_name(schema, resource),
            &json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-group-version-kind": [kind]}),
        );
    }
    for (name, definition) in values(dialect) {
        each(name, &definition);
    }
}

fn type_schema(kinds: &Kinds<'_>, view: TypeView<'_>, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    describe(&mut schema, view.doc());
    schema.insert("type".into(), json!("object"));
    let properties: Map<String, Value> = view.fields().map(|field| (field.name.to_owned(), property(view, &field, dialect))).collect();
    if !properties.is_empty() {
        schema.insert("properties".into(), Value::Object(properties));
    }
    let required: Vec<&str> = view.fields().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    if view.is_atomic() {
        schema.insert("x-kubernetes-map-type".into(), json!("atomic"));
    }
    if let Some(names) = kinds.of_type.get(&view.id) {
        schema.insert("x-kubernetes-group-version-kind".into(), json!(names));
    }
    Value::Object(schema)
}

/// The schema of a custom resource as its definition says it, with the members that every object has.
fn custom_schema(resource: &Resource, schema: &Value, dialect: Dialect) -> Value {
    let mut schema = if dialect == Dialect::V2 { plain(schema) } else { schema.clone() };
    if !schema.is_object() {
        schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    let kinds = json!([gvk(&resource.group, &resource.version, &resource.kind)]);
    if dialect == Dialect::V2 && schema["x-kubernetes-preserve-unknown-fields"] == true {
        return json!({"type": "object", "x-kubernetes-group-version-kind": kinds});
    }
    schema["x-kubernetes-group-version-kind"] = kinds;
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    for (key, doc) in TYPE_META {
        schema["properties"][key] = json!({"type": "string", "description": doc});
    }
    let metadata = wrap(reference(dialect, &format!("{META}ObjectMeta")), dialect);
    schema["properties"]["metadata"] = described(metadata, "Standard object's metadata.");
    schema
}

/// A schema without what version 2 cannot say. Of objects that may hold anything it says nothing more, or clients would
/// refuse what they do not know.
fn plain(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-int-or-string"] == true
        || schema["nullable"] == true;
    let said = |key: &str| {
        !matches!(key, "allOf" | "anyOf" | "oneOf" | "not" | "nullable")
            && !(open && matches!(key, "type" | "properties" | "items" | "required" | "format"))
    };
    let below = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(map)) => map.iter().map(|(name, child)| (name.clone(), plain(child))).collect(),
            ("items" | "additionalProperties", child) => plain(child),
            (_, value) => value.clone(),
        };
        (key.clone(), value)
    };
    map.iter().filter(|(key, _)| said(key)).map(below).collect()
}

fn list_schema(schema: &Schema, resource: &Resource, dialect: Dialect) -> Value {
    let text = |doc: &str| json!({"type": "string", "description": doc});
    let [(_, api_version), (_, kind)] = TYPE_META;
    json!({
        "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text(api_version),
            "kind": text(kind),
            "items": {"type": "array", "description": format!("List of {}.", resource.plural), "items": wrap(reference(dialect, &definition_name(schema, resource)), dialect)},
            "metadata": described(wrap(reference(dialect, "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"), dialect), "Standard list metadata."),
        },
        "x-kubernetes-group-version-kind": [gvk(&resource.group, &resource.version, &resource.list_kind)],
    })
}

const TYPE_META: [(&str, &str); 2] = [
    ("apiVersion", "APIVersion defines the group and version whose schema the object follows."),
    ("kind", "Kind says what the object is, in CamelCase."),
];

/// Definitions of values that have a name but no fields.
fn values(dialect: Dialect) -> [(&'static str, Value); 7] {
    let either = |one: &str, other: &str, format: Option<&str>| {
        // Version 2 has no alternatives; clients take a string for both.
        let mut schema =
            if dialect == Dialect::V2 { json!({"type": "string"}) } else { json!({"oneOf": [{"type": one}, {"type": other}]}) };
        if let Some(format) = format {
            schema["format"] = json!(format);
        }
        schema
    };
    [
        (
            INT_OR_STRING,
            described(either("integer", "string", Some("int-or-string")), "A whole number, or text such as a percentage or a port's name."),
        ),
        (QUANTITY, described(either("string", "number", None), "An amount with a unit: 500m, 1.5, 64Mi, 2e3.")),
        (TIME, json!({"type": "string", "format": "date-time", "description": "A time in RFC 3339 with seconds."})),
        (MICRO_TIME, json!({"type": "string", "format": "date-time", "description": "A time in RFC 3339 with microseconds."})),
        (RAW, json!({"type": "object", "description": "Any object."})),
        (FIELDS, json!({"type": "object", "description": "A set of fields."})),
        (PATCH, json!({"type": "object", "description": "A partial object, or a list of operations."})),
    ]
}

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";

fn property(view: TypeView<'_>, field: &Field<'_>, dialect: Dialect) -> Value {
    let element = element(view, field, dialect);
    let mut schema = match field.container {
        Container::Single => element,
        Container::List => json!({"type": "array", "items": element}),
        Container::Map => json!({"type": "object", "additionalProperties": element}),
        Container::MapOfList => json!({"type": "object", "additionalProperties": {"type": "array", "items": element}}),
    };
    let Some(map) = schema.as_object_mut() else { return schema };
    describe(map, field.doc);
    if let Ok(default) = serde_json::from_str::<Value>(field.default) {
        map.insert("default".into(), default);
    }
    extend(map, field);
    schema
}

fn extend(map: &mut Map<String, Value>, field: &Field<'_>) {
    let relation = match field.relation {
        Relation::Atomic => "atomic",
        Relation::Set => "set",
        Relation::Map => "map",
        Relation::Granular | Relation::Unset => "",
    };
    if !relation.is_empty() {
        let key = if field.container == Container::List { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
        map.insert(key.into(), json!(relation));
    }
    let keys: Vec<&str> = field.list_keys().collect();
    if !keys.is_empty() {
        map.insert("x-kubernetes-list-map-keys".into(), json!(keys));
    }
    if !field.merge_key.is_empty() {
        map.insert("x-kubernetes-patch-merge-key".into(), json!(field.merge_key));
    }
    if !field.strategy.is_empty() {
        map.insert("x-kubernetes-patch-strategy".into(), json!(field.strategy));
    }
}

fn element(view: TypeView<'_>, field: &Field<'_>, dialect: Dialect) -> Value {
    let named = |name: &str| wrap(reference(dialect, name), dialect);
    match field.element {
        Element::Any | Element::SchemaOrBool | Element::SchemaOrArray | Element::SchemaOrStrings => {
            json!({"x-kubernetes-preserve-unknown-fields": true})
        }
        Element::AnyObject => named(RAW),
        Element::Bool => json!({"type": "boolean"}),
        Element::Int32 => json!({"type": "integer", "format": "int32"}),
        Element::Int64 => json!({"type": "integer", "format": "int64"}),
        Element::Float => json!({"type": "number", "format": "double"}),
        Element::String | Element::Duration => json!({"type": "string"}),
        Element::Bytes => json!({"type": "string", "format": "byte"}),
        Element::Time => named(TIME),
        Element::MicroTime => named(MICRO_TIME),
        Element::Quantity => named(QUANTITY),
        Element::IntOrString => named(INT_OR_STRING),
        Element::Object => view.target(field).map_or_else(|| json!({"type": "object"}), |target| named(target.name())),
    }
}

/// In version 3 a reference stands alone; a description beside it needs an envelope.
fn wrap(reference: Value, dialect: Dialect) -> Value {
    if dialect == Dialect::V3 { json!({"allOf": [reference]}) } else { reference }
}

fn described(mut schema: Value, doc: &str) -> Value {
    schema["description"] = json!(doc);
    schema
}

fn describe(map: &mut Map<String, Value>, doc: &str) {
    if !doc.is_empty() {
        map.insert("description".into(), json!(doc));
    }
}
