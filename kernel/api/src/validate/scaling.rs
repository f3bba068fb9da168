//! Rules about how much there may be: autoscalers, budgets, quotas, limit ranges.

use serde_json::Value;

use super::{Failures, Object, amount, list, text};
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
    let fields = ["averageUtilization", "value", "averageValue"];
    if fields.iter().all(|field| !target.contains_key(*field)) {
        failures.push(FieldError::required(path.key("averageUtilization"), "must set either a target raw value or a target utilization"));
    }
    for field in &fields[1..] {
        if let Some(value) = target.get(*field).filter(|value| amount(value).is_some_and(|q| q.millis() <= 0)) {
            failures.push(FieldError::invalid(path.key(field), value.clone(), "must be positive"));
        }
    }
}

pub(super) fn scopes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (scopes, at) = (list(spec, "scopes"), path.key("scopes"));
    for (index, scope) in scopes.iter().enumerate().filter(|(_, scope)| !SCOPES.iter().any(|known| *scope == known)) {
        failures.push(FieldError::invalid(at.index(index), scope.clone(), "unsupported scope"));
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
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass" | "") && operator != "Exists" {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                   ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        failures.push(FieldError::invalid(path.key("operator"), operator, why));
    }
}

/// From the least to the most: min, defaultRequest, default, max.
pub(super) fn ordered_limits(item: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (less, more) in [
        ("min", "max"),
        ("min", "defaultRequest"),
        ("min", "default"),
        ("defaultRequest", "default"),
        ("default", "max"),
        ("defaultRequest", "max"),
    ] {
        let at = path.key(less);
        for (name, value) in item.get(less).and_then(Value::as_object).into_iter().flatten() {
            let other = item.get(more).map(|amounts| &amounts[name]).filter(|value| !value.is_null());
            if let (Some(a), Some(other)) = (amount(value), other)
                && amount(other).is_some_and(|b| a.compare(b).is_gt())
            {
                let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let why = format!("{less} value {} is greater than {more} value {}", plain(value), plain(other));
                failures.push(FieldError::invalid(at.map_key(name), value.clone(), why));
            }
        }
    }
}
