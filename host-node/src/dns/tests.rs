//! The zone against the specification's own examples.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use hickory_proto::rr::Name;
use serde_json::{Value, json};

use super::*;
use crate::link::Row;
use crate::service::Catalog;

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let mut dirty = BTreeSet::new();
    let service = |name: &str, spec: Value| json!({ "metadata": { "namespace": "default", "name": name }, "spec": spec });
    let ports = json!([{ "name": "http", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
    let services = [
        service("web", json!({ "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports })),
        service("db", json!({ "clusterIP": "None", "ports": ports })),
        service("empty", json!({ "clusterIP": "None" })),
        service("both", json!({ "clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6", "fd00:96::6"], "ports": ports })),
        service("out", json!({ "type": "ExternalName", "externalName": "example.org" })),
        service("in", json!({ "type": "ExternalName", "externalName": "web.default.svc.cluster.local" })),
    ];
    for object in services {
        catalog.take_service(Row::Put(object.to_string().into_bytes()), &mut dirty);
    }
    let slice = json!({
        "metadata": { "namespace": "default", "name": "db-1", "labels": { "kubernetes.io/service-name": "db" } }, "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": [
            { "addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": { "ready": true } },
            { "addresses": ["10.244.2.2"], "conditions": {} },
            { "addresses": ["10.244.3.2"], "hostname": "db-2", "conditions": { "ready": false } },
        ],
    });
    catalog.take_slice(Row::Put(slice.to_string().into_bytes()), &mut dirty);
    let mut second = slice;
    second["metadata"]["name"] = json!("db-2");
    second["addressType"] = json!("IPv6");
    second["endpoints"] = json!([{ "addresses": ["fd00:244::2"], "hostname": "db-0", "conditions": { "ready": true } }]);
    catalog.take_slice(Row::Put(second.to_string().into_bytes()), &mut dirty);
    catalog
}

/// What the answer shows: its code if it is not well, then every record's data.
fn check(name: &str, kind: RecordType, expected: Option<&[&str]>) {
    let range = |text: &str| text.parse().expect("a network");
    let zone = Zone::new("cluster.local", ["10.96.0.0/16", "10.244.0.0/16", "fd00:96::/112", "fd00:244::/48"].map(range).to_vec())
        .expect("a zone");
    let name = Name::from_ascii(name).expect("a name");
    let answer = zone.answer(&catalog(), &name, kind).map(|answer| {
        let code = (answer.code != ResponseCode::NoError).then(|| answer.code.to_string()).into_iter();
        let mut shown: Vec<String> = answer.records.iter().map(|record| record.data.to_string()).collect();
        shown.sort();
        code.chain(shown).collect::<Vec<_>>()
    });
    let expected = expected.map(|all| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(answer, expected, "{name} {kind}");
}

const MISSING: Option<&[&str]> = Some(&["Non-Existent Domain"]);
const NOTHING: Option<&[&str]> = Some(&[]);

#[test]
fn addresses_of_both_families_have_records_and_the_way_back() {
    use RecordType::{A, AAAA, PTR, SRV};
    check("both.default.svc.cluster.local.", A, Some(&["10.96.0.6"]));
    check("both.default.svc.cluster.local.", AAAA, Some(&["fd00:96::6"]));
    let reverse = |text: &str| {
        let digits: Vec<String> = text
            .parse::<Ipv6Addr>()
            .expect("an address")
            .octets()
            .iter()
            .flat_map(|o| [o >> 4, o & 15])
            .map(|d| format!("{d:x}"))
            .collect();
        format!("{}.ip6.arpa.", digits.into_iter().rev().collect::<Vec<_>>().join("."))
    };
    check(&reverse("fd00:96::6"), PTR, Some(&["both.default.svc.cluster.local."]));
    check(&reverse("fd00:244::2"), PTR, Some(&["db-0.db.default.svc.cluster.local."]));
    check(&reverse("fd00:96::7"), PTR, MISSING);
    check(&reverse("2001:db8::1"), PTR, None);
    check("db-0.db.default.svc.cluster.local.", A, Some(&["10.244.1.2"]));
    check("db-0.db.default.svc.cluster.local.", AAAA, Some(&["fd00:244::2"]));
    check("db.default.svc.cluster.local.", AAAA, Some(&["fd00:244::2"]));
    check("_http._tcp.both.default.svc.cluster.local.", SRV, Some(&["0 100 80 both.default.svc.cluster.local."]));
    check("fd00-244--9.default.pod.cluster.local.", AAAA, Some(&["fd00:244::9"]));
}

#[test]
fn a_service_with_an_address_has_it_its_ports_and_the_way_back() {
    use RecordType::{A, AAAA, PTR, SRV};
    check("web.default.svc.cluster.local.", A, Some(&["10.96.0.5"]));
    check("web.default.svc.cluster.local.", AAAA, NOTHING);
    check("_http._tcp.web.default.svc.cluster.local.", SRV, Some(&["0 100 80 web.default.svc.cluster.local."]));
    check("_dns._udp.web.default.svc.cluster.local.", SRV, Some(&["0 100 53 web.default.svc.cluster.local."]));
    check("_http._udp.web.default.svc.cluster.local.", SRV, MISSING);
    check("5.0.96.10.in-addr.arpa.", PTR, Some(&["web.default.svc.cluster.local."]));
    check("6.0.96.10.in-addr.arpa.", PTR, Some(&["both.default.svc.cluster.local."]));
    check("7.0.96.10.in-addr.arpa.", PTR, MISSING);
    check("8.8.8.8.in-addr.arpa.", PTR, None);
}

#[test]
fn a_headless_service_has_its_ready_endpoints_each_by_its_own_name_too() {
    use RecordType::{A, PTR, SRV};
    check("db.default.svc.cluster.local.", A, Some(&["10.244.1.2", "10.244.2.2"]));
    check("db-0.db.default.svc.cluster.local.", A, Some(&["10.244.1.2"]));
    check("10-244-2-2.db.default.svc.cluster.local.", A, Some(&["10.244.2.2"]));
    check("db-2.db.default.svc.cluster.local.", A, MISSING);
    let ports = ["0 100 8080 10-244-2-2.db.default.svc.cluster.local.", "0 100 8080 db-0.db.default.svc.cluster.local."];
    check("_http._tcp.db.default.svc.cluster.local.", SRV, Some(&ports));
    check("2.1.244.10.in-addr.arpa.", PTR, Some(&["db-0.db.default.svc.cluster.local."]));
    check("empty.default.svc.cluster.local.", A, MISSING);
}

#[test]
fn an_external_name_is_another_and_one_of_the_cluster_is_followed() {
    use RecordType::{A, CNAME};
    check("out.default.svc.cluster.local.", A, Some(&["example.org."]));
    check("out.default.svc.cluster.local.", CNAME, Some(&["example.org."]));
    check("in.default.svc.cluster.local.", A, Some(&["10.96.0.5", "web.default.svc.cluster.local."]));
}

#[test]
fn names_between_exist_and_others_do_not() {
    use RecordType::{A, SOA, TXT};
    check("cluster.local.", A, NOTHING);
    check("svc.cluster.local.", A, NOTHING);
    check("default.svc.cluster.local.", A, NOTHING);
    check("nowhere.svc.cluster.local.", A, MISSING);
    check("nobody.default.svc.cluster.local.", A, MISSING);
    check("web.default.cluster.local.", A, MISSING);
    check("10-244-9-9.default.pod.cluster.local.", A, Some(&["10.244.9.9"]));
    check("10-244-9.default.pod.cluster.local.", A, MISSING);
    check("dns-version.cluster.local.", TXT, Some(&["1.1.0"]));
    check("cluster.local.", SOA, Some(&["ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"]));
    check("example.org.", A, None);
    check("notcluster.local.", A, None);
}
