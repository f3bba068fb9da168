//! What of the network is neither a Service's plain way nor a policy: health checks, traffic that stays near, address objects, bandwidth.
//! A Deployment of its own, with a replica on each of two nodes.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, process::Command, time::Duration};

pub const TESTS: &[Test] = &[
    ("network_pods_are_held_to_the_bandwidth_that_they_ask_for", bandwidth),
    ("network_health_checks_count_the_endpoints_of_a_node", health_checks),
    ("network_traffic_stays_on_its_node_or_in_its_zone_where_a_service_prefers_that", near),
    ("network_addresses_of_services_are_objects_and_ranges_can_be_added", addresses),
];

const MINUTE: Duration = Duration::from_secs(60);
/// Nodes and zones; there are servers on the first two.
const NODES: [(&str, &str); 3] = [("node-1", "a"), ("node-2", "b"), ("node-3", "b")];

fn pod(name: &str, node: &str, app: &str, annotations: &Value) -> Value {
    let script = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": app }, "annotations": annotations },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script],
                "readinessProbe": { "httpGet": { "port": 8080, "path": "/" }, "periodSeconds": 1 },
            }],
        },
    })
}

fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "selector": { "app": "near" }, "ports": [{ "port": 80, "targetPort": 8080 }] });
    spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

fn apply(setup: &Setup, objects: &[Value]) -> Outcome {
    setup.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
    Ok(())
}

fn bandwidth(setup: &Setup) -> Outcome {
    let limits = json!({ "kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M" });
    let bad = json!({ "kubernetes.io/egress-bandwidth": "fast" });
    let mut pods: Vec<Value> = NODES[..2].iter().map(|(node, _)| pod(&format!("server-{node}"), node, "near", &limits)).collect();
    pods.extend(NODES.iter().map(|(node, _)| pod(&format!("asker-{node}"), node, "asker", &json!({}))));
    apply(setup, &[&pods[..], &[pod("unlimited", "node-3", "bad", &bad)]].concat())?;
    setup.kubectl.wait_for("the pods are ready", &["pods", "-l", "app in (near,asker)"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == 5 { Ok(()) } else { Err(format!("{ready} of 5")) }
    })?;
    // On the machine's side what the pod gets, on its own what it sends.
    let outside = run(setup.cluster.in_node("node-1")?.args(["tc", "qdisc", "show"]))?;
    ensure!(outside.contains("tbf") && outside.contains("rate 8Mbit"), "{outside}");
    let uid = setup.kubectl.get(&["pod", "server-node-1"])?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let inside = crate::datagrams::inside(&uid, || run(Command::new("tc").args(["qdisc", "show", "dev", "eth0"])))?;
    let inside = inside.join().map_err(|_| "tc panicked")??;
    ensure!(inside.contains("rate 16Mbit"), "{inside}");
    setup.kubectl.wait_for("the pod that asks for nonsense is told", &["events"], MINUTE, |l| {
        let said = items(l).iter().any(|e| {
            let message = e["message"].as_str().unwrap_or_default();
            e["involvedObject"]["name"] == "unlimited" && message.contains("egress-bandwidth")
        });
        if said { Ok(()) } else { Err(format!("{} events", items(l).len())) }
    })?;
    setup.kubectl.run(&["delete", "pod", "unlimited", "--timeout=60s"]).map(drop).map_err(Into::into)
}

fn node_address(setup: &Setup, node: &str) -> Result<String, Box<dyn std::error::Error>> {
    let found = setup.kubectl.get(&["node", node])?;
    Ok(found["status"]["addresses"][0]["address"].as_str().ok_or("no address")?.to_owned())
}

fn health_checks(setup: &Setup) -> Outcome {
    apply(setup, &[service("checked", &json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" }))])?;
    let found = setup.kubectl.get(&["service", "checked"])?;
    let (port, outside) = (found["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0), found["spec"]["ports"][0]["nodePort"].clone());
    ensure!(port >= 30_000, "no health check port: {}", found["spec"]);
    for (node, expected) in [("node-1", "1 200"), ("node-2", "1 200"), ("node-3", "0 503")] {
        let url = format!("http://{}:{port}/healthz", node_address(setup, node)?);
        eventually("the node tells how many endpoints it has", MINUTE, || {
            let printed =
                run(Command::new("curl").args(["-sS", "--max-time", "5", "-w", " %{http_code}", &url])).map_err(|e| e.to_string())?;
            let (body, code) = printed.rsplit_once(' ').unwrap_or_default();
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            let said = format!("{} {code}", body["localEndpoints"]);
            if said == expected && body["service"]["name"] == "checked" { Ok(()) } else { Err(format!("{node}: {printed}")) }
        })?;
    }
    // A node without endpoints serves those inside all the same.
    let url = format!("http://{}:{outside}/", node_address(setup, "node-3")?);
    asks(setup, "node-3", &url, &["server-node-1", "server-node-2"])?;
    let refused = run(Command::new("curl").args(["-sS", "--max-time", "2", &url]));
    ensure!(refused.is_err(), "from outside: {refused:?}");
    setup.kubectl.run(&["delete", "service", "checked"])?;
    let url = format!("http://{}:{port}/healthz", node_address(setup, "node-1")?);
    eventually("the port is closed", MINUTE, || match run(Command::new("curl").args(["-sS", "--max-time", "5", &url])) {
        Err(_) => Ok(()),
        Ok(printed) => Err(printed),
    })?;
    Ok(())
}

/// Waits until thirty requests from a pod of a node are answered by exactly these.
fn asks(setup: &Setup, node: &str, url: &str, expected: &[&str]) -> Outcome {
    let script = format!("for i in $(seq 30); do timeout 3 wget -q -O - {url} || echo FAILED; done");
    eventually("the endpoints answer", MINUTE, || {
        let printed = setup.kubectl.run(&["exec", &format!("asker-{node}"), "--", "sh", "-c", &script]).map_err(|e| e.to_string())?;
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        printed.split_whitespace().for_each(|word| *seen.entry(word).or_default() += 1);
        if seen.keys().copied().eq(expected.iter().copied()) { Ok(()) } else { Err(format!("{node} {url}: {seen:?}")) }
    })?;
    Ok(())
}

fn near(setup: &Setup) -> Outcome {
    for (node, zone) in NODES {
        setup.kubectl.run(&["label", "node", node, &format!("topology.kubernetes.io/zone={zone}")])?;
    }
    let prefer = |name: &str, distribution: &str| service(name, &json!({ "trafficDistribution": distribution }));
    apply(setup, &[prefer("in-zone", "PreferSameZone"), prefer("on-node", "PreferSameNode"), service("anywhere", &json!({}))])?;
    let (one, two) = ("server-node-1", "server-node-2");
    for (node, zone, same) in [("node-1", one, one), ("node-2", two, two), ("node-3", two, two)] {
        asks(setup, node, "http://in-zone/", &[zone])?;
        asks(setup, node, "http://on-node/", &[same])?;
    }
    asks(setup, "node-3", "http://anywhere/", &[one, two])?;
    let slices = setup.kubectl.get(&["endpointslices", "-l", "kubernetes.io/service-name=on-node"])?;
    let endpoint = &items(&slices)[0]["endpoints"][0];
    ensure!(endpoint["hints"]["forNodes"][0]["name"] == endpoint["nodeName"] && endpoint["zone"].is_string(), "{endpoint}");
    for (node, _) in NODES {
        setup.kubectl.run(&["label", "node", node, "topology.kubernetes.io/zone-"])?;
    }
    setup.kubectl.run(&["delete", "service", "in-zone", "on-node", "anywhere"]).map(drop).map_err(Into::into)
}

fn addresses(setup: &Setup) -> Outcome {
    let range = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "more" }, "spec": { "cidrs": ["10.97.0.0/29"] } });
    let refused = apply(setup, &[service("far", &json!({ "clusterIP": "10.97.0.2" }))]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("not in the valid range")), "an address out of no range was given");
    apply(setup, &[range])?;
    let ready = |wanted: &'static str| {
        setup.kubectl.wait_for("the range says how it is", &["servicecidr", "more"], MINUTE, |range| {
            let said = &range["status"]["conditions"][0]["status"];
            if said == wanted { Ok(()) } else { Err(range.to_string()) }
        })
    };
    ready("True")?;
    apply(setup, &[service("far", &json!({ "clusterIP": "10.97.0.2" }))])?;
    asks(setup, "node-3", "http://far/", &["server-node-1", "server-node-2"])?;
    setup.kubectl.wait_for("the address is an object", &["ipaddresses"], MINUTE, |l| {
        let of = |ip: &str| items(l).iter().find(|a| a["metadata"]["name"] == ip).map(|a| a["spec"]["parentRef"]["name"].clone());
        if of("10.97.0.2") == Some(json!("far")) && of("10.96.0.1") == Some(json!("kubernetes")) { Ok(()) } else { Err(l.to_string()) }
    })?;
    setup.kubectl.run(&["delete", "servicecidr", "more", "--wait=false"])?;
    ready("False")?;
    setup.kubectl.run(&["delete", "service", "far"])?;
    setup.kubectl.wait_for("range and address are gone", &["servicecidrs,ipaddresses"], MINUTE, |l| {
        let names: Vec<&str> = items(l).iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
        if names.contains(&"more") || names.contains(&"10.97.0.2") { Err(format!("{names:?}")) } else { Ok(()) }
    })?;
    setup.kubectl.run(&["delete", "pods", "-l", "app in (near,asker)", "--timeout=60s"]).map(drop).map_err(Into::into)
}
