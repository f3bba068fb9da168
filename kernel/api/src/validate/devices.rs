//! Rules about devices of dynamic resource allocation: claims and their status, classes, slices, taints.

use std::cmp::Ordering;

use pintle_policies::device_selector;
use serde_json::Value;

use super::{Failures, Object, amount, list, names, number, text};
use crate::FieldErrorKind;
use crate::path::Path;
use crate::status::FieldError;

const REQUEST_REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
/// Bytes of a driver's parameters and data.
const OPAQUE_MAX: usize = 10 << 10;
/// Entries of a device's attributes and capacity, values of its attributes, counters of a set, values to choose from, bytes of a value.
const ENTRIES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const COUNTERS_MAX: usize = 32;
const OPTIONS_MAX: usize = 10;
const TEXT_MAX: usize = 64;
/// Devices of a slice: plain ones, and those with taints, counters or lists.
const DEVICES_MAX: (usize, usize) = (128, 64);

pub(super) fn counters(set: &Object, path: &Path<'_>, failures: &mut Failures) {
    let counters = set.get("counters").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if counters > COUNTERS_MAX {
        failures.push(FieldError::too_many(path.key("counters"), counters, COUNTERS_MAX));
    }
}

pub(super) fn parameters(opaque: &Object, path: &Path<'_>, failures: &mut Failures) {
    document(opaque.get("parameters"), &path.key("parameters"), failures);
}

pub(super) fn data(device: &Object, path: &Path<'_>, failures: &mut Failures) {
    if device.contains_key("data") {
        document(device.get("data"), &path.key("data"), failures);
    }
}

/// Names of requests occur once, and references find theirs.
pub(super) fn claim(claim: &Object, path: &Path<'_>, failures: &mut Failures) {
    once(claim, "requests", "name", path, failures);
    let names = request_names(&Value::Object(claim.clone()));
    for key in ["constraints", "config"] {
        for (index, part) in list(claim, key).iter().enumerate() {
            let at = path.key(key);
            references(&part["requests"], &names, &at.index(index).key("requests"), failures);
        }
    }
}

/// What may stand for a request of the claim `devices`: its name, and with a choice also the name of each choice behind it.
fn request_names(devices: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for request in devices["requests"].as_array().into_iter().flatten() {
        let name = request["name"].as_str().unwrap_or_default();
        let choices = request["firstAvailable"].as_array().into_iter().flatten().filter_map(|choice| choice["name"].as_str());
        names.extend(choices.map(|choice| format!("{name}/{choice}")));
        names.push(name.to_owned());
    }
    names
}

fn references(requests: &Value, names: &[String], path: &Path<'_>, failures: &mut Failures) {
    for (index, name) in requests.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
        if !names.iter().any(|known| known == name) {
            failures.push(FieldError::invalid(path.index(index), name, REQUEST_REFERENCE));
        }
    }
}

/// No two elements of the list have the same `key`; the failure is the element's.
fn once(map: &Object, field: &str, key: &str, path: &Path<'_>, failures: &mut Failures) {
    let items = list(map, field);
    for (index, item) in items.iter().enumerate() {
        if items[..index].iter().any(|other| other[key] == item[key]) {
            failures.push(FieldError::duplicate(path.key(field).index(index), item[key].clone()));
        }
    }
}

pub(super) fn request(request: &Object, path: &Path<'_>, failures: &mut Failures) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    match (request.contains_key("exactly"), list(request, "firstAvailable").is_empty()) {
        (false, true) => failures.push(FieldError::required(path, ONE)),
        (true, false) => failures.push(FieldError::invalid(path, Value::Null, format!("{ONE}, but multiple fields are set"))),
        _ => once(request, "firstAvailable", "name", path, failures),
    }
}

pub(super) fn count(request: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (mode, count) = (text(request, "allocationMode"), number(request, "count").unwrap_or(0));
    let why = match mode {
        "All" if count != 0 => "must not be specified when allocationMode is 'All'",
        "ExactCount" if count <= 0 => "must be greater than zero",
        _ => return,
    };
    failures.push(FieldError::invalid(path.key("count"), count, why));
}

pub(super) fn selector(selector: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (source, at) = (text(selector, "expression"), path.key("expression"));
    match device_selector(source) {
        _ if source.is_empty() => {}
        _ if source.len() > OPAQUE_MAX => failures.push(FieldError::too_long(at, OPAQUE_MAX)),
        Err(why) => failures.push(FieldError::invalid(at, source, why)),
        Ok(true) => {}
        Ok(false) => failures.push(FieldError::forbidden(at, "too complex, exceeds cost limit")),
    }
}

pub(super) fn toleration(toleration: &Object, path: &Path<'_>, failures: &mut Failures) {
    let value = text(toleration, "value");
    if text(toleration, "operator") == "Exists" && !value.is_empty() {
        failures.push(FieldError::invalid(path.key("value"), value, "must be empty for operator `Exists`"));
    }
}

/// A driver's own document: an object of bounded size.
fn document(value: Option<&Value>, path: &Path<'_>, failures: &mut Failures) {
    match value {
        None | Some(Value::Null) => failures.push(FieldError::required(path, "")),
        Some(object @ Value::Object(_)) if object.to_string().len() > OPAQUE_MAX => failures.push(FieldError::too_long(path, OPAQUE_MAX)),
        Some(Value::Object(_)) => {}
        Some(_) => failures.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

pub(super) fn slice(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    place(spec, "perDeviceNodeSelection", true, path, failures);
    let terms = spec.get("nodeSelector").map(|selector| &selector["nodeSelectorTerms"]);
    if let Some(terms) = terms.filter(|terms| terms.as_array().is_none_or(|terms| terms.len() != 1)) {
        let at = path.key("nodeSelector");
        failures.push(FieldError::invalid(at.key("nodeSelectorTerms"), terms.clone(), "must have exactly one node selector term"));
    }
    if spec.contains_key("sharedCounters") && spec.contains_key("devices") {
        failures.push(FieldError::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    once(spec, "sharedCounters", "name", path, failures);
    once(spec, "devices", "name", path, failures);
    let devices = list(spec, "devices");
    let filled = |device: &Value, key: &str| device[key].as_array().is_some_and(|list| !list.is_empty());
    let lists = |device: &Value| device["attributes"].as_object().is_some_and(|all| all.values().any(|value| values(value) != 1));
    let counting = devices.iter().any(|device| filled(device, "consumesCounters"));
    let most = match counting || devices.iter().any(|device| filled(device, "taints") || lists(device)) {
        true => DEVICES_MAX.1,
        false => DEVICES_MAX.0,
    };
    if devices.len() > most {
        failures.push(FieldError::too_many(path.key("devices"), devices.len(), most));
    }
    let apart = spec.get("perDeviceNodeSelection") == Some(&Value::Bool(true));
    for (index, device) in devices.iter().enumerate().filter_map(|(index, device)| Some((index, device.as_object()?))) {
        let list = path.key("devices");
        let at = list.index(index);
        if apart {
            place(device, "", false, &at, failures);
        } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|key| device.contains_key(*key)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            failures.push(FieldError::invalid(&at, Value::Null, why));
        }
    }
    let part = text(spec, "partitionTypeAttribute");
    if !part.is_empty() && !counting {
        let why = "may only be set on a slice which declares devices that consume counters";
        failures.push(FieldError::invalid(path.key("partitionTypeAttribute"), part, why));
    }
}

/// Exactly one way says on which nodes the devices are.
fn place(map: &Object, further: &str, of_slice: bool, path: &Path<'_>, failures: &mut Failures) {
    let mut set = Vec::new();
    for key in ["nodeName", "nodeSelector", "allNodes", further] {
        match map.get(key) {
            Some(Value::String(name)) if name.is_empty() => {
                failures.push(FieldError::invalid(path.key(key), "", "must be either unset or set to a non-empty string"));
            }
            Some(Value::Bool(false)) => failures.push(FieldError::invalid(path.key(key), false, "must be either unset or set to true")),
            Some(_) => set.push(format!("`{key}`")),
            None => {}
        }
    }
    let one = match of_slice {
        true => "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        false => {
            "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        }
    };
    match set.len() {
        0 => failures.push(FieldError::required(path, one)),
        1 => {}
        _ => failures.push(FieldError::invalid(path, format!("{{{}}}", set.join(", ")), format!("{one}, but multiple fields are set"))),
    }
}

/// How many values an attribute has.
fn values(attribute: &Value) -> usize {
    let listed = attribute.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_array()).map(Vec::len).sum::<usize>();
    listed.max(usize::from(!attribute.as_object().is_some_and(|map| map.values().any(Value::is_array))))
}

pub(super) fn device(device: &Object, path: &Path<'_>, failures: &mut Failures) {
    let entries = |key: &str| device.get(key).and_then(Value::as_object);
    let both = ["attributes", "capacity"].map(|key| entries(key).map_or(0, serde_json::Map::len)).iter().sum::<usize>();
    let all = entries("attributes").into_iter().flatten().map(|(_, attribute)| values(attribute)).sum::<usize>();
    for (what, number, most) in [("attributes and capacities", both, ENTRIES_MAX), ("attribute values", all, VALUES_MAX)] {
        if number > most {
            failures.push(FieldError::invalid(path, number, format!("the total number of {what} must not exceed {most}")));
        }
    }
    once(device, "consumesCounters", "counterSet", path, failures);
    let shared = device.get("allowMultipleAllocations") == Some(&Value::Bool(true));
    for (name, capacity) in entries("capacity").into_iter().flatten().filter(|_| !shared) {
        if capacity.get("requestPolicy").is_some() {
            let at = path.key("capacity");
            failures.push(FieldError::forbidden(at.map_key(name).key("requestPolicy"), "allowMultipleAllocations must be true"));
        }
    }
    for (name, resource) in entries("nodeAllocatableResources").into_iter().flatten() {
        let at = path.key("nodeAllocatableResources");
        if name.contains('/') {
            failures.push(FieldError::invalid(at.map_key(name), name.as_str(), "must be a node allocatable resource name"));
        }
        let key = resource.pointer("/mapping/capacityKey").and_then(Value::as_str);
        if let Some(key) = key.filter(|key| !key.is_empty() && entries("capacity").is_none_or(|known| !known.contains_key(*key))) {
            let at = format!("{}.mapping.capacityKey", at.map_key(name));
            failures.push(FieldError::new(at, FieldErrorKind::NotFound, key, ""));
        }
    }
}

pub(super) fn attribute(attribute: &Object, path: &Path<'_>, failures: &mut Failures) {
    if attribute.len() != 1 {
        let shown = if attribute.is_empty() { Value::from("") } else { Value::Object(attribute.clone()) };
        failures.push(FieldError::invalid(path, shown, "exactly one value must be specified"));
    }
    for (key, value) in attribute {
        let (at, items) = (path.key(key), value.as_array());
        if items.is_some_and(Vec::is_empty) {
            failures.push(FieldError::invalid(&at, value.clone(), "must not be empty if specified"));
        }
        let each = items.into_iter().flatten().enumerate().map(|(index, item)| (at.index(index).to_string(), item));
        for (at, text) in each.chain([(at.to_string(), value)]).filter_map(|(at, value)| Some((at, value.as_str()?))) {
            if text.len() > TEXT_MAX {
                failures.push(FieldError::too_long(&at, TEXT_MAX));
            }
            if key.starts_with("version") && names::semver(text).is_some() {
                failures.push(FieldError::invalid(&at, text, "must be a string compatible with semver.org spec 2.0.0"));
            }
        }
    }
}

/// What may be asked for of a capacity: values to choose from, or a range with steps; with the amount for those who do not say.
pub(super) fn capacity(capacity: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(policy) = capacity.get("requestPolicy").and_then(Value::as_object) else { return };
    let (at, whole) = (path.key("requestPolicy"), capacity.get("value").and_then(amount));
    let (options, range) = (list(policy, "validValues"), policy.get("validRange"));
    let above =
        |one: &Value, other: &Value| amount(one).zip(amount(other)).is_some_and(|(one, other)| one.compare(other) == Ordering::Greater);
    let beyond = |value: &Value| whole.zip(amount(value)).is_some_and(|(whole, value)| value.compare(whole) == Ordering::Greater);
    if !options.is_empty() && range.is_some() {
        let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return failures.push(FieldError::forbidden(&at, why));
    }
    let kind = if options.is_empty() { "validRange" } else { "validValues" };
    if options.is_empty() && range.is_none() {
        return;
    }
    let Some(usual) = policy.get("default") else {
        return failures.push(FieldError::required(at.key("default"), format!("required when {kind} is defined")));
    };
    let within = at.key(kind);
    for (index, option) in options.iter().enumerate() {
        if index > 0 && above(&options[index - 1], option) {
            failures.push(FieldError::invalid(within.index(index), option.clone(), "values must be sorted in ascending order"));
        }
        if options[..index].contains(option) {
            failures.push(FieldError::duplicate(within.index(index), option.clone()));
        }
        if beyond(option) {
            failures.push(FieldError::invalid(within.index(index), option.clone(), "option is larger than capacity value"));
        }
    }
    if options.len() > OPTIONS_MAX {
        failures.push(FieldError::too_many(&within, options.len(), OPTIONS_MAX));
    }
    let same = |option: &Value| amount(option).zip(amount(usual)).is_some_and(|(one, other)| one.compare(other) == Ordering::Equal);
    if !options.is_empty() && !options.iter().any(same) {
        failures.push(FieldError::invalid(&within, usual.clone(), "default value is not valid according to the requestPolicy"));
    }
    let Some(range) = range else { return };
    let (least, most, step) = (&range["min"], &range["max"], &range["step"]);
    if least.is_null() {
        return failures.push(FieldError::required(within.key("min"), "required when validRange is defined"));
    }
    for (key, value, wrong, why) in [
        ("min", least, beyond(least), "min is larger than capacity value"),
        ("default", usual, above(least, usual), "default is less than min"),
        ("max", least, above(least, most), "min is larger than max"),
        ("max", most, beyond(most), "max is larger than capacity value"),
        ("default", usual, above(usual, most), "default is more than max"),
        ("step", step, amount(step).is_some_and(|step| step.sign() <= 0), "must be greater than zero"),
    ] {
        if wrong {
            failures.push(FieldError::invalid(within.key(key), value.clone(), why));
        }
    }
    if let (Some(least), Some(step)) = (amount(least), amount(step).filter(|step| step.millis() > 0)) {
        for value in [usual, most] {
            if amount(value).is_some_and(|value| value.minus(least).millis() % step.millis() != 0) {
                failures.push(FieldError::invalid(within.key("step"), value.clone(), "value is not a multiple of a given step"));
            }
        }
    }
}

pub(super) fn mapping(mapping: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (key, with) in [("capacityKey", "capacityMultiplier"), ("capacityMultiplier", "capacityKey")] {
        if mapping.contains_key(key) && !mapping.contains_key(with) {
            failures.push(FieldError::required(path.key(with), format!("{with} is required when {key} is set")));
        }
    }
    if mapping.get("capacityKey").is_some_and(|key| key == "") {
        failures.push(FieldError::invalid(path.key("capacityKey"), "", "capacityKey must not be an empty string"));
    }
    for key in ["capacityMultiplier", "deviceMultiplier"] {
        if let Some(value) = mapping.get(key).filter(|value| amount(value).is_some_and(|amount| amount.sign() <= 0)) {
            failures.push(FieldError::invalid(path.key(key), value.clone(), "must be positive"));
        }
    }
}

pub(super) fn overhead(overhead: &Object, path: &Path<'_>, failures: &mut Failures) {
    if !overhead.contains_key("perPod") && !overhead.contains_key("perContainer") {
        failures.push(FieldError::invalid(path, "", "at least one of perPod or perContainer must be set"));
    }
    for (key, value) in overhead.iter().filter(|(_, value)| amount(value).is_some_and(|amount| amount.is_negative())) {
        failures.push(FieldError::invalid(path.key(key), value.clone(), "must be non-negative"));
    }
}

pub(super) fn binding(part: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (conditions, failing) = (list(part, "bindingConditions"), list(part, "bindingFailureConditions"));
    for (index, condition) in failing.iter().enumerate().filter(|(_, condition)| conditions.contains(condition)) {
        let at = path.key("bindingFailureConditions");
        failures.push(FieldError::invalid(
            at.index(index),
            condition.clone(),
            "bindingFailureConditions must not overlap with bindingConditions",
        ));
    }
    for (key, with) in [("bindingConditions", "bindingFailureConditions"), ("bindingFailureConditions", "bindingConditions")] {
        if list(part, key).is_empty() && !list(part, with).is_empty() {
            failures.push(FieldError::invalid(path.key(key), Value::Array(Vec::new()), format!("{key} are required to use {with}")));
        }
    }
}

/// What a claim's status must be as the successor of another: reserved only while allocated, an allocation that stays, results and devices that are its own.
pub(crate) fn claim_status(new: &Value, old: &Value, failures: &mut Failures) {
    let (status, before) = (&new["status"], &old["status"]);
    let (allocation, reserved) = (&status["allocation"], status["reservedFor"].as_array().map_or(&[][..], Vec::as_slice));
    if !reserved.is_empty() && allocation.is_null() {
        failures.push(FieldError::forbidden("status.reservedFor", "may not be specified when `allocated` is not set"));
    } else if !new["metadata"]["deletionTimestamp"].is_null()
        && reserved.iter().any(|user| before["reservedFor"].as_array().is_none_or(|known| !known.contains(user)))
    {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        failures.push(FieldError::forbidden("status.reservedFor", why));
    }
    let results = allocation["devices"]["results"].as_array().map_or(&[][..], Vec::as_slice);
    let names = request_names(&new["spec"]["devices"]);
    if !allocation.is_null() && !before["allocation"].is_null() {
        if *allocation != before["allocation"] {
            failures.push(FieldError::invalid("status.allocation", allocation.clone(), super::immutable::FIXED));
        }
    } else {
        let strange =
            |result: &Value| result["request"].as_str().is_some_and(|name| !name.is_empty() && !names.iter().any(|known| known == name));
        for (index, result) in results.iter().enumerate().filter(|(_, result)| strange(result)) {
            let at = format!("status.allocation.devices.results[{index}].request");
            failures.push(FieldError::invalid(at, result["request"].clone(), REQUEST_REFERENCE));
        }
    }
    let place = |device: &Value| ["driver", "pool", "device", "shareID"].map(|key| device[key].clone());
    let devices = status["devices"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, device) in devices.iter().enumerate() {
        let at = format!("status.devices[{index}]");
        let named = ["driver", "pool", "device"].map(|key| device[key].as_str().unwrap_or_default()).join("/");
        if devices[..index].iter().any(|other| place(other) == place(device)) {
            failures.push(FieldError::duplicate(&at, named.as_str()));
        }
        if !results.iter().any(|result| place(result) == place(device)) {
            failures.push(FieldError::invalid(at, named, "must be an allocated device in the claim"));
        }
    }
}
