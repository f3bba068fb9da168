//! Both families of addresses, in pods, Services, names and across nodes, and Services of version 6 alone. The cluster of these tests has both
//! where the machine knows version 6; else these say so and count as skipped. Policies are probed in both families by `policies`.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr, process::Command, time::Duration};

pub const TESTS: &[Test] = &[
    ("dual_stack_pods_and_nodes_have_an_address_of_each_family_and_reach_each_other_by_both", pods),
    ("dual_stack_services_lead_to_every_endpoint_by_both_families_from_everywhere", services),
    ("dual_stack_names_have_records_of_both_families_and_the_way_back", names),
    ("dual_stack_services_gain_and_lose_a_family", gain_and_lose),
];

/// What the names of these tests begin with.
pub const PREFIX: &str = "dual_stack_";
const MINUTE: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Whether the cluster has both: the machine knows version 6.
pub fn is_there() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

type Found<T> = Result<T, Box<dyn std::error::Error>>;

fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "selector": { "app": "dual" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

fn apply(setup: &Setup, objects: &[Value]) -> Outcome {
    setup.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
    Ok(())
}

/// One on each node, which tells its name to both families.
fn server(node: &str) -> Value {
    let field = json!([{ "name": "IPS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } }]);
    let script = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("dual-{node}"), "labels": { "app": "dual" } },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script], "env": field,
                "readinessProbe": { "httpGet": { "port": 8080, "path": "/" }, "periodSeconds": 1 },
            }],
        },
    })
}

fn in_pod(setup: &Setup, node: &str, script: &str) -> Result<String, pintle_tests::Error> {
    setup.kubectl.run(&["exec", &format!("dual-{node}"), "--", "sh", "-c", script])
}

/// The texts at a place of every element of a list.
fn texts(list: &Value, key: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| Some(one[key].as_str()?.to_owned())).collect()
}

fn addresses(setup: &Setup, node: &str) -> Found<Vec<String>> {
    Ok(texts(&setup.kubectl.get(&["pod", &format!("dual-{node}")])?["status"]["podIPs"], "ip"))
}

fn node_addresses(setup: &Setup, node: &str) -> Found<Vec<String>> {
    let found = setup.kubectl.get(&["node", node])?;
    let all = found["status"]["addresses"].as_array().cloned().unwrap_or_default();
    Ok(texts(&all.into_iter().filter(|a| a["type"] == "InternalIP").collect(), "address"))
}

fn url(address: &str, port: u64) -> String {
    if address.contains(':') { format!("http://[{address}]:{port}/") } else { format!("http://{address}:{port}/") }
}

fn families(addresses: &[String]) -> Vec<&'static str> {
    addresses.iter().map(|text| if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" }).collect()
}

/// Answers to twelve requests to each address.
fn many(urls: &[String]) -> String {
    format!("for url in {}; do for i in $(seq 12); do timeout 3 busybox wget -q -O - $url || echo FAILED; done; done", urls.join(" "))
}

fn all_answer(printed: &str) -> Result<(), String> {
    let seen: BTreeSet<&str> = printed.split_whitespace().collect();
    let wanted: BTreeSet<String> = NODES.iter().map(|node| format!("dual-{node}")).collect();
    if seen.iter().copied().eq(wanted.iter().map(String::as_str)) { Ok(()) } else { Err(format!("{seen:?}")) }
}

fn pods(setup: &Setup) -> Outcome {
    apply(setup, &NODES.map(server))?;
    setup.kubectl.wait_for("the pods are ready", &["pods", "-l", "app=dual"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == 3 { Ok(()) } else { Err(format!("{ready} of 3")) }
    })?;
    for node in NODES {
        ensure!(families(&node_addresses(setup, node)?) == ["IPv4", "IPv6"], "addresses of {node}");
        let own = addresses(setup, node)?;
        ensure!(families(&own) == ["IPv4", "IPv6"], "addresses of the pod: {own:?}");
        ensure!(in_pod(setup, node, "echo $IPS")?.trim() == own.join(","), "what the pod is told");
        let hosts = in_pod(setup, node, "cat /etc/hosts")?;
        ensure!(own.iter().all(|ip| hosts.contains(ip)), "{hosts}");
    }
    for from in NODES {
        for to in NODES {
            for at in addresses(setup, to)? {
                let printed = in_pod(setup, from, &format!("timeout 5 wget -q -O - {}", url(&at, 8080)))?;
                ensure!(printed.trim() == format!("dual-{to}"), "{from} to {at}: {printed}");
                let printed =
                    run(setup.cluster.in_node(from)?.args(["timeout", "5", "busybox", "wget", "-q", "-O", "-", &url(&at, 8080)]))?;
                ensure!(printed.trim() == format!("dual-{to}"), "node {from} to {at}: {printed}");
            }
        }
    }
    // To the outside, which is here the machine that the nodes are on: by the node's address.
    let outside = node_addresses(setup, "node-1")?[1].parse::<std::net::Ipv6Addr>()?.segments();
    let machine = std::net::Ipv6Addr::new(outside[0], outside[1], outside[2], outside[3], 0, 0, 0, 1).to_string();
    let heard = std::net::TcpListener::bind((machine.as_str(), 0))?;
    let port = heard.local_addr()?.port();
    let asked = std::thread::spawn(move || heard.accept().map(|(_, peer)| peer.ip().to_string()));
    in_pod(setup, "node-1", &format!("echo x | timeout 5 nc {machine} {port} || true"))?;
    let seen = asked.join().map_err(|_| "the listener panicked")??;
    ensure!(seen == node_addresses(setup, "node-1")?[1], "a pod goes out as {seen}");
    Ok(())
}

fn services(setup: &Setup) -> Outcome {
    let six = json!({ "ipFamilies": ["IPv6"], "type": "NodePort" });
    apply(setup, &[service("dual", &json!({ "ipFamilyPolicy": "RequireDualStack", "type": "NodePort" })), service("six", &six)])?;
    let (dual, six) = (setup.kubectl.get(&["service", "dual"])?, setup.kubectl.get(&["service", "six"])?);
    ensure!(dual["spec"]["ipFamilies"] == json!(["IPv4", "IPv6"]), "{}", dual["spec"]);
    ensure!(six["spec"]["ipFamilies"] == json!(["IPv6"]) && six["spec"]["ipFamilyPolicy"] == "SingleStack", "{}", six["spec"]);
    let own = |service: &Value| -> Vec<String> {
        service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str().map(str::to_owned)).collect()
    };
    let mut urls: Vec<String> = own(&dual).iter().chain(&own(&six)).map(|ip| url(ip, 80)).collect();
    urls.extend(["http://dual/".to_owned(), "http://six/".to_owned()]);
    for node in NODES {
        for one in &urls {
            eventually("a pod reaches every endpoint", MINUTE, || {
                let printed = in_pod(setup, node, &many(&[one.clone()])).map_err(|e| e.to_string())?;
                all_answer(&printed).map_err(|seen| format!("{node} {one}: {seen}"))
            })?;
        }
        let printed = run(setup.cluster.in_node(node)?.args(["sh", "-c", &many(&urls[..3])]))?;
        all_answer(&printed).map_err(|seen| format!("node {node}: {seen}"))?;
    }
    let port = |service: &Value| service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0);
    for node in NODES {
        let all = node_addresses(setup, node)?;
        let mut outside: Vec<String> = all.iter().map(|ip| url(ip, port(&dual))).collect();
        outside.push(url(&all[1], port(&six)));
        let printed = run(Command::new("sh").args(["-c", &many(&outside)]))?;
        all_answer(&printed).map_err(|seen| format!("ports of {node} from outside: {seen}"))?;
        let printed = in_pod(setup, "node-1", &many(&outside))?;
        all_answer(&printed).map_err(|seen| format!("ports of {node} from a pod: {seen}"))?;
    }
    let slices = setup.kubectl.get(&["endpointslices", "-l", "kubernetes.io/service-name=dual"])?;
    let kinds: BTreeSet<String> = items(&slices).iter().map(|s| s["addressType"].as_str().unwrap_or_default().to_owned()).collect();
    ensure!(kinds == ["IPv4", "IPv6"].map(str::to_owned).into(), "slices of {kinds:?}");
    // Each address is an object.
    setup.kubectl.wait_for("the addresses are objects", &["ipaddresses"], MINUTE, |l| {
        let lacks = own(&dual).into_iter().chain(own(&six)).find(|ip| !items(l).iter().any(|a| a["metadata"]["name"] == ip.as_str()));
        lacks.map_or(Ok(()), |ip| Err(format!("{ip} is not")))
    })?;
    Ok(())
}

fn names(setup: &Setup) -> Outcome {
    let found = setup.kubectl.get(&["service", "dual"])?;
    let (v4, v6) =
        (found["spec"]["clusterIPs"][0].as_str().unwrap_or_default(), found["spec"]["clusterIPs"][1].as_str().unwrap_or_default());
    let digits = |ip: &str| -> Found<String> {
        let nibbles = ip.parse::<std::net::Ipv6Addr>()?.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
        let all: Vec<String> = nibbles.map(|digit| format!("{digit:x}")).collect();
        Ok(format!("{}.ip6.arpa", all.into_iter().rev().collect::<Vec<_>>().join(".")))
    };
    let name = "dual.default.svc.cluster.local".to_owned();
    for node in NODES {
        for (kind, asked, expected) in [("a", &name, v4), ("aaaa", &name, v6), ("ptr", &digits(v6)?, name.as_str())] {
            eventually("a name is answered", MINUTE, || {
                let printed = in_pod(setup, node, &format!("nslookup -type={kind} {asked} 2>&1 || true")).map_err(|e| e.to_string())?;
                if printed.contains(expected) { Ok(()) } else { Err(format!("{node}: {kind} {asked} lacks {expected}: {printed}")) }
            })?;
        }
    }
    Ok(())
}

fn gain_and_lose(setup: &Setup) -> Outcome {
    apply(setup, &[service("moody", &json!({}))])?;
    let spec = || -> Found<Value> { Ok(setup.kubectl.get(&["service", "moody"])?["spec"].clone()) };
    let before = spec()?;
    ensure!(before["ipFamilies"] == json!(["IPv4"]) && before["ipFamilyPolicy"] == "SingleStack", "{before}");
    let patch = |body: Value| setup.kubectl.run(&["patch", "service", "moody", "--type=merge", "-p", &json!({ "spec": body }).to_string()]);
    patch(json!({ "ipFamilyPolicy": "PreferDualStack" }))?;
    let both = spec()?;
    ensure!(both["clusterIPs"].as_array().map(Vec::len) == Some(2) && both["clusterIP"] == before["clusterIP"], "{both}");
    let refused = patch(json!({ "clusterIPs": [before["clusterIP"]] }));
    ensure!(refused.is_err_and(|e| e.to_string().contains("to release the secondary")), "a family was lost without a word");
    let refused = patch(json!({ "ipFamilies": ["IPv6", "IPv4"] }));
    ensure!(refused.is_err(), "the families changed places");
    patch(json!({ "ipFamilyPolicy": "SingleStack" }))?;
    ensure!(spec()? == before, "{}", spec()?);
    setup.kubectl.run(&["delete", "service", "moody", "dual", "six"])?;
    setup.kubectl.run(&["delete", "pods", "-l", "app=dual", "--timeout=60s"]).map(drop).map_err(Into::into)
}
