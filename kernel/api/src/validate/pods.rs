//! Rules about pods and everything inside them, wherever a pod template occurs.

use serde_json::Value;

use super::{Failures, Object, amount, formats, list, names, number, text};
use crate::path::Path;
use crate::status::{FieldError, FieldErrorKind};

/// Every container of a pod: the list that it is in, its index there, and itself.
pub(super) fn each(spec: &Object) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(|key| list(spec, key).iter().enumerate().map(move |(index, container)| (key, index, container)))
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn container_names(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let mut seen: Vec<&str> = Vec::new();
    for (key, index, container) in each(spec) {
        let name = container["name"].as_str().unwrap_or_default();
        if !name.is_empty() && seen.contains(&name) {
            failures.push(FieldError::duplicate(path.key(key).index(index).key("name"), name));
        }
        seen.push(name);
    }
}

/// What containers mount, which devices they have and which claims they use, is the pod's own; a device is one that is claimed.
pub(super) fn parts_are_there(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (volumes, claims) = (list(spec, "volumes"), list(spec, "resourceClaims"));
    for (key, index, container) in each(spec) {
        let parts = [
            ("volumeMounts", array(container, "volumeMounts"), volumes),
            ("volumeDevices", array(container, "volumeDevices"), volumes),
            ("resources.claims", array(&container["resources"], "claims"), claims),
        ];
        for (field, used, known) in parts {
            for (place, item) in used.iter().enumerate() {
                let name = item["name"].as_str().unwrap_or_default();
                let found = known.iter().find(|known| known["name"] == item["name"]);
                let at = || format!("{path}.{key}[{index}].{field}[{place}].name");
                match found {
                    None if !name.is_empty() && !failures.claimed.iter().any(|claimed| claimed == name) => {
                        failures.push(FieldError::new(at(), FieldErrorKind::NotFound, name, ""));
                    }
                    Some(volume)
                        if field == "volumeDevices" && volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() =>
                    {
                        let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                        failures.push(FieldError::invalid(at(), name, why));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Mounts and devices of one container are apart; only a privileged one mounts for others.
pub(super) fn mounts(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    let privileged = container.get("securityContext").is_some_and(|context| context["privileged"] == true);
    for (mine, place, theirs, other) in
        [("volumeMounts", "mountPath", "volumeDevices", "devicePath"), ("volumeDevices", "devicePath", "volumeMounts", "mountPath")]
    {
        let at = path.key(mine);
        for (index, mount) in list(container, mine).iter().enumerate() {
            let at = at.index(index);
            for (key, same) in [("name", "name"), (place, other)] {
                if list(container, theirs).iter().any(|item| item[same] == mount[key]) {
                    failures.push(FieldError::invalid(at.key(key), mount[key].clone(), format!("must not already exist in {theirs}")));
                }
            }
            let propagation = mount["mountPropagation"].as_str().unwrap_or("None");
            if propagation == "Bidirectional" && !privileged {
                let why = "Bidirectional mount propagation is available only to privileged containers";
                failures.push(FieldError::forbidden(at.key("mountPropagation"), why));
            }
            if matches!(mount["recursiveReadOnly"].as_str(), Some("Enabled" | "IfPossible"))
                && (mount["readOnly"] != true || propagation != "None")
            {
                let why = "may only be specified when readOnly is true and mountPropagation is None or not specified";
                failures.push(FieldError::forbidden(at.key("recursiveReadOnly"), why));
            }
        }
    }
}

/// No two containers that run at the same time have the same port of the host.
pub(super) fn host_ports_differ(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let mut seen: Vec<(usize, &Value, &Value, &Value)> = Vec::new();
    for (key, index, container) in each(spec) {
        for (place, port) in array(container, "ports").iter().enumerate().filter(|(_, port)| port["hostPort"].as_i64().unwrap_or(0) != 0) {
            // Init containers run one by one.
            let turn = if key == "containers" { usize::MAX } else { index };
            let used = (turn, &port["hostPort"], &port["protocol"], &port["hostIP"]);
            if seen.contains(&used) {
                let shown = format!(
                    "{}/{}/{}",
                    port["protocol"].as_str().unwrap_or("TCP"),
                    port["hostIP"].as_str().unwrap_or_default(),
                    port["hostPort"]
                );
                failures.push(FieldError::duplicate(format!("{path}.{key}[{index}].ports[{place}].hostPort"), shown));
            }
            seen.push(used);
        }
    }
}

/// What a pod shares with its host, it cannot have for itself.
pub(super) fn namespaces(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let set = |key: &str| spec.get(key) == Some(&Value::Bool(true));
    if set("hostPID") && set("shareProcessNamespace") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        failures.push(FieldError::invalid(path.key("shareProcessNamespace"), true, why));
    }
    let own_users = spec.get("hostUsers") == Some(&Value::Bool(false));
    for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if own_users && set(key) {
            failures.push(FieldError::forbidden(path.key(shown), "when `pod.Spec.HostUsers` is false"));
        }
    }
    for (key, index, container) in each(spec) {
        for (place, port) in array(container, "ports").iter().enumerate().filter(|_| set("hostNetwork") && key == "containers") {
            if !port["hostPort"].is_null() && port["hostPort"] != port["containerPort"] {
                let at = format!("{path}.{key}[{index}].ports[{place}].hostPort");
                failures.push(FieldError::invalid(at, port["hostPort"].clone(), "must match `containerPort` when `hostNetwork` is true"));
            }
        }
        if container["securityContext"]["procMount"] == "Unmasked" && !own_users {
            let at = format!("{path}.{key}[{index}].securityContext.procMount");
            failures.push(FieldError::invalid(at, "Unmasked", "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    let sysctls = spec.get("securityContext").map_or(&[][..], |context| array(context, "sysctls"));
    for (index, sysctl) in sysctls.iter().enumerate() {
        let name = sysctl["name"].as_str().unwrap_or_default().replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
        for key in [("hostNetwork", name.starts_with("net.")), ("hostIPC", of_ipc)].iter().filter(|(key, theirs)| *theirs && set(key)) {
            let at = format!("{path}.securityContext.sysctls[{index}].name");
            failures.push(FieldError::invalid(at, name.as_str(), format!("may not be specified when '{}' is true", key.0)));
        }
    }
}

/// An ephemeral container may join a container of the pod.
pub(super) fn debugged_containers(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let known: Vec<&Value> =
        each(spec).filter(|(key, ..)| *key != "ephemeralContainers").map(|(_, _, container)| &container["name"]).collect();
    for (index, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let target = &container["targetContainerName"];
        if target.as_str().is_some_and(|name| !name.is_empty()) && !known.contains(&target) {
            let at = path.key("ephemeralContainers");
            failures.push(FieldError::new(at.index(index).key("targetContainerName"), FieldErrorKind::NotFound, target.clone(), ""));
        }
    }
}

/// What the downward API can say of a pod: `known` fields, and single labels and annotations.
pub(super) fn downward_field(holder: &Object, path: &Path<'_>, known: &[&str], failures: &mut Failures) {
    let field = holder.get("fieldRef").map_or("", |selector| selector["fieldPath"].as_str().unwrap_or_default());
    let at = path.key("fieldRef");
    match field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        Some(("metadata.labels" | "metadata.annotations", key)) => {
            let key = if field.starts_with("metadata.annotations") { key.to_lowercase() } else { key.to_owned() };
            if let Some(why) = names::qualified(&key) {
                failures.push(FieldError::invalid(at, key, why));
            }
        }
        Some((other, _)) => failures.push(FieldError::invalid(at, other, "does not support subscript")),
        None if formats::pod_field(field).is_none() && !known.contains(&field) => {
            failures.push(FieldError::not_supported(at.key("fieldPath"), field, known))
        }
        None => {}
    }
}

/// What the downward API can say of a container's resources.
pub(super) fn downward_resource(selector: &Object, path: &Path<'_>, failures: &mut Failures) {
    const RESOURCES: &[&str] =
        &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
    let resource = text(selector, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if !resource.is_empty() && !huge && !RESOURCES.contains(&resource) {
        failures.push(FieldError::not_supported(path.key("resource"), resource, RESOURCES));
    }
    if let Some(why) = formats::divisor(resource, text(selector, "divisor")) {
        failures.push(FieldError::invalid(path.key("divisor"), resource, why));
    }
}

pub(super) fn dns_config(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (config, at) = (spec.get("dnsConfig"), path.key("dnsConfig"));
    let servers = config.map_or(0, |config| array(config, "nameservers").len());
    if text(spec, "dnsPolicy") == "None" && servers == 0 {
        let at = if config.is_some() { at.key("nameservers").to_string() } else { at.to_string() };
        failures.push(FieldError::required(at, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    let searches = config.map_or(&[][..], |config| array(config, "searches"));
    if searches.iter().map(|domain| domain.as_str().unwrap_or_default().len() + 1).sum::<usize>() > 2049 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        failures.push(FieldError::invalid(at.key("searches"), searches.to_vec(), why));
    }
}

/// Probes and hooks are for containers that stay; a hook's pause ends before the pod does.
pub(super) fn probes_and_hooks(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let grace = number(spec, "terminationGracePeriodSeconds").unwrap_or(i64::MAX);
    for (key, index, container) in each(spec).filter(|(key, ..)| *key != "ephemeralContainers") {
        let stays = key == "containers" || container["restartPolicy"] == "Always";
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !stays && container.get(field).is_some() {
                let why = "may not be set for init containers without restartPolicy=Always";
                failures.push(FieldError::forbidden(format!("{path}.{key}[{index}].{field}"), why));
            }
        }
        for hook in ["postStart", "preStop"] {
            if let Some(seconds) =
                container["lifecycle"][hook]["sleep"]["seconds"].as_i64().filter(|seconds| !(0..=grace).contains(seconds))
            {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                failures.push(FieldError::invalid(format!("{path}.{key}[{index}].lifecycle.{hook}.sleep"), seconds, why));
            }
        }
    }
}

pub(super) fn probe_thresholds(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (success, grace) = ("successThreshold", "terminationGracePeriodSeconds");
    let must_be_1 = |value: &Value| value.as_i64().is_some_and(|n| n != 1);
    for (probe, field, wrong, why) in [
        ("livenessProbe", success, must_be_1 as fn(&Value) -> bool, "must be 1"),
        ("startupProbe", success, must_be_1, "must be 1"),
        ("readinessProbe", grace, |value| !value.is_null(), "must not be set for readinessProbes"),
    ] {
        if let Some(value) = container.get(probe).map(|probe| &probe[field]).filter(|value| wrong(value)) {
            failures.push(FieldError::invalid(path.key(probe).key(field), value.clone(), why));
        }
    }
}

/// An ephemeral container is there for a look: it has nothing that a part of the pod's work has.
pub(super) fn only_a_look(container: &Object, path: &Path<'_>, failures: &mut Failures) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let work = ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy", "restartPolicy"];
    for field in
        work.into_iter().filter(|field| container.get(*field).is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty())))
    {
        failures.push(FieldError::forbidden(path.key(field), WHY));
    }
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|field| mount[*field].as_str().is_some_and(|path| !path.is_empty())) {
            failures.push(FieldError::forbidden(path.key("volumeMounts").index(index).key(field), WHY));
        }
    }
}

/// Of what cannot be promised twice, as much is requested as is allowed; huge pages come with processor or memory.
pub(super) fn resources(resources: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (at, none) = (path.key("requests"), Value::Null);
    let [requests, limits] = ["requests", "limits"].map(|key| resources.get(key).unwrap_or(&none));
    for (name, request) in requests.as_object().into_iter().flatten() {
        let exact = !formats::may_be_overcommitted(name);
        match (amount(request), amount(&limits[name])) {
            (Some(asked), Some(most)) if asked.compare(most).is_gt() || exact && asked.compare(most).is_ne() => {
                let how = if exact { "equal to" } else { "less than or equal to" };
                failures.push(FieldError::invalid(at, request.clone(), format!("must be {how} {name} limit of {}", most.canonical())));
            }
            (_, None) if exact => {
                failures.push(FieldError::required(path.key("limits"), "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    let all = || [requests, limits].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys);
    if all().any(|name| name.starts_with("hugepages-")) && !all().any(|name| name == "cpu" || name == "memory") {
        failures.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// Resources of the whole pod: processor, memory and huge pages, as much as its containers ask for or more.
pub(super) fn pod_resources(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(own) = spec.get("resources") else { return };
    let at = path.key("resources");
    if own.get("claims").is_some() {
        failures.push(FieldError::forbidden(at.key("claims"), "claims cannot be set for Resources at pod-level"));
    }
    for kind in ["limits", "requests"] {
        for (name, value) in own[kind].as_object().into_iter().flatten() {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                failures.push(FieldError::not_supported(at.key(kind).map_key(name), name.as_str(), &["cpu", "hugepages-", "memory"]));
            }
            let containers = || each(spec).filter(|(key, _, container)| *key == "containers" || container["restartPolicy"] == "Always");
            let asked = |container: &Value| amount(&container["resources"][kind][name]).map_or(0, crate::quantity::Quantity::millis);
            let most = amount(value).map_or(0, crate::quantity::Quantity::millis);
            if kind == "requests" && containers().map(|(_, _, container)| asked(container)).sum::<i128>() > most {
                let why = "must be greater than or equal to aggregate container requests";
                failures.push(FieldError::invalid(at.key(kind).map_key(name), value.clone(), why));
            }
            for (key, index, container) in containers().filter(|(_, _, container)| kind == "limits" && asked(container) > most) {
                let shown = container["resources"][kind][name].clone();
                failures.push(FieldError::invalid(
                    format!("{at}.{key}[{index}][{name}].limits"),
                    shown,
                    format!("must be less than or equal to pod limits of {value}"),
                ));
            }
        }
    }
}

pub(super) fn escalation(context: &Object, path: &Path<'_>, failures: &mut Failures) {
    let set = |key: &str, value: bool| context.get(key) == Some(&Value::Bool(value));
    let admin = context.get("capabilities").is_some_and(|all| array(all, "add").iter().any(|name| name == "CAP_SYS_ADMIN"));
    for (_, what) in
        [(set("privileged", true), "`privileged` to true"), (admin, "`capabilities.Add` CAP_SYS_ADMIN")].iter().filter(|(more, _)| *more)
    {
        if set("allowPrivilegeEscalation", false) {
            let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            failures.push(FieldError::invalid(path, Value::Object(context.clone()), why));
        }
    }
}

pub(super) fn toleration(toleration: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (key, operator, value) = (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        failures.push(FieldError::invalid(path.key("operator"), operator, why));
    }
    let wrong = match operator {
        "Exists" => (!value.is_empty()).then(|| "value must be empty when `operator` is 'Exists'".to_owned()),
        "Gt" | "Lt" => value.parse::<i64>().is_err().then(|| "value must be a valid integer for numeric operators".to_owned()),
        _ => names::label_value(value),
    };
    if let Some(why) = wrong {
        failures.push(FieldError::invalid(path.key("operator"), value, why));
    }
    if toleration.contains_key("tolerationSeconds") && text(toleration, "effect") != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        failures.push(FieldError::invalid(path.key("effect"), text(toleration, "effect"), why));
    }
}

pub(super) fn requirement_values(requirement: &Object, path: &Path<'_>, failures: &mut Failures) {
    let count = list(requirement, "values").len();
    let at = path.key("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if count == 0 => failures.push(FieldError::required(at, "must be specified when `operator` is 'In' or 'NotIn'")),
        "Exists" | "DoesNotExist" if count > 0 => {
            failures.push(FieldError::forbidden(at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
        }
        "Gt" | "Lt" if count != 1 => {
            failures.push(FieldError::required(at, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
        }
        _ => {}
    }
}

/// Fields of a node that a selector can look at: its name, one at a time.
pub(super) fn node_fields(term: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        let at = path.key("matchFields");
        let at = at.index(index);
        match requirement["operator"].as_str() {
            Some("In" | "NotIn") if array(requirement, "values").len() == 1 => {}
            Some("In" | "NotIn") => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                failures.push(FieldError::required(at.key("values"), why));
            }
            _ => failures.push(FieldError::invalid(at.key("operator"), requirement["operator"].clone(), "not a valid selector operator")),
        }
        if requirement["key"] != "metadata.name" {
            failures.push(FieldError::invalid(at.key("key"), requirement["key"].clone(), "not a valid field selector key"));
        }
    }
}

/// What nodes must have are values that a label can have.
pub(super) fn node_labels(selector: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (index, term) in list(selector, "nodeSelectorTerms").iter().enumerate() {
        for (place, requirement) in array(term, "matchExpressions").iter().enumerate() {
            let at = path.key("nodeSelectorTerms");
            let at = at.index(index);
            super::check_format(
                requirement.get("values"),
                names::label_value,
                &at.key("matchExpressions").index(place).key("values"),
                failures,
            );
        }
    }
}

/// One constraint for each pair of topology and action.
pub(super) fn spread(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let all = list(spec, "topologySpreadConstraints");
    for (index, one) in all.iter().enumerate() {
        let pair = |other: &Value| [other["topologyKey"].clone(), other["whenUnsatisfiable"].clone()];
        if all[index + 1..].iter().any(|other| pair(other) == pair(one)) {
            let at = format!("{path}.topologySpreadConstraints[{index}].{{topologyKey, whenUnsatisfiable}}");
            let [key, action] = pair(one).map(|part| part.as_str().unwrap_or_default().to_owned());
            failures.push(FieldError::duplicate(at, format!("{{{key}, {action}}}")));
        }
    }
}

pub(super) fn template(template: &Object, path: &Path<'_>, failures: &mut Failures) {
    let metadata = template.get("metadata").unwrap_or(&Value::Null);
    super::metadata::check_labels(metadata.get("labels"), &path.key("labels"), failures);
    super::metadata::check_annotations(metadata.get("annotations"), &path.key("annotations"), failures);
    if template.get("spec").is_some_and(|spec| !array(spec, "ephemeralContainers").is_empty()) {
        let why = "ephemeral containers not allowed in pod template";
        failures.push(FieldError::forbidden(path.key("spec").key("ephemeralContainers"), why));
    }
}

/// What is only true of a pod, not of what pods are made of.
pub(super) fn pod(pod: &Object, path: &Path<'_>, failures: &mut Failures) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let (metadata, spec) = (pod.get("metadata").unwrap_or(&Value::Null), pod.get("spec").unwrap_or(&Value::Null));
    if let Some(cost) = metadata["annotations"][COST].as_str().filter(|cost| formats::whole_number(cost).is_some()) {
        failures.push(FieldError::invalid(path.key("metadata").key("annotations").map_key(COST), cost, "must be a 32bit integer"));
    }
    if spec["nodeName"].as_str().is_some_and(|name| !name.is_empty()) && !array(spec, "schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        failures.push(FieldError::forbidden(path.key("spec").key("nodeName"), why));
    }
}
