//! The roles and bindings that every cluster has, put into the registry at first start through the ordinary write path. What is there already
//! stays as it is.

use futures::future::try_join_all;
use pintle_registry::{Body, Caller, Registry, ResourceKey, WriteOptions};
use serde_json::{Value, json};

use super::rbac;
use crate::error::{Error, Result};

/// A rule in short: verbs, groups, resources, space-separated ("core" is the core group); or verbs and paths.
enum Grant {
    On(&'static str, &'static str, &'static str),
    Paths(&'static str, &'static str),
}
use Grant::{On, Paths};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const WORKLOADS: &str =
    "daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale controllerrevisions";
const WORKLOADS_STATUS: &str = "daemonsets/status deployments/status replicasets/status statefulsets/status";
const CORE_VISIBLE: &str = "bindings configmaps endpoints events limitranges namespaces namespaces/status persistentvolumeclaims \
    persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale \
    replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status";
const CORE_EDITABLE: &str = "configmaps endpoints events persistentvolumeclaims pods pods/attach pods/eviction pods/exec pods/portforward \
    pods/proxy replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy";

const VIEW: [Grant; 7] = [
    On(READ, "core", CORE_VISIBLE),
    On(READ, "apps", WORKLOADS),
    On(READ, "apps", WORKLOADS_STATUS),
    On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    On(READ, "policy discovery.k8s.io", "poddisruptionbudgets poddisruptionbudgets/status endpointslices"),
];
const EDIT: [Grant; 7] = [
    On(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    On(WRITE, "core", CORE_EDITABLE),
    On("create", "core", "serviceaccounts/token"),
    On(WRITE, "apps", WORKLOADS),
    On(WRITE, "batch", "cronjobs jobs"),
    On(WRITE, "autoscaling policy", "horizontalpodautoscalers poddisruptionbudgets"),
    On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
];
const ADMIN: [Grant; 2] = [
    On("create delete deletecollection get list patch update watch", rbac::GROUP, "rolebindings roles"),
    On("create", "authorization.k8s.io", "localsubjectaccessreviews"),
];

/// Name, and what it grants: its own and, for the three that users are given, those before it.
const CLUSTER_ROLES: [(&str, &[&[Grant]]); 10] = [
    ("cluster-admin", &[&[On("*", "*", "*"), Paths("*", "*")]]),
    ("admin", &[&VIEW, &EDIT, &ADMIN]),
    ("edit", &[&VIEW, &EDIT]),
    ("view", &[&VIEW]),
    ("system:discovery", &[&[Paths("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")]]),
    ("system:public-info-viewer", &[&[Paths("get", "/healthz /healthz/* /livez /livez/* /readyz /readyz/* /version /version/")]]),
    (
        "system:basic-user",
        &[&[
            On("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ]],
    ),
    (
        "system:service-account-issuer-discovery",
        &[&[Paths("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")]],
    ),
    (
        "system:auth-delegator",
        &[&[On("create", "authentication.k8s.io", "tokenreviews"), On("create", "authorization.k8s.io", "subjectaccessreviews")]],
    ),
    ("system:monitoring", &[&[Paths("get", "/healthz /healthz/* /livez /livez/* /metrics /readyz /readyz/*")]]),
];

/// Name (of the binding and the role), and the groups it is for.
const CLUSTER_ROLE_BINDINGS: [(&str, &[&str]); 6] = [
    ("cluster-admin", &["system:masters"]),
    ("system:discovery", &["system:authenticated"]),
    ("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
    ("system:basic-user", &["system:authenticated"]),
    ("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
    ("system:monitoring", &["system:monitoring"]),
];

/// Create what is missing, all at once: the store commits them together.
pub(crate) async fn run(registry: &Registry) -> Result<()> {
    let roles = CLUSTER_ROLES.iter().map(|(name, grants)| ("clusterroles", *name, role(name, grants)));
    let bindings = CLUSTER_ROLE_BINDINGS.iter().map(|(name, groups)| ("clusterrolebindings", *name, binding(name, groups)));
    try_join_all(roles.chain(bindings).map(|(resource, name, object)| ensure(registry, resource, name, object))).await?;
    Ok(())
}

async fn ensure(registry: &Registry, resource: &str, name: &str, object: Value) -> Result<()> {
    if registry.get_cached(&ResourceKey::new(rbac::GROUP, resource), "", name).is_some() {
        return Ok(());
    }
    let create = async {
        let target = registry.resolve(rbac::GROUP, "v1", resource, "", "", "")?;
        registry.create(&Caller::kernel(), &target, Body::Value(object), &WriteOptions::default()).await
    };
    match create.await {
        Ok(_) => Ok(()),
        Err(error) if error.code == 409 => Ok(()),
        Err(error) => Err(Error::Bootstrap { what: format!("{resource} {name}"), message: error.message }),
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().map(|word| if word == "core" { "" } else { word }).collect()
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    })
}

fn role(name: &str, grants: &[&[Grant]]) -> Value {
    let rules: Vec<Value> = grants
        .iter()
        .flat_map(|grants| grants.iter())
        .map(|grant| match grant {
            On(verbs, groups, resources) => json!({ "verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources) }),
            Paths(verbs, paths) => json!({ "verbs": words(verbs), "nonResourceURLs": words(paths) }),
        })
        .collect();
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name), "rules": rules })
}

fn binding(name: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups.iter().map(|group| json!({ "kind": "Group", "apiGroup": rbac::GROUP, "name": group })).collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": { "apiGroup": rbac::GROUP, "kind": "ClusterRole", "name": name }, "subjects": subjects,
    })
}
