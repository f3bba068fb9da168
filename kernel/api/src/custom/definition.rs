//! Validation of CustomResourceDefinitions: names, versions, and that schemas are structural, as upstream's apiextensions
//! demands. The formats of single fields are rows of [`crate::validate`].

use serde_json::{Map, Value};

use super::{Version, check, children, columns, flag, list, rules, text, walk};
use crate::path::Path;
use crate::status::FieldError;
use crate::validate::{Failures, names};

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const SCHEMA_TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const SELECTABLE_FIELDS_MAX: usize = 8;
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

/// What is wrong with a definition.
pub(crate) fn check(definition: &Map<String, Value>, _: &Path<'_>, failures: &mut Failures) {
    let none = Value::Null;
    let spec = definition.get("spec").unwrap_or(&none);
    for key in ["kind", "listKind"] {
        let name = text(&spec["names"], key);
        if let Some(why) = Some(name.to_lowercase()).filter(|name| !name.is_empty()).and_then(|name| names::dns_1035_label(&name)) {
            failures.push(FieldError::invalid(
                format!("spec.names.{key}"),
                name,
                format!("may have mixed case, but should otherwise match: {why}"),
            ));
        }
    }
    let group = text(spec, "group");
    let annotation = definition.get("metadata").map_or("", |metadata| text(&metadata["annotations"], APPROVAL));
    if is_protected(group) && approval(annotation).is_none() {
        let path = format!("metadata.annotations[{APPROVAL}]");
        let why = format!(
            "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        failures.push(match annotation {
            "" => FieldError::required(path, why),
            other => FieldError::invalid(path, other, why),
        });
    }
    if flag(spec, "preserveUnknownFields") {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        failures.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    for (index, version) in list(spec, "versions").iter().enumerate() {
        check_version(spec, version, &format!("spec.versions[{index}]"), failures);
    }
    let stored = definition.get("status").map_or(&[][..], |status| list(status, "storedVersions"));
    for (index, name) in stored.iter().enumerate() {
        if !list(spec, "versions").iter().any(|version| version["name"] == *name) {
            let why = "missing from spec.versions; remove it from status.storedVersions once no stored object needs it";
            failures.push(FieldError::invalid(format!("status.storedVersions[{index}]"), name.clone(), why));
        }
    }
}

/// Groups that belong to the project: `k8s.io`, `kubernetes.io` and what is below them.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|root| group == *root || group.ends_with(&format!(".{root}")))
}

/// What the approval annotation says: approved (a link), or not yet (`unapproved`, with a reason). `None`: neither.
pub fn approval(annotation: &str) -> Option<bool> {
    match annotation {
        text if text.starts_with("unapproved") => Some(false),
        text if text.starts_with("https://") || text.starts_with("http://") => Some(true),
        _ => None,
    }
}

fn check_version(spec: &Value, entry: &Value, at: &str, failures: &mut Failures) {
    for (index, column) in list(entry, "additionalPrinterColumns").iter().enumerate() {
        let at = format!("{at}.additionalPrinterColumns[{index}]");
        for key in ["name", "type", "jsonPath"].iter().filter(|key| text(column, key).is_empty()) {
            failures.push(FieldError::required(format!("{at}.{key}"), ""));
        }
        let kind = text(column, "type");
        if !kind.is_empty() && !COLUMN_TYPES.contains(&kind) {
            failures.push(FieldError::not_supported(format!("{at}.type"), kind, &COLUMN_TYPES));
        }
        check_path(&format!("{at}.jsonPath"), text(column, "jsonPath"), "", failures);
    }
    if let Some(scale) = entry["subresources"].get("scale").filter(|scale| scale.is_object()) {
        for (key, below, required) in
            [("specReplicasPath", ".spec", true), ("statusReplicasPath", ".status", true), ("labelSelectorPath", "", false)]
        {
            let (at, path) = (format!("{at}.subresources.scale.{key}"), text(scale, key));
            match path {
                "" if required => failures.push(FieldError::required(at, "")),
                _ => check_path(&at, path, below, failures),
            }
        }
    }
    let selectable = list(entry, "selectableFields");
    if selectable.len() > SELECTABLE_FIELDS_MAX {
        failures.push(FieldError::too_many(format!("{at}.selectableFields"), selectable.len(), SELECTABLE_FIELDS_MAX));
    }
    let root = &entry["schema"]["openAPIV3Schema"];
    for (index, field) in selectable.iter().enumerate() {
        let (at, path) = (format!("{at}.selectableFields[{index}].jsonPath"), text(field, "jsonPath"));
        let target = path.split('.').skip(1).try_fold(root, |node, name| node["properties"].get(name));
        if !target.is_some_and(|node| matches!(text(node, "type"), "string" | "boolean" | "integer")) {
            let why = "is an invalid path: must be a field of type string, boolean or integer";
            failures.push(FieldError::invalid(at, path, why));
        }
    }
    let at = format!("{at}.schema.openAPIV3Schema");
    if root.is_null() {
        return failures.push(FieldError::required(at, "schemas are required"));
    }
    let version = Version::new(spec, entry);
    Structure { version: &version, failures }.root(root, &at);
}

fn check_path(at: &str, path: &str, below: &str, failures: &mut Failures) {
    if !path.is_empty() && (!path.starts_with('.') || columns::Path::parse(path).is_none()) {
        failures.push(FieldError::invalid(at, path, "must be a simple json path starting with ."));
    } else if !below.is_empty() && !path.starts_with(&format!("{below}.")) {
        failures.push(FieldError::invalid(at, path, format!("must be a json path under {below}")));
    }
}

/// One walk over a schema.
struct Structure<'a> {
    version: &'a Version,
    failures: &'a mut Failures,
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
        self.node(node, at, "");
    }

    /// A schema that says the shape of values. `what` it is, for the message about a missing type; empty at the root.
    fn node(&mut self, node: &Value, at: &str, what: &str) {
        let free = flag(node, "x-kubernetes-preserve-unknown-fields");
        let either = flag(node, "x-kubernetes-int-or-string");
        let kind = text(node, "type");
        match kind {
            "" if what.is_empty() || free || either => {}
            "" => self.failures.push(FieldError::required(format!("{at}.type"), format!("must not be empty for specified {what}"))),
            _ if either => {
                self.failures.push(FieldError::invalid(format!("{at}.type"), kind, "must be empty if x-kubernetes-int-or-string is true"))
            }
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
        rules::check(node, at, &mut |failure| self.failures.push(failure));
        self.values(node, at);
        children(node, |place, child| {
            let below = format!("{at}.{place}");
            match place.split('[').next().unwrap_or_default() {
                "properties" => self.node(child, &below, "object fields"),
                "items" => self.node(child, &below, "array items"),
                "additionalProperties" => self.node(child, &below, "object fields"),
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
        for failure in check::alone(self.version, node, default, &Path::Root.key(&at)) {
            self.failures.push(failure);
        }
    }
}
