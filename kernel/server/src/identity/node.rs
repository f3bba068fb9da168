//! What a machine may do: touch its own node and lease, the pods bound to it, and read what those pods mention,
//! and the certificates that route tables serve with.
//!
//! One rule set for both ways in: HTTPS with a node's certificate, and the node link. Invariant: nothing here looks at what the machine claims, only
//! at the name in its certificate and at stored objects.

use pintle_registry::{Caller, Index, Object, Registry, ResourceKey};
use serde_json::Value;

use super::rbac::Action;

/// The namespace of the machines' leases.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// A machine's authority, by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeAuthority<'a> {
    node: &'a str,
}

impl<'a> NodeAuthority<'a> {
    /// Of the node of this name.
    pub(crate) fn named(node: &'a str) -> NodeAuthority<'a> {
        NodeAuthority { node }
    }

    /// Of a caller that is a machine.
    pub(crate) fn of(caller: &'a Caller) -> Option<NodeAuthority<'a>> {
        let node = caller.user.strip_prefix("system:node:")?;
        caller.groups.iter().any(|group| group == "system:nodes").then_some(NodeAuthority { node })
    }

    /// Whether the machine may. A table: what it needs, and for which objects.
    pub(crate) fn allows(self, registry: &Registry, action: &Action<'_>) -> bool {
        let own = action.name == self.node;
        let reading = action.verb == "get";
        match (action.group, action.resource, action.subresource) {
            ("", "nodes", "") => matches!(action.verb, "get" | "update" | "patch") && own || action.verb == "create",
            ("", "nodes", "status") => matches!(action.verb, "get" | "update" | "patch") && own,
            ("storage.k8s.io", "csinodes", "") => matches!(action.verb, "get" | "create" | "update" | "patch") && own,
            ("coordination.k8s.io", "leases", "") => {
                action.namespace == LEASE_NAMESPACE
                    && (own && action.verb != "list" || action.verb == "create" && (own || action.name.is_empty()))
            }
            ("", "pods", "") => matches!(action.verb, "get" | "delete") && self.has_pod(registry, action.namespace, action.name),
            ("", "pods", "status") => {
                matches!(action.verb, "get" | "update" | "patch") && self.has_pod(registry, action.namespace, action.name)
            }
            ("", "services", "") | ("node.k8s.io", "runtimeclasses", "") | ("storage.k8s.io", "csidrivers", "") => {
                matches!(action.verb, "get" | "list" | "watch")
            }
            ("" | "events.k8s.io", "events", "") => matches!(action.verb, "create" | "patch" | "update"),
            ("", "configmaps" | "secrets" | "persistentvolumeclaims" | "serviceaccounts", "") => {
                reading
                    && (self.mentions(registry, action.resource, action.namespace, action.name)
                        || action.resource == "secrets"
                            && (serves_with(registry, action.namespace, action.name)
                                || self.mounts_with(registry, action.namespace, action.name)))
            }
            ("", "persistentvolumeclaims", "status") => {
                action.verb == "patch" && self.mentions(registry, action.resource, action.namespace, action.name)
            }
            ("certificates.k8s.io", "podcertificaterequests", "") | ("storage.k8s.io", "volumeattachments", "") => {
                let object = registry.get_cached(&ResourceKey::new(action.group, action.resource), action.namespace, action.name);
                reading && object.and_then(|object| object.value().ok()).is_some_and(|object| object["spec"]["nodeName"] == self.node)
            }
            ("", "namespaces", "") => reading && self.has_pod_in(registry, action.name),
            ("", "serviceaccounts", "token") => {
                action.verb == "create" && self.mentions(registry, "serviceaccounts", action.namespace, action.name)
            }
            _ => false,
        }
    }

    /// Whether the machine may show a pod of its own: bound to it, marked as a mirror, and mentioning nothing that it could then read.
    pub(crate) fn check_mirror(self, pod: &Value) -> Result<(), String> {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = text("/metadata/name");
        if text("/spec/nodeName") != self.node || text("/metadata/annotations/kubernetes.io~1config.mirror").is_empty() {
            return Err(format!(
                "pod {name:?} is forbidden: node {:?} can only create mirror pods with spec.nodeName set to itself",
                self.node
            ));
        }
        let mentioned = MENTIONS.iter().find(|row| mentions_some(pod, row, &|said| !said.is_empty()));
        mentioned.map_or(Ok(()), |row| Err(format!("pod {name:?} is forbidden: a mirror pod may not reference {}", row.resource)))
    }

    /// The pod is bound to this node.
    fn has_pod(self, registry: &Registry, namespace: &str, name: &str) -> bool {
        let pod = registry.get_cached(&ResourceKey::new("", "pods"), namespace, name);
        pod.is_some_and(|pod| pod.field("spec.nodeName") == Some(self.node))
    }

    /// Some pod of the namespace is bound to this node.
    fn has_pod_in(self, registry: &Registry, namespace: &str) -> bool {
        self.pods(registry).iter().any(|pod| *pod.meta().namespace == *namespace)
    }

    /// Some pod that is bound to this node mentions the object.
    fn mentions(self, registry: &Registry, resource: &str, namespace: &str, name: &str) -> bool {
        let pods = self.pods(registry);
        let mut here = pods.iter().filter(|pod| *pod.meta().namespace == *namespace);
        here.any(|pod| pod.value().is_ok_and(|pod| pod_mentions(&pod, resource, name)))
    }

    /// A storage driver wants the Secret for a volume whose claim some pod here mentions.
    fn mounts_with(self, registry: &Registry, namespace: &str, name: &str) -> bool {
        let (volumes, _) = registry.list_index(&ResourceKey::new("", "persistentvolumes"), &Index::Namespace, "");
        volumes.iter().filter_map(|volume| volume.value().ok()).any(|volume| {
            let (csi, claim) = (&volume["spec"]["csi"], &volume["spec"]["claimRef"]);
            let wants = |key: &str| csi[key]["namespace"] == namespace && csi[key]["name"] == name;
            let text = |key: &str| claim[key].as_str().unwrap_or_default();
            ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"].into_iter().any(wants)
                && self.mentions(registry, "persistentvolumeclaims", text("namespace"), text("name"))
        })
    }

    fn pods(self, registry: &Registry) -> Vec<std::sync::Arc<Object>> {
        registry.list_index(&ResourceKey::new("", "pods"), &Index::Field("spec.nodeName".to_owned()), self.node).0
    }
}

/// A route table's listener serves with this Secret's certificate: every node does.
fn serves_with(registry: &Registry, namespace: &str, name: &str) -> bool {
    let (tables, _) = registry.list_index(&ResourceKey::new("pintle.dev", "routetables"), &Index::Namespace, "");
    tables.iter().any(|table| table.value().is_ok_and(|table| table_mentions(&table, namespace, name)))
}

fn table_mentions(table: &Value, namespace: &str, name: &str) -> bool {
    let list = |value: &'_ Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let certificates = list(&table["spec"], "listeners").into_iter().flat_map(|listener| list(&listener, "certificates"));
    certificates.into_iter().any(|it| it["namespace"] == namespace && it["name"] == name)
}

/// Where in a pod's spec, a volume, a projected source or a container a name of the resource may stand, as JSON pointers.
struct Mentions {
    resource: &'static str,
    spec: &'static [&'static str],
    volume: &'static [&'static str],
    env_from: &'static str,
    env: &'static str,
}

const MENTIONS: [Mentions; 4] = [
    Mentions { resource: "serviceaccounts", spec: &["/serviceAccountName"], volume: &[], env_from: "", env: "" },
    Mentions {
        resource: "configmaps",
        spec: &[],
        volume: &["/configMap/name"],
        env_from: "/configMapRef/name",
        env: "/valueFrom/configMapKeyRef/name",
    },
    Mentions {
        resource: "secrets",
        spec: &[],
        volume: &["/secret/secretName", "/secret/name", "/csi/nodePublishSecretRef/name"],
        env_from: "/secretRef/name",
        env: "/valueFrom/secretKeyRef/name",
    },
    Mentions { resource: "persistentvolumeclaims", spec: &[], volume: &["/persistentVolumeClaim/claimName"], env_from: "", env: "" },
];

fn pod_mentions(pod: &Value, resource: &str, name: &str) -> bool {
    let Some(row) = MENTIONS.iter().find(|row| row.resource == resource) else { return false };
    let tacitly = resource == "serviceaccounts" && name == "default" && pod["spec"]["serviceAccountName"].is_null();
    tacitly || mentions_some(pod, row, &|said| said == name)
}

/// Whether the pod mentions an object of the row's resource by a name that `is` one.
fn mentions_some(pod: &Value, row: &Mentions, is: &dyn Fn(&str) -> bool) -> bool {
    let (spec, resource) = (&pod["spec"], row.resource);
    let says =
        |value: &Value, pointer: &str| !pointer.is_empty() && value.pointer(pointer).and_then(Value::as_str).is_some_and(|said| is(said));
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let in_volume = |volume: &Value| {
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten();
        std::iter::once(volume).chain(sources).any(|source| row.volume.iter().any(|pointer| says(source, pointer)))
    };
    let in_container = |container: &Value| {
        list(container, "envFrom").iter().any(|from| says(from, row.env_from))
            || list(container, "env").iter().any(|env| says(env, row.env))
    };
    // A claim that is made for a pod's volume is named after both.
    let own = |volume: &Value| {
        let (pod, volume) = (pod["metadata"]["name"].as_str()?, volume["name"].as_str()?);
        Some(is(&format!("{pod}-{volume}")))
    };
    row.spec.iter().any(|pointer| says(spec, pointer))
        || (resource == "persistentvolumeclaims" && list(spec, "volumes").iter().any(|v| !v["ephemeral"].is_null() && own(v) == Some(true)))
        || (resource == "secrets" && list(spec, "imagePullSecrets").iter().any(|secret| says(secret, "/name")))
        || list(spec, "volumes").iter().any(in_volume)
        || ["containers", "initContainers", "ephemeralContainers"].iter().any(|key| list(spec, key).iter().any(in_container))
}

#[cfg(test)]
mod tests;
