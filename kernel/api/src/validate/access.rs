//! Rules about who may what, and who is asked first: roles, certificates, webhooks, admission policies, priority and fairness.

use pintle_policies::{MutatingPolicy, ValidatingPolicy, match_condition};
use serde_json::Value;

use super::{Failures, Object, list, number, text};
use crate::path::Path;
use crate::status::FieldError;

const RBAC: &str = "rbac.authorization.k8s.io";
pub(super) fn no_paths(role: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let paths = &rule["nonResourceURLs"];
        if paths.as_array().is_some_and(|list| !list.is_empty()) {
            let why = "namespaced rules cannot apply to non-resource URLs";
            failures.push(FieldError::invalid(path.key("rules").index(index).key("nonResourceURLs"), paths.clone(), why));
        }
    }
}

/// A service account is in a namespace and of no group; users and groups are of this API's group.
pub(super) fn subject(subject: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (kind, group) = (text(subject, "kind"), text(subject, "apiGroup"));
    match kind {
        "ServiceAccount" => {
            if text(subject, "namespace").is_empty() {
                failures.push(FieldError::required(path.key("namespace"), ""));
            }
            if !group.is_empty() {
                failures.push(FieldError::not_supported(path.key("apiGroup"), group, &[""]));
            }
        }
        "User" | "Group" if group != RBAC => failures.push(FieldError::not_supported(path.key("apiGroup"), group, &[RBAC])),
        _ => {}
    }
}

pub(super) fn cluster_binding(binding: &Object, path: &Path<'_>, failures: &mut Failures) {
    let kind = binding.get("roleRef").map_or("", |role| role["kind"].as_str().unwrap_or_default());
    if kind == "Role" {
        failures.push(FieldError::not_supported(path.key("roleRef").key("kind"), kind, &["ClusterRole"]));
    }
}

/// The request is PEM, of a certificate request.
pub(super) fn request(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    use base64::Engine as _;
    let encoded = text(spec, "request");
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    if !encoded.is_empty() && !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        failures.push(FieldError::invalid(path.key("request"), encoded, "PEM block type must be CERTIFICATE REQUEST"));
    }
}

pub(super) fn validates(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let found = ValidatingPolicy::failures(&Value::Object(spec.clone()), &path.to_string());
    found.into_iter().for_each(|failure| failures.push(failure));
}

pub(super) fn mutates(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let found = MutatingPolicy::failures(&Value::Object(spec.clone()), &path.to_string());
    found.into_iter().for_each(|failure| failures.push(failure));
}

pub(super) fn compiles(condition: &Object, path: &Path<'_>, failures: &mut Failures) {
    let source = text(condition, "expression");
    if !source.is_empty()
        && let Err(why) = match_condition(source)
    {
        failures.push(FieldError::invalid(path.key("expression"), source, why));
    }
}

pub(super) fn operations(rule: &Object, path: &Path<'_>, failures: &mut Failures) {
    for field in ["operations", "apiGroups", "apiVersions"] {
        let values = list(rule, field);
        if values.len() > 1 && values.iter().any(|value| value == "*") {
            failures.push(FieldError::invalid(
                path.key(field),
                Value::Array(values.to_vec()),
                "if '*' is present, must not specify other values",
            ));
        }
    }
}

pub(super) fn known_review(hook: &Object, path: &Path<'_>, failures: &mut Failures) {
    let versions = list(hook, "admissionReviewVersions");
    if !versions.is_empty() && !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        failures.push(FieldError::invalid(path.key("admissionReviewVersions"), Value::Array(versions.to_vec()), why));
    }
}

pub(super) fn says_something(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    if list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        failures.push(FieldError::required(path.key("validations"), why));
    }
}

pub(super) fn constrains(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(matching) = spec.get("matchConstraints") else { return };
    if matching["resourceRules"].as_array().is_none_or(Vec::is_empty) {
        failures.push(FieldError::required(path.key("matchConstraints").key("resourceRules"), ""));
    }
}

pub(super) fn actions(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (all, at) = (list(spec, "validationActions"), path.key("validationActions"));
    if ["Deny", "Warn"].iter().all(|both| all.iter().any(|action| action == both)) {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        failures.push(FieldError::invalid(at, Value::Array(all.to_vec()), why));
    }
}

pub(super) fn hands(queuing: &Object, path: &Path<'_>, failures: &mut Failures) {
    if let (Some(hand), Some(queues)) = (number(queuing, "handSize"), number(queuing, "queues"))
        && (hand < 1 || hand > queues)
    {
        let why = if hand < 1 { "must be positive".to_owned() } else { format!("should not be greater than queues ({queues})") };
        failures.push(FieldError::invalid(path.key("handSize"), hand, why));
    }
}

pub(super) fn secret_of_account(secret: &Object, path: &Path<'_>, failures: &mut Failures) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let annotation = secret.get("metadata").map_or("", |m| m["annotations"][ACCOUNT].as_str().unwrap_or_default());
    let data = secret.get("data").and_then(Value::as_object);
    let metadata = path.key("metadata");
    match text(secret, "type") {
        "kubernetes.io/service-account-token" if annotation.is_empty() => {
            failures.push(FieldError::required(metadata.key("annotations").map_key(ACCOUNT), ""));
        }
        "kubernetes.io/basic-auth" if !["username", "password"].iter().any(|key| data.is_some_and(|data| data.contains_key(*key))) => {
            for key in ["username", "password"] {
                failures.push(FieldError::required(path.key("data").map_key(key), ""));
            }
        }
        _ => {}
    }
}

/// Names that begin with `system-` are for the classes that every cluster has.
pub(super) fn reserved_class(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    let name = class.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    if name.starts_with("system-") && !matches!(name, "system-cluster-critical" | "system-node-critical") {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        failures.push(FieldError::forbidden(path.key("metadata").key("name"), why));
    }
}

/// A part of the API that another server has is reached without looking at its certificate, or with whom to believe.
pub(super) fn delegates(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let blind = spec.get("insecureSkipTLSVerify") == Some(&Value::Bool(true));
    if blind && !spec.contains_key("service") {
        failures.push(FieldError::invalid(
            path.key("insecureSkipTLSVerify"),
            true,
            "insecureSkipTLSVerify may not be set for local services",
        ));
    }
    if blind && !text(spec, "caBundle").is_empty() {
        failures.push(FieldError::invalid(path.key("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"));
    }
}
