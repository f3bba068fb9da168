//! Paths and operations: enough for clients that look up which parameters an operation takes, and for generators.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::{self, gvk};
use crate::patch::PatchType;
use crate::resource::{Resource, Subresource, Verb};
use crate::table::Schema;

const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];

const CUSTOM_PATCHES: [&str; 3] = [PatchType::MEDIA_TYPES[0], PatchType::MEDIA_TYPES[1], PatchType::MEDIA_TYPES[3]];

/// One operation of a path: HTTP method, action, and what it takes.
struct Action {
    method: &'static str,
    /// Upstream's word for it in `x-kubernetes-action`.
    action: &'static str,
    verb: Verb,
    /// Query parameters beside `pretty`.
    query: &'static [(&'static str, &'static str)],
    body: Body,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq)]
enum Body {
    None,
    Object,
    Patch,
    DeleteOptions,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Object,
    List,
    Status,
}

const LIST_QUERY: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_QUERY: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH_QUERY: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE_QUERY: &[(&str, &str)] =
    &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("orphanDependents", "boolean"), ("propagationPolicy", "string")];

const COLLECTION: &[Action] = &[
    Action { method: "get", action: "list", verb: Verb::List, query: LIST_QUERY, body: Body::None, answer: Answer::List },
    Action { method: "post", action: "post", verb: Verb::Create, query: WRITE_QUERY, body: Body::Object, answer: Answer::Object },
    Action {
        method: "delete",
        action: "deletecollection",
        verb: Verb::DeleteCollection,
        query: LIST_QUERY,
        body: Body::DeleteOptions,
        answer: Answer::Status,
    },
];
const ITEM: &[Action] = &[
    Action { method: "get", action: "get", verb: Verb::Get, query: &[], body: Body::None, answer: Answer::Object },
    Action { method: "put", action: "put", verb: Verb::Update, query: WRITE_QUERY, body: Body::Object, answer: Answer::Object },
    Action { method: "patch", action: "patch", verb: Verb::Patch, query: PATCH_QUERY, body: Body::Patch, answer: Answer::Object },
    Action {
        method: "delete",
        action: "delete",
        verb: Verb::Delete,
        query: DELETE_QUERY,
        body: Body::DeleteOptions,
        answer: Answer::Status,
    },
];
const SUB_CREATE: &[Action] =
    &[Action { method: "post", action: "post", verb: Verb::Create, query: WRITE_QUERY, body: Body::Object, answer: Answer::Object }];

/// The paths of resources, in order.
pub(super) fn for_resources(schema: &Schema, resources: &[&Resource], dialect: Dialect) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    for resource in resources {
        let root = if resource.group.is_empty() {
            format!("/api/{}", resource.version)
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        let collection = if resource.namespaced() {
            format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("{root}/{}", resource.plural)
        };
        if resource.namespaced() && resource.verbs.contains(Verb::List) {
            let scope = Place { schema, resource, subresource: None, parameters: &[], suffix: "ForAllNamespaces" };
            paths.push((format!("{root}/{}", resource.plural), scope.item(&COLLECTION[..1], dialect)));
        }
        let (outer, inner): (&[&str], &[&str]) =
            if resource.namespaced() { (&["namespace"], &["name", "namespace"]) } else { (&[], &["name"]) };
        let place = |subresource, parameters| Place { schema, resource, subresource, parameters, suffix: "" };
        paths.push((collection.clone(), place(None, outer).item(COLLECTION, dialect)));
        let item = format!("{collection}/{{name}}");
        if resource.verbs.contains(Verb::Get) {
            paths.push((item.clone(), place(None, inner).item(ITEM, dialect)));
        }
        for sub in &resource.subresources {
            let here = place(Some(sub), inner);
            let actions = if sub.verbs.contains(Verb::Create) && !sub.verbs.contains(Verb::Update) { SUB_CREATE } else { &ITEM[..3] };
            paths.push((format!("{item}/{}", sub.name), here.item(actions, dialect)));
        }
    }
    paths
}

/// What the operations of one path are about.
struct Place<'a> {
    schema: &'a Schema,
    resource: &'a Resource,
    subresource: Option<&'a Subresource>,
    parameters: &'a [&'a str],
    suffix: &'static str,
}

impl Place<'_> {
    fn item(&self, actions: &[Action], dialect: Dialect) -> Value {
        let mut item = Map::new();
        let verbs = self.subresource.map_or(self.resource.verbs, |sub| sub.verbs);
        for action in actions.iter().filter(|action| verbs.contains(action.verb)) {
            item.insert(action.method.to_owned(), self.operation(action, dialect));
        }
        let mut parameters: Vec<Value> = self.parameters.iter().map(|name| parameter(name, "path", "string", dialect)).collect();
        parameters.push(parameter("pretty", "query", "string", dialect));
        item.insert("parameters".into(), Value::Array(parameters));
        Value::Object(item)
    }

    fn operation(&self, action: &Action, dialect: Dialect) -> Value {
        let resource = self.resource;
        let (group, version, kind) =
            self.subresource.map_or((&resource.group, &resource.version, &resource.kind), |sub| (&sub.group, &sub.version, &sub.kind));
        let mut operation = json!({
            "description": format!("{} {}{}", action.action, resource.plural, self.subresource.map_or(String::new(), |sub| format!("/{}", sub.name))),
            "operationId": self.operation_id(action),
            "tags": [tag(resource)],
            "x-kubernetes-action": action.action,
            "x-kubernetes-group-version-kind": gvk(group, version, kind),
        });
        let mut parameters: Vec<Value> = action.query.iter().map(|(name, kind)| parameter(name, "query", kind, dialect)).collect();
        let body = match action.body {
            Body::None => None,
            Body::Object => Some(self.object_name()),
            Body::Patch => Some(schemas::PATCH.to_owned()),
            Body::DeleteOptions => Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned()),
        };
        let consumed: &[&str] = match action.body {
            // Clients take from here that they may not send a strategic patch.
            Body::Patch if resource.custom.is_some() => &CUSTOM_PATCHES,
            Body::Patch => &PatchType::MEDIA_TYPES,
            _ => &MEDIA_TYPES,
        };
        if let Some(name) = body {
            let schema = schemas::reference(dialect, &name);
            let required = action.body != Body::DeleteOptions;
            match dialect {
                Dialect::V2 => {
                    parameters.insert(0, json!({"name": "body", "in": "body", "required": required, "schema": schema}));
                    operation["consumes"] = json!(consumed);
                }
                Dialect::V3 => operation["requestBody"] = json!({"content": content(consumed, &schema), "required": required}),
            }
        }
        operation["parameters"] = Value::Array(parameters);
        operation["responses"] = self.responses(action, dialect);
        if dialect == Dialect::V2 {
            operation["produces"] = json!(MEDIA_TYPES);
            operation["schemes"] = json!(["https"]);
        }
        operation
    }

    fn responses(&self, action: &Action, dialect: Dialect) -> Value {
        let name = match action.answer {
            Answer::Object => self.object_name(),
            Answer::List => schemas::list_name(self.schema, self.resource),
            Answer::Status => "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned(),
        };
        let schema = schemas::reference(dialect, &name);
        let ok = match dialect {
            Dialect::V2 => json!({"description": "OK", "schema": schema}),
            Dialect::V3 => json!({"description": "OK", "content": content(&MEDIA_TYPES, &schema)}),
        };
        let mut responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
        if matches!(action.body, Body::Object | Body::Patch) {
            responses["201"] = responses["200"].clone();
            responses["201"]["description"] = json!("Created");
        }
        responses
    }

    /// The definition of what is read and written here; of options that are no object, plain text.
    fn object_name(&self) -> String {
        let Some(sub) = self.subresource else { return schemas::definition_name(self.schema, self.resource) };
        let known = crate::resource::kind_type(&sub.group, &sub.version, &sub.kind).and_then(|id| self.schema.get(id));
        known.map_or_else(|| schemas::definition_name(self.schema, self.resource), |view| view.name().to_owned())
    }

    fn operation_id(&self, action: &Action) -> String {
        let word = match action.action {
            "get" => "read",
            "put" => "replace",
            "post" => "create",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let scope = if self.resource.namespaced() && self.suffix.is_empty() { "Namespaced" } else { "" };
        let sub = self.subresource.map_or(String::new(), |sub| capitalized(&sub.name));
        format!(
            "{word}{}{scope}{}{sub}{}",
            capitalized(&tag(self.resource).replace('_', " ")).replace(' ', ""),
            self.resource.kind,
            self.suffix
        )
    }
}

/// `apps_v1`, `core_v1`, `rbacAuthorization_v1`.
fn tag(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core" } else { &resource.group };
    let group = group.trim_end_matches(".k8s.io");
    let mut parts = group.split('.');
    let mut name = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| name.push_str(&capitalized(part)));
    format!("{name}_{}", resource.version)
}

fn capitalized(text: &str) -> String {
    text.split(' ')
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
        })
        .collect::<Vec<String>>()
        .join(" ")
}

fn parameter(name: &str, place: &str, kind: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => {
            parameter["type"] = json!(kind);
            parameter["uniqueItems"] = json!(true);
        }
        Dialect::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    if place == "path" {
        parameter["required"] = json!(true);
    }
    parameter
}

fn content(media_types: &[&str], schema: &Value) -> Value {
    media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema}))).collect::<Map<String, Value>>().into()
}
