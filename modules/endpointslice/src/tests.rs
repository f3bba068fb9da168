//! The controller against a kernel in memory.

use super::*;
use crate::EndpointSlices;
use pintle_sdk::testing::FakeKernel;

const SLICES: &str = "discovery.k8s.io/endpointslices";

fn kernel(service: Value) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    kernel.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "labels": {"team": "a"}}, "spec": service}))?;
    Ok(kernel)
}

fn web(ports: Value) -> Value {
    json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "ports": ports})
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

#[test]
fn a_service_of_both_families_has_a_slice_of_each_and_one_that_gives_a_family_up_has_not() -> Result<()> {
    let mut spec = web(json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]));
    spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
    let mut kernel = kernel(spec)?;
    let mut both = pod("a", "10.0.0.1", true);
    both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    kernel.put(both)?;
    kernel.put(pod("b", "10.0.0.2", true))?;
    let shown = |kernel: &FakeKernel| -> std::collections::BTreeMap<String, usize> {
        let of = |slice: &&Value| {
            (slice["addressType"].as_str().unwrap_or_default().to_owned(), slice["endpoints"].as_array().map_or(0, Vec::len))
        };
        kernel.list(SLICES).iter().map(of).collect()
    };
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(shown(&kernel), [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)].into());
    kernel.edit("/services", "shop", "web", |service| service["spec"]["ipFamilies"] = json!(["IPv6"]));
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(shown(&kernel), [("IPv6".to_owned(), 1)].into());
    Ok(())
}

/// Address, ready, serving, terminating of every endpoint, slice by slice.
fn shown(kernel: &FakeKernel) -> Vec<Vec<String>> {
    let flag = |value: &Value| if value == true { 'y' } else { 'n' };
    let endpoint = |e: &Value| {
        let c = &e["conditions"];
        format!(
            "{} {}{}{}",
            e["addresses"][0].as_str().unwrap_or_default(),
            flag(&c["ready"]),
            flag(&c["serving"]),
            flag(&c["terminating"])
        )
    };
    kernel.list(SLICES).iter().map(|slice| slice["endpoints"].as_array().into_iter().flatten().map(endpoint).collect()).collect()
}

#[test]
fn a_slice_tells_ready_serving_and_terminating_apart() -> Result<()> {
    let mut kernel = kernel(web(json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}])))?;
    for (name, ip, ready) in [("a", "10.0.0.1", true), ("b", "10.0.0.2", false), ("c", "10.0.0.3", true)] {
        kernel.put(pod(name, ip, ready))?;
    }
    kernel.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "shop", "labels": {"app": "x"}}, "status": {"podIPs": [{"ip": "10.0.0.9"}]}}))?;
    kernel.edit("/pods", "shop", "c", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(
        shown(&kernel).concat().into_iter().collect::<std::collections::BTreeSet<_>>(),
        ["10.0.0.1 yyn", "10.0.0.2 nnn", "10.0.0.3 nyy"].map(str::to_owned).into()
    );
    let slice = kernel.list(SLICES)[0];
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(
        (&slice["metadata"]["labels"]["kubernetes.io/service-name"], &slice["metadata"]["labels"]["team"]),
        (&json!("web"), &json!("a"))
    );
    assert_eq!(slice["endpoints"][0]["nodeName"], "n1");
    let old = kernel.get("/endpoints", "shop", "web").expect("endpoints");
    assert_eq!(old["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
    assert_eq!(
        (old["subsets"][0]["addresses"].as_array().map(Vec::len), &old["subsets"][0]["notReadyAddresses"][0]["ip"]),
        (Some(1), &json!("10.0.0.2"))
    );
    Ok(())
}

#[test]
fn a_pods_change_is_one_write_to_the_slice_it_is_in() -> Result<()> {
    let mut kernel = kernel(web(json!([{"port": 80}])))?;
    for n in 0..250 {
        kernel.put(pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 200, n % 200 + 1), true))?;
    }
    kernel.settle(&mut EndpointSlices)?;
    let sizes: Vec<usize> = shown(&kernel).iter().map(Vec::len).collect();
    assert_eq!((sizes.iter().sum::<usize>(), sizes.len(), sizes.iter().max()), (250, 3, Some(&100)));
    let before = kernel.writes.len();
    kernel.edit("/pods", "shop", "p7", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    kernel.settle(&mut EndpointSlices)?;
    let slices = kernel.writes[before..].iter().filter(|w| w.target.resource == "endpointslices").count();
    assert_eq!(slices, 1);
    for n in 0..200 {
        kernel.remove("/pods", "shop", &format!("p{n}"));
    }
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(shown(&kernel).concat().len(), 50);
    Ok(())
}

#[test]
fn without_endpoints_one_empty_slice_is_left_and_without_the_service_nothing() -> Result<()> {
    let mut kernel = kernel(web(json!([{"port": 80}])))?;
    kernel.put(pod("a", "10.0.0.1", true))?;
    kernel.settle(&mut EndpointSlices)?;
    kernel.edit("/pods", "shop", "a", |pod| pod["status"]["phase"] = json!("Succeeded"));
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(shown(&kernel), [Vec::<String>::new()]);
    kernel.remove("/services", "shop", "web");
    kernel.settle(&mut EndpointSlices)?;
    assert!(kernel.get("/endpoints", "shop", "web").is_none());
    Ok(())
}

#[test]
fn pods_whose_named_port_differs_are_in_slices_of_their_own() -> Result<()> {
    let mut kernel = kernel(web(json!([{"port": 80, "targetPort": "http"}])))?;
    kernel.put(pod("a", "10.0.0.1", true))?;
    kernel.put(pod("b", "10.0.0.2", true))?;
    kernel.edit("/pods", "shop", "b", |pod| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090));
    kernel.settle(&mut EndpointSlices)?;
    let ports: std::collections::BTreeSet<u64> = kernel.list(SLICES).iter().filter_map(|s| s["ports"][0]["port"].as_u64()).collect();
    assert_eq!(ports, [8080, 9090].into());
    assert_eq!(kernel.get("/endpoints", "shop", "web").and_then(|e| e["subsets"].as_array().map(Vec::len)), Some(2));
    Ok(())
}

#[test]
fn hostnames_are_said_where_the_subdomain_is_the_service_and_unready_ones_where_asked() -> Result<()> {
    let mut spec = web(json!([]));
    spec["clusterIP"] = json!("None");
    spec["publishNotReadyAddresses"] = json!(true);
    let mut kernel = kernel(spec)?;
    kernel.put(pod("a", "10.0.0.1", false))?;
    kernel.edit("/pods", "shop", "a", |pod| {
        pod["spec"]["hostname"] = json!("first");
        pod["spec"]["subdomain"] = json!("web");
    });
    kernel.settle(&mut EndpointSlices)?;
    let slice = kernel.list(SLICES)[0];
    assert_eq!((&slice["endpoints"][0]["hostname"], &slice["endpoints"][0]["conditions"]["ready"]), (&json!("first"), &json!(true)));
    assert_eq!(slice["metadata"]["labels"][crate::slices::HEADLESS], "");
    Ok(())
}

#[test]
fn services_without_a_selector_are_left_to_others() -> Result<()> {
    let mut kernel = kernel(json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}))?;
    kernel.put(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "shop"}, "subsets": [{"addresses": [{"ip": "1.2.3.4"}]}]}))?;
    kernel.settle(&mut EndpointSlices)?;
    assert!(kernel.writes.is_empty());
    Ok(())
}

#[test]
fn a_crash_after_any_write_and_an_old_view_lose_no_endpoint() -> Result<()> {
    for crash in 0..4 {
        let mut kernel = kernel(web(json!([{"port": 80}])))?;
        kernel.put(pod("a", "10.0.0.1", true))?;
        kernel.crash_after(crash);
        let _ = kernel.settle(&mut EndpointSlices)?;
        kernel.freeze_view();
        kernel.put(pod("b", "10.0.0.2", true))?;
        let _ = kernel.round(&mut EndpointSlices)?;
        kernel.thaw_view();
        while kernel.settle(&mut EndpointSlices)? == pintle_sdk::testing::Round::Crashed {}
        assert_eq!(shown(&kernel).concat().len(), 2, "after {crash} writes");
    }
    Ok(())
}

#[test]
fn traffic_that_is_to_stay_near_gets_hints_at_what_is_ready() -> Result<()> {
    let check = |distribution: Value, expected: &[Value]| -> Result<()> {
        let mut spec = web(json!([{"port": 80}]));
        if !distribution.is_null() {
            spec["trafficDistribution"] = distribution;
        }
        let mut kernel = kernel(spec)?;
        let labels = json!({"topology.kubernetes.io/zone": "a"});
        kernel.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}}))?;
        for (name, ip, ready) in [("a", "10.0.0.1", true), ("b", "10.0.0.2", false)] {
            kernel.put(pod(name, ip, ready))?;
        }
        kernel.settle(&mut EndpointSlices)?;
        let slice = kernel.list(SLICES)[0];
        let mut said: Vec<(String, Value, Value)> = Vec::new();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            said.push((endpoint["addresses"][0].to_string(), endpoint["zone"].clone(), endpoint["hints"].clone()));
        }
        said.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(said.iter().map(|(_, zone, _)| zone).collect::<Vec<_>>(), ["a", "a"]);
        assert_eq!(said.into_iter().map(|(_, _, hints)| hints).collect::<Vec<_>>(), expected);
        Ok(())
    };
    let zone = json!([{"name": "a"}]);
    check(Value::Null, &[Value::Null, Value::Null])?;
    check(json!("PreferSameZone"), &[json!({"forZones": zone}), Value::Null])?;
    check(json!("PreferClose"), &[json!({"forZones": zone}), Value::Null])?;
    check(json!("PreferSameNode"), &[json!({"forZones": zone, "forNodes": [{"name": "n1"}]}), Value::Null])
}

#[test]
fn a_service_that_asks_for_it_has_its_endpoints_shared_by_processors() -> Result<()> {
    let mut kernel = kernel(web(json!([{"port": 80}])))?;
    kernel.edit("/services", "shop", "web", |service| {
        service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"})
    });
    for (name, zone) in [("n1", "a"), ("n2", "b")] {
        let status = json!({"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]});
        let labels = json!({"topology.kubernetes.io/zone": zone});
        kernel.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}))?;
    }
    let hints = |kernel: &FakeKernel| {
        let all = kernel.list(SLICES)[0]["endpoints"].as_array().cloned().unwrap_or_default();
        let mut zones: Vec<String> = all.iter().map(|e| e["hints"]["forZones"][0]["name"].as_str().unwrap_or("-").to_owned()).collect();
        zones.sort();
        zones
    };
    kernel.put(pod("a", "10.0.0.1", true))?;
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(hints(&kernel), ["-"], "one endpoint cannot be shared by two zones");
    for (name, ip) in [("b", "10.0.0.2"), ("c", "10.0.0.3"), ("d", "10.0.0.4")] {
        kernel.put(pod(name, ip, true))?;
    }
    kernel.settle(&mut EndpointSlices)?;
    assert_eq!(hints(&kernel), ["a", "a", "b", "b"]);
    Ok(())
}
