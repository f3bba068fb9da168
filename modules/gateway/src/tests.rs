//! Gateways and routes in, tables and statuses out.

use super::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

fn controller() -> Result<Gateways> {
    Ok(Gateways { config: Config::default() })
}

fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let group = match kind {
        "Service" | "Secret" | "Namespace" | "Node" => "v1".to_owned(),
        "ReferenceGrant" => format!("{GROUP}/v1beta1"),
        _ => format!("{GROUP}/v1"),
    };
    json!({"apiVersion": group, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn gateway(listeners: Value) -> Value {
    object("Gateway", "infra", "edge", json!({"gatewayClassName": "pintle", "listeners": listeners}))
}

fn http(name: &str, hostname: &str, from: Value) -> Value {
    json!({"name": name, "port": 80, "protocol": "HTTP", "hostname": hostname, "allowedRoutes": {"namespaces": from}})
}

fn route(name: &str, more: Value) -> Value {
    let mut spec = json!({"parentRefs": [{"name": "edge", "namespace": "infra"}]});
    spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
    object("HTTPRoute", "shop", name, spec)
}

fn to(service: &str) -> Value {
    json!([{"backendRefs": [{"name": service, "port": 80}]}])
}

/// A class of ours, a node, the namespace `shop` with its Service `web`, and what the test needs.
fn kernel(objects: &[Value]) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    let mut node = object("Node", "", "n1", json!({}));
    node["status"] =
        json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": "True"}]});
    let mut namespace = object("Namespace", "", "shop", json!({}));
    namespace["metadata"]["labels"] = json!({"team": "a"});
    kernel.put(node)?;
    kernel.put(namespace)?;
    kernel.put(object("GatewayClass", "", "pintle", json!({"controllerName": CONTROLLER})))?;
    kernel.put(object("GatewayClass", "", "other", json!({"controllerName": "example.com/other"})))?;
    kernel.put(object("Service", "shop", "web", json!({"ports": [{"port": 80}]})))?;
    for object in objects {
        kernel.put(object.clone())?;
    }
    kernel.settle(&mut controller()?)?;
    Ok(kernel)
}

fn table(kernel: &FakeKernel) -> Value {
    kernel.get("pintle.dev/routetables", "infra", "gateway-edge").map(|table| table["spec"].clone()).unwrap_or_default()
}

/// `Type=Status/Reason` of each condition.
fn said(conditions: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(&c["type"]), text(&c["status"]), text(&c["reason"]));
    conditions.as_array().into_iter().flatten().map(one).collect()
}

fn route_said(kernel: &FakeKernel, name: &str) -> Vec<String> {
    let route = kernel.get("gateway.networking.k8s.io/httproutes", "shop", name).cloned().unwrap_or_default();
    said(&route["status"]["parents"][0]["conditions"])
}

fn all() -> Value {
    json!({"from": "All"})
}

#[test]
fn a_gateway_and_its_routes_become_a_table() -> Result<()> {
    let rules = json!([{
        "matches": [{"path": {"type": "Exact", "value": "/a"}, "method": "GET", "headers": [{"name": "x", "value": "1", "type": "Exact"}]}],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}], "remove": ["c"]}},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "h", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80}, "percent": 5}},
        ],
        "backendRefs": [{"name": "web", "port": 80, "weight": 3}, {"name": "absent", "port": 80}],
        "timeouts": {"request": "1m30s", "backendRequest": "500ms"},
        "retry": {"codes": [503], "attempts": 2, "backoff": "10ms"},
    }, {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]}]);
    let kernel =
        kernel(&[gateway(json!([http("web", "*.shop.test", all())])), route("r", json!({"hostnames": ["a.shop.test"], "rules": rules}))])?;
    let (web, nothing) = (json!({"namespace": "shop", "service": "web", "port": 80}), json!({"namespace": "", "service": "", "weight": 1}));
    let with = |key: &str, value: u32| {
        let mut target = web.clone();
        target[key] = value.into();
        target
    };
    assert_eq!(
        table(&kernel),
        json!({
            "listeners": [{"name": "web", "port": 80, "protocol": "HTTP", "hostname": "**.shop.test"}],
            "rules": [{
                "listeners": ["web"], "hosts": ["a.shop.test"],
                "matches": [{"pathType": "Exact", "path": "/a", "method": "GET", "headers": [{"name": "x", "value": "1", "type": "Exact"}]}],
                "requestHeaders": {"set": [{"name": "a", "value": "b"}], "remove": ["c"]},
                "rewrite": {"hostname": "h", "pathType": "Prefix", "path": "/n"},
                "mirrors": [with("percent", 5)],
                "backends": [with("weight", 3), nothing],
                "requestMilliseconds": 90_000, "backendMilliseconds": 500,
                "retry": {"attempts": 2, "statusCodes": [503], "backoffMilliseconds": 10},
            }, {
                "listeners": ["web"], "hosts": ["a.shop.test"], "matches": [{"pathType": "Prefix", "path": "/"}],
                "redirect": {"scheme": "https", "statusCode": 301},
            }],
        })
    );
    assert_eq!(route_said(&kernel, "r"), ["Accepted=True/Accepted", "ResolvedRefs=False/BackendNotFound"]);
    let gateway = kernel.get("gateway.networking.k8s.io/gateways", "infra", "edge").cloned().unwrap_or_default();
    assert_eq!(said(&gateway["status"]["conditions"]), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    assert_eq!(gateway["status"]["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    let listener = &gateway["status"]["listeners"][0];
    assert_eq!(listener["attachedRoutes"], 1);
    assert_eq!(
        said(&listener["conditions"]),
        ["Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs", "Conflicted=False/NoConflicts"]
    );
    let class = |name: &str| kernel.get("gateway.networking.k8s.io/gatewayclasses", "", name).map(|c| said(&c["status"]["conditions"]));
    assert_eq!((class("pintle"), class("other")), (Some(vec!["Accepted=True/Accepted".into()]), Some(vec![])));
    Ok(())
}

#[test]
fn routes_attach_only_where_listeners_let_them() -> Result<()> {
    let check = |listener: Value, more: Value, expected: &str| -> Result<()> {
        let kernel = kernel(&[gateway(json!([listener])), route("r", more.clone())])?;
        let accepted = route_said(&kernel, "r").into_iter().next().unwrap_or_default();
        assert_eq!(accepted, expected, "{listener} {more}");
        let served = table(&kernel)["rules"].as_array().is_some_and(|rules| !rules.is_empty());
        assert_eq!(served, expected.contains("True"), "{listener} {more}");
        Ok(())
    };
    let web = || json!({"rules": to("web")});
    let parent =
        |field: &str, value: Value| json!({"rules": to("web"), "parentRefs": [{"name": "edge", "namespace": "infra", field: value}]});
    let named = |hosts: Value| json!({"rules": to("web"), "hostnames": hosts});
    let team = |value: &str| json!({"from": "Selector", "selector": {"matchLabels": {"team": value}}});
    let (yes, elsewhere) = ("Accepted=True/Accepted", "Accepted=False/NotAllowedByListeners");
    check(http("l", "", all()), web(), yes)?;
    check(http("l", "", json!({"from": "Same"})), web(), elsewhere)?;
    check(http("l", "", team("a")), web(), yes)?;
    check(http("l", "", team("b")), web(), elsewhere)?;
    check(http("l", "", all()), parent("sectionName", json!("l")), yes)?;
    check(http("l", "", all()), parent("sectionName", json!("m")), "Accepted=False/NoMatchingParent")?;
    check(http("l", "", all()), parent("port", json!(81)), "Accepted=False/NoMatchingParent")?;
    check(http("l", "*.a.test", all()), named(json!(["x.y.a.test"])), yes)?;
    check(http("l", "*.a.test", all()), named(json!(["*.test"])), yes)?;
    check(http("l", "*.a.test", all()), named(json!(["a.test", "b.test"])), "Accepted=False/NoMatchingListenerHostname")?;
    Ok(())
}

#[test]
fn a_filter_that_is_not_carried_out_answers_500_and_is_told() -> Result<()> {
    let rules = json!([{"filters": [{"type": "ExtensionRef"}], "backendRefs": [{"name": "web", "port": 80}]}]);
    let kernel = kernel(&[gateway(json!([http("l", "", all())])), route("r", json!({"rules": rules}))])?;
    assert_eq!(route_said(&kernel, "r")[0], "Accepted=False/UnsupportedValue");
    assert_eq!(table(&kernel)["rules"], json!([{"listeners": ["l"], "matches": [{"pathType": "Prefix", "path": "/"}]}]));
    Ok(())
}

#[test]
fn other_namespaces_are_named_only_with_a_grant() -> Result<()> {
    let rules = json!([{"backendRefs": [{"name": "db", "namespace": "data", "port": 80}]}]);
    let listener = json!({
        "name": "tls", "port": 443, "protocol": "HTTPS", "hostname": "a.test", "allowedRoutes": {"namespaces": {"from": "All"}},
        "tls": {"certificateRefs": [{"name": "cert", "namespace": "data"}]},
    });
    let mut secret = object("Secret", "data", "cert", json!({}));
    secret["type"] = json!("kubernetes.io/tls");
    let service = object("Service", "data", "db", json!({"ports": [{"port": 80}]}));
    let mut kernel = kernel(&[gateway(json!([listener])), route("r", json!({"rules": rules})), secret, service])?;
    assert_eq!(route_said(&kernel, "r")[1], "ResolvedRefs=False/RefNotPermitted");
    assert_eq!(table(&kernel)["listeners"], json!([]));
    let from = |kind: &str, namespace: &str| json!({"group": GROUP, "kind": kind, "namespace": namespace});
    let grant = |name: &str, from: Value, to: &str| {
        object("ReferenceGrant", "data", name, json!({"from": [from], "to": [{"group": "", "kind": to}]}))
    };
    kernel.put(grant("routes", from("HTTPRoute", "shop"), "Service"))?;
    kernel.put(grant("gateways", from("Gateway", "infra"), "Secret"))?;
    kernel.settle(&mut controller()?)?;
    assert_eq!(route_said(&kernel, "r")[1], "ResolvedRefs=True/ResolvedRefs");
    let spec = table(&kernel);
    assert_eq!(spec["listeners"][0]["certificates"][0]["name"], "cert");
    assert_eq!(spec["rules"][0]["backends"][0]["namespace"], "data");
    Ok(())
}

#[test]
fn listeners_that_cannot_be_served_say_why() -> Result<()> {
    let listeners = json!([
        http("one", "", all()), http("two", "", all()),
        {"name": "tls", "port": 80, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "absent"}]}},
        {"name": "tcp", "port": 90, "protocol": "TCP"},
        {"name": "grpc", "port": 91, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}},
        {"name": "nocert", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "absent"}]}},
    ]);
    let kernel = kernel(&[gateway(listeners)])?;
    let gateway = kernel.get("gateway.networking.k8s.io/gateways", "infra", "edge").cloned().unwrap_or_default();
    let failing = |listener: &Value| -> Vec<String> {
        said(&listener["conditions"]).into_iter().filter(|said| said.contains("=False/") && !said.ends_with("NoConflicts")).collect()
    };
    let found: Vec<Vec<String>> = gateway["status"]["listeners"].as_array().into_iter().flatten().map(failing).collect();
    let expected: [&[&str]; 6] = [
        &[],
        &["Accepted=False/HostnameConflict", "Programmed=False/Invalid"],
        &["Accepted=False/ProtocolConflict", "Programmed=False/Invalid", "ResolvedRefs=False/InvalidCertificateRef"],
        &["Accepted=False/UnsupportedProtocol", "Programmed=False/Invalid"],
        &["ResolvedRefs=False/InvalidRouteKinds"],
        &["Programmed=False/Invalid", "ResolvedRefs=False/InvalidCertificateRef"],
    ];
    assert_eq!(found, expected);
    assert_eq!(said(&gateway["status"]["conditions"]), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    Ok(())
}

#[test]
fn others_entries_in_a_routes_status_stay() -> Result<()> {
    let mut kernel = kernel(&[gateway(json!([http("l", "", all())])), route("r", json!({"rules": to("web")}))])?;
    let other = json!({"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []});
    kernel.edit("gateway.networking.k8s.io/httproutes", "shop", "r", |route| route["status"]["parents"] = json!([other]));
    kernel.settle(&mut controller()?)?;
    let parents =
        kernel.get("gateway.networking.k8s.io/httproutes", "shop", "r").map(|r| r["status"]["parents"].clone()).unwrap_or_default();
    assert_eq!((parents[0].clone(), parents[1]["controllerName"].clone()), (other, json!(CONTROLLER)));
    Ok(())
}

#[test]
fn tables_and_statuses_end_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = kernel(&[gateway(json!([http("l", "", all())])), route("r", json!({"rules": to("web")}))])?;
        kernel.put(route("s", json!({"rules": to("absent"), "hostnames": ["s.test"]})))?;
        kernel.edit("gateway.networking.k8s.io/gateways", "infra", "edge", |gateway| gateway["spec"]["listeners"][0]["port"] = json!(81));
        Ok(kernel)
    };
    Disturbed::new(begin, controller).check()?;
    Ok(())
}

#[test]
fn durations_are_the_apis() {
    for (text, expected) in
        [("1h30m", Some(5_400_000)), ("500ms", Some(500)), ("0s", Some(0)), ("", None), ("5", None), ("s", None), ("1d", None)]
    {
        assert_eq!(translate::milliseconds(text), expected, "{text}");
    }
}
