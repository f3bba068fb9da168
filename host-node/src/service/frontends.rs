//! Where packets to Services go: pure, from a Service and its slices to frontends and who stands behind each.
//!
//! Rules: <https://kubernetes.io/docs/reference/networking/virtual-ips/>. Ready endpoints serve; when there is none, those that go but
//! still serve. With a policy of `Local` only those on this node count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use super::model::{Endpoint, Service, ServicePort, Slice, protocol};

/// What a packet is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// The address; unspecified for any of this machine's.
    pub address: Ipv4Addr,
    /// IP's number of the protocol.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// Who stands behind it, and how packets get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    /// Never empty, sorted.
    pub endpoints: Vec<(Ipv4Addr, u16)>,
    /// For how long a client stays with its endpoint, seconds.
    pub affinity: Option<u64>,
    /// Whose source address is replaced by this machine's, so that answers come back this way.
    pub masquerade: Masquerade,
}

/// Whose source address is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Nobody's.
    Never,
    /// Of whoever is not a pod.
    Outsiders,
    /// Everybody's.
    Always,
}

/// The frontends of one Service.
pub type Frontends = BTreeMap<Front, Back>;

/// What stands where; a Service that none can reach has no frontends.
pub fn frontends(service: &Service, slices: &[&Slice], node: &str) -> Frontends {
    let mut all = Frontends::new();
    if service.spec.r#type == "ExternalName" || service.is_headless() {
        return all;
    }
    let affinity = service.affinity_seconds();
    for port in &service.spec.ports {
        let Some(protocol) = protocol(&port.protocol) else { continue };
        let everywhere = endpoints(port, slices, |_| true);
        let here = endpoints(port, slices, |endpoint| endpoint.node_name == node);
        let mut add = |address: Ipv4Addr, port: u16, local: bool, masquerade: Masquerade| {
            let endpoints = if local { &here } else { &everywhere };
            if !endpoints.is_empty() {
                all.insert(Front { address, protocol, port }, Back { endpoints: endpoints.clone(), affinity, masquerade });
            }
        };
        let internal = service.spec.internal_traffic_policy == "Local";
        let external = service.spec.external_traffic_policy == "Local";
        let outside = if external { Masquerade::Never } else { Masquerade::Always };
        for address in service.cluster_addresses() {
            add(address, port.port, internal, Masquerade::Outsiders);
        }
        for address in outer_addresses(service) {
            add(address, port.port, external, outside);
        }
        if port.node_port != 0 && matches!(service.spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
            add(Ipv4Addr::UNSPECIFIED, port.node_port, external, outside);
        }
    }
    all
}

/// externalIPs and the load balancer's, unless packets must pass the balancer itself.
fn outer_addresses(service: &Service) -> impl Iterator<Item = Ipv4Addr> {
    let balanced = service.status.load_balancer.ingress.iter().filter(|ingress| ingress.ip_mode != "Proxy").map(|ingress| &ingress.ip);
    service.spec.external_ips.iter().chain(balanced).filter_map(|ip| ip.parse().ok())
}

/// The endpoints of a port of a Service: those that are ready, or else those that go but still serve.
pub fn endpoints(port: &ServicePort, slices: &[&Slice], wanted: impl Fn(&Endpoint) -> bool) -> Vec<(Ipv4Addr, u16)> {
    let (mut ready, mut last_resort) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let same = |p: &&super::model::SlicePort| p.name.as_deref().unwrap_or_default() == port.name;
        let Some(number) = slice.ports.iter().find(same).and_then(|p| p.port) else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| wanted(endpoint)) {
            let Some(address) = endpoint.address() else { continue };
            if endpoint.conditions.is_ready() {
                ready.insert((address, number));
            } else if endpoint.conditions.is_last_resort() {
                last_resort.insert((address, number));
            }
        }
    }
    let chosen = if ready.is_empty() { last_resort } else { ready };
    chosen.into_iter().collect()
}

/// The ports of this machine that a pod asks for.
pub fn host_ports(pod: &Pod, address: Ipv4Addr) -> Frontends {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let opened = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
        let at = match port.host_ip.as_deref() {
            None | Some("") => Ipv4Addr::UNSPECIFIED,
            Some(text) => text.parse().ok()?,
        };
        let front =
            Front { address: at, protocol: protocol(port.protocol.as_deref().unwrap_or_default())?, port: number(port.host_port?)? };
        let endpoints = vec![(address, number(port.container_port)?)];
        Some((front, Back { endpoints, affinity: None, masquerade: Masquerade::Never }))
    });
    opened.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(service: Value, endpoints: Value, expected: &[(&str, &[&str], Masquerade)]) {
        let service: Service = serde_json::from_value(json!({ "spec": service })).expect("a Service");
        let slice: Slice = serde_json::from_value(
            json!({ "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] }),
        )
        .expect("a slice");
        let found = frontends(&service, &[&slice], "n1");
        let shown: Vec<_> = found
            .iter()
            .map(|(front, back)| {
                let endpoints: Vec<String> = back.endpoints.iter().map(|(a, p)| format!("{a}:{p}")).collect();
                (format!("{}:{}", front.address, front.port), endpoints, back.masquerade)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(front, all, m)| ((*front).to_owned(), all.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>(), *m))
            .collect();
        assert_eq!(shown, expected, "{service:?}");
    }

    fn service(kind: &str, more: Value) -> Value {
        let mut spec = json!({ "type": kind, "clusterIP": "10.96.0.5", "ports": [{ "name": "http", "port": 80, "nodePort": 30000 }] });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        spec
    }

    fn endpoint(address: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
        json!({ "addresses": [address], "nodeName": node, "conditions": conditions })
    }

    #[test]
    fn types_and_policies_decide_what_leads_where() {
        use Masquerade::{Always, Never, Outsiders};
        let two = json!([endpoint("10.0.1.1", "n1", true, true, false), endpoint("10.0.2.1", "n2", true, true, false)]);
        let (both, here): (&[&str], &[&str]) = (&["10.0.1.1:8080", "10.0.2.1:8080"], &["10.0.1.1:8080"]);
        check(service("ClusterIP", json!({})), two.clone(), &[("10.96.0.5:80", both, Outsiders)]);
        check(service("NodePort", json!({})), two.clone(), &[("0.0.0.0:30000", both, Always), ("10.96.0.5:80", both, Outsiders)]);
        check(
            service("NodePort", json!({ "externalTrafficPolicy": "Local" })),
            two.clone(),
            &[("0.0.0.0:30000", here, Never), ("10.96.0.5:80", both, Outsiders)],
        );
        check(service("ClusterIP", json!({ "internalTrafficPolicy": "Local" })), two.clone(), &[("10.96.0.5:80", here, Outsiders)]);
        check(
            service("ClusterIP", json!({ "externalIPs": ["192.0.2.7"] })),
            two.clone(),
            &[("10.96.0.5:80", both, Outsiders), ("192.0.2.7:80", both, Always)],
        );
        check(service("ClusterIP", json!({ "clusterIP": "None" })), two.clone(), &[]);
        check(service("ExternalName", json!({})), two, &[]);
    }

    #[test]
    fn host_ports_are_told_apart_by_address_and_protocol() {
        let ports = json!([
            { "containerPort": 80, "hostPort": 8080 }, { "containerPort": 53, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "UDP" },
            { "containerPort": 81 },
        ]);
        let pod = serde_json::from_value(json!({ "spec": { "containers": [{ "name": "c", "ports": ports }] } })).expect("a pod");
        let found: Vec<_> =
            host_ports(&pod, Ipv4Addr::new(10, 0, 0, 5)).into_iter().map(|(f, b)| (f.address, f.protocol, b.endpoints[0].1)).collect();
        assert_eq!(found, [(Ipv4Addr::UNSPECIFIED, 6, 80), (Ipv4Addr::LOCALHOST, 17, 53)]);
    }

    #[test]
    fn endpoints_that_go_serve_only_while_nobody_else_does() {
        let going = endpoint("10.0.1.1", "n1", false, true, true);
        let front: &[(&str, &[&str], Masquerade)] = &[("10.96.0.5:80", &["10.0.1.1:8080"], Masquerade::Outsiders)];
        check(service("ClusterIP", json!({})), json!([going, endpoint("10.0.1.2", "n1", false, false, false)]), front);
        let front: &[(&str, &[&str], Masquerade)] = &[("10.96.0.5:80", &["10.0.1.3:8080"], Masquerade::Outsiders)];
        check(service("ClusterIP", json!({})), json!([going, endpoint("10.0.1.3", "n2", true, true, false)]), front);
        check(service("ClusterIP", json!({})), json!([endpoint("10.0.1.2", "n1", false, false, false)]), &[]);
    }
}
