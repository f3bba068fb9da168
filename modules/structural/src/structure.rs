//! Whether a schema is structural: it says of every part of a value what that is, so that a value can be pruned and filled in.

use serde_json::{Map, Value};

use crate::path::Path;
use crate::{FieldError, Structural, children, flag, list, rules, text, walk};

const SCHEMA_TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What a schema inside `allOf`, `anyOf`, `oneOf` and `not` may not say: it says nothing about the shape.
const SHAPE: [&str; 13] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
/// Parts of JSON schema that are not served, and why.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("$ref", "$ref is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("patternProperties", "patternProperties is not supported"),
];

/// What is wrong with a schema as that of an object, and with the rules in it. `at` is its place.
pub fn structure(root: &Value, at: &str) -> Vec<FieldError> {
    let schema = Structural::new(root);
    let mut walk = Structure { schema: &schema, failures: Vec::new(), costs: rules::Costs::default() };
    walk.root(root, at);
    walk.failures.extend(walk.costs.total(at));
    walk.failures
}

/// One walk over a schema.
struct Structure<'a> {
    schema: &'a Structural,
    failures: Vec<FieldError>,
    costs: rules::Costs,
}

impl Structure<'_> {
    fn root(&mut self, node: &Value, at: &str) {
        match text(node, "type") {
            "object" => {}
            "" => self.failures.push(FieldError::required(format!("{at}.type"), "must not be empty at the root")),
            other => self.failures.push(FieldError::invalid(format!("{at}.type"), other, "must be object at the root")),
        }
        for key in ["nullable", "x-kubernetes-embedded-resource"].iter().filter(|key| flag(node, key)) {
            self.failures.push(FieldError::forbidden(format!("{at}.{key}"), format!("{key} cannot be true at the root")));
        }
        let metadata = &node["properties"]["metadata"];
        for key in metadata.as_object().into_iter().flat_map(Map::keys) {
            let allowed = match key.as_str() {
                "type" | "description" => true,
                "properties" => metadata["properties"]
                    .as_object()
                    .is_some_and(|names| names.keys().all(|name| matches!(name.as_str(), "name" | "generateName"))),
                _ => false,
            };
            if !allowed {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.failures.push(FieldError::forbidden(format!("{at}.properties[metadata]"), why));
            }
        }
        self.node(node, at, "", Some(1));
    }

    /// A schema that says the shape of values. `what` it is, for the message about a missing type; empty at the root. Such a value stands in an
    /// object `times` at most, if lists and maps above have a limit.
    fn node(&mut self, node: &Value, at: &str, what: &str, times: Option<u64>) {
        let free = flag(node, "x-kubernetes-preserve-unknown-fields");
        let either = flag(node, "x-kubernetes-int-or-string");
        let kind = text(node, "type");
        match kind {
            "" if what.is_empty() || free || either => {}
            "" => self.failures.push(FieldError::required(format!("{at}.type"), format!("must not be empty for specified {what}"))),
            kind if !SCHEMA_TYPES.contains(&kind) => {
                self.failures.push(FieldError::not_supported(format!("{at}.type"), kind, &SCHEMA_TYPES))
            }
            _ => {}
        }
        if kind == "array" && !node["items"].is_object() {
            self.failures.push(FieldError::required(format!("{at}.items"), "must be specified"));
        }
        if node["properties"].is_object() && node.get("additionalProperties").is_some() {
            self.failures.push(FieldError::forbidden(
                format!("{at}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        if node["additionalProperties"] == Value::Bool(false) {
            self.failures.push(FieldError::forbidden(format!("{at}.additionalProperties"), "additionalProperties cannot be set to false"));
        }
        if flag(node, "x-kubernetes-embedded-resource") && kind != "object" {
            self.failures.push(FieldError::invalid(format!("{at}.type"), kind, "must be object if x-kubernetes-embedded-resource is true"));
        }
        self.lists(node, at);
        self.default(node, at);
        rules::check(node, at, times, &mut self.costs, &mut |failure| self.failures.push(failure));
        let each = |limit: &str| Some(times?.saturating_mul(node[limit].as_u64()?));
        self.values(node, at);
        children(node, |place, child| {
            let below = format!("{at}.{place}");
            match place.split('[').next().unwrap_or_default() {
                "properties" => self.node(child, &below, "object fields", times),
                "items" => self.node(child, &below, "array items", each("maxItems")),
                "additionalProperties" => self.node(child, &below, "object fields", each("maxProperties")),
                _ => self.junctor(child, &below, node, either),
            }
        });
    }

    /// A schema inside `allOf` and its kin: about values only, and about fields that the `shape` beside it knows.
    fn junctor(&mut self, node: &Value, at: &str, shape: &Value, either: bool) {
        let integer_or_string = either && matches!(text(node, "type"), "integer" | "string");
        for key in SHAPE.iter().filter(|key| node.get(**key).is_some() && !(**key == "type" && integer_or_string)) {
            self.failures.push(FieldError::forbidden(format!("{at}.{key}"), "must be empty to be structural"));
        }
        self.values(node, at);
        children(node, |place, child| {
            let below = format!("{at}.{place}");
            let beside = match place.split('[').next().unwrap_or_default() {
                "properties" => shape["properties"].get(place.trim_start_matches("properties[").trim_end_matches(']')),
                "items" => shape.get("items"),
                "additionalProperties" => shape.get("additionalProperties"),
                _ => Some(shape),
            };
            match beside {
                Some(beside) => self.junctor(child, &below, beside, either),
                None if flag(shape, "x-kubernetes-preserve-unknown-fields") => self.junctor(child, &below, &Value::Null, false),
                None if shape.is_null() => {}
                None => self.failures.push(FieldError::required(
                    below,
                    "because it is defined in a nested schema, it must be specified in the structural part too",
                )),
            }
        });
    }

    fn values(&mut self, node: &Value, at: &str) {
        for (key, why) in UNSUPPORTED.iter().filter(|(key, _)| node.get(key).is_some()) {
            self.failures.push(FieldError::forbidden(format!("{at}.{key}"), *why));
        }
        if flag(node, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.failures.push(FieldError::forbidden(format!("{at}.uniqueItems"), why));
        }
        let pattern = text(node, "pattern");
        if let Some(Err(error)) = (!pattern.is_empty()).then(|| regex::Regex::new(pattern)) {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.failures.push(FieldError::invalid(
                format!("{at}.pattern"),
                pattern,
                format!("must be a valid regular expression, but isn't: {reason}"),
            ));
        }
    }

    fn lists(&mut self, node: &Value, at: &str) {
        let (kind, keys) = (text(node, "x-kubernetes-list-type"), list(node, "x-kubernetes-list-map-keys"));
        let at_type = format!("{at}.x-kubernetes-list-type");
        if !matches!(kind, "" | "atomic" | "set" | "map") {
            self.failures.push(FieldError::not_supported(at_type.as_str(), kind, &["atomic", "map", "set"]));
        }
        if !kind.is_empty() && text(node, "type") != "array" {
            self.failures.push(FieldError::invalid(
                format!("{at}.type"),
                text(node, "type"),
                "must be array if x-kubernetes-list-type is specified",
            ));
        }
        let at_keys = format!("{at}.x-kubernetes-list-map-keys");
        if (kind == "map") == keys.is_empty() {
            let failure = if kind == "map" {
                FieldError::required(at_keys.as_str(), "must not be empty if x-kubernetes-list-type is map")
            } else {
                FieldError::invalid(at_type, kind, "must be map if x-kubernetes-list-map-keys is non-empty")
            };
            self.failures.push(failure);
        }
        let items = &node["items"];
        let scalar = |node: &Value| !matches!(text(node, "type"), "object" | "array");
        if kind == "set"
            && !scalar(items)
            && text(items, "x-kubernetes-map-type") != "atomic"
            && text(items, "x-kubernetes-list-type") != "atomic"
        {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            self.failures.push(FieldError::invalid(format!("{at}.items.x-kubernetes-map-type"), text(items, "x-kubernetes-map-type"), why));
        }
        for (index, key) in keys.iter().enumerate().filter(|_| kind == "map") {
            let property = key.as_str().and_then(|key| items["properties"].get(key));
            let needed = list(items, "required").contains(key) || property.is_some_and(|node| node.get("default").is_some());
            let failure = match property {
                None => FieldError::invalid(format!("{at_keys}[{index}]"), key.clone(), "entries must all be names of item properties"),
                Some(node) if !scalar(node) => FieldError::invalid(
                    format!("{at}.items.properties[{}].type", key.as_str().unwrap_or_default()),
                    text(node, "type"),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                ),
                Some(_) if !needed => {
                    let at = format!("{at}.items.properties[{}].default", key.as_str().unwrap_or_default());
                    FieldError::required(
                        at,
                        "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                    )
                }
                Some(_) => continue,
            };
            self.failures.push(failure);
        }
    }

    fn default(&mut self, node: &Value, at: &str) {
        let Some(default) = node.get("default") else { return };
        let at = format!("{at}.default");
        let mut pruned = default.clone();
        walk::prune_below(node, &mut pruned);
        if pruned != *default {
            self.failures.push(FieldError::invalid(at.as_str(), default.clone(), "must not have fields that the schema does not know"));
        }
        for failure in self.schema.alone(node, default, &Path::Root.key(&at)) {
            self.failures.push(failure);
        }
    }
}
