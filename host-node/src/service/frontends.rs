//! Where packets to Services go: pure, from a Service and its slices to frontends and who stands behind each.
//!
//! Rules: <https://kubernetes.io/docs/reference/networking/virtual-ips/>. Ready endpoints serve; when there is none, those that go but
//! still serve. With a policy of `Local` only those on this node count; but who asks from this node or from a pod for what is meant for the outside is
//! served by all. Where all ready endpoints have hints, and some hint at this node or its zone, those serve it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;

use crate::net::nft::Family;

use super::model::{Endpoint, Hints, Named, Service, ServicePort, Slice, protocol};

/// What a packet is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// The address; unspecified for any of this machine's of the family.
    pub address: IpAddr,
    /// IP's number of the protocol.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

impl Front {
    /// Which version of IP its packets are of.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

/// Who stands behind it, and how packets get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    /// Of the frontend's family, sorted; empty only if there are insiders.
    pub endpoints: Vec<SocketAddr>,
    /// Who serves those that ask from this machine or from a pod, if it is somebody else. Never empty, sorted.
    pub insiders: Option<Vec<SocketAddr>>,
    /// For how long a client stays with its endpoint, seconds.
    pub affinity: Option<u64>,
    /// Whose source address is replaced by this machine's, so that answers come back this way.
    pub masquerade: Masquerade,
}

impl Back {
    /// All who may be sent to.
    pub fn all(&self) -> impl Iterator<Item = &SocketAddr> {
        self.endpoints.iter().chain(self.insiders.iter().flatten())
    }
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

/// Where this is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its label `topology.kubernetes.io/zone`, or empty.
    pub zone: &'a str,
}

/// What stands where; a Service that none can reach has no frontends.
pub fn frontends(service: &Service, slices: &[&Slice], place: Place<'_>) -> Frontends {
    let mut all = Frontends::new();
    if service.spec.r#type == "ExternalName" || service.is_headless() {
        return all;
    }
    let affinity = service.affinity_seconds();
    for (family, port) in Family::BOTH.into_iter().flat_map(|family| service.spec.ports.iter().map(move |port| (family, port))) {
        let Some(protocol) = protocol(&port.protocol) else { continue };
        let near = near(port, family, slices, place);
        let here = endpoints(port, family, slices, |endpoint| endpoint.node_name == place.node);
        let mut add = |address: IpAddr, port: u16, endpoints: &[SocketAddr], masquerade: Masquerade| {
            let insiders = (masquerade == Masquerade::Never && near != endpoints && !near.is_empty()).then(|| near.clone());
            if !endpoints.is_empty() || insiders.is_some() {
                all.insert(Front { address, protocol, port }, Back { endpoints: endpoints.to_vec(), insiders, affinity, masquerade });
            }
        };
        let inner = if service.spec.internal_traffic_policy == "Local" { &here } else { &near };
        let (outer, outside) = match service.spec.external_traffic_policy == "Local" {
            true => (&here, Masquerade::Never),
            false => (&near, Masquerade::Always),
        };
        for address in service.cluster_addresses().filter(|address| Family::of(*address) == family) {
            add(address, port.port, inner, Masquerade::Outsiders);
        }
        for address in outer_addresses(service).filter(|address| Family::of(*address) == family) {
            add(address, port.port, outer, outside);
        }
        if port.node_port != 0 && matches!(service.spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
            add(family.unspecified(), port.node_port, outer, outside);
        }
    }
    all
}

/// externalIPs and the load balancer's, unless packets must pass the balancer itself.
fn outer_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let balanced = service.status.load_balancer.ingress.iter().filter(|ingress| ingress.ip_mode != "Proxy").map(|ingress| &ingress.ip);
    service.spec.external_ips.iter().chain(balanced).filter_map(|ip| ip.parse().ok())
}

/// Everybody behind a port of a Service who has an address of the family, and where.
fn behind<'a>(port: &ServicePort, family: Family, slices: &'a [&Slice]) -> impl Iterator<Item = (&'a Endpoint, SocketAddr)> {
    let name = port.name.clone();
    slices.iter().filter(|slice| slice.address_type != "FQDN").flat_map(move |slice| {
        let number = slice.ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name).and_then(|port| port.port);
        let at = move |endpoint: &Endpoint| Some(SocketAddr::new(endpoint.address().filter(|ip| Family::of(*ip) == family)?, number?));
        slice.endpoints.iter().filter_map(move |endpoint| Some((endpoint, at(endpoint)?)))
    })
}

/// The endpoints of a port of a Service: those that are ready, or else those that go but still serve.
pub fn endpoints(port: &ServicePort, family: Family, slices: &[&Slice], wanted: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddr> {
    let (mut ready, mut last_resort) = (BTreeSet::new(), BTreeSet::new());
    for (endpoint, at) in behind(port, family, slices).filter(|(endpoint, _)| wanted(endpoint)) {
        if endpoint.conditions.is_ready() {
            ready.insert(at);
        } else if endpoint.conditions.is_last_resort() {
            last_resort.insert(at);
        }
    }
    let chosen = if ready.is_empty() { last_resort } else { ready };
    chosen.into_iter().collect()
}

/// Those that hints send this node to, or all of them.
fn near(port: &ServicePort, family: Family, slices: &[&Slice], place: Place<'_>) -> Vec<SocketAddr> {
    let hints: Vec<&Hints> =
        behind(port, family, slices).filter(|(endpoint, _)| endpoint.conditions.is_ready()).map(|(endpoint, _)| &endpoint.hints).collect();
    let names = |list: &[Named], name: &str| list.iter().any(|named| named.name == name);
    let hinted = |list: fn(&Hints) -> &[Named], name: &str| {
        hints.iter().all(|hints| !list(hints).is_empty()) && hints.iter().any(|hints| names(list(hints), name))
    };
    if hinted(|hints| &hints.for_nodes, place.node) {
        endpoints(port, family, slices, |endpoint| names(&endpoint.hints.for_nodes, place.node))
    } else if hinted(|hints| &hints.for_zones, place.zone) {
        endpoints(port, family, slices, |endpoint| names(&endpoint.hints.for_zones, place.zone))
    } else {
        endpoints(port, family, slices, |_| true)
    }
}

/// How many ready endpoints of a Service are on a node, for who asks at its health check port. One with addresses of both families counts once.
pub fn local_count(slices: &[&Slice], node: &str) -> usize {
    let family = |slice: &&&Slice| slice.address_type == slices.first().map_or("", |first| &first.address_type);
    let all = slices.iter().filter(family).flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.conditions.is_ready());
    all.filter(|endpoint| endpoint.node_name == node).filter_map(Endpoint::address).collect::<BTreeSet<_>>().len()
}

/// The ports of this machine that a pod asks for; `addresses` are the pod's, of each family.
pub fn host_ports(pod: &Pod, addresses: &[IpAddr]) -> Frontends {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let asked = containers.flat_map(|container| container.ports.iter().flatten());
    let each = asked.flat_map(|port| addresses.iter().map(move |address| (port, *address)));
    let opened = each.filter_map(|(port, address)| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
        let at = match port.host_ip.as_deref() {
            None | Some("") => Family::of(address).unspecified(),
            Some(text) => text.parse().ok().filter(|at| Family::of(*at) == Family::of(address))?,
        };
        let front =
            Front { address: at, protocol: protocol(port.protocol.as_deref().unwrap_or_default())?, port: number(port.host_port?)? };
        let endpoints = vec![SocketAddr::new(address, number(port.container_port)?)];
        Some((front, Back { endpoints, insiders: None, affinity: None, masquerade: Masquerade::Never }))
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
        let found = frontends(&service, &[&slice], Place { node: "n1", zone: "a" });
        let shown: Vec<_> = found
            .iter()
            .map(|(front, back)| {
                let endpoints: Vec<String> = back.endpoints.iter().map(SocketAddr::to_string).collect();
                let inside = back.insiders.iter().flatten().map(|at| format!("inside {at}"));
                (format!("{}:{}", front.address, front.port), endpoints.into_iter().chain(inside).collect::<Vec<_>>(), back.masquerade)
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
            &[
                ("0.0.0.0:30000", &["10.0.1.1:8080", "inside 10.0.1.1:8080", "inside 10.0.2.1:8080"], Never),
                ("10.96.0.5:80", both, Outsiders),
            ],
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
    fn each_family_leads_to_its_own_endpoints() {
        let both = json!({ "clusterIPs": ["10.96.0.5", "fd00::5"], "externalIPs": ["2001:db8::7"] });
        let all = json!([endpoint("10.0.1.1", "n1", true, true, false), endpoint("fd00:1::1", "n1", true, true, false)]);
        let (four, six): (&[&str], &[&str]) = (&["10.0.1.1:8080"], &["[fd00:1::1]:8080"]);
        check(
            service("NodePort", both),
            all,
            &[
                ("0.0.0.0:30000", four, Masquerade::Always),
                ("10.96.0.5:80", four, Masquerade::Outsiders),
                (":::30000", six, Masquerade::Always),
                ("2001:db8::7:80", six, Masquerade::Always),
                ("fd00::5:80", six, Masquerade::Outsiders),
            ],
        );
    }

    #[test]
    fn hints_are_followed_where_all_have_them_and_some_are_for_here() {
        use Masquerade::Outsiders;
        let hinted = |address: &str, node: &str, zone: Option<&str>, for_node: bool| {
            let mut all = endpoint(address, node, true, true, false);
            all["hints"]["forZones"] = zone.into_iter().map(|zone| json!({ "name": zone })).collect();
            all["hints"]["forNodes"] = for_node.then(|| json!({ "name": node })).into_iter().collect();
            all
        };
        let shown = |list: Value, expected: &[&str]| check(service("ClusterIP", json!({})), list, &[("10.96.0.5:80", expected, Outsiders)]);
        let zones = |second: Option<&str>| json!([hinted("10.0.1.1", "n2", Some("a"), false), hinted("10.0.2.1", "n3", second, false)]);
        shown(zones(Some("b")), &["10.0.1.1:8080"]);
        shown(zones(None), &["10.0.1.1:8080", "10.0.2.1:8080"]);
        shown(
            json!([hinted("10.0.2.1", "n3", Some("b"), false), hinted("10.0.3.1", "n4", Some("c"), false)]),
            &["10.0.2.1:8080", "10.0.3.1:8080"],
        );
        shown(json!([hinted("10.0.1.1", "n1", Some("a"), true), hinted("10.0.2.1", "n3", Some("a"), true)]), &["10.0.1.1:8080"]);
        // Nobody is hinted at this node: its zone counts then.
        shown(json!([hinted("10.0.1.1", "n2", Some("a"), true), hinted("10.0.2.1", "n3", Some("b"), true)]), &["10.0.1.1:8080"]);
    }

    #[test]
    fn a_health_check_counts_the_ready_addresses_of_this_node() {
        let endpoints = json!([
            endpoint("10.0.1.1", "n1", true, true, false),
            endpoint("10.0.1.2", "n1", false, true, true),
            endpoint("10.0.2.1", "n2", true, true, false)
        ]);
        let slice: Slice = serde_json::from_value(json!({ "addressType": "IPv4", "endpoints": endpoints })).expect("a slice");
        assert_eq!((local_count(&[&slice, &slice], "n1"), local_count(&[&slice], "n3")), (1, 0));
    }

    #[test]
    fn host_ports_are_told_apart_by_address_and_protocol() {
        let ports = json!([
            { "containerPort": 80, "hostPort": 8080 }, { "containerPort": 53, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "UDP" },
            { "containerPort": 81 },
        ]);
        let pod = serde_json::from_value(json!({ "spec": { "containers": [{ "name": "c", "ports": ports }] } })).expect("a pod");
        let found: Vec<_> = host_ports(&pod, &[[10, 0, 0, 5].into(), std::net::Ipv6Addr::LOCALHOST.into()])
            .into_iter()
            .map(|(f, b)| (f.address.to_string(), f.protocol, b.endpoints[0].to_string()))
            .collect();
        let shown = |at: &str, protocol, to: &str| (at.to_owned(), protocol, to.to_owned());
        assert_eq!(found, [shown("0.0.0.0", 6, "10.0.0.5:80"), shown("127.0.0.1", 17, "10.0.0.5:53"), shown("::", 6, "[::1]:80")]);
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
