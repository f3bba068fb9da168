//! One matrix of Services: every type and policy, asked from a pod on each node, from each node itself and from outside the cluster. A table says who
//! must answer and, where that is promised, whom the server must see; every cell is probed.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

pub const TESTS: &[Test] = &[("reach_every_type_of_service_from_every_place_is_what_the_table_says", matrix)];

const MINUTE: Duration = Duration::from_secs(60);
const NODES: [u8; 3] = [1, 2, 3];
/// Nodes that a server is on; the last has none.
const SERVING: [u8; 2] = [1, 2];
/// The port of each server on its own machine.
const HOST_PORT: u16 = 8098;
/// An address that nobody has but one of the Services.
const EXTERNAL: &str = "192.0.2.33";

type Found<T> = Result<T, Box<dyn std::error::Error>>;

/// The Services: name and what its spec says besides selector and port.
fn services() -> [(&'static str, Value); 9] {
    [
        ("cluster", json!({})),
        ("inner-local", json!({ "internalTrafficPolicy": "Local" })),
        ("ports", json!({ "type": "NodePort" })),
        ("ports-local", json!({ "type": "NodePort", "externalTrafficPolicy": "Local" })),
        ("balanced", json!({ "type": "LoadBalancer" })),
        ("balanced-local", json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" })),
        ("external", json!({ "externalIPs": [EXTERNAL] })),
        ("headless", json!({ "clusterIP": "None" })),
        ("elsewhere", json!({ "type": "ExternalName", "externalName": "reach-cluster.default.svc.cluster.local" })),
    ]
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A pod on a node.
    Pod(u8),
    /// A node itself.
    Node(u8),
    /// The machine that the nodes are on: no part of the cluster.
    Outside,
}

impl Place {
    fn node(self) -> Option<u8> {
        match self {
            Place::Pod(node) | Place::Node(node) => Some(node),
            Place::Outside => None,
        }
    }
}

/// What is asked, and what is right.
struct Cell {
    from: Place,
    what: String,
    url: String,
    /// Nodes of the servers that answer; none: nobody does.
    answers: BTreeSet<u8>,
    /// Whom they see, where that is promised.
    sees: Option<String>,
}

/// What the table needs to know of the cluster.
struct Known {
    /// Of the nodes, in order.
    nodes: Vec<String>,
    /// Of the client pods, in order.
    pods: Vec<String>,
    outside: String,
    /// Of each Service: its addresses of the cluster and of the balancer, and its node port.
    services: BTreeMap<&'static str, (String, String, u64)>,
}

/// The table.
fn cells(known: &Known) -> Vec<Cell> {
    let all: BTreeSet<u8> = SERVING.into();
    let on = |node: u8| -> BTreeSet<u8> { SERVING.into_iter().filter(|serving| *serving == node).collect() };
    let url = |address: &str, port: u64| format!("http://{address}:{port}/cgi-bin/who");
    let own = |from: Place| if let Place::Pod(node) = from { Some(known.pods[usize::from(node) - 1].clone()) } else { None };
    let mut cells = Vec::new();
    let places = NODES.into_iter().flat_map(|node| [Place::Pod(node), Place::Node(node)]).chain([Place::Outside]);
    for from in places {
        let mut add = |what: &str, url: String, answers: BTreeSet<u8>, sees: Option<String>| {
            cells.push(Cell { from, what: what.to_owned(), url, answers, sees });
        };
        let outer = |answers: &BTreeSet<u8>| if from == Place::Outside { answers.clone() } else { all.clone() };
        let unchanged = (from == Place::Outside).then(|| known.outside.clone());
        if let Some(node) = from.node() {
            add("cluster", url(&known.services["cluster"].0, 80), all.clone(), own(from));
            add("inner-local", url(&known.services["inner-local"].0, 80), on(node), own(from));
        }
        if let Place::Pod(_) = from {
            add("headless", url("reach-headless", 8080), all.clone(), own(from));
            add("elsewhere", url("reach-elsewhere", 80), all.clone(), own(from));
        }
        for at in NODES {
            let address = &known.nodes[usize::from(at) - 1];
            add(&format!("ports at {at}"), url(address, known.services["ports"].2), all.clone(), None);
            // Who asks its own machine is served by all; who comes from elsewhere is a stranger.
            let near = if from.node() == Some(at) { all.clone() } else { on(at) };
            add(&format!("ports-local at {at}"), url(address, known.services["ports-local"].2), near, unchanged.clone());
            add(&format!("host port at {at}"), url(address, HOST_PORT.into()), on(at), unchanged.clone());
        }
        add("balanced", url(&known.services["balanced"].1, 80), all.clone(), None);
        // From outside it is routed to the first node.
        add("balanced-local", url(&known.services["balanced-local"].1, 80), outer(&on(1)), unchanged.clone());
        add("external", url(EXTERNAL, 80), all.clone(), None);
    }
    cells
}

fn pod(name: &str, node: u8, labels: &Value, script: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "nodeName": format!("node-{node}"), "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script], "ports": ports,
            }],
        },
    })
}

fn objects() -> Vec<Value> {
    let who = r#"mkdir -p /tmp/w/cgi-bin; cd /tmp/w/cgi-bin
printf '#!/bin/sh\necho Content-Type: text/plain\necho\necho $(hostname) $REMOTE_ADDR\n' > who
chmod +x who; exec httpd -f -p 8080 -h /tmp/w"#;
    let ports = json!([{ "containerPort": 8080, "hostPort": HOST_PORT }]);
    let servers = SERVING.map(|node| pod(&format!("server-{node}"), node, &json!({ "app": "reach", "reach": "server" }), who, &ports));
    let clients = NODES.map(|node| pod(&format!("reach-{node}"), node, &json!({ "reach": "client" }), "exec sleep 100000", &json!([])));
    let service = |(name, more): (&str, Value)| {
        let mut spec = json!({ "selector": { "app": "reach" }, "ports": [{ "port": 80, "targetPort": 8080 }] });
        if name == "elsewhere" {
            spec = json!({});
        }
        spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("reach-{name}"), "labels": { "reach": "service" } }, "spec": spec })
    };
    servers.into_iter().chain(clients).chain(services().map(service)).collect()
}

fn learn(setup: &Setup) -> Found<Known> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut known = Known { nodes: Vec::new(), pods: Vec::new(), outside: setup.cluster.gateway()?.to_string(), services: BTreeMap::new() };
    for node in NODES {
        known.nodes.push(text(&setup.kubectl.get(&["node", &format!("node-{node}")])?["status"]["addresses"][0]["address"]));
        known.pods.push(text(&setup.kubectl.get(&["pod", &format!("reach-{node}")])?["status"]["podIP"]));
    }
    for (name, _) in services() {
        let found = setup.kubectl.get(&["service", &format!("reach-{name}")])?;
        let balanced = text(&found["status"]["loadBalancer"]["ingress"][0]["ip"]);
        known
            .services
            .insert(name, (text(&found["spec"]["clusterIP"]), balanced, found["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0)));
    }
    Ok(known)
}

/// Asks for every cell of a place at once, some times each; by cell: which servers answered, and whom they saw.
fn probe(setup: &Setup, from: Place, cells: &[(usize, &Cell)]) -> Result<BTreeMap<usize, (BTreeSet<u8>, BTreeSet<String>)>, String> {
    let one = |(number, cell): &(usize, &Cell)| {
        let ask = format!("timeout 2 busybox wget -q -O - {} 2>/dev/null", cell.url);
        format!("(for i in 1 2 3 4 5 6 7 8 9 10; do a=$({ask}) || break; echo {number} $a; done) &\n")
    };
    let script: String = cells.iter().map(one).chain(["wait\n".to_owned()]).collect();
    let printed = match from {
        Place::Pod(node) => {
            let script = script.replace("busybox wget", "wget");
            setup.kubectl.run(&["exec", &format!("reach-{node}"), "--", "sh", "-c", &script]).map_err(|e| e.to_string())?
        }
        Place::Node(node) => {
            let mut command = setup.cluster.in_node(&format!("node-{node}")).map_err(|e| e.to_string())?;
            run(command.args(["sh", "-c", &script])).map_err(|e| e.to_string())?
        }
        Place::Outside => run(Command::new("sh").args(["-c", &script])).map_err(|e| e.to_string())?,
    };
    let mut seen: BTreeMap<usize, (BTreeSet<u8>, BTreeSet<String>)> = BTreeMap::new();
    for line in printed.lines() {
        let [number, server, client] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(format!("a line {line:?}")) };
        let (servers, clients) = seen.entry(number.parse().map_err(|_| line.to_owned())?).or_default();
        servers.insert(server.trim_start_matches("server-").parse().map_err(|_| line.to_owned())?);
        // A socket of both families names version 4 inside version 6.
        clients.insert(client.trim_matches(['[', ']']).trim_start_matches("::ffff:").to_owned());
    }
    Ok(seen)
}

/// Probes what is not as it should be yet; gives what is left with what was seen instead.
fn settle(setup: &Setup, cells: &[Cell], left: &mut BTreeSet<usize>) -> Result<(), String> {
    let places: BTreeSet<Place> = left.iter().map(|number| cells[*number].from).collect();
    let of = |place: Place| left.iter().filter(|n| cells[**n].from == place).map(|n| (*n, &cells[*n])).collect::<Vec<_>>();
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> =
            places.iter().map(|place| (of(*place), *place)).map(|(of, place)| scope.spawn(move || probe(setup, place, &of))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a prober panicked".to_owned())?).collect::<Result<Vec<_>, String>>()
    })?;
    let seen: BTreeMap<_, _> = seen.into_iter().flatten().collect();
    let mut wrong = Vec::new();
    left.retain(|number| {
        let cell = &cells[*number];
        let (servers, clients) = seen.get(number).cloned().unwrap_or_default();
        let right = servers == cell.answers && (servers.is_empty() || cell.sees.iter().all(|sees| clients.iter().eq([sees])));
        if !right {
            let sees = cell.sees.as_deref().unwrap_or("anybody");
            wrong.push(format!("{:?} to {}: {servers:?} see {clients:?}, not {:?} {sees}", cell.from, cell.what, cell.answers));
        }
        !right
    });
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn matrix(setup: &Setup) -> Outcome {
    let pools = r#"{"spec": {"config": {"pools": ["192.0.2.17-192.0.2.20"]}}}"#;
    setup.kubectl.run(&["patch", "module", "load-balancer", "--type=merge", "-p", pools])?;
    setup.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects() }).to_string())?;
    setup.kubectl.wait_for("the pods are ready", &["pods", "-l", "reach"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == NODES.len() + SERVING.len() { Ok(()) } else { Err(format!("{ready} are")) }
    })?;
    for name in ["reach-balanced", "reach-balanced-local"] {
        setup.kubectl.wait_for("it has an address of the pool", &["service", name], MINUTE, |service| {
            if service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string() { Ok(()) } else { Err(service["status"].to_string()) }
        })?;
    }
    let known = learn(setup)?;
    let routes = [("balanced", 3), ("balanced-local", 1)].map(|(name, node)| (known.services[name].1.clone(), node));
    let routes: Vec<(String, usize)> = routes.into_iter().chain([(EXTERNAL.to_owned(), 3)]).collect();
    let cells = cells(&known);
    let mut left: BTreeSet<usize> = (0..cells.len()).collect();
    let routed = routes.iter().try_for_each(|(address, node)| {
        run(Command::new("ip").args(["route", "replace", address, "via", &known.nodes[node - 1]])).map(drop)
    });
    let settled = routed.map_err(|e| e.to_string()).and_then(|()| {
        eventually("every Service is reached as the table says", MINUTE, || settle(setup, &cells, &mut left)).map_err(|e| e.to_string())
    });
    for (address, _) in &routes {
        let _ = Command::new("ip").args(["route", "del", address]).status();
    }
    setup.kubectl.run(&["delete", "--timeout=60s", "pod,service", "-l", "reach"])?;
    settled?;
    ensure!(left.is_empty() && cells.len() > 90, "{} of {} cells", left.len(), cells.len());
    println!("{} cells", cells.len());
    Ok(())
}
