//! Which packets a node's pods may get and send: pure, from the cluster's policies, pods and namespaces.
//!
//! Rules: <https://kubernetes.io/docs/concepts/services-networking/network-policies/>. A pod that no policy of a direction selects may do
//! anything in it; one that some select may do what any of them allows. Pods on the host's network are nobody's business here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pintle_values::network::{Network, family, number};
use serde::Deserialize;

use crate::follow::{Followed, Key};
use crate::service::model::protocol;

/// A pod of the cluster, as policies see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Pod {
    metadata: Labelled,
    spec: PodSpec,
    status: PodStatus,
}

/// A namespace, as policies see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Namespace {
    metadata: Labelled,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Labelled {
    uid: String,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    protocol: String,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Pod {
    /// Its addresses, while it has some that are its own.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let over = self.is_over();
        let one = self.status.pod_ips.is_empty().then_some(&self.status.pod_ip);
        let all = self.status.pod_ips.iter().map(|ip| &ip.ip).chain(one);
        all.filter(move |_| !over && !self.spec.host_network).filter_map(|ip| ip.parse().ok())
    }

    fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    fn port(&self, name: &str, wanted: u8) -> Option<u16> {
        let mut ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        ports.find(|port| port.name == name && protocol(&port.protocol) == Some(wanted)).map(|port| port.container_port)
    }
}

/// A pod of this node that has just been given its addresses, which the API does not tell yet.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Tells it from an earlier pod of its name.
    pub uid: String,
    /// Of each family.
    pub addresses: Vec<IpAddr>,
}

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    /// Policies.
    pub policies: Followed<NetworkPolicy>,
    /// Pods.
    pub pods: Followed<Pod>,
    /// Namespaces; their key has no namespace.
    pub namespaces: Followed<Namespace>,
    /// Pods of this node that are about to start.
    pub arrivals: BTreeMap<Key, Arrival>,
}

impl Known {
    /// Whether this very pod is known, so that its limits are.
    pub fn has(&self, key: &Key, uid: &str) -> bool {
        self.pods.get(key).is_some_and(|pod| pod.metadata.uid == uid)
    }

    /// Forgets the arrivals of which the API tells the addresses, and those that are gone; `expected`: whether somebody waits for one that is not known yet.
    pub fn forget_arrivals(&mut self, expected: impl Fn(&Key) -> bool) {
        let pods = &self.pods;
        self.arrivals.retain(|key, arrival| match pods.get(key).filter(|pod| pod.metadata.uid == arrival.uid) {
            Some(pod) => !pod.is_over() && !arrival.addresses.iter().all(|address| pod.addresses().any(|told| told == *address)),
            None => expected(key),
        });
    }

    /// A pod's addresses: those that the API tells and those that it has just been given.
    fn addresses(&self, key: &Key, pod: &Pod) -> BTreeSet<IpAddr> {
        let arrived = self.arrivals.get(key).filter(|arrival| arrival.uid == pod.metadata.uid);
        pod.addresses().chain(arrived.into_iter().flat_map(|arrival| arrival.addresses.iter().copied())).collect()
    }
}

/// Addresses from the first to the last, by their numbers ([`number`]).
pub type Range = (u128, u128);

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// With whom; `None` for anybody. Of one family, sorted, apart from one another.
    pub peers: Option<Vec<Range>>,
    /// By which protocol, to which ports; `None` for any.
    pub ports: Option<(u8, Option<(u16, u16)>)>,
}

/// Directions of a pod in which it is isolated, and what is allowed nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From others, when it is isolated for that.
    pub ingress: Option<BTreeSet<Allowed>>,
    /// To others, when it is isolated for that.
    pub egress: Option<BTreeSet<Allowed>>,
}

/// The limits of this node's pods, by their addresses of each family. Pods without limits are not in it.
pub fn plan(known: &Known, node: &str) -> BTreeMap<IpAddr, Limits> {
    let mut limits: BTreeMap<IpAddr, Limits> = BTreeMap::new();
    for ((namespace, _), policy) in known.policies.iter() {
        let Some(spec) = &policy.spec else { continue };
        let types = spec.policy_types.clone().unwrap_or_default();
        let named = |direction: &str| types.iter().any(|t| t == direction);
        let ingress = named("Ingress") || types.is_empty();
        let egress = named("Egress") || types.is_empty() && spec.egress.is_some();
        let everybody = LabelSelector::default();
        let selector = spec.pod_selector.as_ref().unwrap_or(&everybody);
        let here = known.pods.iter().filter(|(key, pod)| key.0 == *namespace && pod.spec.node_name == node);
        let selected = here.filter(|(_, pod)| matches(selector, &pod.metadata.labels));
        for (key, pod, address) in
            selected.flat_map(|(key, pod)| known.addresses(key, pod).into_iter().map(move |address| (key, pod, address)))
        {
            let family = family(address);
            let limits = limits.entry(address).or_default();
            if ingress {
                let allowed = limits.ingress.get_or_insert_default();
                for rule in spec.ingress.iter().flatten() {
                    add(
                        allowed,
                        known,
                        key,
                        &Rule { family, peers: rule.from.as_deref(), ports: rule.ports.as_deref(), target: Some(pod) },
                    );
                }
            }
            if egress {
                let allowed = limits.egress.get_or_insert_default();
                for rule in spec.egress.iter().flatten() {
                    add(allowed, known, key, &Rule { family, peers: rule.to.as_deref(), ports: rule.ports.as_deref(), target: None });
                }
            }
        }
    }
    limits
}

/// A rule of a policy, of either direction, for addresses of one family.
struct Rule<'a> {
    family: &'static str,
    peers: Option<&'a [NetworkPolicyPeer]>,
    ports: Option<&'a [NetworkPolicyPort]>,
    /// Whose ports are meant by name; `None`: those of each peer.
    target: Option<&'a Pod>,
}

fn add(allowed: &mut BTreeSet<Allowed>, known: &Known, of: &Key, rule: &Rule<'_>) {
    let ranges = |pods: &[&Pod], blocks: Vec<Range>| {
        let of_family = pods.iter().flat_map(|pod| pod.addresses()).filter(|address| family(*address) == rule.family);
        let single = of_family.map(|address| (number(address), number(address)));
        merge(single.chain(blocks).collect())
    };
    let everybody = rule.peers.is_none_or(<[_]>::is_empty);
    let (pods, blocks) = if everybody {
        (known.pods.iter().map(|(_, pod)| pod).collect(), Vec::new())
    } else {
        peers(known, of, rule.family, rule.peers.unwrap_or(&[]))
    };
    let all = if everybody { None } else { Some(ranges(&pods, blocks)) };
    let Some(ports) = rule.ports.filter(|ports| !ports.is_empty()) else {
        allowed.insert(Allowed { peers: all, ports: None });
        return;
    };
    for port in ports {
        let Some(number) = protocol(port.protocol.as_deref().unwrap_or_default()) else { continue };
        match (&port.port, rule.target) {
            (None, _) => {
                allowed.insert(Allowed { peers: all.clone(), ports: Some((number, None)) });
            }
            (Some(IntOrString::Int(first)), _) => {
                let range = u16::try_from(*first).ok().zip(u16::try_from(port.end_port.unwrap_or(*first)).ok());
                if let Some(range) = range {
                    allowed.insert(Allowed { peers: all.clone(), ports: Some((number, Some(range))) });
                }
            }
            (Some(IntOrString::String(name)), Some(target)) => {
                if let Some(at) = target.port(name, number) {
                    allowed.insert(Allowed { peers: all.clone(), ports: Some((number, Some((at, at)))) });
                }
            }
            (Some(IntOrString::String(name)), None) => {
                let mut by_port: BTreeMap<u16, Vec<&Pod>> = BTreeMap::new();
                for pod in &pods {
                    if let Some(at) = pod.port(name, number) {
                        by_port.entry(at).or_default().push(*pod);
                    }
                }
                for (at, pods) in by_port {
                    allowed.insert(Allowed { peers: Some(ranges(&pods, Vec::new())), ports: Some((number, Some((at, at)))) });
                }
            }
        }
    }
}

fn peers<'a>(known: &'a Known, of: &Key, family: &str, list: &[NetworkPolicyPeer]) -> (Vec<&'a Pod>, Vec<Range>) {
    let (mut pods, mut blocks) = (Vec::new(), Vec::new());
    for peer in list {
        if let Some(block) = &peer.ip_block {
            blocks.extend(network(&block.cidr, family).into_iter().flat_map(|whole| {
                let holes = merge(block.except.iter().flatten().filter_map(|text| network(text, family)).collect());
                without(whole, &holes)
            }));
            continue;
        }
        let in_namespace = |namespace: &String| match &peer.namespace_selector {
            None => *namespace == of.0,
            Some(selector) => {
                let found = known.namespaces.get(&(String::new(), namespace.clone()));
                found.is_some_and(|found| matches(selector, &found.metadata.labels))
            }
        };
        let selected = |pod: &Pod| peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.metadata.labels));
        pods.extend(known.pods.iter().filter(|(key, pod)| in_namespace(&key.0) && selected(pod)).map(|(_, pod)| pod));
    }
    (pods, blocks)
}

/// Whether labels satisfy a selector; an empty one is satisfied by any.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = || requirement.values.iter().flatten().any(|wanted| Some(wanted) == value);
            match requirement.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// A network of the family; others have no part in what holds for addresses of it.
fn network(text: &str, family: &str) -> Option<Range> {
    let network: Network = text.parse().ok()?;
    (network.family() == family).then(|| (network.first(), network.last()))
}

/// Sorted, and those that overlap or touch as one.
fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn without((first, last): Range, holes: &[Range]) -> Vec<Range> {
    let mut rest = Vec::new();
    let mut at = Some(first);
    for (from, to) in holes.iter().filter(|(from, to)| *to >= first && *from <= last) {
        let Some(start) = at else { break };
        if *from > start {
            rest.push((start, from - 1));
        }
        at = to.checked_add(1);
    }
    rest.extend(at.filter(|start| *start <= last).map(|start| (start, last)));
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Row;
    use serde_json::{Value, json};

    fn known(policies: &[Value]) -> Known {
        let mut known = Known::default();
        let row = |value: Value| Row::Put(value.to_string().into_bytes());
        let pod = |namespace: &str, name: &str, address: &str, app: &str, port: u16| {
            json!({
                "metadata": { "namespace": namespace, "name": name, "labels": { "app": app } },
                "spec": { "nodeName": "n1", "containers": [{ "ports": [{ "name": "web", "containerPort": port }] }] },
                "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }, { "ip": address.replace("10.0.0.", "fd00::") }] },
            })
        };
        let pods = [pod("a", "x", "10.0.0.1", "x", 80), pod("a", "y", "10.0.0.2", "y", 81), pod("b", "z", "10.0.0.3", "x", 82)];
        pods.into_iter().for_each(|pod| known.pods.take(row(pod), |_, _| {}));
        for (name, team) in [("a", "red"), ("b", "blue")] {
            known.namespaces.take(row(json!({ "metadata": { "name": name, "labels": { "team": team } } })), |_, _| {});
        }
        for (index, spec) in policies.iter().enumerate() {
            let policy = json!({ "metadata": { "namespace": "a", "name": format!("p{index}") }, "spec": spec });
            known.policies.take(row(policy), |_, _| {});
        }
        known
    }

    /// What may reach `10.0.0.1`, and where it may go, each as text; `-` for anything.
    fn check(policies: &[Value], ingress: &str, egress: &str) {
        check_at("10.0.0.1", policies, ingress, egress);
    }

    fn check_at(address: &str, policies: &[Value], ingress: &str, egress: &str) {
        let limits = plan(&known(policies), "n1").remove(&address.parse().expect("an address")).unwrap_or_default();
        let show = |allowed: Option<BTreeSet<Allowed>>| {
            let one = |allowed: Allowed| {
                let ip = pintle_values::network::address;
                let range =
                    |(first, last): &Range| if first == last { ip(*first).to_string() } else { format!("{}-{}", ip(*first), ip(*last)) };
                let peers = allowed.peers.map_or("any".to_owned(), |peers| peers.iter().map(range).collect::<Vec<_>>().join("+"));
                match allowed.ports {
                    None => peers,
                    Some((protocol, None)) => format!("{peers}:{protocol}"),
                    Some((protocol, Some((first, last)))) => format!("{peers}:{protocol}/{first}-{last}"),
                }
            };
            allowed.map_or("-".to_owned(), |all| all.into_iter().map(one).collect::<Vec<_>>().join(" "))
        };
        assert_eq!((show(limits.ingress).as_str(), show(limits.egress).as_str()), (ingress, egress), "{policies:?}");
    }

    #[test]
    fn a_pod_that_none_selects_is_free_and_an_empty_policy_closes() {
        check(&[], "-", "-");
        check(&[json!({ "podSelector": {} })], "", "-");
        check(&[json!({ "podSelector": {}, "policyTypes": ["Egress"] })], "-", "");
        check(&[json!({ "podSelector": { "matchLabels": { "app": "y" } } })], "-", "-");
        check(&[json!({ "podSelector": {}, "ingress": [{}] })], "any", "-");
    }

    #[test]
    fn peers_are_pods_of_the_namespace_of_selected_namespaces_or_of_both() {
        let from = |peer: Value| json!({ "podSelector": { "matchLabels": { "app": "x" } }, "ingress": [{ "from": [peer] }] });
        check(&[from(json!({ "podSelector": {} }))], "10.0.0.1-10.0.0.2", "-");
        check(&[from(json!({ "podSelector": { "matchLabels": { "app": "y" } } }))], "10.0.0.2", "-");
        check(&[from(json!({ "namespaceSelector": {} }))], "10.0.0.1-10.0.0.3", "-");
        check(&[from(json!({ "namespaceSelector": { "matchLabels": { "team": "blue" } } }))], "10.0.0.3", "-");
        let both = json!({ "namespaceSelector": {}, "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["x"] }] } });
        check(&[from(both)], "10.0.0.1+10.0.0.3", "-");
        check(&[from(json!({ "podSelector": { "matchLabels": { "app": "none" } } }))], "", "-");
    }

    #[test]
    fn addresses_of_version_6_have_limits_of_their_own() {
        let from = |peer: Value| json!({ "podSelector": { "matchLabels": { "app": "x" } }, "ingress": [{ "from": [peer] }] });
        check_at("fd00::1", &[from(json!({ "namespaceSelector": {} }))], "fd00::1-fd00::3", "-");
        check_at("fd00::1", &[from(json!({ "ipBlock": { "cidr": "10.1.0.0/16" } }))], "", "-");
        let block = from(json!({ "ipBlock": { "cidr": "2001:db8::/32", "except": ["2001:db8:0:1::/64"] } }));
        check_at(
            "fd00::1",
            &[block.clone()],
            "2001:db8::-2001:db8::ffff:ffff:ffff:ffff+2001:db8:0:2::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "-",
        );
        check(&[block], "", "-");
        let all = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [{ "ipBlock": { "cidr": "::/0" } }] }] });
        check_at("fd00::1", &[all], "-", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn address_blocks_have_holes() {
        let block = |cidr: &str, except: Value| json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [{ "ipBlock": { "cidr": cidr, "except": except } }] }] });
        check(&[block("10.1.0.0/16", json!(["10.1.2.0/24"]))], "-", "10.1.0.0-10.1.1.255+10.1.3.0-10.1.255.255");
        check(&[block("10.1.0.0/24", json!(["10.1.0.0/25"]))], "-", "10.1.0.128-10.1.0.255");
        check(&[block("0.0.0.0/0", json!([]))], "-", "0.0.0.0-255.255.255.255");
    }

    #[test]
    fn ports_are_numbers_ranges_and_names_of_whoever_is_reached() {
        let ports = json!([{ "port": 53, "protocol": "UDP" }, { "port": 8000, "endPort": 8080 }, { "port": "web" }]);
        check(&[json!({ "podSelector": {}, "ingress": [{ "ports": ports }] })], "any:6/80-80 any:6/8000-8080 any:17/53-53", "-");
        let named = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [{ "podSelector": {} }], "ports": [{ "port": "web" }] }] });
        check(&[named], "-", "10.0.0.1:6/80-80 10.0.0.2:6/81-81");
    }
}
