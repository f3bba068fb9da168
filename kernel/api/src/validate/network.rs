//! Rules about what carries traffic: Services' finer points, endpoints, ingresses, network policies.

use pintle_values::network::{FAMILIES, Network};
use serde_json::Value;
use std::net::IpAddr;

use super::{Failures, Object, list, names, number, text};
use crate::path::Path;
use crate::status::FieldError;

/// With more than one port each has a name.
pub(super) fn named_ports(subset: &Object, path: &Path<'_>, failures: &mut Failures) {
    let ports = list(subset, "ports");
    for (index, _) in ports.iter().enumerate().filter(|(_, port)| ports.len() > 1 && port["name"].as_str().unwrap_or_default().is_empty()) {
        failures.push(FieldError::required(path.key("ports").index(index).key("name"), ""));
    }
}

pub(super) fn name_or_number(port: &Object, path: &Path<'_>, failures: &mut Failures) {
    if !text(port, "name").is_empty() && number(port, "number").unwrap_or(0) != 0 {
        failures.push(FieldError::invalid(path, Value::Object(port.clone()), "cannot set both port name & port number"));
    }
}

/// What concerns traffic from outside is only for Services that have some.
pub(super) fn outside_traffic(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (kind, policy) = (text(spec, "type"), text(spec, "externalTrafficPolicy"));
    let outside = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !policy.is_empty() && !outside {
        failures.push(FieldError::invalid(path.key("externalTrafficPolicy"), policy, "may only be set for externally-accessible services"));
    }
    if let Some(port) = number(spec, "healthCheckNodePort").filter(|port| *port != 0)
        && (kind != "LoadBalancer" || policy != "Local")
    {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        failures.push(FieldError::invalid(path.key("healthCheckNodePort"), port, why));
    }
    for (index, family) in
        list(spec, "ipFamilies").iter().filter_map(Value::as_str).enumerate().filter(|(_, family)| !FAMILIES.contains(family))
    {
        failures.push(FieldError::not_supported(path.key("ipFamilies").index(index), family, &FAMILIES));
    }
}

/// One network, or one of each family.
pub(super) fn one_each(spec: &Object, path: &Path<'_>, field: &str, failures: &mut Failures) {
    let families: Vec<&str> = list(spec, field).iter().filter_map(|cidr| Some(cidr.as_str()?.parse::<Network>().ok()?.family())).collect();
    let all = list(spec, field);
    if families.len() == 2 && families[0] == families[1] && all[0] != all[1] {
        let all = Value::Array(all.to_vec());
        failures.push(FieldError::invalid(
            path.key(field),
            all,
            "may specify no more than one CIDR for each IP family, i.e. 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
}

/// An address that others can be sent to.
pub(super) fn routable(text: &str) -> Option<String> {
    let address: IpAddr = text.parse().ok()?;
    let why = match address {
        address if address.is_unspecified() => format!("may not be unspecified ({address})"),
        address if address.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        IpAddr::V4(v4) if v4.is_link_local() => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        address if address.is_multicast() => "may not be in the multicast range (224.0.0.0/4, ff00::/8)".to_owned(),
        _ => return None,
    };
    Some(why)
}

pub(super) fn slice_addresses(slice: &Object, path: &Path<'_>, failures: &mut Failures) {
    let check: fn(&str) -> Option<String> = match text(slice, "addressType") {
        "IPv4" => |text| match text.parse::<std::net::Ipv4Addr>() {
            Ok(_) => routable(text),
            Err(_) => Some("must be an IPv4 address".to_owned()),
        },
        "IPv6" => |text| match text.parse::<std::net::Ipv6Addr>() {
            Ok(_) => routable(text),
            Err(_) => Some("must be an IPv6 address".to_owned()),
        },
        "FQDN" => names::dns_subdomain,
        _ => return,
    };
    let endpoints = path.key("endpoints");
    for (index, endpoint) in list(slice, "endpoints").iter().enumerate() {
        let at = endpoints.index(index);
        let at = at.key("addresses");
        for (place, address) in endpoint["addresses"].as_array().into_iter().flatten().enumerate() {
            let address = address.as_str().unwrap_or_default();
            if let Some(why) = check(address) {
                failures.push(FieldError::invalid(at.index(place), address, why));
            }
        }
    }
}

pub(super) fn slice_ports(slice: &Object, path: &Path<'_>, failures: &mut Failures) {
    let ports = list(slice, "ports");
    for (index, port) in ports.iter().enumerate() {
        if ports[..index].iter().any(|other| other["name"] == port["name"]) {
            failures.push(FieldError::duplicate(path.key("ports").index(index).key("name"), port["name"].clone()));
        }
    }
}

pub(super) fn no_address(rule: &Object, path: &Path<'_>, field: &str, failures: &mut Failures) {
    let host = text(rule, field);
    if host.parse::<IpAddr>().is_ok() {
        failures.push(FieldError::invalid(path.key(field), host, "must be a DNS name, not an IP address"));
    }
}

/// A block of addresses; space around it is an old habit.
pub(super) fn padded_cidr(text: &str) -> Option<String> {
    names::cidr(text.trim())
}

/// The annotation that was there before the field says the same.
pub(super) fn one_class(ingress: &Object, _: &Path<'_>, failures: &mut Failures) {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let said = ingress.get("metadata").and_then(|metadata| metadata["annotations"][CLASS].as_str());
    let field = ingress.get("spec").and_then(|spec| spec["ingressClassName"].as_str());
    if let (Some(said), Some(_)) = (said, field.filter(|field| Some(*field) != said)) {
        failures.push(FieldError::invalid(format!("annotations.{CLASS}"), said, "must match `ingressClassName` when both are specified"));
    }
}

pub(super) fn port_range(port: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(end) = number(port, "endPort") else { return };
    match port.get("port") {
        None => failures.push(FieldError::invalid(path.key("endPort"), end, "may not be specified when `port` is not specified")),
        Some(Value::String(_)) => {
            failures.push(FieldError::invalid(path.key("endPort"), end, "may not be specified when `port` is non-numeric"));
        }
        Some(start) if start.as_i64().is_some_and(|start| end < start) => {
            failures.push(FieldError::invalid(path.key("endPort"), end, "must be greater than or equal to `port`"));
        }
        Some(_) if !(1..=65_535).contains(&end) => {
            failures.push(FieldError::invalid(path.key("endPort"), end, "must be between 1 and 65535, inclusive"));
        }
        Some(_) => {}
    }
}

/// An exception lies within its block, and is smaller.
pub(super) fn within_block(block: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Ok(outer) = text(block, "cidr").parse::<Network>() else { return };
    for (index, except) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
        let smaller = |inner: Network| inner.length() > outer.length() && outer.contains(inner.address());
        let inside = except.parse().map_or(true, smaller);
        if !inside {
            let why = format!("must be a strict subset of `cidr` {}", text(block, "cidr"));
            failures.push(FieldError::invalid(path.key("except").index(index), except, why));
        }
    }
}
