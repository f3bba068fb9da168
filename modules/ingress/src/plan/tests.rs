use super::*;
use crate::Ingresses;
use pintle_sdk::testing::{Disturbed, FakeKernel};

fn controller() -> Result<Ingresses> {
    Ok(Ingresses { config: Config::default() })
}

fn node(name: &str, address: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

fn ingress(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn class(name: &str, controller: &str, default: bool) -> Value {
    let annotations = if default { json!({DEFAULT_CLASS: "true"}) } else { json!({}) };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name, "annotations": annotations},
        "spec": {"controller": controller},
    })
}

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop"}, "data": {"tls.key": value}})
}

fn kernel(objects: &[Value]) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(include_str!("../../module.json"))?;
    for object in
        [node("n2", "192.0.2.2", "True"), node("n1", "192.0.2.1", "True"), node("n3", "192.0.2.3", "Unknown")].iter().chain(objects)
    {
        kernel.put(object.clone())?;
    }
    Ok(kernel)
}

fn spec(class: Option<&str>) -> Value {
    let backend = |name: &str, port: Value| json!({"service": {"name": name, "port": port}});
    json!({
        "ingressClassName": class,
        "tls": [{"hosts": ["a.example", "*.b.example"], "secretName": "tls"}],
        "rules": [
            {"host": "a.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": backend("web", json!({"number": 80}))},
                {"path": "/api", "pathType": "Exact", "backend": backend("api", json!({"name": "http"}))},
            ]}},
            {"http": {"paths": [{"pathType": "ImplementationSpecific", "backend": {"resource": {"kind": "Bucket", "name": "x"}}}]}},
            {"host": "empty.example"},
        ],
        "defaultBackend": backend("rest", json!({"number": 8080})),
    })
}

#[test]
fn an_ingress_becomes_a_table_of_routes() -> Result<()> {
    let mut kernel = kernel(&[ingress("web", spec(Some("pintle"))), secret("tls", "k"), secret("other", "k")])?;
    kernel.settle(&mut controller()?)?;
    let version = kernel.get("/secrets", "shop", "tls").map(|s| s["metadata"]["resourceVersion"].clone());
    let table = kernel.get("pintle.dev/routetables", "shop", "web").cloned().unwrap_or_default();
    assert_eq!(table["metadata"]["ownerReferences"][0]["kind"], "Ingress");
    let certificates = json!([{"namespace": "shop", "name": "tls", "resourceVersion": version}]);
    let listener =
        |name: &str, host: &str| json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": host, "certificates": certificates});
    assert_eq!(
        table["spec"]["listeners"],
        json!([{"name": "http", "port": 80, "protocol": "HTTP"}, listener("https-0-0", "a.example"), listener("https-0-1", "*.b.example")])
    );
    let at = |kind: &str, path: &str| json!([{"pathType": kind, "path": path}]);
    assert_eq!(
        table["spec"]["rules"],
        json!([
            {"hosts": ["a.example"], "matches": at("Prefix", "/"), "backends": [{"namespace": "shop", "service": "web", "port": 80}]},
            {"hosts": ["a.example"], "matches": at("Exact", "/api"), "backends": [{"namespace": "shop", "service": "api", "portName": "http"}]},
            {"matches": at("Prefix", "/")},
            {"backends": [{"namespace": "shop", "service": "rest", "port": 8080}]},
        ])
    );
    let status = kernel.get("networking.k8s.io/ingresses", "shop", "web").map(|i| i["status"].clone());
    assert_eq!(status, Some(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]}})));
    assert_eq!(kernel.events.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>(), ["BackendNotSupported"]);
    Ok(())
}

#[test]
fn a_secret_that_comes_or_changes_is_told_to_the_nodes() -> Result<()> {
    let mut kernel = kernel(&[ingress("web", spec(Some("pintle")))])?;
    kernel.settle(&mut controller()?)?;
    let shown = |kernel: &FakeKernel| {
        let table = kernel.get("pintle.dev/routetables", "shop", "web");
        table.and_then(|table| table.pointer("/spec/listeners/1/certificates/0/resourceVersion").cloned())
    };
    assert_eq!(shown(&kernel), None);
    assert!(kernel.events.iter().any(|event| event.reason == "SecretNotFound"));
    kernel.put(secret("tls", "k"))?;
    kernel.settle(&mut controller()?)?;
    let first = shown(&kernel);
    assert!(first.is_some());
    kernel.put(secret("tls", "another"))?;
    kernel.settle(&mut controller()?)?;
    assert_ne!(shown(&kernel), first);
    Ok(())
}

#[test]
fn the_class_decides_whose_an_ingress_is() -> Result<()> {
    let check = |class_name: Option<&str>, legacy: Option<&str>, classes: &[Value], expected: bool| -> Result<()> {
        let mut object = ingress("web", json!({"ingressClassName": class_name}));
        if let Some(legacy) = legacy {
            object["metadata"]["annotations"] = json!({LEGACY_CLASS: legacy});
        }
        let mut kernel = kernel(&[&[object], classes].concat())?;
        kernel.settle(&mut controller()?)?;
        assert_eq!(kernel.get("pintle.dev/routetables", "shop", "web").is_some(), expected, "{class_name:?} {legacy:?} {classes:?}");
        Ok(())
    };
    let (ours, theirs) = (|name, default| class(name, CONTROLLER, default), |name, default| class(name, "k8s.io/ingress-nginx", default));
    check(Some("pintle"), None, &[], true)?;
    check(Some("pintle"), None, &[theirs("pintle", false)], false)?;
    check(Some("edge"), None, &[ours("edge", false)], true)?;
    check(Some("edge"), None, &[], false)?;
    check(Some("nginx"), None, &[theirs("nginx", false), ours("edge", true)], false)?;
    check(None, Some("pintle"), &[], true)?;
    check(None, Some("nginx"), &[ours("edge", true)], false)?;
    check(None, None, &[ours("edge", false)], false)?;
    check(None, None, &[ours("edge", true)], true)?;
    check(None, None, &[theirs("nginx", true)], false)
}

#[test]
fn an_ingress_that_becomes_anothers_leaves_nothing_of_ours() -> Result<()> {
    let mut kernel = kernel(&[ingress("web", spec(Some("pintle")))])?;
    kernel.settle(&mut controller()?)?;
    kernel.edit("networking.k8s.io/ingresses", "shop", "web", |ingress| ingress["spec"]["ingressClassName"] = json!("nginx"));
    kernel.settle(&mut controller()?)?;
    assert_eq!(kernel.list("pintle.dev/routetables").len(), 0);
    let status = kernel.get("networking.k8s.io/ingresses", "shop", "web").map(|i| i["status"]["loadBalancer"].clone());
    assert_eq!(status, Some(json!({})));
    Ok(())
}

#[test]
fn a_table_that_is_not_ours_is_left_alone() -> Result<()> {
    let table = json!({"apiVersion": "pintle.dev/v1", "kind": "RouteTable", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"rules": []}});
    let mut kernel = kernel(&[ingress("web", spec(Some("pintle"))), table])?;
    kernel.round(&mut controller()?)?;
    assert_eq!(kernel.get("pintle.dev/routetables", "shop", "web").map(|t| t["spec"].clone()), Some(json!({"rules": []})));
    assert!(kernel.events.iter().any(|event| event.reason == "TableTaken"));
    Ok(())
}

#[test]
fn tables_and_statuses_end_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = kernel(&[ingress("web", spec(Some("pintle"))), ingress("more", spec(Some("edge"))), secret("tls", "k")])?;
        kernel.settle(&mut controller()?)?;
        kernel.put(class("edge", CONTROLLER, false))?;
        kernel.edit("networking.k8s.io/ingresses", "shop", "web", |ingress| ingress["spec"]["tls"] = json!([]));
        Ok(kernel)
    };
    Disturbed::new(begin, controller).check()?;
    Ok(())
}
