//! Hosts, paths and the rest as rules see them; precedence; shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use pintle_host_node::follow::Key;
use pintle_host_node::ingress::backend::Service;
use pintle_host_node::ingress::model::RouteTable;
use pintle_host_node::ingress::table::{Door, Programme, Seen, Target, narrower};
use serde_json::{Value, json};

/// A programme of tables, each named by its number and as old; a rule's backend is named by its `to`.
fn programme(tables: &[Value]) -> (Programme, Vec<(Target, Arc<Service>)>) {
    let read = |(number, table): (usize, &Value)| {
        let mut table: RouteTable = serde_json::from_value(json!({ "spec": table })).expect("a table");
        table.metadata.creation_timestamp = format!("2026-01-01T00:00:{number:02}Z");
        (("n".to_owned(), number.to_string()), table)
    };
    let tables: Vec<(Key, RouteTable)> = tables.iter().enumerate().map(read).collect();
    let mut services = Vec::new();
    let programme = Programme::of(tables.iter().map(|(key, table)| (key, table)), |target| {
        let service = Arc::new(Service::default());
        services.push((target, service.clone()));
        service
    });
    (programme, services)
}

fn rule(to: &str, hosts: &[&str], matches: Value) -> Value {
    json!({ "hosts": hosts, "matches": matches, "backends": [{ "namespace": "n", "service": to, "port": 80 }] })
}

fn table(rules: &[Value]) -> Value {
    json!({ "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }], "rules": rules })
}

/// Asks for each URL (`METHOD host/path?query header=value`) and compares whose rule it meets.
fn check(tables: &[Value], expected: &[(&str, &str)]) {
    let (programme, services) = programme(tables);
    for (asked, to) in expected {
        let mut words = asked.split(' ');
        let method: Method = words.next().and_then(|m| m.parse().ok()).expect("a method");
        let (target, query) = words.next().map(|url| url.split_once('?').unwrap_or((url, ""))).expect("a target");
        let at = target.find('/').expect("a path");
        let headers = words.filter_map(|word| word.split_once('=')).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
            map
        });
        let seen = Seen { host: &target[..at], path: &target[at..], query, method: &method, headers: &headers };
        let found = programme.find(Door { port: 80, tls: false }, &seen).and_then(|entry| entry.rule.shares.first()?.service.clone());
        let name =
            |service: Arc<Service>| services.iter().find(|(_, known)| Arc::ptr_eq(known, &service)).map(|(t, _)| t.service.1.clone());
        assert_eq!(found.and_then(name).unwrap_or_else(|| "-".into()), *to, "{asked}");
    }
}

fn path(kind: &str, path: &str) -> Value {
    json!([{ "pathType": kind, "path": path }])
}

#[test]
fn the_longest_path_wins_and_an_exact_one_before_a_prefix() {
    let rules = [
        rule("root", &[], path("Prefix", "/")),
        rule("a", &[], path("Prefix", "/a")),
        rule("ab", &[], path("Prefix", "/a/b/")),
        rule("exact", &[], path("Exact", "/a/b")),
        rule("pattern", &[], path("RegularExpression", "/x[0-9]+/.*")),
    ];
    check(
        &[table(&rules)],
        &[
            ("GET h/", "root"),
            ("GET h/ab", "root"),
            ("GET h/a", "a"),
            ("GET h/a/", "a"),
            ("GET h/a/b", "exact"),
            ("GET h/a/b/", "ab"),
            ("GET h/a/b/c", "ab"),
            ("GET h/A/b", "root"),
            ("GET h/x12/y", "pattern"),
            ("GET h/xx/y", "root"),
        ],
    );
    check(&[table(&rules[1..])], &[("GET h/", "-"), ("GET h/b", "-")]);
}

#[test]
fn a_host_comes_before_its_wildcards_and_these_before_none() {
    let any = json!([]);
    let rules = [
        rule("none", &[], any.clone()),
        rule("one", &["*.example.com"], any.clone()),
        rule("many", &["**.com"], any.clone()),
        rule("host", &["A.example.com"], path("Prefix", "/x")),
    ];
    check(
        &[table(&rules)],
        &[
            ("GET a.example.com/x", "host"),
            ("GET a.example.com/", "one"),
            ("GET b.example.com/x", "one"),
            ("GET c.b.example.com/", "many"),
            ("GET example.com/", "many"),
            ("GET com/", "none"),
            ("GET example.org/", "none"),
            ("GET .example.com/", "none"),
        ],
    );
}

#[test]
fn methods_headers_and_queries_must_all_hold_and_more_of_them_win() {
    let of = |wanted: Value| json!([wanted]);
    let v = |name: &str, value: &str| json!({ "name": name, "value": value });
    let rules = [
        rule("any", &[], json!([])),
        rule("post", &[], of(json!({ "method": "POST" }))),
        rule("one", &[], of(json!({ "headers": [v("X-A", "1")] }))),
        rule("two", &[], of(json!({ "headers": [v("x-a", "1"), { "name": "x-b", "value": "b+", "type": "RegularExpression" }] }))),
        rule("query", &[], of(json!({ "query": [v("q", "a b")] }))),
        rule("broken", &[], of(json!({ "headers": [{ "name": "x-b", "value": "(", "type": "RegularExpression" }] }))),
    ];
    check(
        &[table(&rules)],
        &[
            ("GET h/", "any"),
            ("POST h/ x-a=1", "post"),
            ("GET h/ x-a=1", "one"),
            ("GET h/ x-a=1 x-b=bb", "two"),
            ("GET h/ x-a=1 x-b=bc", "one"),
            ("GET h/?q=a+b", "query"),
            ("GET h/?q=a%20b&q=c", "query"),
            ("GET h/?q=a", "any"),
            ("GET h/ x-b=(", "any"),
        ],
    );
}

#[test]
fn what_is_as_specific_is_the_older_tables_and_the_earlier_rules() {
    let root = |to: &str| rule(to, &["a"], path("Prefix", "/"));
    check(&[table(&[root("first"), root("second")]), table(&[root("third")])], &[("GET a/", "first")]);
    check(&[table(&[rule("wide", &[], json!([]))]), table(&[root("narrow")])], &[("GET a/", "narrow"), ("GET b/", "wide")]);
}

#[test]
fn a_rule_stands_only_where_its_listener_and_its_hosts_meet() {
    for (listener, host, expected) in [
        ("", "", Some("")),
        ("", "a.b", Some("a.b")),
        ("a.b", "", Some("a.b")),
        ("*.b", "a.b", Some("a.b")),
        ("*.b", "x.a.b", None),
        ("**.b", "x.a.b", Some("x.a.b")),
        ("**.b", "*.b", Some("*.b")),
        ("*.b", "**.b", Some("*.b")),
        ("**.b", "*.a.b", Some("*.a.b")),
        ("**.a.b", "**.b", Some("**.a.b")),
        ("**.b", "b", None),
        ("**.b", "*.ab", None),
        ("a.b", "c.b", None),
    ] {
        assert_eq!(narrower(listener, host).as_deref(), expected, "{listener} {host}");
        assert_eq!(narrower(host, listener).as_deref(), expected, "{host} {listener}");
    }
    let listeners = json!([
        { "name": "http", "port": 80, "protocol": "HTTP" }, { "name": "tls", "port": 443, "protocol": "HTTPS", "hostname": "a.b" },
    ]);
    let (programme, _) = programme(&[json!({ "listeners": listeners, "rules": [rule("x", &["a.b", "c.b"], json!([]))] })]);
    let found = |host: &str, port: u16, tls: bool| {
        let (method, headers) = (Method::GET, HeaderMap::new());
        programme.find(Door { port, tls }, &Seen { host, path: "/", query: "", method: &method, headers: &headers }).is_some()
    };
    assert!(found("a.b", 80, false) && found("c.b", 80, false) && found("a.b", 443, true));
    assert!(!found("c.b", 443, true) && !found("a.b", 443, false));
}

#[test]
fn the_certificate_is_the_closest_to_the_name() {
    let tls = |name: &str, host: &str, secret: &str| json!({ "name": name, "port": 443, "protocol": "HTTPS", "hostname": host, "certificates": [{ "namespace": "n", "name": secret }] });
    let (programme, _) = programme(&[json!({ "listeners": [tls("1", "", "any"), tls("2", "*.b", "wild"), tls("3", "a.b", "own")] })]);
    let of = |name: &str| programme.doors[&Door { port: 443, tls: true }].certificates_for(name).next().map(|c| c.name.clone());
    assert_eq!(["a.b", "c.b", "d.c.b", ""].map(of), ["own", "wild", "any", "any"].map(|name| Some(name.to_owned())));
}

#[test]
fn shares_come_out_as_their_weights_say() {
    let weighted = |to: &str, weight: u32| json!({ "namespace": "n", "service": to, "port": 1, "weight": weight });
    let rules = json!([{ "backends": [weighted("a", 90), weighted("b", 10), weighted("c", 0)] }]);
    let (programme, services) = programme(&[json!({ "listeners": [{ "name": "l", "port": 80, "protocol": "HTTP" }], "rules": rules })]);
    let (method, headers) = (Method::GET, HeaderMap::new());
    let seen = Seen { host: "h", path: "/", query: "", method: &method, headers: &headers };
    let rule = programme.find(Door { port: 80, tls: false }, &seen).expect("a rule").rule.clone();
    let mut counts = BTreeMap::new();
    for number in 0..1000 {
        let service = rule.share(number).and_then(|share| share.service.clone()).expect("a share");
        let name = services.iter().find(|(_, known)| Arc::ptr_eq(known, &service)).map(|(target, _)| target.service.1.clone());
        *counts.entry(name.expect("a name")).or_insert(0) += 1;
    }
    assert!((880..=920).contains(&counts["a"]) && counts.len() == 2, "{counts:?}");
}
