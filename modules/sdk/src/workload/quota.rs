//! What objects take of a ResourceQuota, for the controller that adds it up and the admission rule that holds creates against it.
//!
//! Amounts are thousandths. Names of resources: `count/PLURAL.GROUP` for anything, the bare plural for some core kinds, and for pods, claims
//! and services what they ask for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::milli;
use crate::{Metadata, Requirement};

/// Amounts by the names that quotas have for them, in thousandths.
pub type Amounts = BTreeMap<String, i64>;

/// Core kinds that are counted under their own plural, too.
const COUNTED: [&str; 7] =
    ["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// Requests of pods that have a short name, too.
const SHORT: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// `v1` ResourceQuota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Metadata.
    pub metadata: Metadata,
    /// What is allowed.
    pub spec: Spec,
    /// What is used.
    pub status: Status,
}

/// What a quota allows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Quantities by resource.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub hard: BTreeMap<String, String>,
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    scopes: Vec<String>,
    scope_selector: Option<ScopeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScopeSelector {
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    match_expressions: Vec<ScopeRequirement>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScopeRequirement {
    scope_name: String,
    operator: String,
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    values: Vec<String>,
}

/// What a quota says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What was allowed when it was last added up.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub hard: BTreeMap<String, String>,
    /// What was used then.
    #[serde(deserialize_with = "crate::object::null_is_empty")]
    pub used: BTreeMap<String, String>,
}

impl Quota {
    /// Whether an object counts: a quota with scopes is about pods of these scopes only.
    pub fn covers(&self, group: &str, resource: &str, object: &Value) -> bool {
        let plain = self.spec.scopes.iter().map(|scope| (scope.as_str(), "Exists", &[][..]));
        let chosen = self.spec.scope_selector.iter().flat_map(|selector| &selector.match_expressions);
        let chosen = chosen.map(|r| (r.scope_name.as_str(), r.operator.as_str(), r.values.as_slice()));
        let is_pod = group.is_empty() && resource == "pods";
        plain.chain(chosen).all(|(scope, operator, values)| is_pod && in_scope(object, scope, operator, values))
    }

    /// The part of what an object takes that this quota limits.
    pub fn limited(&self, amounts: Amounts) -> Amounts {
        amounts.into_iter().filter(|(name, _)| self.spec.hard.contains_key(name)).collect()
    }
}

fn in_scope(pod: &Value, scope: &str, operator: &str, values: &[String]) -> bool {
    let ends = pod["spec"]["activeDeadlineSeconds"].is_number();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
            Requirement { key: String::new(), operator: operator.into(), values: values.to_vec() }.holds(class)
        }
        "CrossNamespacePodAffinity" => {
            let affinity = pod["spec"]["affinity"].to_string();
            affinity.contains("\"namespaces\":[\"") || affinity.contains("\"namespaceSelector\":{")
        }
        _ => false,
    }
}

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod["spec"][list].as_array().into_iter().flatten()
}

fn is_best_effort(pod: &Value) -> bool {
    let asks = |container: &Value| {
        let quantities = ["requests", "limits"].into_iter().filter_map(|kind| container["resources"][kind].as_object());
        quantities.flatten().any(|(name, value)| (name == "cpu" || name == "memory") && milli(value.as_str().unwrap_or_default()) > 0)
    };
    !containers(pod, "containers").chain(containers(pod, "initContainers")).any(asks)
}

/// What an object takes. Pods that have run to their end take nothing but `count/pods`.
pub fn usage(group: &str, resource: &str, object: &Value) -> Amounts {
    let dot = if group.is_empty() { "" } else { "." };
    let mut amounts = Amounts::from([(format!("count/{resource}{dot}{group}"), 1_000)]);
    if !group.is_empty() {
        return amounts;
    }
    if resource == "pods" && matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return amounts;
    }
    if COUNTED.contains(&resource) {
        amounts.insert(resource.into(), 1_000);
    }
    match resource {
        "pods" => amounts.extend(pod_usage(object)),
        "services" => amounts.extend(service_usage(object)),
        "persistentvolumeclaims" => amounts.extend(claim_usage(object)),
        _ => {}
    }
    amounts
}

fn pod_usage(pod: &Value) -> Amounts {
    let mut amounts = Amounts::new();
    for kind in ["requests", "limits"] {
        let read = |container: &Value| -> Amounts {
            let quantities = container["resources"][kind].as_object().into_iter().flatten();
            quantities.map(|(name, value)| (name.clone(), milli(value.as_str().unwrap_or_default()))).collect()
        };
        let (mut sum, mut least) = (Amounts::new(), Amounts::new());
        for (name, amount) in containers(pod, "containers").flat_map(read) {
            *sum.entry(name).or_default() += amount;
        }
        // Containers that start and go on count like the others; the one that takes most of those that end counts alone.
        for container in containers(pod, "initContainers") {
            for (name, amount) in read(container) {
                if container["restartPolicy"] == "Always" {
                    *sum.entry(name).or_default() += amount;
                } else {
                    let before = sum.get(&name).copied().unwrap_or(0);
                    let most = least.entry(name).or_insert(before);
                    *most = (*most).max(amount);
                }
            }
        }
        for (name, amount) in least {
            let total = sum.entry(name).or_default();
            *total = (*total).max(amount);
        }
        for (name, value) in pod["spec"]["overhead"].as_object().into_iter().flatten() {
            *sum.entry(name.clone()).or_default() += milli(value.as_str().unwrap_or_default());
        }
        for (name, amount) in sum {
            if kind == "requests" && SHORT.contains(&name.as_str()) {
                amounts.insert(name.clone(), amount);
            }
            amounts.insert(format!("{kind}.{name}"), amount);
        }
    }
    amounts
}

fn service_usage(service: &Value) -> Amounts {
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    let ports = 1_000 * i64::try_from(ports).unwrap_or(i64::MAX / 1_000);
    let allocates = service["spec"]["allocateLoadBalancerNodePorts"] != false;
    let balanced = i64::from(kind == "LoadBalancer") * 1_000;
    let node_ports = if kind == "NodePort" || (kind == "LoadBalancer" && allocates) { ports } else { 0 };
    Amounts::from([("services.loadbalancers".into(), balanced), ("services.nodeports".into(), node_ports)])
}

fn claim_usage(claim: &Value) -> Amounts {
    let storage = milli(claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or_default());
    let mut amounts = Amounts::from([("requests.storage".into(), storage)]);
    if let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        amounts.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), storage);
        amounts.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), 1_000);
    }
    amounts
}

/// What containers of a new pod must say because a quota limits it, and do not: `cpu`, `limits.memory` and the like.
pub fn unsaid(quota: &Quota, pod: &Value) -> Vec<String> {
    let says = |name: &str, container: &Value| {
        let (kind, short) = name.split_once('.').unwrap_or(("requests", name));
        !container["resources"][kind][short].is_null()
    };
    let must = |name: &&String| {
        let short = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
        short == "cpu" || short == "memory"
    };
    let all = || containers(pod, "containers").chain(containers(pod, "initContainers"));
    quota.spec.hard.keys().filter(must).filter(|name| !all().all(|container| says(name, container))).cloned().collect()
}

/// An amount as a quantity: bytes with a binary suffix when they are whole of one, thousandths only where needed.
pub fn quantity(name: &str, amount: i64) -> String {
    if amount % 1_000 != 0 {
        return format!("{amount}m");
    }
    let units = amount / 1_000;
    let bytes = name.ends_with("memory") || name.ends_with("storage");
    let binary = [(30, "Gi"), (20, "Mi"), (10, "Ki")].into_iter().find(|(power, _)| bytes && units != 0 && units % (1i64 << power) == 0);
    binary.map_or_else(|| units.to_string(), |(power, suffix)| format!("{}{suffix}", units >> power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_takes_what_its_containers_ask_for() {
        let pod = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [{"resources": {"requests": {"memory": "3Mi", "cpu": "50m"}}}],
        }});
        let taken = usage("", "pods", &pod);
        for (name, expected) in
            [("pods", "1"), ("count/pods", "1"), ("requests.cpu", "1100m"), ("cpu", "1100m"), ("limits.cpu", "1"), ("memory", "3Mi")]
        {
            assert_eq!(quantity(name, taken.get(name).copied().unwrap_or(-1)), expected, "{name}");
        }
        let over = json!({"status": {"phase": "Failed"}});
        assert_eq!(usage("", "pods", &over).into_keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |spec: Value| Quota::deserialize(json!({"spec": spec})).unwrap_or_default();
        let (short, long) = (json!({"spec": {"activeDeadlineSeconds": 5}}), json!({"spec": {"priorityClassName": "high"}}));
        let terminating = quota(json!({"scopes": ["Terminating", "BestEffort"]}));
        assert_eq!((terminating.covers("", "pods", &short), terminating.covers("", "pods", &long)), (true, false));
        assert!(!terminating.covers("", "services", &short));
        let high =
            quota(json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}));
        assert_eq!((high.covers("", "pods", &short), high.covers("", "pods", &long)), (false, true));
    }

    #[test]
    fn services_and_claims_take_what_they_ask_for() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        assert_eq!(usage("", "services", &service).get("services.nodeports"), Some(&2_000));
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let taken = usage("", "persistentvolumeclaims", &claim);
        assert_eq!(quantity("requests.storage", taken["gold.storageclass.storage.k8s.io/requests.storage"]), "1Gi");
        assert_eq!(usage("apps", "deployments", &json!({})).into_keys().collect::<Vec<_>>(), ["count/deployments.apps"]);
    }
}
