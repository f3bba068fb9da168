//! Cells that need more than one field, or another way to write it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::duration;
use crate::selector::LabelSelector;

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
const UNKNOWN: &str = "<unknown>";

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> Value {
    json!(if text.is_empty() { otherwise } else { text })
}

/// How many elements of a list or entries of a map.
pub(super) fn length(value: &Value) -> usize {
    value.as_array().map(Vec::len).or_else(|| value.as_object().map(serde_json::Map::len)).unwrap_or(0)
}

/// The texts of the list at `pointer`, or what is at `field` of its elements.
pub(super) fn texts(object: &Value, pointer: &str, field: &str) -> Vec<String> {
    list(object, pointer).iter().map(|item| text(item, field).to_owned()).collect()
}

/// The texts at `pointers` with slashes between them; `otherwise` where there is none.
pub(super) fn path(object: &Value, otherwise: &str, pointers: &[&str]) -> Value {
    let parts = pointers.iter().map(|pointer| text(object, pointer)).filter(|part| !part.is_empty());
    or(&parts.collect::<Vec<_>>().join("/"), otherwise)
}

/// Texts joined by commas; `<none>` for none.
pub(super) fn joined(items: impl IntoIterator<Item = String>) -> Value {
    let items: Vec<String> = items.into_iter().filter(|item| !item.is_empty()).collect();
    or(&items.join(","), NONE)
}

/// The first three, and how many more.
fn first_three(items: Vec<String>) -> Value {
    let more = items.len().saturating_sub(3);
    let shown = items.into_iter().take(3).collect::<Vec<_>>().join(",");
    if more > 0 { json!(format!("{shown} + {more} more...")) } else { or(&shown, NONE) }
}

fn labels(map: &Value) -> Value {
    joined(map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())))
}

/// A condition's status; "" where there is none.
fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let found = list(object, "/status/conditions").iter().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

fn pod_spec(object: &Value) -> &Value {
    let places = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec", "/template/spec"];
    places.iter().find_map(|pointer| object.pointer(pointer)).unwrap_or(&Value::Null)
}

pub(crate) fn containers(object: &Value, field: &str) -> Value {
    joined(texts(pod_spec(object), "/containers", field))
}

pub(crate) fn template_labels(object: &Value) -> Value {
    labels(&object["template"]["metadata"]["labels"])
}

/// A map (services, replication controllers) or a selector object (everything newer).
pub(crate) fn selector(object: &Value) -> Value {
    let selector = object.pointer("/spec/selector").or_else(|| object.pointer("/spec/jobTemplate/spec/selector")).unwrap_or(&Value::Null);
    if selector.get("matchLabels").is_some_and(Value::is_object) || selector.get("matchExpressions").is_some() {
        return selection(selector);
    }
    labels(selector)
}

pub(crate) fn pod_selector(object: &Value) -> Value {
    selection(object.pointer("/spec/podSelector").unwrap_or(&Value::Null))
}

fn selection(selector: &Value) -> Value {
    LabelSelector::from_object(selector).map_or_else(|_| json!("<error>"), |s| or(&s.to_string(), NONE))
}

pub(crate) fn node_selector(object: &Value) -> Value {
    labels(&pod_spec(object)["nodeSelector"])
}

pub(crate) fn ready_of_wanted(object: &Value) -> Value {
    json!(format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")))
}

pub(crate) fn controller(object: &Value) -> Value {
    let Some(owner) = list(object, "/metadata/ownerReferences").iter().find(|o| o["controller"] == true) else { return json!(NONE) };
    let group = text(owner, "/apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
    json!(format!("{}{group}/{}", text(owner, "/kind").to_lowercase(), text(owner, "/name")))
}

pub(crate) fn job_status(job: &Value) -> Value {
    let is = |kind: &&str| match *kind {
        "Terminating" => !job["metadata"]["deletionTimestamp"].is_null(),
        kind => condition(job, kind) == "True",
    };
    let words = ["Complete", "Failed", "Terminating", "Suspended", "FailureTarget", "SuccessCriteriaMet"];
    json!(words.into_iter().find(is).unwrap_or("Running"))
}

pub(crate) fn job_completions(job: &Value) -> Value {
    let done = number(job, "/status/succeeded");
    match (job["spec"]["completions"].as_i64(), job["spec"]["parallelism"].as_i64()) {
        (Some(wanted), _) => json!(format!("{done}/{wanted}")),
        (None, Some(parallelism)) if parallelism > 1 => json!(format!("{done}/1 of {parallelism}")),
        _ => json!(format!("{done}/1")),
    }
}

pub(crate) fn job_duration(job: &Value, now: Timestamp) -> Value {
    let Some(start) = duration::parse(&job["status"]["startTime"]) else { return json!("") };
    let end = duration::parse(&job["status"]["completionTime"]).unwrap_or(now);
    json!(duration::human_duration(end.as_second() - start.as_second()))
}

pub(crate) fn suspended(job: &Value) -> Value {
    json!(if job["spec"]["suspend"] == true { "True" } else { "False" })
}

pub(crate) fn last_schedule(job: &Value, now: Timestamp) -> Value {
    let time = &job["status"]["lastScheduleTime"];
    if time.is_null() { json!(NONE) } else { json!(duration::since(time, now)) }
}

/// The addresses or names that balancers gave.
fn balancers(object: &Value) -> Vec<String> {
    let address = |given: &Value| if text(given, "/ip").is_empty() { text(given, "/hostname") } else { text(given, "/ip") }.to_owned();
    list(object, "/status/loadBalancer/ingress").iter().map(address).collect()
}

pub(crate) fn external_ips(service: &Value) -> Value {
    let own = texts(service, "/spec/externalIPs", "");
    match text(service, "/spec/type") {
        "ExternalName" => json!(text(service, "/spec/externalName")),
        "LoadBalancer" => match joined(balancers(service).into_iter().chain(own)) {
            Value::String(none) if none == NONE => json!("<pending>"),
            found => found,
        },
        _ => joined(own),
    }
}

pub(crate) fn service_ports(service: &Value) -> Value {
    joined(list(service, "/spec/ports").iter().map(|port| {
        let (number_, node, protocol) = (number(port, "/port"), number(port, "/nodePort"), text(port, "/protocol"));
        if node > 0 { format!("{number_}:{node}/{protocol}") } else { format!("{number_}/{protocol}") }
    }))
}

pub(crate) fn endpoints(endpoints: &Value) -> Value {
    let mut found = Vec::new();
    for subset in list(endpoints, "/subsets") {
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            match list(subset, "/ports") {
                [] => found.push(ip.to_owned()),
                ports => found.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port")))),
            }
        }
    }
    first_three(found)
}

pub(crate) fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> =
        list(slice, "/ports").iter().map(|port| port["port"].as_i64().map_or("*".to_owned(), |n| n.to_string())).collect();
    if ports.is_empty() { json!(UNSET) } else { first_three(ports) }
}

pub(crate) fn slice_endpoints(slice: &Value) -> Value {
    let addresses = list(slice, "/endpoints").iter().flat_map(|e| list(e, "/addresses")).filter_map(|a| Some(a.as_str()?.to_owned()));
    match addresses.collect::<Vec<_>>() {
        none if none.is_empty() => json!(UNSET),
        some => first_three(some),
    }
}

pub(crate) fn node_status(node: &Value) -> Value {
    let ready = match condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    };
    json!(if node["spec"]["unschedulable"] == true { format!("{ready},SchedulingDisabled") } else { ready.to_owned() })
}

pub(crate) fn node_roles(node: &Value) -> Value {
    let mut roles: Vec<String> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => roles.push(role.to_owned()),
            None if key == "kubernetes.io/role" => roles.push(value.as_str().unwrap_or_default().to_owned()),
            None => {}
        }
    }
    roles.sort();
    roles.dedup();
    joined(roles)
}

pub(crate) fn node_address(node: &Value, kind: &str) -> Value {
    let found = list(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    or(found.map_or("", |a| text(a, "/address")), NONE)
}

pub(crate) fn data_keys(object: &Value) -> Value {
    json!(length(&object["data"]) + length(&object["binaryData"]))
}

/// An event's field under its name in core/v1, or in events.k8s.io/v1.
fn event<'a>(event: &'a Value, core: &str, newer: &str) -> &'a Value {
    event.pointer(core).filter(|v| !v.is_null()).or_else(|| event.pointer(newer)).unwrap_or(&Value::Null)
}

pub(crate) fn first_seen(e: &Value, now: Timestamp) -> Value {
    let first = event(e, "/firstTimestamp", "/deprecatedFirstTimestamp");
    json!(duration::since(if first.is_null() { &e["eventTime"] } else { first }, now))
}

pub(crate) fn last_seen(e: &Value, now: Timestamp) -> Value {
    let times = [
        event(e, "/series/lastObservedTime", "/series/lastObservedTime"),
        event(e, "/lastTimestamp", "/deprecatedLastTimestamp"),
        &e["eventTime"],
    ];
    let last = times.into_iter().find(|time| !time.is_null()).unwrap_or(event(e, "/firstTimestamp", "/deprecatedFirstTimestamp"));
    json!(duration::since(last, now))
}

pub(crate) fn event_object(e: &Value) -> Value {
    let about = event(e, "/involvedObject", "/regarding");
    json!(format!("{}/{}", text(about, "/kind").to_lowercase(), text(about, "/name")))
}

pub(crate) fn event_subobject(e: &Value) -> Value {
    event(e, "/involvedObject/fieldPath", "/regarding/fieldPath").as_str().map_or_else(|| json!(""), |path| json!(path))
}

pub(crate) fn event_source(e: &Value) -> Value {
    let (component, host) =
        (event(e, "/source/component", "/deprecatedSource/component"), event(e, "/source/host", "/deprecatedSource/host"));
    let component = component
        .as_str()
        .filter(|c| !c.is_empty())
        .or_else(|| event(e, "/reportingComponent", "/reportingController").as_str())
        .unwrap_or_default();
    let host = host.as_str().filter(|h| !h.is_empty()).or_else(|| e["reportingInstance"].as_str()).unwrap_or_default();
    json!(if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") })
}

pub(crate) fn event_message(e: &Value) -> Value {
    json!(event(e, "/message", "/note").as_str().unwrap_or_default().trim())
}

pub(crate) fn event_count(e: &Value) -> Value {
    let series = number(e, "/series/count");
    let count = event(e, "/count", "/deprecatedCount").as_i64().unwrap_or(1);
    json!((if series > 0 { series } else { count.max(1) }).to_string())
}

pub(crate) fn access_modes(object: &Value) -> Value {
    let shown = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    // A claim shows what it got.
    let modes =
        if object["kind"] == "PersistentVolumeClaim" { list(object, "/status/accessModes") } else { list(object, "/spec/accessModes") };
    let words = shown.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, word)| *word);
    json!(words.collect::<Vec<_>>().join(","))
}

pub(crate) fn phase(object: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() { json!(text(object, "/status/phase")) } else { json!("Terminating") }
}

pub(crate) fn claim_capacity(claim: &Value) -> Value {
    json!(if text(claim, "/spec/volumeName").is_empty() { "" } else { text(claim, "/status/capacity/storage") })
}

/// What a quota has of `requests`, or of `limits`.
pub(crate) fn quota(quota: &Value, kind: &str) -> Value {
    let hard = quota["status"]["hard"].as_object().or_else(|| quota["spec"]["hard"].as_object());
    let parts = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == (kind == "limits")).map(|(name, hard)| {
        let used = quota["status"]["used"][name].as_str().unwrap_or("0");
        format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
    });
    json!(parts.collect::<Vec<_>>().join(", "))
}

pub(crate) fn component_status(component: &Value) -> Value {
    json!(if text(component, "/conditions/0/status") == "True" { "Healthy" } else { "Unhealthy" })
}

pub(crate) fn class_name(class: &Value) -> Value {
    let name = text(class, "/metadata/name");
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    json!(if default { format!("{name} (default)") } else { name.to_owned() })
}

pub(crate) fn token_requests(driver: &Value) -> Value {
    or(&texts(driver, "/spec/tokenRequests", "/audience").join(","), UNSET)
}

pub(crate) fn ingress_hosts(ingress: &Value) -> Value {
    let hosts: Vec<String> = list(ingress, "/spec/rules").iter().map(|r| text(r, "/host").to_owned()).filter(|h| !h.is_empty()).collect();
    if hosts.is_empty() { json!("*") } else { first_three(hosts) }
}

pub(crate) fn ingress_address(ingress: &Value) -> Value {
    json!(balancers(ingress).join(","))
}

pub(crate) fn ingress_ports(ingress: &Value) -> Value {
    json!(if list(ingress, "/spec/tls").is_empty() { "80" } else { "80, 443" })
}

pub(crate) fn class_parameters(class: &Value) -> Value {
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return json!(NONE);
    }
    let group = text(parameters, "/apiGroup");
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    json!(format!("{}{group}/{}", text(parameters, "/kind"), text(parameters, "/name")))
}

/// Each metric as current/target; only utilization and values of the resource metrics, which nearly all autoscalers use.
pub(crate) fn scale_metrics(scaler: &Value) -> Value {
    if let Some(target) = scaler["spec"]["targetCPUUtilizationPercentage"].as_i64() {
        let current = scaler["status"]["currentCPUUtilizationPercentage"].as_i64().map_or(UNKNOWN.to_owned(), |n| format!("{n}%"));
        return json!(format!("cpu: {current}/{target}%"));
    }
    let shown: Vec<String> = list(scaler, "/spec/metrics")
        .iter()
        .enumerate()
        .map(|(index, metric)| {
            let kind = text(metric, "/type");
            let field = kind.chars().next().map_or(String::new(), |c| c.to_lowercase().collect::<String>() + &kind[c.len_utf8()..]);
            let current = scaler.pointer(&format!("/status/currentMetrics/{index}/{field}/current")).unwrap_or(&Value::Null);
            let name = text(&metric[&field], "/name");
            let name = if name.is_empty() { text(&metric[&field], "/metric/name") } else { name };
            let write = |value: &Value| match (&value["averageUtilization"], &value["averageValue"], &value["value"]) {
                (Value::Number(n), _, _) => format!("{n}%"),
                (_, Value::String(v), _) | (_, _, Value::String(v)) => v.clone(),
                _ => UNKNOWN.to_owned(),
            };
            format!("{name}: {}/{}", write(current), write(&metric[&field]["target"]))
        })
        .collect();
    let more = shown.len().saturating_sub(2);
    let first = shown.into_iter().take(2).collect::<Vec<_>>().join(", ");
    if more > 0 { json!(format!("{first} + {more} more...")) } else { or(&first, NONE) }
}

pub(crate) fn subjects(binding: &Value, kind: &str) -> Value {
    let found = list(binding, "/subjects").iter().filter(|s| s["kind"] == kind).map(|s| match text(s, "/namespace") {
        "" => text(s, "/name").to_owned(),
        namespace => format!("{namespace}/{}", text(s, "/name")),
    });
    json!(found.collect::<Vec<_>>().join(", "))
}

pub(crate) fn requested_duration(request: &Value) -> Value {
    json!(request["spec"]["expirationSeconds"].as_i64().map_or_else(|| NONE.to_owned(), duration::human_duration))
}

pub(crate) fn request_condition(request: &Value) -> Value {
    let has = |kind: &str| list(request, "/status/conditions").iter().any(|c| c["type"] == kind);
    let mut shown: Vec<&str> = ["Denied", "Approved", "Failed"].into_iter().filter(|kind| has(kind)).collect();
    if shown.is_empty() {
        shown.push("Pending");
    }
    if !text(request, "/status/certificate").is_empty() {
        shown.push("Issued");
    }
    json!(shown.join(","))
}

/// The state that a request came to: `Pending` until somebody said.
pub(crate) fn request_state(request: &Value) -> Value {
    let ended = ["Issued", "Denied", "Failed"].into_iter().find(|kind| condition(request, kind) == "True");
    json!(ended.unwrap_or("Pending"))
}

pub(crate) fn param_ref(binding: &Value) -> Value {
    let reference = &binding["spec"]["paramRef"];
    match (text(reference, "/namespace"), text(reference, "/name")) {
        (_, "") => json!(UNSET),
        ("", name) => json!(name),
        (namespace, name) => json!(format!("{namespace}/{name}")),
    }
}

pub(crate) fn missing_priority_level(schema: &Value) -> Value {
    json!(match condition(schema, "Dangling") {
        "" => "?",
        status => status,
    })
}

pub(crate) fn claim_state(claim: &Value) -> Value {
    let mut states = Vec::new();
    if !claim["metadata"]["deletionTimestamp"].is_null() {
        states.push("deleted");
    }
    states.push(if claim["status"]["allocation"].is_null() { "pending" } else { "allocated" });
    if !list(claim, "/status/reservedFor").is_empty() {
        states.push("reserved");
    }
    json!(states.join(","))
}

pub(crate) fn available(service: &Value) -> Value {
    let found = list(service, "/status/conditions").iter().find(|c| c["type"] == "Available");
    match found {
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => json!(format!("{} ({})", text(c, "/status"), text(c, "/reason"))),
        None => json!("Unknown"),
    }
}

/// The first twelve digits, as images' digests are shown.
pub(crate) fn short_digest(module: &Value) -> Value {
    let digest = text(module, "/status/digest");
    let hex = digest.rsplit(':').next().unwrap_or_default();
    or(&hex.chars().take(12).collect::<String>(), NONE)
}

pub(crate) fn p99(module: &Value) -> Value {
    match module.pointer("/status/p99Micros").and_then(Value::as_i64) {
        None => json!(NONE),
        Some(micros @ ..1_000) => json!(format!("{micros}us")),
        Some(micros @ ..1_000_000) => json!(format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100)),
        Some(micros) => json!(format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000)),
    }
}

pub(crate) fn memory(module: &Value) -> Value {
    match module.pointer("/status/memoryBytes").and_then(Value::as_i64) {
        None => json!(NONE),
        Some(bytes @ ..1_048_576) => json!(format!("{}Ki", bytes / 1_024)),
        Some(bytes) => json!(format!("{}.{}Mi", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576)),
    }
}
