//! What the cluster's names stand for: pure, from the catalog of Services to records.
//!
//! The contract is the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>). Names come in lower case.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use pintle_values::network::Network;

use crate::service::Catalog;
use crate::service::model::{Endpoint, Service};

/// Seconds that an answer may be kept.
pub const TTL: u32 = 5;
/// Version of the specification, as `dns-version` tells it.
const VERSION: &str = "1.1.0";

/// What a question of the cluster's comes to.
#[derive(Debug, Default)]
pub struct Answer {
    /// Whether the name exists.
    pub code: ResponseCode,
    /// The records asked for.
    pub records: Vec<Record>,
    /// Addresses of what the records name.
    pub additional: Vec<Record>,
    /// A name outside of the cluster that the asked one stands for: whoever answers may follow it.
    pub follow: Option<Name>,
}

/// The part of the name space that is the cluster's.
pub struct Zone {
    /// As `cluster.local.`
    domain: Name,
    text: String,
    /// Reverse names in these ranges are the cluster's.
    ranges: Vec<Network>,
}

impl Zone {
    /// The zone of a cluster domain, and of the addresses of pods and Services.
    pub fn new(domain: &str, ranges: Vec<Network>) -> Option<Self> {
        let text = domain.trim_matches('.').to_ascii_lowercase();
        Some(Self { domain: Name::from_ascii(format!("{text}.")).ok()?, text, ranges })
    }

    /// Answers what is the cluster's; `None` for what is not.
    pub fn answer(&self, catalog: &Catalog, name: &Name, kind: RecordType) -> Option<Answer> {
        if let Some(address) = reverse(name) {
            return self.contains(address).then(|| self.pointer(catalog, name, address, kind));
        }
        if !self.domain.zone_of(name) {
            return None;
        }
        let own = name.num_labels().saturating_sub(self.domain.num_labels());
        let labels: Option<Vec<&str>> = name.iter().take(usize::from(own)).map(|label| std::str::from_utf8(label).ok()).collect();
        let Some(labels) = labels else { return Some(self.missing()) };
        Some(match *labels.as_slice() {
            [] if kind == RecordType::SOA => Answer { records: vec![self.authority()], ..Answer::default() },
            [] | ["svc" | "pod"] => Answer::default(),
            ["dns-version"] if kind == RecordType::TXT => {
                Answer { records: vec![record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))], ..Answer::default() }
            }
            ["dns-version"] => Answer::default(),
            [namespace, "svc" | "pod"] => self.namespace(catalog, namespace),
            [ip, namespace, "pod"] => self.pod(catalog, name, ip, namespace, kind),
            [service, namespace, "svc"] => self.service(catalog, name, service, namespace, kind),
            [port, protocol, service, namespace, "svc"] if port.starts_with('_') => {
                self.port(catalog, name, (port, protocol), service, namespace, kind)
            }
            // The protocol stands above the ports: a name without records of its own.
            [protocol, service, namespace, "svc"] if protocol.starts_with('_') => match self.find(catalog, service, namespace) {
                Some(_) => Answer::default(),
                None => self.missing(),
            },
            [host, service, namespace, "svc"] => self.endpoint(catalog, name, host, service, namespace, kind),
            _ => self.missing(),
        })
    }

    /// The zone's own record: what denials carry.
    pub fn authority(&self) -> Record {
        let server = Name::from_ascii(format!("ns.dns.{}.", self.text)).unwrap_or_default();
        let person = Name::from_ascii(format!("hostmaster.{}.", self.text)).unwrap_or_default();
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(SOA::new(server, person, 1, 7200, 1800, 86_400, TTL)))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    fn missing(&self) -> Answer {
        Answer { code: ResponseCode::NXDomain, ..Answer::default() }
    }

    fn find<'a>(&self, catalog: &'a Catalog, service: &str, namespace: &str) -> Option<&'a Service> {
        catalog.services.get(&(namespace.to_owned(), service.to_owned()))
    }

    fn namespace(&self, catalog: &Catalog, namespace: &str) -> Answer {
        match catalog.services.iter().any(|(key, _)| key.0 == namespace) {
            true => Answer::default(),
            false => self.missing(),
        }
    }

    /// `1-2-3-4.namespace.pod`, or with dashes for the colons of version 6: the address is in the name.
    fn pod(&self, catalog: &Catalog, name: &Name, ip: &str, namespace: &str, kind: RecordType) -> Answer {
        let known = catalog.services.iter().any(|(key, _)| key.0 == namespace) || namespace == "default";
        let address = [".", ":"].iter().find_map(|dash| ip.replace('-', dash).parse::<IpAddr>().ok()).filter(|_| known);
        match address {
            Some(address) => Answer { records: addresses(name, [address], kind), ..Answer::default() },
            None => self.missing(),
        }
    }

    fn service(&self, catalog: &Catalog, name: &Name, service: &str, namespace: &str, kind: RecordType) -> Answer {
        let Some(found) = self.find(catalog, service, namespace) else { return self.missing() };
        if found.spec.r#type == "ExternalName" {
            return self.external(catalog, name, found, kind);
        }
        if found.is_headless() {
            let ready = self.ready(catalog, found);
            if ready.is_empty() {
                return self.missing();
            }
            if kind == RecordType::SRV {
                return self.headless_ports(catalog, name, found, None);
            }
            let all = ready.iter().filter_map(|endpoint| endpoint.address());
            return Answer { records: addresses(name, all, kind), ..Answer::default() };
        }
        if kind == RecordType::SRV {
            return self.ports_of(name, found, None);
        }
        Answer { records: addresses(name, found.cluster_addresses(), kind), ..Answer::default() }
    }

    fn external(&self, catalog: &Catalog, name: &Name, service: &Service, kind: RecordType) -> Answer {
        let Ok(target) = Name::from_ascii(format!("{}.", service.spec.external_name.trim_end_matches('.'))) else { return self.missing() };
        let mut answer = Answer { records: vec![record(name, RData::CNAME(CNAME(target.clone())))], ..Answer::default() };
        if kind == RecordType::CNAME {
            return answer;
        }
        // A name of the cluster is followed once, so that a ring of names comes to an end.
        let inside = self.find_by_name(catalog, &target).filter(|found| found.spec.r#type != "ExternalName");
        match inside {
            Some(_) => answer.records.extend(self.answer(catalog, &target.to_lowercase(), kind).unwrap_or_default().records),
            None if self.domain.zone_of(&target) => {}
            None => answer.follow = Some(target),
        }
        answer
    }

    fn find_by_name<'a>(&self, catalog: &'a Catalog, name: &Name) -> Option<&'a Service> {
        let text = name.to_lowercase().to_ascii();
        let rest = text.trim_end_matches('.').strip_suffix(&self.text)?.strip_suffix(".svc.")?;
        let (service, namespace) = rest.split_once('.')?;
        self.find(catalog, service, namespace)
    }

    fn port(&self, catalog: &Catalog, name: &Name, wanted: (&str, &str), service: &str, namespace: &str, kind: RecordType) -> Answer {
        let Some(found) = self.find(catalog, service, namespace) else { return self.missing() };
        let wanted = Some((wanted.0.trim_start_matches('_'), wanted.1.trim_start_matches('_')));
        let answer = match found.is_headless() {
            true => self.headless_ports(catalog, name, found, wanted),
            false => self.ports_of(name, found, wanted),
        };
        if answer.records.is_empty() {
            return self.missing();
        }
        if kind == RecordType::SRV { answer } else { Answer::default() }
    }

    fn ports_of(&self, name: &Name, service: &Service, wanted: Option<(&str, &str)>) -> Answer {
        let mut answer = Answer::default();
        let Some(target) = self.service_name(service) else { return answer };
        for port in &service.spec.ports {
            if is_wanted(wanted, &port.name, &port.protocol) {
                answer.records.push(record(name, RData::SRV(SRV::new(0, 100, port.port, target.clone()))));
            }
        }
        if !answer.records.is_empty() {
            answer.additional = both_addresses(&target, service.cluster_addresses());
        }
        answer
    }

    fn headless_ports(&self, catalog: &Catalog, name: &Name, service: &Service, wanted: Option<(&str, &str)>) -> Answer {
        let mut answer = Answer::default();
        for slice in catalog.slices_of(&service.key()) {
            for port in &slice.ports {
                let said = (port.name.as_deref().unwrap_or_default(), port.protocol.as_deref().unwrap_or_default());
                let Some(number) = port.port.filter(|_| is_wanted(wanted, said.0, said.1)) else { continue };
                for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.conditions.is_ready()) {
                    let Some((target, address)) = self.endpoint_name(service, endpoint).zip(endpoint.address()) else { continue };
                    // An endpoint with addresses of both families is said once.
                    let said = record(name, RData::SRV(SRV::new(0, 100, number, target.clone())));
                    if !answer.records.contains(&said) {
                        answer.records.push(said);
                    }
                    answer.additional.extend(both_addresses(&target, [address]));
                }
            }
        }
        answer
    }

    fn endpoint(&self, catalog: &Catalog, name: &Name, host: &str, service: &str, namespace: &str, kind: RecordType) -> Answer {
        let Some(found) = self.find(catalog, service, namespace).filter(|found| found.is_headless()) else { return self.missing() };
        let ready = self.ready(catalog, found);
        let of_host = ready.iter().filter(|endpoint| host_label(endpoint).as_deref() == Some(host));
        let found: Vec<IpAddr> = of_host.filter_map(|endpoint| endpoint.address()).collect();
        if found.is_empty() {
            return self.missing();
        }
        Answer { records: addresses(name, found, kind), ..Answer::default() }
    }

    fn pointer(&self, catalog: &Catalog, name: &Name, address: IpAddr, kind: RecordType) -> Answer {
        let of_service = catalog.services.iter().find(|(_, service)| service.cluster_addresses().any(|at| at == address));
        let target = match of_service {
            Some((_, service)) => self.service_name(service),
            None => catalog.slices.iter().find_map(|(_, slice)| {
                let endpoint = slice.endpoints.iter().find(|endpoint| endpoint.address() == Some(address))?;
                let service = catalog.services.get(&slice.service()?).filter(|service| service.is_headless())?;
                self.endpoint_name(service, endpoint)
            }),
        };
        match target {
            Some(target) if kind == RecordType::PTR => Answer { records: vec![record(name, RData::PTR(PTR(target)))], ..Answer::default() },
            Some(_) => Answer::default(),
            None => self.missing(),
        }
    }

    fn ready<'a>(&self, catalog: &'a Catalog, service: &Service) -> Vec<&'a Endpoint> {
        let slices = catalog.slices_of(&service.key());
        slices.into_iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.conditions.is_ready()).collect()
    }

    fn service_name(&self, service: &Service) -> Option<Name> {
        Name::from_ascii(format!("{}.{}.svc.{}.", service.metadata.name, service.metadata.namespace, self.text)).ok()
    }

    fn endpoint_name(&self, service: &Service, endpoint: &Endpoint) -> Option<Name> {
        let host = host_label(endpoint)?;
        Name::from_ascii(format!("{host}.{}.{}.svc.{}.", service.metadata.name, service.metadata.namespace, self.text)).ok()
    }
}

/// An endpoint's own label: its hostname, else its address with dashes.
fn host_label(endpoint: &Endpoint) -> Option<String> {
    match endpoint.hostname.as_str() {
        "" => Some(endpoint.address()?.to_string().replace(['.', ':'], "-")),
        name => Some(name.to_ascii_lowercase()),
    }
}

fn is_wanted(wanted: Option<(&str, &str)>, name: &str, protocol: &str) -> bool {
    let protocol = if protocol.is_empty() { "TCP" } else { protocol };
    wanted.is_none_or(|(port, proto)| port == name && proto.eq_ignore_ascii_case(protocol))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Vec<Record> {
    both_addresses(name, all).into_iter().filter(|record| record.record_type() == kind || kind == RecordType::ANY).collect()
}

fn both_addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
    let data = |address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    all.into_iter().map(|address| record(name, data(address))).collect()
}

/// The address of a whole reverse name.
fn reverse(name: &Name) -> Option<IpAddr> {
    let text = name.to_ascii();
    if let Some(rest) = text.strip_suffix(".in-addr.arpa.") {
        let parts: Vec<u8> = rest.split('.').rev().map(str::parse).collect::<Result<_, _>>().ok()?;
        return <[u8; 4]>::try_from(parts).ok().map(|octets| IpAddr::V4(octets.into()));
    }
    let digits: Vec<&str> = text.strip_suffix(".ip6.arpa.")?.split('.').rev().collect();
    let number = u128::from_str_radix(&digits.concat(), 16).ok().filter(|_| digits.len() == 32)?;
    Some(IpAddr::V6(Ipv6Addr::from(number)))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
