//! Rules about jobs: what counts as failed, as done, and when.

use serde_json::Value;

use super::{Failures, Object, list, number, text};
use crate::path::Path;
use crate::status::FieldError;

pub(super) fn limits_of_indexes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    const PARALLELISM_MAX: i64 = 100_000;
    if let (Some(most), None) = (number(spec, "maxFailedIndexes"), number(spec, "backoffLimitPerIndex")) {
        let why = format!("is required when maxFailedIndexes ({most}) is set");
        failures.push(FieldError::required(path.key("backoffLimitPerIndex"), why));
    }
    if let (Some(most), Some(all)) = (number(spec, "maxFailedIndexes"), number(spec, "completions"))
        && most > all
    {
        failures.push(FieldError::invalid(path.key("maxFailedIndexes"), most, "must be less than or equal to completions"));
    }
    if text(spec, "completionMode") == "Indexed"
        && let Some(parallelism) = number(spec, "parallelism").filter(|n| *n > PARALLELISM_MAX)
    {
        let why = format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed");
        failures.push(FieldError::invalid(path.key("parallelism"), parallelism, why));
    }
}

pub(super) fn failures_need_never(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let policy = spec.get("template").and_then(|t| t["spec"]["restartPolicy"].as_str()).unwrap_or_default();
    for field in ["podFailurePolicy", "backoffLimitPerIndex"].into_iter().filter(|field| spec.contains_key(*field)) {
        if policy == "OnFailure" {
            let why = format!("only \"Never\" is supported when {field} is specified");
            let template = path.key("template");
            failures.push(FieldError::invalid(template.key("spec").key("restartPolicy"), policy, why));
        }
    }
    if spec.contains_key("podFailurePolicy") && text(spec, "podReplacementPolicy") == "TerminatingOrFailed" {
        failures.push(FieldError::not_supported(path.key("podReplacementPolicy"), "TerminatingOrFailed", &["Failed"]));
    }
}

pub(super) fn one_failure_source(rule: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (codes, conditions) = (rule.contains_key("onExitCodes"), !list(rule, "onPodConditions").is_empty());
    if codes == conditions {
        let shown = Value::Object(rule.clone());
        let why = if codes {
            "specifying both OnExitCodes and OnPodConditions is not supported"
        } else {
            "specifying one of OnExitCodes and OnPodConditions is required"
        };
        failures.push(FieldError::invalid(path, shown, why));
    }
}

pub(super) fn exit_codes(requirement: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (values, at) = (list(requirement, "values"), path.key("values"));
    for (index, value) in values.iter().enumerate() {
        if value == &Value::from(0) && text(requirement, "operator") == "In" {
            failures.push(FieldError::invalid(at.index(index), 0, "must not be 0 for the In operator"));
        }
        if values[..index].contains(value) {
            failures.push(FieldError::duplicate(at.index(index), value.clone()));
        }
    }
    if !values.iter().map(|value| value.as_i64().unwrap_or(0)).is_sorted() {
        failures.push(FieldError::invalid(at, Value::Array(values.to_vec()), "must be ordered"));
    }
}

pub(super) fn time_zone(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(zone) = spec.get("timeZone").and_then(Value::as_str) else { return };
    let why = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
    } else if !jiff::tz::db().is_definitively_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        format!("unknown time zone {zone}")
    } else {
        return;
    };
    failures.push(FieldError::invalid(path.key("timeZone"), zone, why));
}

/// Jobs of a cron job have selectors that are made for each.
pub(super) fn template_of_jobs(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let job = spec.get("jobTemplate").map_or(&Value::Null, |template| &template["spec"]);
    let template = path.key("jobTemplate");
    let at = template.key("spec");
    if !job["selector"].is_null() {
        failures.push(FieldError::invalid(at.key("selector"), job["selector"].clone(), "`selector` will be auto-generated"));
    }
    if job["manualSelector"] == true {
        failures.push(FieldError::not_supported(at.key("manualSelector"), true, &["nil", "false"]));
    }
}

/// A job succeeds with indexes that it has.
pub(super) fn success(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (Some(all), Some(policy)) = (number(spec, "completions"), spec.get("successPolicy")) else { return };
    for (index, rule) in policy["rules"].as_array().into_iter().flatten().enumerate() {
        let at = |field: &str| format!("{path}.successPolicy.rules[{index}].{field}");
        let indexes = rule["succeededIndexes"].as_str().unwrap_or_default();
        let last = indexes.rsplit([',', '-']).next().and_then(|last| last.parse::<i64>().ok());
        if last.is_some_and(|last| last >= all) {
            failures.push(FieldError::invalid(at("succeededIndexes"), indexes, format!("cannot have an index that is {all} or above")));
        }
        if let Some(count) = rule["succeededCount"].as_i64().filter(|count| *count > all) {
            failures.push(FieldError::invalid(
                at("succeededCount"),
                count,
                format!("must be less than or equal to {all} (the number of completions)"),
            ));
        }
    }
}

/// Exit codes are those of containers of the template.
pub(super) fn failing_containers(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let rules = spec.get("podFailurePolicy").and_then(|policy| policy["rules"].as_array()).into_iter().flatten();
    for (index, rule) in rules.enumerate() {
        let pod = spec.get("template").map_or(&Value::Null, |template| &template["spec"]);
        let at = |field: &str| format!("{path}.podFailurePolicy.rules[{index}].{field}");
        if let Some(name) = rule["onExitCodes"]["containerName"].as_str()
            && !crate::pod::containers(pod).any(|(_, _, container)| container["name"] == name)
        {
            let why = "must be one of the container or initContainer names in the pod template";
            failures.push(FieldError::invalid(at("onExitCodes.containerName"), name, why));
        }
        if rule["action"] == "FailIndex" && !spec.contains_key("backoffLimitPerIndex") {
            let why = "requires the backoffLimitPerIndex to be set";
            failures.push(FieldError::invalid(at("action"), "FailIndex", why));
        }
    }
}
