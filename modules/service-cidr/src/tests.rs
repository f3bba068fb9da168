//! The controllers against a kernel in memory.

use super::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
const RANGES: &str = "networking.k8s.io/servicecidrs";

fn kernel(objects: &[Value]) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    objects.iter().try_for_each(|object| kernel.put(object.clone()).map(drop))?;
    Ok(kernel)
}

fn service(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": address}})
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}

/// `address: whose` of every object.
fn shown(kernel: &FakeKernel) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    kernel.list(ADDRESSES).iter().map(|a| format!("{}: {}", text(&a["metadata"]["name"]), text(&a["spec"]["parentRef"]["name"]))).collect()
}

#[test]
fn an_address_is_shown_while_a_service_has_it() -> Result<()> {
    let mut kernel = kernel(&[range("all", "10.96.0.0/16"), service("web", "10.96.0.5"), service("headless", "None"), service("out", "")])?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.5: web"]);
    assert_eq!(kernel.list(ADDRESSES)[0]["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    kernel.remove("/services", "shop", "web");
    kernel.put(service("next", "10.96.0.5"))?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.5: next"]);
    kernel.remove("/services", "shop", "next");
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), [""; 0]);
    Ok(())
}

#[test]
fn a_service_of_both_families_has_two_addresses_and_keeps_both_ranges() -> Result<()> {
    let mut both = service("web", "10.96.0.5");
    both["spec"]["clusterIPs"] = json!(["10.96.0.5", "fd00::5"]);
    let mut kernel = kernel(&[range("all", "10.96.0.0/16"), both])?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.5: web", "fd00::5: web"]);
    assert_eq!(kernel.list(ADDRESSES)[1]["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv6");
    kernel.edit("/services", "shop", "web", |service| service["spec"]["clusterIPs"] = json!(["10.96.0.5"]));
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.5: web"]);
    Ok(())
}

#[test]
fn an_address_that_somebody_else_made_stays() -> Result<()> {
    let foreign = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.96.0.9"},
        "spec": {"parentRef": {"group": "example.com", "resource": "gateways", "name": "edge"}},
    });
    let mut kernel = kernel(&[foreign])?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.9: edge"]);
    kernel.put(service("late", "10.96.0.9"))?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.9: edge"]);
    assert!(kernel.events.iter().any(|event| event.reason == "AddressTaken"));
    Ok(())
}

#[test]
fn a_range_is_ready_and_goes_when_no_address_needs_it() -> Result<()> {
    let mut kernel = kernel(&[range("more", "10.97.0.0/24"), service("web", "10.97.0.5")])?;
    kernel.settle(&mut ServiceCidrs)?;
    let ready = |kernel: &FakeKernel| kernel.get(RANGES, "", "more").map(|range| range["status"]["conditions"][0]["status"].clone());
    let held = |kernel: &FakeKernel| {
        kernel.get(RANGES, "", "more").is_some_and(|range| range["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()))
    };
    assert_eq!((ready(&kernel), held(&kernel)), (Some(json!("True")), true));
    kernel.edit(RANGES, "", "more", |range| range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!((ready(&kernel), held(&kernel)), (Some(json!("False")), true));
    kernel.put(range("wider", "10.97.0.0/16"))?;
    kernel.settle(&mut ServiceCidrs)?;
    assert!(!held(&kernel), "another range has the address");
    Ok(())
}

#[test]
fn addresses_of_services_that_were_there_before_are_shown_by_way_of_the_ranges() -> Result<()> {
    let mut kernel = kernel(&[service("web", "10.96.0.5"), service("headless", "None"), range("first", "10.96.0.0/16")])?;
    kernel.settle(&mut ServiceCidrs)?;
    assert_eq!(shown(&kernel), ["10.96.0.5: web"]);
    Ok(())
}

#[test]
fn addresses_end_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = kernel(&[])?;
        kernel.put(service("a", "10.96.0.1"))?;
        kernel.put(service("b", "10.96.0.2"))?;
        kernel.settle(&mut ServiceCidrs)?;
        kernel.remove("/services", "shop", "a");
        kernel.put(service("c", "10.96.0.1"))?;
        kernel.put(service("d", "10.96.0.3"))?;
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(ServiceCidrs)).check()?;
    Ok(())
}

#[test]
fn a_range_that_goes_while_its_addresses_change_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = kernel(&[range("all", "10.96.0.0/16"), range("more", "10.97.0.0/24"), service("a", "10.97.0.1")])?;
        kernel.settle(&mut ServiceCidrs)?;
        kernel.edit(RANGES, "", "more", |range| range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        kernel.put(service("b", "10.96.0.2"))?;
        kernel.remove("/services", "shop", "a");
        kernel.put(range("late", "10.98.0.0/24"))?;
        kernel.put(service("c", "10.98.0.3"))?;
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(ServiceCidrs)).check()?;
    Ok(())
}
