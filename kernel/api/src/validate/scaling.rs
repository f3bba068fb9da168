//! Rules about how much there may be: autoscalers, budgets, quotas, limit ranges.

use serde_json::Value;

use super::{Failures, Object, amount, formats, list, text};
use crate::path::Path;
use crate::status::FieldError;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub(super) fn positive_targets(target: &Object, path: &Path<'_>, failures: &mut Failures) {
    for field in ["value", "averageValue"] {
        if let Some(value) = target.get(field).filter(|value| amount(value).is_some_and(|q| q.millis() <= 0)) {
            failures.push(FieldError::invalid(path.key(field), value.clone(), "must be positive"));
        }
    }
}

/// A metric has one target, of the kinds that its source knows; a resource of pods is told by its average.
pub(super) fn targets(source: &Object, path: &Path<'_>, kinds: &[&str], failures: &mut Failures) {
    let Some(target) = source.get("target").filter(|target| target.is_object()) else {
        return failures.push(FieldError::required(path.key("target"), "must specify a metric target"));
    };
    let set: Vec<&&str> = kinds.iter().filter(|kind| !target[**kind].is_null()).collect();
    match &set[..] {
        [] => failures
            .push(FieldError::required(path.key("target").key(kinds[0]), "must set either a target raw value or a target utilization")),
        [_, other, ..] => {
            failures.push(FieldError::forbidden(path.key("target").key(other), "may not set both a target value and a target average"))
        }
        _ => {}
    }
}

/// What is limited: a kind of this API, or one with its domain.
pub(super) fn limit_type(text: &str) -> Option<String> {
    let own = text.contains('/') || matches!(text, "Container" | "PersistentVolumeClaim" | "Pod");
    super::names::qualified(text).or_else(|| (!own).then(|| "must be a standard limit type or fully qualified".to_owned()))
}

pub(super) fn scopes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (scopes, at) = (list(spec, "scopes"), path.key("scopes"));
    let selected = spec.get("scopeSelector").and_then(|selector| selector["matchExpressions"].as_array()).into_iter().flatten();
    for scope in scopes.iter().chain(selected.map(|requirement| &requirement["scopeName"])).filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            failures.push(FieldError::invalid(at, Value::Array(scopes.to_vec()), "unsupported scope"));
            continue;
        }
        let hard = spec.get("hard").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys);
        for _ in hard.filter(|name| formats::quota_resource(name).is_none() && !name.contains('/') && !formats::is_scoped(scope, name)) {
            failures.push(FieldError::invalid(at, Value::Array(scopes.to_vec()), "unsupported scope applied to resource"));
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.iter().any(|have| have == scope)) {
            failures.push(FieldError::invalid(at, Value::Array(scopes.to_vec()), "conflicting scopes"));
        }
    }
}

pub(super) fn scope_values(requirement: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (operator, scope, count) = (text(requirement, "operator"), text(requirement, "scopeName"), list(requirement, "values").len());
    match operator {
        "In" | "NotIn" if count == 0 => {
            failures.push(FieldError::required(
                path.key("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let shown = requirement["values"].clone();
            let why = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
            failures.push(FieldError::invalid(path.key("values"), shown, why));
        }
        _ => {}
    }
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass" | "") && SCOPES.contains(&scope) && operator != "Exists" {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                   ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        failures.push(FieldError::invalid(path.key("operator"), operator, why));
    }
}

/// From the least to the most: min, defaultRequest, default, max; a ratio is within them.
pub(super) fn ordered_limits(item: &Object, path: &Path<'_>, failures: &mut Failures) {
    let read = |field: &str, name: &str| item.get(field).and_then(|amounts| amount(&amounts[name]));
    let names = |field: &str| item.get(field).and_then(Value::as_object).into_iter().flatten();
    #[rustfmt::skip]
    const ORDER: [(&str, &str, &str); 6] = [
        ("min", "max", "min"), ("min", "defaultRequest", "defaultRequest"), ("min", "default", "default"),
        ("defaultRequest", "default", "defaultRequest"), ("default", "max", "default"), ("defaultRequest", "max", "defaultRequest"),
    ];
    for (less, more, at) in ORDER {
        for (name, _) in names(less) {
            let Some((low, high)) = read(less, name).zip(read(more, name)) else { continue };
            let shown = item[at][name].clone();
            if low.compare(high).is_gt() {
                let why = format!("{less} value {} is greater than {more} value {}", low.canonical(), high.canonical());
                failures.push(FieldError::invalid(path.key(at).map_key(name), shown, why));
            } else if (less, more) == ("defaultRequest", "default") && low.compare(high).is_ne() && !formats::may_be_overcommitted(name) {
                failures.push(FieldError::invalid(path.key(at).map_key(name), shown, "must equal to the default value"));
            }
        }
    }
    for (name, value) in names("maxLimitRequestRatio") {
        let Some(ratio) = amount(value).map(crate::quantity::Quantity::millis) else { continue };
        let bounds = read("min", name).zip(read("max", name)).map(|(min, max)| (min.millis(), max.millis()));
        let why = match bounds {
            _ if ratio < 1000 => "is less than 1",
            Some((min, max)) if ratio.saturating_mul(min) > max.saturating_mul(1000) => "is greater than max/min",
            _ => continue,
        };
        let shown = value.as_str().unwrap_or_default();
        failures.push(FieldError::invalid(path.key("maxLimitRequestRatio").map_key(name), value.clone(), format!("ratio {shown} {why}")));
    }
    let kind = text(item, "type");
    for field in ["default", "defaultRequest"].into_iter().filter(|field| kind == "Pod" && names(field).next().is_some()) {
        failures.push(FieldError::forbidden(path.key(field), "may not be specified when `type` is 'Pod'"));
    }
    if kind == "PersistentVolumeClaim" && read("min", "storage").or_else(|| read("max", "storage")).is_none() {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        failures.push(FieldError::required(path.key("limits"), why));
    }
}
