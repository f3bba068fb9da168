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

/// Texts joined by commas; `<none>` for none.
fn joined(items: impl IntoIterator<Item = String>) -> Value {
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

pub(super) fn container_names(object: &Value, _: Timestamp) -> Value {
    joined(list(pod_spec(object), "/containers").iter().map(|c| text(c, "/name").to_owned()))
}

pub(super) fn container_images(object: &Value, _: Timestamp) -> Value {
    joined(list(pod_spec(object), "/containers").iter().map(|c| text(c, "/image").to_owned()))
}

pub(super) fn template_labels(object: &Value, _: Timestamp) -> Value {
    labels(&object["template"]["metadata"]["labels"])
}

/// A map (services, replication controllers) or a selector object (everything newer).
pub(super) fn selector(object: &Value, _: Timestamp) -> Value {
    let selector = object.pointer("/spec/selector").or_else(|| object.pointer("/spec/jobTemplate/spec/selector")).unwrap_or(&Value::Null);
    if selector.get("matchLabels").is_some_and(Value::is_object) || selector.get("matchExpressions").is_some() {
        return LabelSelector::from_object(selector).map_or_else(|_| json!("<error>"), |s| or(&s.to_string(), NONE));
    }
    labels(selector)
}

pub(super) fn pod_selector(object: &Value, _: Timestamp) -> Value {
    let selector = object.pointer("/spec/podSelector").unwrap_or(&Value::Null);
    LabelSelector::from_object(selector).map_or_else(|_| json!("<error>"), |s| or(&s.to_string(), NONE))
}

pub(super) fn node_selector(object: &Value, _: Timestamp) -> Value {
    labels(&pod_spec(object)["nodeSelector"])
}

pub(super) fn ready_of_wanted(object: &Value, _: Timestamp) -> Value {
    json!(format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")))
}

pub(super) fn controller(object: &Value, _: Timestamp) -> Value {
    let Some(owner) = list(object, "/metadata/ownerReferences").iter().find(|o| o["controller"] == true) else { return json!(NONE) };
    let group = text(owner, "/apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
    json!(format!("{}{group}/{}", text(owner, "/kind").to_lowercase(), text(owner, "/name")))
}

pub(super) fn job_status(job: &Value, _: Timestamp) -> Value {
    let rows = [("Complete", "Complete"), ("Failed", "Failed")];
    let ended = rows.iter().find(|(kind, _)| condition(job, kind) == "True").map(|(_, word)| *word);
    let word = ended.unwrap_or_else(|| {
        if !job["metadata"]["deletionTimestamp"].is_null() {
            "Terminating"
        } else if condition(job, "Suspended") == "True" {
            "Suspended"
        } else if condition(job, "FailureTarget") == "True" {
            "FailureTarget"
        } else if condition(job, "SuccessCriteriaMet") == "True" {
            "SuccessCriteriaMet"
        } else {
            "Running"
        }
    });
    json!(word)
}

pub(super) fn job_completions(job: &Value, _: Timestamp) -> Value {
    let done = number(job, "/status/succeeded");
    match (job["spec"]["completions"].as_i64(), job["spec"]["parallelism"].as_i64()) {
        (Some(wanted), _) => json!(format!("{done}/{wanted}")),
        (None, Some(parallelism)) if parallelism > 1 => json!(format!("{done}/1 of {parallelism}")),
        _ => json!(format!("{done}/1")),
    }
}

pub(super) fn job_duration(job: &Value, now: Timestamp) -> Value {
    let Some(start) = duration::parse(&job["status"]["startTime"]) else { return json!("") };
    let end = duration::parse(&job["status"]["completionTime"]).unwrap_or(now);
    json!(duration::human_duration(end.as_second() - start.as_second()))
}

pub(super) fn suspended(job: &Value, _: Timestamp) -> Value {
    json!(if job["spec"]["suspend"] == true { "True" } else { "False" })
}

pub(super) fn active_jobs(job: &Value, _: Timestamp) -> Value {
    json!(list(job, "/status/active").len())
}

pub(super) fn last_schedule(job: &Value, now: Timestamp) -> Value {
    let time = &job["status"]["lastScheduleTime"];
    if time.is_null() { json!(NONE) } else { json!(duration::since(time, now)) }
}

pub(super) fn external_ips(service: &Value, _: Timestamp) -> Value {
    let own = list(service, "/spec/externalIPs").iter().filter_map(|ip| Some(ip.as_str()?.to_owned()));
    match text(service, "/spec/type") {
        "ExternalName" => json!(text(service, "/spec/externalName")),
        "LoadBalancer" => {
            let balancers = list(service, "/status/loadBalancer/ingress").iter().map(|i| {
                let ip = text(i, "/ip");
                (if ip.is_empty() { text(i, "/hostname") } else { ip }).to_owned()
            });
            match joined(balancers.chain(own)) {
                Value::String(none) if none == NONE => json!("<pending>"),
                found => found,
            }
        }
        _ => joined(own),
    }
}

pub(super) fn service_ports(service: &Value, _: Timestamp) -> Value {
    joined(list(service, "/spec/ports").iter().map(|port| {
        let (number_, node, protocol) = (number(port, "/port"), number(port, "/nodePort"), text(port, "/protocol"));
        if node > 0 { format!("{number_}:{node}/{protocol}") } else { format!("{number_}/{protocol}") }
    }))
}

pub(super) fn endpoints(endpoints: &Value, _: Timestamp) -> Value {
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

pub(super) fn slice_ports(slice: &Value, _: Timestamp) -> Value {
    let ports: Vec<String> =
        list(slice, "/ports").iter().map(|port| port["port"].as_i64().map_or("*".to_owned(), |n| n.to_string())).collect();
    if ports.is_empty() { json!(UNSET) } else { first_three(ports) }
}

pub(super) fn slice_endpoints(slice: &Value, _: Timestamp) -> Value {
    let addresses = list(slice, "/endpoints").iter().flat_map(|e| list(e, "/addresses")).filter_map(|a| Some(a.as_str()?.to_owned()));
    match addresses.collect::<Vec<_>>() {
        none if none.is_empty() => json!(UNSET),
        some => first_three(some),
    }
}

pub(super) fn node_status(node: &Value, _: Timestamp) -> Value {
    let ready = match condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    };
    json!(if node["spec"]["unschedulable"] == true { format!("{ready},SchedulingDisabled") } else { ready.to_owned() })
}

pub(super) fn node_roles(node: &Value, _: Timestamp) -> Value {
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

fn node_address(node: &Value, kind: &str) -> Value {
    let found = list(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    or(found.map_or("", |a| text(a, "/address")), NONE)
}

pub(super) fn internal_ip(node: &Value, _: Timestamp) -> Value {
    node_address(node, "InternalIP")
}

pub(super) fn external_ip(node: &Value, _: Timestamp) -> Value {
    node_address(node, "ExternalIP")
}

pub(super) fn data_keys(object: &Value, _: Timestamp) -> Value {
    let count = |key: &str| object[key].as_object().map_or(0, serde_json::Map::len);
    json!(count("data") + count("binaryData"))
}

pub(super) fn secrets(account: &Value, _: Timestamp) -> Value {
    json!(list(account, "/secrets").len())
}

/// An event's field under its name in core/v1, or in events.k8s.io/v1.
fn event<'a>(event: &'a Value, core: &str, newer: &str) -> &'a Value {
    event.pointer(core).filter(|v| !v.is_null()).or_else(|| event.pointer(newer)).unwrap_or(&Value::Null)
}

pub(super) fn first_seen(e: &Value, now: Timestamp) -> Value {
    let first = event(e, "/firstTimestamp", "/deprecatedFirstTimestamp");
    json!(duration::since(if first.is_null() { &e["eventTime"] } else { first }, now))
}

pub(super) fn last_seen(e: &Value, now: Timestamp) -> Value {
    let times = [
        event(e, "/series/lastObservedTime", "/series/lastObservedTime"),
        event(e, "/lastTimestamp", "/deprecatedLastTimestamp"),
        &e["eventTime"],
    ];
    let last = times.into_iter().find(|time| !time.is_null()).unwrap_or(event(e, "/firstTimestamp", "/deprecatedFirstTimestamp"));
    json!(duration::since(last, now))
}

pub(super) fn event_object(e: &Value, _: Timestamp) -> Value {
    let about = event(e, "/involvedObject", "/regarding");
    json!(format!("{}/{}", text(about, "/kind").to_lowercase(), text(about, "/name")))
}

pub(super) fn event_subobject(e: &Value, _: Timestamp) -> Value {
    event(e, "/involvedObject/fieldPath", "/regarding/fieldPath").as_str().map_or_else(|| json!(""), |path| json!(path))
}

pub(super) fn event_source(e: &Value, _: Timestamp) -> Value {
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

pub(super) fn event_message(e: &Value, _: Timestamp) -> Value {
    json!(event(e, "/message", "/note").as_str().unwrap_or_default().trim())
}

pub(super) fn event_count(e: &Value, _: Timestamp) -> Value {
    let series = number(e, "/series/count");
    let count = event(e, "/count", "/deprecatedCount").as_i64().unwrap_or(1);
    json!((if series > 0 { series } else { count.max(1) }).to_string())
}

pub(super) fn access_modes(object: &Value, _: Timestamp) -> Value {
    let shown = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    // A claim shows what it got.
    let modes =
        if object["kind"] == "PersistentVolumeClaim" { list(object, "/status/accessModes") } else { list(object, "/spec/accessModes") };
    let words = shown.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, word)| *word);
    json!(words.collect::<Vec<_>>().join(","))
}

pub(super) fn phase(object: &Value, _: Timestamp) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() { json!(text(object, "/status/phase")) } else { json!("Terminating") }
}

pub(super) fn claim(volume: &Value, _: Timestamp) -> Value {
    let claim = &volume["spec"]["claimRef"];
    json!(if claim.is_null() { String::new() } else { format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")) })
}

pub(super) fn storage_class(object: &Value, _: Timestamp) -> Value {
    json!(text(object, "/spec/storageClassName"))
}

pub(super) fn attributes_class(object: &Value, _: Timestamp) -> Value {
    or(text(object, "/spec/volumeAttributesClassName"), UNSET)
}

pub(super) fn reason(object: &Value, _: Timestamp) -> Value {
    json!(text(object, "/status/reason"))
}

pub(super) fn volume(claim: &Value, _: Timestamp) -> Value {
    json!(text(claim, "/spec/volumeName"))
}

pub(super) fn claim_capacity(claim: &Value, _: Timestamp) -> Value {
    json!(if text(claim, "/spec/volumeName").is_empty() { "" } else { text(claim, "/status/capacity/storage") })
}

fn quota(quota: &Value, wanted: impl Fn(&str) -> bool) -> Value {
    let hard = quota["status"]["hard"].as_object().or_else(|| quota["spec"]["hard"].as_object());
    let parts = hard.into_iter().flatten().filter(|(name, _)| wanted(name)).map(|(name, hard)| {
        let used = quota["status"]["used"][name].as_str().unwrap_or("0");
        format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
    });
    json!(parts.collect::<Vec<_>>().join(", "))
}

pub(super) fn quota_requests(object: &Value, _: Timestamp) -> Value {
    quota(object, |name| !name.starts_with("limits."))
}

pub(super) fn quota_limits(object: &Value, _: Timestamp) -> Value {
    quota(object, |name| name.starts_with("limits."))
}

pub(super) fn component_status(component: &Value, _: Timestamp) -> Value {
    json!(if text(component, "/conditions/0/status") == "True" { "Healthy" } else { "Unhealthy" })
}

pub(super) fn class_name(class: &Value, _: Timestamp) -> Value {
    let name = text(class, "/metadata/name");
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    json!(if default { format!("{name} (default)") } else { name.to_owned() })
}

fn flag(value: &Value) -> Value {
    json!((*value == true).to_string())
}

pub(super) fn expansion(class: &Value, _: Timestamp) -> Value {
    flag(&class["allowVolumeExpansion"])
}

pub(super) fn attached(attachment: &Value, _: Timestamp) -> Value {
    flag(&attachment["status"]["attached"])
}

pub(super) fn global_default(class: &Value, _: Timestamp) -> Value {
    flag(&class["globalDefault"])
}

pub(super) fn drivers(node: &Value, _: Timestamp) -> Value {
    json!(list(node, "/spec/drivers").len())
}

pub(super) fn token_requests(driver: &Value, _: Timestamp) -> Value {
    let audiences = list(driver, "/spec/tokenRequests").iter().map(|t| text(t, "/audience").to_owned()).collect::<Vec<_>>();
    or(&audiences.join(","), UNSET)
}

pub(super) fn lifecycle_modes(driver: &Value, _: Timestamp) -> Value {
    joined(list(driver, "/spec/volumeLifecycleModes").iter().map(|m| m.as_str().unwrap_or_default().to_owned()))
}

pub(super) fn ingress_hosts(ingress: &Value, _: Timestamp) -> Value {
    let hosts: Vec<String> = list(ingress, "/spec/rules").iter().map(|r| text(r, "/host").to_owned()).filter(|h| !h.is_empty()).collect();
    if hosts.is_empty() { json!("*") } else { first_three(hosts) }
}

pub(super) fn ingress_address(ingress: &Value, _: Timestamp) -> Value {
    let addresses = list(ingress, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| (if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") }).to_owned());
    json!(addresses.collect::<Vec<_>>().join(","))
}

pub(super) fn ingress_ports(ingress: &Value, _: Timestamp) -> Value {
    json!(if list(ingress, "/spec/tls").is_empty() { "80" } else { "80, 443" })
}

pub(super) fn class_parameters(class: &Value, _: Timestamp) -> Value {
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return json!(NONE);
    }
    let group = text(parameters, "/apiGroup");
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    json!(format!("{}{group}/{}", text(parameters, "/kind"), text(parameters, "/name")))
}

pub(super) fn parent_ref(address: &Value, _: Timestamp) -> Value {
    let parent = &address["spec"]["parentRef"];
    let parts = [text(parent, "/group"), text(parent, "/resource"), text(parent, "/namespace"), text(parent, "/name")];
    json!(parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/"))
}

pub(super) fn cidrs(object: &Value, _: Timestamp) -> Value {
    joined(list(object, "/spec/cidrs").iter().map(|c| c.as_str().unwrap_or_default().to_owned()))
}

fn amount(value: &Value) -> Value {
    match value {
        Value::Null => json!("N/A"),
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    }
}

pub(super) fn min_available(budget: &Value, _: Timestamp) -> Value {
    amount(&budget["spec"]["minAvailable"])
}

pub(super) fn max_unavailable(budget: &Value, _: Timestamp) -> Value {
    amount(&budget["spec"]["maxUnavailable"])
}

pub(super) fn scale_target(scaler: &Value, _: Timestamp) -> Value {
    json!(format!("{}/{}", text(scaler, "/spec/scaleTargetRef/kind"), text(scaler, "/spec/scaleTargetRef/name")))
}

/// Each metric as current/target; only utilization and values of the resource metrics, which nearly all autoscalers use.
pub(super) fn scale_metrics(scaler: &Value, _: Timestamp) -> Value {
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

pub(super) fn role(binding: &Value, _: Timestamp) -> Value {
    json!(format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name")))
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let found = list(binding, "/subjects").iter().filter(|s| s["kind"] == kind).map(|s| match text(s, "/namespace") {
        "" => text(s, "/name").to_owned(),
        namespace => format!("{namespace}/{}", text(s, "/name")),
    });
    json!(found.collect::<Vec<_>>().join(", "))
}

pub(super) fn users(binding: &Value, _: Timestamp) -> Value {
    subjects(binding, "User")
}

pub(super) fn groups(binding: &Value, _: Timestamp) -> Value {
    subjects(binding, "Group")
}

pub(super) fn service_accounts(binding: &Value, _: Timestamp) -> Value {
    subjects(binding, "ServiceAccount")
}

pub(super) fn requested_duration(request: &Value, _: Timestamp) -> Value {
    json!(request["spec"]["expirationSeconds"].as_i64().map_or_else(|| NONE.to_owned(), duration::human_duration))
}

pub(super) fn request_condition(request: &Value, _: Timestamp) -> Value {
    let has = |kind: &str| list(request, "/status/conditions").iter().any(|c| c["type"] == kind);
    let words = [("Denied", "Denied"), ("Approved", "Approved"), ("Failed", "Failed")];
    let mut shown: Vec<&str> = words.iter().filter(|(kind, _)| has(kind)).map(|(_, word)| *word).collect();
    if shown.is_empty() {
        shown.push("Pending");
    }
    if !text(request, "/status/certificate").is_empty() {
        shown.push("Issued");
    }
    json!(shown.join(","))
}

pub(super) fn webhooks(configuration: &Value, _: Timestamp) -> Value {
    json!(list(configuration, "/webhooks").len())
}

pub(super) fn mutations(policy: &Value, _: Timestamp) -> Value {
    json!(list(policy, "/spec/mutations").len())
}

/// The state that a request came to: `Pending` until somebody said.
pub(super) fn request_state(request: &Value, _: Timestamp) -> Value {
    let ended = ["Issued", "Denied", "Failed"].into_iter().find(|kind| condition(request, kind) == "True");
    json!(ended.unwrap_or("Pending"))
}

pub(super) fn validations(policy: &Value, _: Timestamp) -> Value {
    json!(list(policy, "/spec/validations").len())
}

pub(super) fn param_kind(policy: &Value, _: Timestamp) -> Value {
    let kind = &policy["spec"]["paramKind"];
    if kind.is_null() { json!(UNSET) } else { json!(format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind"))) }
}

pub(super) fn param_ref(binding: &Value, _: Timestamp) -> Value {
    let reference = &binding["spec"]["paramRef"];
    match (text(reference, "/namespace"), text(reference, "/name")) {
        (_, "") => json!(UNSET),
        ("", name) => json!(name),
        (namespace, name) => json!(format!("{namespace}/{name}")),
    }
}

pub(super) fn missing_priority_level(schema: &Value, _: Timestamp) -> Value {
    json!(match condition(schema, "Dangling") {
        "" => "?",
        status => status,
    })
}

pub(super) fn claim_state(claim: &Value, _: Timestamp) -> Value {
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

pub(super) fn api_service(service: &Value, _: Timestamp) -> Value {
    let reference = &service["spec"]["service"];
    json!(if reference.is_null() { "Local".to_owned() } else { format!("{}/{}", text(reference, "/namespace"), text(reference, "/name")) })
}

pub(super) fn available(service: &Value, _: Timestamp) -> Value {
    let found = list(service, "/status/conditions").iter().find(|c| c["type"] == "Available");
    match found {
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => json!(format!("{} ({})", text(c, "/status"), text(c, "/reason"))),
        None => json!("Unknown"),
    }
}

/// The first twelve digits, as images' digests are shown.
pub(super) fn short_digest(module: &Value, _: Timestamp) -> Value {
    let digest = text(module, "/status/digest");
    let hex = digest.rsplit(':').next().unwrap_or_default();
    or(&hex.chars().take(12).collect::<String>(), NONE)
}

pub(super) fn p99(module: &Value, _: Timestamp) -> Value {
    match module.pointer("/status/p99Micros").and_then(Value::as_i64) {
        None => json!(NONE),
        Some(micros @ ..1_000) => json!(format!("{micros}us")),
        Some(micros @ ..1_000_000) => json!(format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100)),
        Some(micros) => json!(format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000)),
    }
}

pub(super) fn memory(module: &Value, _: Timestamp) -> Value {
    match module.pointer("/status/memoryBytes").and_then(Value::as_i64) {
        None => json!(NONE),
        Some(bytes @ ..1_048_576) => json!(format!("{}Ki", bytes / 1_024)),
        Some(bytes) => json!(format!("{}.{}Mi", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576)),
    }
}
