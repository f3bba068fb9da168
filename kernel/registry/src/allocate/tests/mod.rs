use super::*;

fn allocators() -> Allocators {
    Allocators::new((Ipv4Addr::new(10, 96, 0, 0), 16), (30_000, 30_002))
}

fn check(allocators: &Allocators, mut service: Value, before: Option<&Value>) -> Result<Value, String> {
    let claims = allocators.assign(&mut service, before).map_err(|err| err.to_string())?;
    let _held = claims.hold();
    allocators.observe(before, Some(&service));
    Ok(service)
}

#[test]
fn each_service_gets_an_address_of_its_own() {
    let allocators = allocators();
    let one = check(&allocators, json!({"spec": {}}), None).expect("assigned");
    let two = check(&allocators, json!({"spec": {}}), None).expect("assigned");
    assert_eq!(one["spec"]["clusterIP"], "10.96.1.0");
    assert_eq!(two["spec"]["clusterIPs"], json!(["10.96.1.1"]));
    let asked = json!({"spec": {"clusterIP": "10.96.1.0"}});
    assert!(check(&allocators, asked.clone(), None).expect_err("taken").contains("already allocated"));
    allocators.observe(Some(&one), None);
    check(&allocators, asked, None).expect("free again");
    assert!(check(&allocators, json!({"spec": {"clusterIP": "192.168.0.1"}}), None).is_err());
}

#[test]
fn headless_and_external_services_take_nothing() {
    let allocators = allocators();
    let headless = check(&allocators, json!({"spec": {"clusterIP": "None"}}), None).expect("assigned");
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = check(&allocators, json!({"spec": {"type": "ExternalName"}}), None).expect("assigned");
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert!(allocators.addresses.state.lock().taken.is_empty());
}

#[test]
fn a_dropped_claim_is_free_again() {
    let allocators = allocators();
    let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    drop(allocators.assign(&mut service, None));
    assert!(allocators.addresses.state.lock().taken.is_empty());
    assert!(allocators.ports.state.lock().taken.is_empty());
}

#[test]
fn an_update_keeps_what_it_does_not_mention_and_frees_what_the_type_no_longer_has() {
    let allocators = allocators();
    let node_port = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP", "nodePort": 30_002}]}});
    let first = check(&allocators, node_port.clone(), None).expect("assigned");
    assert_eq!(first["spec"]["ports"][0]["nodePort"], 30_000);
    let again = check(&allocators, node_port, Some(&first)).expect("assigned");
    assert_eq!(again, first);
    let mut plain = first.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    let plain = check(&allocators, plain, Some(&first)).expect("assigned");
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert!(allocators.ports.state.lock().taken.is_empty());
    let external = check(&allocators, json!({"spec": {"type": "ExternalName", "clusterIP": plain["spec"]["clusterIP"]}}), Some(&plain))
        .expect("assigned");
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert!(allocators.addresses.state.lock().taken.is_empty());
}

#[test]
fn a_balanced_service_whose_traffic_stays_on_its_node_has_a_port_for_health_checks() {
    let allocators = allocators();
    let spec = |policy: &str| json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": [{"port": 80, "protocol": "TCP"}]}});
    let local = check(&allocators, spec("Local"), None).expect("assigned");
    assert_eq!((&local["spec"]["ports"][0]["nodePort"], &local["spec"]["healthCheckNodePort"]), (&json!(30_000), &json!(30_001)));
    assert_eq!(check(&allocators, spec("Local"), Some(&local)).expect("kept"), local);
    let mut cluster = local.clone();
    cluster["spec"]["externalTrafficPolicy"] = json!("Cluster");
    let cluster = check(&allocators, cluster, Some(&local)).expect("assigned");
    assert_eq!(cluster["spec"].get("healthCheckNodePort"), None);
    assert_eq!(allocators.ports.state.lock().taken, [30_000].into());
    let mut asked = spec("Local");
    asked["spec"]["healthCheckNodePort"] = json!(30_000);
    assert!(check(&allocators, asked, None).expect_err("taken").contains("already allocated"));
}

#[test]
fn ranges_that_are_added_are_used_when_the_first_is_full_and_foreign_addresses_are_taken() {
    let allocators = Allocators::new((Ipv4Addr::new(10, 96, 0, 0), 30), (30_000, 30_002));
    let range = json!({"kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/29", "fd00::/64"]}});
    let foreign =
        json!({"kind": "IPAddress", "metadata": {"name": "10.97.0.1"}, "spec": {"parentRef": {"resource": "gateways", "name": "g"}}});
    let ours =
        json!({"kind": "IPAddress", "metadata": {"name": "10.97.0.2"}, "spec": {"parentRef": {"resource": "services", "name": "s"}}});
    let next = || check(&allocators, json!({"spec": {}}), None).map(|service| service["spec"]["clusterIP"].to_string());
    assert_eq!((next(), next()), (Ok("\"10.96.0.1\"".into()), Ok("\"10.96.0.2\"".into())));
    assert!(next().expect_err("full").contains("range is full"));
    [&range, &foreign, &ours].into_iter().for_each(|object| allocators.observe(None, Some(object)));
    assert_eq!(next(), Ok("\"10.97.0.2\"".into()));
    check(&allocators, json!({"spec": {"clusterIP": "10.97.0.6"}}), None).expect("in the added range");
    let mut going = range.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    allocators.observe(Some(&range), Some(&going));
    assert!(next().expect_err("full again").contains("range is full"));
}
