use super::*;

fn of_ranges(text: &str) -> Allocators {
    Allocators::new(&Network::list(text).expect("ranges"), (30_000, 30_002))
}

fn taken(pool: Option<&Pool>) -> Vec<Number> {
    pool.into_iter().flat_map(|pool| pool.state.lock().taken.clone()).collect()
}

fn allocators() -> Allocators {
    of_ranges("10.96.0.0/16")
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
    assert!(taken(allocators.of_family("IPv4")).is_empty());
}

#[test]
fn a_dropped_claim_is_free_again() {
    let allocators = allocators();
    let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    drop(allocators.assign(&mut service, None));
    assert!(taken(allocators.of_family("IPv4")).is_empty());
    assert!(taken(Some(&allocators.ports)).is_empty());
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
    assert!(taken(Some(&allocators.ports)).is_empty());
    let external = check(&allocators, json!({"spec": {"type": "ExternalName", "clusterIP": plain["spec"]["clusterIP"]}}), Some(&plain))
        .expect("assigned");
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert!(taken(allocators.of_family("IPv4")).is_empty());
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
    assert_eq!(taken(Some(&allocators.ports)), [30_000]);
    let mut asked = spec("Local");
    asked["spec"]["healthCheckNodePort"] = json!(30_000);
    assert!(check(&allocators, asked, None).expect_err("taken").contains("already allocated"));
}

#[test]
fn ranges_that_are_added_are_used_when_the_first_is_full_and_foreign_addresses_are_taken() {
    let allocators = of_ranges("10.96.0.0/30");
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

/// A row of Services: what is asked for, and families, policy and number of addresses that it comes to, or the field that is refused.
fn families(allocators: &Allocators, spec: Value, expected: Result<(&[&str], &str, usize), &str>) {
    let shown = |service: Value| {
        let spec = service["spec"].as_object().cloned().unwrap_or_default();
        (texts(&spec, "ipFamilies"), text(&spec, "ipFamilyPolicy").unwrap_or_default().to_owned(), texts(&spec, "clusterIPs").len())
    };
    let found = check(allocators, json!({ "spec": spec }), None).map(shown);
    match (&found, expected) {
        (Ok((families, policy, count)), Ok(expected)) => assert_eq!(
            (families, policy.as_str(), *count),
            (&expected.0.iter().map(|f| (*f).to_owned()).collect(), expected.1, expected.2),
            "{spec}"
        ),
        (Err(error), Err(part)) => assert!(error.contains(part), "{spec}: {error}"),
        _ => panic!("{spec}: {found:?}"),
    }
}

#[test]
fn families_follow_the_policy_the_addresses_and_the_cluster() {
    let (one, two) = (allocators(), of_ranges("10.96.0.0/16,fd00::/112"));
    let policy = |policy: &str| json!({ "ipFamilyPolicy": policy });
    families(&one, json!({}), Ok((&["IPv4"], "SingleStack", 1)));
    families(&one, policy("PreferDualStack"), Ok((&["IPv4"], "PreferDualStack", 1)));
    families(&one, policy("RequireDualStack"), Err("not configured for dual-stack services"));
    families(&one, json!({ "ipFamilies": ["IPv6"] }), Err("spec.ipFamilies[0]"));
    families(&one, json!({ "clusterIP": "fd00::5" }), Err("IPv6 is not configured on this cluster"));
    families(&one, json!({ "clusterIP": "None" }), Ok((&["IPv4", "IPv6"], "RequireDualStack", 1)));
    families(&one, json!({ "clusterIP": "None", "selector": { "a": "b" } }), Ok((&["IPv4"], "SingleStack", 1)));
    families(&two, json!({}), Ok((&["IPv4"], "SingleStack", 1)));
    families(&two, json!({ "ipFamilies": ["IPv6"] }), Ok((&["IPv6"], "SingleStack", 1)));
    families(&two, json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack" }), Ok((&["IPv6", "IPv4"], "PreferDualStack", 2)));
    families(&two, policy("RequireDualStack"), Ok((&["IPv4", "IPv6"], "RequireDualStack", 2)));
    families(&two, json!({ "ipFamilies": ["IPv4", "IPv6"] }), Err("when multiple IP families are specified"));
    families(&two, json!({ "clusterIP": "fd00::7" }), Ok((&["IPv6"], "SingleStack", 1)));
    families(&two, json!({ "clusterIP": "fd00::8", "ipFamilies": ["IPv4"] }), Err("expected an IPv4 value"));
    families(&two, json!({ "clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.4"] }), Err("first value must match"));
    let both =
        |second: &str| json!({ "clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3", second], "ipFamilyPolicy": "RequireDualStack" });
    families(&two, both("10.96.0.4"), Err("no more than one IP for each IP family"));
    families(&two, both("fd00::9"), Ok((&["IPv4", "IPv6"], "RequireDualStack", 2)));
    families(&two, both("fd00::9"), Err("already allocated"));
    families(
        &two,
        json!({ "clusterIP": "None", "selector": { "a": "b" }, "ipFamilyPolicy": "PreferDualStack" }),
        Ok((&["IPv4", "IPv6"], "PreferDualStack", 1)),
    );
}

#[test]
fn a_second_address_comes_and_goes_and_the_first_stays() {
    let allocators = of_ranges("10.96.0.0/16,fd00::/112");
    let first = check(&allocators, json!({"spec": {}}), None).expect("assigned");
    let mut more = first.clone();
    more["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    let more = check(&allocators, more, Some(&first)).expect("a second one");
    assert_eq!(more["spec"]["clusterIPs"], json!(["10.96.1.0", "fd00::100"]));
    let mut short = more.clone();
    short["spec"]["clusterIPs"] = json!(["10.96.1.0"]);
    assert!(
        check(&allocators, short.clone(), Some(&more))
            .expect_err("refused")
            .contains("must be 'SingleStack' to release the secondary cluster IP")
    );
    let put = json!({"spec": {"clusterIP": "10.96.1.0"}});
    assert_eq!(check(&allocators, put, Some(&more)).expect("kept"), more, "who does not speak of the second one keeps it");
    let mut single = more.clone();
    single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    let single = check(&allocators, single, Some(&more)).expect("one again");
    assert_eq!(single, first);
    assert!(taken(allocators.of_family("IPv6")).is_empty());
}
