//! Validation of CustomResourceDefinitions: names, versions, and that schemas are structural, as upstream's apiextensions
//! demands. The formats of single fields are rows of [`crate::validate`].

use pintle_structural::JsonPath;
use serde_json::{Map, Value};

use super::{flag, list, text};
use crate::path::Path;
use crate::status::FieldError;
use crate::validate::{Failures, names};

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const SELECTABLE_FIELDS_MAX: usize = 8;
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
    check_conversion(&spec["conversion"], failures);
    for (index, version) in list(spec, "versions").iter().enumerate() {
        check_version(version, &format!("spec.versions[{index}]"), failures);
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

/// Fields are named as upstream names them, which is by its inner type.
fn check_conversion(conversion: &Value, failures: &mut Failures) {
    let (client, versions) = ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    let (webhook, known) = (&conversion["webhook"], ["v1", "v1beta1"]);
    let said = list(webhook, "conversionReviewVersions");
    if conversion["strategy"] != "Webhook" {
        for at in [webhook.get("clientConfig").map(|_| client), (!said.is_empty()).then_some(versions)].into_iter().flatten() {
            failures.push(FieldError::forbidden(at, "should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if !webhook["clientConfig"].is_object() {
        failures.push(FieldError::required(client, "required when strategy is set to Webhook"));
    }
    if said.is_empty() {
        failures.push(FieldError::required(versions, ""));
    } else if !said.iter().any(|version| known.iter().any(|name| version == name)) {
        failures.push(FieldError::invalid(versions, Value::from(said), "must include at least one of v1, v1beta1"));
    }
}

fn check_version(entry: &Value, at: &str, failures: &mut Failures) {
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
    pintle_structural::structure(root, &at).into_iter().for_each(|failure| failures.push(failure));
}

fn check_path(at: &str, path: &str, below: &str, failures: &mut Failures) {
    if !path.is_empty() && (!path.starts_with('.') || JsonPath::parse(path).is_none()) {
        failures.push(FieldError::invalid(at, path, "must be a simple json path starting with ."));
    } else if !below.is_empty() && !path.starts_with(&format!("{below}.")) {
        failures.push(FieldError::invalid(at, path, format!("must be a json path under {below}")));
    }
}
