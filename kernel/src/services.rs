//! The two Services that every cluster has: `default/kubernetes`, whose endpoints are where this kernel listens, and `kube-system/kube-dns`,
//! the resolver's address. Pods find the API and names through them.
//!
//! Written at every start through the ordinary path; a Service that is there already stays as it is.

use pintle_registry::{ApiError, Body, Caller, Registry, WriteOptions};
use pintle_server::ClusterSettings;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Makes what is missing, and says where the API is.
pub async fn ensure(registry: &Registry, cluster: &ClusterSettings, listening: &[SocketAddr]) -> Result<(), ApiError> {
    let service = |namespace: &str, name: &str, address: std::net::Ipv4Addr, labels: Value, ports: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "clusterIP": address, "ports": ports },
        })
    };
    // Machines and pods cannot reach a loopback address; without another one there is nothing to tell.
    let reachable: Vec<&SocketAddr> =
        listening.iter().filter(|at| at.is_ipv4() && !at.ip().is_loopback() && !at.ip().is_unspecified()).collect();
    let port = reachable.first().or(listening.first().as_ref()).map_or(443, |at| at.port());
    let https = json!([{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }]);
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    write(registry, "", "services", service("default", "kubernetes", cluster.kubernetes_service, labels, https)).await?;
    let labels = json!({ "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" });
    let dns = json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" }]);
    write(registry, "", "services", service("kube-system", "kube-dns", cluster.dns, labels, dns)).await?;
    let ports = json!([{ "name": "https", "protocol": "TCP", "port": port }]);
    let endpoints = reachable.iter().map(|at| json!({ "addresses": [at.ip()], "conditions": { "ready": true } })).collect::<Vec<_>>();
    let metadata = json!({ "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } });
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports });
    write(registry, "discovery.k8s.io", "endpointslices", slice).await?;
    let addresses = reachable.iter().map(|at| json!({ "ip": at.ip() })).collect::<Vec<_>>();
    let subsets = if addresses.is_empty() { json!([]) } else { json!([{ "addresses": addresses, "ports": ports }]) };
    let metadata = json!({ "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } });
    write(registry, "", "endpoints", json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets })).await
}

/// Creates; endpoints that are there already are replaced, because the kernel may listen elsewhere now.
async fn write(registry: &Registry, group: &str, resource: &str, object: Value) -> Result<(), ApiError> {
    let part = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let target = registry.resolve(group, "", resource, "", &part("namespace"), "")?;
    let (caller, options) = (Caller::kernel(), WriteOptions::default());
    match registry.create(&caller, &target, Body::Value(object.clone()), &options).await {
        Err(error) if error.code == 409 && resource == "services" => Ok(()),
        Err(error) if error.code == 409 => {
            let target = registry.resolve(group, "", resource, "", &part("namespace"), &part("name"))?;
            registry.update(&caller, &target, Body::Value(object), &options).await.map(drop)
        }
        other => other.map(drop),
    }
}
