//! Rules about what makes pods: selectors, templates, strategies.

use serde_json::Value;

use super::{Failures, Object, list, number};
use crate::path::Path;
use crate::selector::LabelSelector;
use crate::status::FieldError;

/// The first number is not above the second.
pub(super) fn not_more(status: &Object, path: &Path<'_>, fields: &[&str], failures: &mut Failures) {
    if let [less, more] = fields
        && let Some(number) = number(status, less).filter(|less| *less > number(status, more).unwrap_or(0))
    {
        let whole = if *more == "replicas" { "status.replicas" } else { more };
        failures.push(FieldError::invalid(path.key(less), number, format!("cannot be greater than {whole}")));
    }
}

/// The selector must say something, and match the template's labels.
pub(super) fn selector(spec: &Object, path: &Path<'_>, kind: &str, failures: &mut Failures) {
    let at = path.key("selector");
    let Some(value) = spec.get("selector") else {
        failures.push(FieldError::required(at, ""));
        // Upstream reports the mismatch with a selector that is not there, too.
        mismatch(spec, path, failures);
        return;
    };
    match LabelSelector::from_object(value) {
        Ok(selector) if selector.is_empty() => {
            failures.push(FieldError::invalid(at, value.clone(), format!("empty selector is invalid for {kind}")));
        }
        Ok(selector) if !selector.matches_labels(template_labels(spec)) => mismatch(spec, path, failures),
        Ok(_) => {}
        Err(error) => failures.push(FieldError::invalid(at, value.clone(), error.message)),
    }
}

pub(super) fn plain_selector(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    match spec.get("selector").filter(|s| s.as_object().is_some_and(|map| !map.is_empty())) {
        None => failures.push(FieldError::required(path.key("selector"), "")),
        Some(selector) if !LabelSelector::from_map(selector).matches_labels(template_labels(spec)) => mismatch(spec, path, failures),
        Some(_) => {}
    }
}

fn mismatch(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (template, metadata) = (path.key("template"), "metadata");
    let shown = template_labels(spec).clone();
    failures.push(FieldError::invalid(template.key(metadata).key("labels"), shown, "`selector` does not match template `labels`"));
}

fn template_labels(spec: &Object) -> &Value {
    spec.get("template").map_or(&Value::Null, |template| &template["metadata"]["labels"])
}

pub(super) fn always_restarts(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let policy = spec.get("template").and_then(|t| t["spec"]["restartPolicy"].as_str());
    let template = path.key("template");
    let at = template.key("spec");
    if let Some(policy) = policy.filter(|p| *p != "Always" && !p.is_empty()) {
        failures.push(FieldError::not_supported(at.key("restartPolicy"), policy, &["Always"]));
    }
    if spec.get("template").is_some_and(|t| !t["spec"]["activeDeadlineSeconds"].is_null()) {
        failures.push(FieldError::forbidden(at.key("activeDeadlineSeconds"), "activeDeadlineSeconds is not supported here"));
    }
}

pub(super) fn progress_after_ready(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    if let Some(deadline) = number("progressDeadlineSeconds").filter(|d| *d <= number("minReadySeconds").unwrap_or(0)) {
        failures.push(FieldError::invalid(path.key("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds"));
    }
}

/// Counts or percentages.
pub(super) fn amounts(map: &Object, path: &Path<'_>, fields: &[&str], failures: &mut Failures) {
    for field in fields {
        match map.get(*field) {
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => {
                failures.push(FieldError::invalid(path.key(field), n.clone(), "must be greater than or equal to 0"));
            }
            Some(Value::String(percent)) => match percent.strip_suffix('%').and_then(|p| p.parse::<u32>().ok()) {
                None => failures.push(FieldError::invalid(
                    path.key(field),
                    percent.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%'",
                )),
                Some(p) if p > 100 && *field != "maxSurge" => {
                    failures.push(FieldError::invalid(path.key(field), percent.as_str(), "must not be greater than 100%"));
                }
                Some(_) => {}
            },
            _ => {}
        }
    }
}

fn is_zero(update: &Object, key: &str) -> bool {
    update.get(key).is_none_or(|value| *value == 0 || *value == "0%")
}

/// Pods are replaced by a new one beside the old one, or after it.
pub(super) fn either_moves(update: &Object, path: &Path<'_>, failures: &mut Failures) {
    match (is_zero(update, "maxUnavailable"), is_zero(update, "maxSurge")) {
        (true, true) => failures.push(FieldError::required(path.key("maxUnavailable"), "cannot be 0 when maxSurge is 0")),
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            failures.push(FieldError::invalid(path.key("maxSurge"), update["maxSurge"].clone(), why));
        }
        _ => {}
    }
}

pub(super) fn not_both_zero(update: &Object, path: &Path<'_>, failures: &mut Failures) {
    if is_zero(update, "maxUnavailable") && is_zero(update, "maxSurge") {
        let shown = update.get("maxUnavailable").cloned().unwrap_or(Value::Null);
        failures.push(FieldError::invalid(path.key("maxUnavailable"), shown, "may not be 0 when `maxSurge` is 0"));
    }
}

/// A job's pods must be able to end.
pub(super) fn ends_some_day(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let template = path.key("template");
    let at = template.key("spec");
    match spec.get("template").and_then(|t| t["spec"]["restartPolicy"].as_str()).unwrap_or_default() {
        "OnFailure" | "Never" => {}
        "" | "Always" => failures.push(FieldError::required(at.key("restartPolicy"), "valid values: \"OnFailure\", \"Never\"")),
        other => failures.push(FieldError::not_supported(at.key("restartPolicy"), other, &["OnFailure", "Never"])),
    }
}

/// What a StatefulSet claims for each pod is a volume of its template, though the template does not list it.
pub(super) fn claims_are_volumes(spec: &Object, _: &Path<'_>, failures: &mut Failures) {
    let names = list(spec, "volumeClaimTemplates").iter().filter_map(|claim| claim["metadata"]["name"].as_str());
    failures.claimed.extend(names.map(str::to_owned));
}

pub(super) fn replica_bounds(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    if let (Some(min), Some(max)) = (number("minReplicas"), number("maxReplicas"))
        && max < min
    {
        failures.push(FieldError::invalid(path.key("maxReplicas"), max, "must be greater than or equal to `minReplicas`"));
    }
}
