//! Which route meets which listener, or why not.

use crate::GROUP;
use crate::conditions::Said;
use crate::model::{Around, Gateway, Listener, ParentRef, Route};

/// Whether the reference is to this Gateway.
pub fn names(parent: &ParentRef, route: &Route, gateway: &Gateway) -> bool {
    let namespace = if parent.namespace.is_empty() { &route.metadata.namespace } else { &parent.namespace };
    parent.group.as_deref().is_none_or(|group| group == GROUP)
        && matches!(parent.kind.as_str(), "" | "Gateway")
        && parent.name == gateway.metadata.name
        && *namespace == gateway.metadata.namespace
}

/// Why a listener can serve nothing, if it cannot.
pub fn unfit(listener: &Listener, gateway: &Gateway) -> Option<Said> {
    if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS") {
        return Some(Said::fails("Accepted", "UnsupportedProtocol", "this controller serves HTTP and HTTPS"));
    }
    if listener.protocol == "HTTPS" && listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough") {
        return Some(Said::fails("Accepted", "UnsupportedValue", "TLS ends at the Gateway"));
    }
    let earlier = gateway.spec.listeners.iter().take_while(|other| other.name != listener.name);
    for other in earlier.filter(|other| other.port == listener.port) {
        if other.protocol != listener.protocol {
            return Some(Said::fails(
                "Accepted",
                "ProtocolConflict",
                format!("listener {:?} has the port for {}", other.name, other.protocol),
            ));
        }
        if other.hostname == listener.hostname {
            return Some(Said::fails("Accepted", "HostnameConflict", format!("listener {:?} has the host", other.name)));
        }
    }
    None
}

/// The listeners that a reference leads a route to, or why there is none.
pub fn listeners<'a>(parent: &ParentRef, route: &Route, gateway: &'a Gateway, around: &Around) -> Result<Vec<&'a Listener>, Said> {
    let fails = |reason, message: &str| Err(Said::fails("Accepted", reason, message));
    let named = |listener: &&Listener| {
        (parent.section_name.is_empty() || parent.section_name == listener.name)
            && (parent.port == 0 || parent.port == listener.port)
            && unfit(listener, gateway).is_none()
    };
    let found: Vec<&Listener> = gateway.spec.listeners.iter().filter(named).collect();
    if found.is_empty() {
        return fails("NoMatchingParent", "the Gateway has no such listener");
    }
    let allowed: Vec<&Listener> = found.into_iter().filter(|listener| allows(listener, route, gateway, around)).collect();
    if allowed.is_empty() {
        return fails("NotAllowedByListeners", "no listener takes HTTPRoutes of this namespace");
    }
    let met: Vec<&Listener> = allowed.into_iter().filter(|listener| meets(&listener.hostname, &route.spec.hostnames)).collect();
    if met.is_empty() {
        return fails("NoMatchingListenerHostname", "no listener has one of the route's hosts");
    }
    Ok(met)
}

fn allows(listener: &Listener, route: &Route, gateway: &Gateway, around: &Around) -> bool {
    let kinds = listener.allowed_routes.kinds.as_ref().filter(|kinds| !kinds.is_empty());
    let of_kind = kinds.is_none_or(|kinds| kinds.iter().any(|k| k.kind == "HTTPRoute" && k.group.as_deref().is_none_or(|g| g == GROUP)));
    let namespace = &route.metadata.namespace;
    let from = &listener.allowed_routes.namespaces;
    let in_namespace = match from.from.as_str() {
        "All" => true,
        "Selector" => around.namespaces.get(namespace).is_some_and(|labels| from.selector.as_ref().is_some_and(|s| s.matches(labels))),
        "" | "Same" => *namespace == gateway.metadata.namespace,
        _ => false,
    };
    of_kind && in_namespace
}

fn meets(listener: &str, hosts: &[String]) -> bool {
    hosts.is_empty() || hosts.iter().any(|host| overlap(listener, host))
}

/// Whether a host can be of both patterns; `*.` stands for any number of labels.
fn overlap(a: &str, b: &str) -> bool {
    let below = |host: &str, domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    match (a.strip_prefix("*."), b.strip_prefix("*.")) {
        _ if a.is_empty() || a == b => true,
        (Some(a), Some(b)) => below(a, b) || below(b, a),
        (Some(a), None) => below(b, a),
        (None, Some(b)) => below(a, b),
        (None, None) => false,
    }
}
