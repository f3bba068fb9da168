//! The two Services that every cluster has: `default/kubernetes`, whose endpoints are where this kernel listens, and `kube-system/kube-dns`,
//! the resolver's address. Pods find the API and names through them. Beside them the ServiceCIDR `kubernetes`: the range that addresses of Services are
//! out of.
//!
//! Written at every start through the ordinary path; a Service that is there already stays as it is.

use pintle_registry::{ApiError, Body, Caller, Registry, WriteOptions, Written};
use pintle_server::ClusterSettings;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Makes what is missing, and says where the API is.
pub async fn ensure(registry: &Registry, cluster: &ClusterSettings, listening: &[SocketAddr]) -> Result<(), ApiError> {
    // Machines and pods cannot reach a loopback address; without another one there is nothing to tell.
    let outside = |at: &&SocketAddr| at.is_ipv4() == cluster.dns.is_ipv4() && !at.ip().is_loopback() && !at.ip().is_unspecified();
    let reachable: Vec<_> = listening.iter().filter(outside).map(|at| at.ip().to_string()).collect();
    let port = listening.iter().find(outside).or(listening.first()).map_or(443, SocketAddr::port);
    let slice = json!({ "addressType": if cluster.dns.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{ "name": "https", "protocol": "TCP", "port": port }],
        "endpoints": reachable.iter().map(|at| json!({ "addresses": [at], "conditions": { "ready": true } })).collect::<Vec<_>>() });
    let addresses: Vec<Value> = reachable.iter().map(|at| json!({ "ip": at })).collect();
    let subsets = if addresses.is_empty() { json!([]) } else { json!([{ "addresses": addresses, "ports": slice["ports"] }]) };
    let https = json!({ "clusterIP": cluster.kubernetes_service, "ports": [{ "name": "https", "port": 443, "targetPort": port }] });
    let dns = json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" }]);
    let dns = json!({ "clusterIP": cluster.dns, "ports": dns });
    let range = json!({ "spec": { "cidrs": cluster.service_cidr.split(',').collect::<Vec<_>>() } });
    let made = write(registry, "networking.k8s.io", "servicecidrs", ("", "kubernetes", json!({})), range).await?;
    if let Some(made) = made {
        let ready = json!({ "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": made.object.meta().creation_timestamp });
        let mut range = made.object.value().map_err(ApiError::internal)?;
        range["status"] = json!({ "conditions": [ready] });
        let target = registry.resolve("networking.k8s.io", "", "servicecidrs", "status", "", "kubernetes")?;
        registry.update(&Caller::kernel(), &target, Body::Value(range), &WriteOptions::default()).await?;
    }
    let labels = json!({ "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" });
    let api = ("default", "kubernetes", json!({ "component": "apiserver", "provider": "kubernetes" }));
    write(registry, "", "services", api, json!({ "spec": https })).await?;
    write(registry, "", "services", ("kube-system", "kube-dns", labels), json!({ "spec": dns })).await?;
    let of_service = json!({ "kubernetes.io/service-name": "kubernetes" });
    write(registry, "discovery.k8s.io", "endpointslices", ("default", "kubernetes", of_service), slice).await?;
    let alone = json!({ "endpointslice.kubernetes.io/skip-mirror": "true" });
    write(registry, "", "endpoints", ("default", "kubernetes", alone), json!({ "subsets": subsets })).await.map(drop)
}

/// Creates, and gives what is new; endpoints that are there already are replaced, because the kernel may listen elsewhere now.
async fn write(
    registry: &Registry,
    group: &str,
    resource: &str,
    meta: (&str, &str, Value),
    mut object: Value,
) -> Result<Option<Written>, ApiError> {
    let (caller, options) = (Caller::kernel(), WriteOptions::default());
    let target = registry.resolve(group, "", resource, "", meta.0, "")?;
    object["apiVersion"] = json!(if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") });
    object["kind"] = json!(target.resource.kind);
    object["metadata"] = json!({ "namespace": meta.0, "name": meta.1, "labels": meta.2 });
    match registry.create(&caller, &target, Body::Value(object.clone()), &options).await {
        Err(error) if error.code == 409 && matches!(resource, "services" | "servicecidrs") => Ok(None),
        Err(error) if error.code == 409 => {
            let target = registry.resolve(group, "", resource, "", meta.0, meta.1)?;
            registry.update(&caller, &target, Body::Value(object), &options).await.map(|_| None)
        }
        other => other.map(Some),
    }
}
