//! Who serves a port of a Service: one of its ready endpoints, taken in turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use pintle_api::ApiError;
use pintle_registry::{Index, Registry, ResourceKey};
use serde_json::Value;

use super::Route;
use crate::node::Target;

const SLICES: &str = "discovery.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where a connection to `port` (a number, or a name; empty for the only one) of a Service leads.
///
/// # Errors
/// 404 without such a Service, 400 without such a port, 503 without a ready endpoint.
pub(crate) fn route(registry: &Registry, namespace: &str, name: &str, port: &str) -> Result<Route, ApiError> {
    let service = crate::reviews::object(registry, "services", namespace, name)?;
    let service = service.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |p: &&Value| match port.parse::<u64>() {
        Ok(number) => p["port"] == number,
        Err(_) => p["name"].as_str().unwrap_or_default() == port,
    };
    let found = if port.is_empty() && ports.len() == 1 { ports.first() } else { ports.iter().find(named) };
    if service["spec"]["type"] == "ExternalName" {
        let number = found.and_then(|p| p["port"].as_u64()).or_else(|| port.parse().ok()).unwrap_or(443);
        return Ok(Route::Address(format!("{}:{number}", service["spec"]["externalName"].as_str().unwrap_or_default())));
    }
    let none = || ApiError::service_unavailable(format!("no endpoints available for service {name:?}"));
    let found = found.ok_or_else(|| ApiError::bad_request(format!("no service port {port:?} found for service {name:?}")))?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let mut routes = Vec::new();
    let slices = ResourceKey::new(SLICES, "endpointslices");
    for slice in registry.list_index(&slices, &Index::Namespace, namespace).0 {
        if slice.meta().label(SERVICE_NAME) == Some(name)
            && let Ok(slice) = slice.value()
        {
            ready(registry, &slice, namespace, port_name, &mut routes);
        }
    }
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    (!routes.is_empty()).then(|| routes.swap_remove(turn % routes.len())).ok_or_else(none)
}

/// The slice's ready endpoints of a port.
fn ready(registry: &Registry, slice: &Value, namespace: &str, port_name: &str, routes: &mut Vec<Route>) {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port_name).find_map(|p| p["port"].as_u64());
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return };
    for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
        if endpoint["conditions"]["ready"] == false {
            continue;
        }
        if endpoint["targetRef"]["kind"] == "Pod" {
            let name = endpoint["targetRef"]["name"].as_str().unwrap_or_default();
            routes.extend(pod(registry, namespace, name, port));
        } else if let Some(address) = endpoint["addresses"][0].as_str() {
            routes.push(Route::address(address, port));
        }
    }
}

/// A port of a pod that runs somewhere.
pub(crate) fn pod(registry: &Registry, namespace: &str, name: &str, port: u16) -> Option<Route> {
    let object = registry.get_cached(&ResourceKey::new("", "pods"), namespace, name)?;
    let node = object.value().ok()?["spec"]["nodeName"].as_str()?.to_owned();
    let uid = object.meta().uid.to_string();
    let target = Target { resource: "pods", namespace: namespace.into(), name: name.into(), uid, container: String::new() };
    Some(Route::Machine { node, target, port })
}
