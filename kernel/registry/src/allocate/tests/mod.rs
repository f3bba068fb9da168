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
