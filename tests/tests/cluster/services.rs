//! Services and names: real packets from every node and every pod, through changes of everything behind them.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub const TESTS: &[Test] = &[
    ("services_pods_come_up_on_every_node_and_their_endpoints_are_told", come_up),
    ("services_a_cluster_ip_leads_to_every_endpoint_from_every_node_and_pod", cluster_ip),
    ("services_a_node_port_leads_to_them_from_outside_at_every_node", node_port),
    ("services_affinity_keeps_a_client_with_its_endpoint", affinity),
    ("services_local_policies_and_host_ports_stay_on_the_node", local),
    ("services_names_are_those_of_the_dns_specification", names),
    ("services_pods_reach_the_api_by_its_name_with_their_own_token", api),
    ("services_are_balanced_at_an_address_of_the_pool", balanced),
    ("services_with_endpoints_kept_by_hand_lead_to_them", by_hand),
    ("services_and_pods_are_reached_through_the_api_by_proxy", proxied),
    ("services_a_rolling_update_under_load_loses_no_request", rolling_update),
    ("services_connections_live_through_killed_daemons", killed_daemons),
    ("services_without_endpoints_refuse_at_once_and_go_with_their_object", refuse),
];

const MINUTE: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Three servers behind a Service of each type, and a client pod on each node.
fn manifests() -> String {
    let service = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: backend}}\n  \
             ports: [{{name: http, port: 80, targetPort: web}}]\n{more}"
        )
    };
    let client = |node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: client-{node}, labels: {{app: client}}}}\nspec:\n  nodeName: {node}\n  \
             hostname: host-{node}\n  subdomain: clients\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    \
             image: registry.pintle.test/web:1\n    command: [sleep, \"100000\"]\n"
        )
    };
    let echo = "
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: registry.pintle.test/web:1
    command: [nc, -ll, -p, \"7000\", -e, cat]
    ports: [{containerPort: 7000, hostPort: 7070}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 7, targetPort: 7000}]
---
apiVersion: v1
kind: Service
metadata: {name: clients}
spec: {clusterIP: None, selector: {app: client}}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: backend.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";
    let backend = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: backend}}
  template:
    metadata: {labels: {app: backend}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: registry.pintle.test/web:1
        command: [sh, -c, "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {port: web, path: /}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, "2"]}}}
"#;
    let mut all = backend.to_owned();
    all.push_str(&service("backend", "  type: NodePort\n"));
    all.push_str(&service("headless", "  clusterIP: None\n"));
    all.push_str(&service("sticky", "  sessionAffinity: ClientIP\n"));
    all.push_str(&service("local", "  type: NodePort\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n"));
    NODES.iter().for_each(|node| all.push_str(&client(node)));
    all + echo
}

fn come_up(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&manifests())?;
    setup.kubectl.run(&["rollout", "status", "deployment/backend", "--timeout=60s"])?;
    setup.kubectl.wait_for("the client pods are ready", &["pods", "-l", "app in (client,echo)"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == 4 { Ok(()) } else { Err(format!("{ready} of 4")) }
    })?;
    let args = ["endpointslices", "-l", "kubernetes.io/service-name=backend"];
    setup.kubectl.wait_for("its slice tells three ready endpoints", &args, MINUTE, |l| {
        let endpoints = items(l).iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
        let ready = endpoints.filter(|e| e["conditions"]["ready"] == true && e["nodeName"].is_string()).count();
        if ready == 3 { Ok(()) } else { Err(l["items"].to_string()) }
    })?;
    let old = setup.kubectl.get(&["endpoints", "backend"])?;
    ensure!(old["subsets"][0]["addresses"].as_array().map(Vec::len) == Some(3), "endpoints {}", old["subsets"]);
    Ok(())
}

fn backends(setup: &Setup) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let pods = setup.kubectl.get(&["pods", "-l", "app=backend"])?;
    Ok(items(&pods).iter().filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

fn address(setup: &Setup, service: &str) -> Result<(String, u64), Box<dyn std::error::Error>> {
    let found = setup.kubectl.get(&["service", service])?;
    let ip = found["spec"]["clusterIP"].as_str().ok_or("no clusterIP")?.to_owned();
    Ok((ip, found["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0)))
}

/// Answers to thirty requests, made by a shell.
fn thirty(url: &str) -> String {
    format!("for i in $(seq 30); do timeout 3 wget -q -O - {url} || echo FAILED; done")
}

fn seen(printed: &str) -> BTreeSet<String> {
    printed.split_whitespace().map(str::to_owned).collect()
}

fn in_pod(setup: &Setup, node: &str, script: &str) -> Result<String, pintle_tests::Error> {
    setup.kubectl.run(&["exec", &format!("client-{node}"), "--", "sh", "-c", script])
}

fn cluster_ip(setup: &Setup) -> Outcome {
    let all = backends(setup)?;
    let (ip, _) = address(setup, "backend")?;
    for node in NODES {
        for url in [format!("http://{ip}/"), "http://backend/".to_owned()] {
            // The first packets may come before this node's rules.
            eventually("a pod reaches every endpoint", MINUTE, || {
                let printed = in_pod(setup, node, &thirty(&url)).map_err(|e| e.to_string())?;
                if seen(&printed) == all { Ok(()) } else { Err(format!("{node} {url}: {:?}", seen(&printed))) }
            })?;
        }
        let script = thirty(&format!("http://{ip}/")).replace("wget", "busybox wget");
        let printed = run(setup.cluster.in_node(node)?.args(["sh", "-c", &script]))?;
        ensure!(seen(&printed) == all, "node {node} sees {:?}", seen(&printed));
    }
    // Through the Service to itself: some of a pod's own requests come back to it.
    let pod = all.first().ok_or("no pod")?;
    let printed = setup.kubectl.run(&["exec", pod, "--", "sh", "-c", &thirty("http://backend/")])?;
    ensure!(seen(&printed) == all, "a backend sees {:?}", seen(&printed));
    Ok(())
}

fn node_address(setup: &Setup, node: &str) -> Result<String, Box<dyn std::error::Error>> {
    let found = setup.kubectl.get(&["node", node])?;
    Ok(found["status"]["addresses"][0]["address"].as_str().ok_or("no address")?.to_owned())
}

fn node_port(setup: &Setup) -> Outcome {
    let all = backends(setup)?;
    let (_, port) = address(setup, "backend")?;
    for node in NODES {
        let url = format!("http://{}:{port}/", node_address(setup, node)?);
        let script = thirty(&url).replace("wget", "busybox wget");
        let printed = run(Command::new("sh").args(["-c", &script]))?;
        ensure!(seen(&printed) == all, "{url} from outside: {:?}", seen(&printed));
        let printed = in_pod(setup, "node-1", &thirty(&url))?;
        ensure!(seen(&printed) == all, "{url} from a pod: {:?}", seen(&printed));
    }
    Ok(())
}

fn affinity(setup: &Setup) -> Outcome {
    for node in NODES {
        let printed = in_pod(setup, node, &thirty("http://sticky/"))?;
        ensure!(seen(&printed).len() == 1 && !printed.contains("FAILED"), "{node} was sent to {:?}", seen(&printed));
    }
    Ok(())
}

fn local(setup: &Setup) -> Outcome {
    let pods = setup.kubectl.get(&["pods", "-l", "app=backend"])?;
    let (_, port) = address(setup, "local")?;
    for node in NODES {
        let here: BTreeSet<String> = items(&pods)
            .iter()
            .filter(|p| p["spec"]["nodeName"] == node)
            .filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        if here.is_empty() {
            continue;
        }
        let printed = in_pod(setup, node, &thirty("http://local/"))?;
        ensure!(seen(&printed) == here, "{node} was sent to {:?}, not {here:?}", seen(&printed));
        let script = thirty(&format!("http://{}:{port}/", node_address(setup, node)?)).replace("wget", "busybox wget");
        let printed = run(Command::new("sh").args(["-c", &script]))?;
        ensure!(seen(&printed) == here, "from outside {node} sent to {:?}, not {here:?}", seen(&printed));
    }
    echoes(&mut TcpStream::connect(format!("{}:7070", node_address(setup, "node-2")?))?)
}

fn names(setup: &Setup) -> Outcome {
    let (ip, _) = address(setup, "backend")?;
    let reverse: Vec<&str> = ip.split('.').rev().collect();
    let reverse = format!("{}.in-addr.arpa", reverse.join("."));
    let pods = setup.kubectl.get(&["pods"])?;
    let address_of = |name: &str| {
        let pod = items(&pods).iter().find(|p| p["metadata"]["name"] == name);
        pod.and_then(|p| p["status"]["podIP"].as_str()).unwrap_or("no address").to_owned()
    };
    let mut questions: Vec<(&str, String, Vec<String>)> = vec![
        ("a", "backend".into(), vec!["backend.default.svc.cluster.local".into(), ip]),
        ("a", "kubernetes.default".into(), vec!["10.96.0.1".into()]),
        ("a", "kube-dns.kube-system.svc.cluster.local".into(), vec!["10.96.0.10".into()]),
        ("srv", "_http._tcp.backend.default.svc.cluster.local".into(), vec!["0 100 80 backend.default.svc.cluster.local".into()]),
        ("ptr", reverse, vec!["backend.default.svc.cluster.local".into()]),
        ("a", "host-node-2.clients.default.svc.cluster.local".into(), vec![address_of("client-node-2")]),
        ("a", "clients".into(), NODES.iter().map(|node| address_of(&format!("client-{node}"))).collect()),
        ("a", "headless".into(), backends(setup)?.iter().map(|name| address_of(name)).collect()),
        ("cname", "elsewhere.default.svc.cluster.local".into(), vec!["backend.default.svc.cluster.local".into()]),
    ];
    for node in NODES {
        for (kind, name, expected) in &mut questions {
            // busybox's nslookup asks as the search list says only for names without a type.
            let typed = if *kind == "a" { String::new() } else { format!("-type={kind}") };
            let asked = if *kind == "a" && !name.contains(".svc") {
                format!("{name}.default.svc.cluster.local").replace("kubernetes.default.default", "kubernetes.default")
            } else {
                name.clone()
            };
            eventually("a name is answered", MINUTE, || {
                let printed = in_pod(setup, node, &format!("nslookup {typed} {asked} 2>&1 || true")).map_err(|e| e.to_string())?;
                let squeezed: String = printed.split_whitespace().collect::<Vec<_>>().join(" ");
                match expected.iter().find(|part| !squeezed.contains(part.as_str())) {
                    None => Ok(()),
                    Some(part) => Err(format!("{node}: {kind} {asked} lacks {part}: {printed}")),
                }
            })?;
        }
    }
    let denied = in_pod(setup, "node-1", "nslookup absent.default.svc.cluster.local 2>&1 || true")?;
    ensure!(denied.contains("NXDOMAIN"), "an absent name: {denied}");
    let settings = in_pod(setup, "node-1", "cat /etc/resolv.conf")?;
    ensure!(
        settings.contains("nameserver 10.96.0.10") && settings.contains("search default.svc.cluster.local svc.cluster.local"),
        "{settings}"
    );
    let itself = in_pod(setup, "node-1", "hostname -f 2>/dev/null || cat /etc/hosts")?;
    ensure!(itself.contains("host-node-1.clients.default.svc.cluster.local"), "its own name: {itself}");
    Ok(())
}

fn api(setup: &Setup) -> Outcome {
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    for node in NODES {
        let token = in_pod(setup, node, &format!("cat {account}/token"))?;
        let variables = in_pod(setup, node, "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")?;
        ensure!(variables.trim() == "10.96.0.1:443", "variables {variables}");
        // The pod's own way, packet for packet: its network, its certificate, its token; curl is the machine's.
        let certificate = in_pod(setup, node, &format!("cat {account}/ca.crt"))?;
        let file = std::env::temp_dir().join(format!("pintle-{}-{node}.crt", std::process::id()));
        std::fs::write(&file, certificate)?;
        let resolve = "kubernetes.default.svc:443:10.96.0.1";
        let url = "https://kubernetes.default.svc/version";
        let bearer = format!("Authorization: Bearer {}", token.trim());
        let mut curl = setup.cluster.in_node(node)?;
        curl.args(["curl", "-sS", "--max-time", "5", "--resolve", resolve, "--cacert"]).arg(&file).args(["-H", &bearer, url]);
        let printed = run(&mut curl);
        std::fs::remove_file(&file)?;
        let version: Value = serde_json::from_str(&printed?)?;
        ensure!(version["gitVersion"].is_string(), "version {version}");
        // The pod's own TLS client is too simple for the server: its alert to plain words shows that they meet by the name.
        let script = "a=$(nslookup kubernetes.default.svc.cluster.local | awk '/^Address: / {print $2; exit}'); \
                      echo plain words | timeout 5 nc $a 443 | od -An -tx1 | head -n 1";
        let inside = in_pod(setup, node, script)?;
        ensure!(inside.trim_start().starts_with("15 03"), "from the pod {inside:?}");
    }
    Ok(())
}

fn balanced(setup: &Setup) -> Outcome {
    let all = backends(setup)?;
    setup.kubectl.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: backend}, ports: [{port: 80, targetPort: web}]}
"#,
    )?;
    let pools = r#"{"spec": {"config": {"pools": ["192.0.2.17-192.0.2.18"]}}}"#;
    setup.kubectl.run(&["patch", "module", "load-balancer", "--type=merge", "-p", pools])?;
    setup.kubectl.wait_for("the Service has an address of the pool", &["service", "balanced"], MINUTE, |service| {
        let ingress = &service["status"]["loadBalancer"]["ingress"];
        if ingress[0]["ip"] == "192.0.2.17" { Ok(()) } else { Err(ingress.to_string()) }
    })?;
    for node in NODES {
        eventually("the balanced address leads to every endpoint", MINUTE, || {
            let printed = in_pod(setup, node, &thirty("http://192.0.2.17/")).map_err(|e| e.to_string())?;
            if seen(&printed) == all { Ok(()) } else { Err(format!("{node}: {:?}", seen(&printed))) }
        })?;
    }
    setup.kubectl.run(&["delete", "service", "balanced"]).map(drop).map_err(Into::into)
}

fn by_hand(setup: &Setup) -> Outcome {
    let pod = setup.kubectl.get(&["pod", backends(setup)?.first().ok_or("no pod")?])?;
    let (name, ip) = (&pod["metadata"]["name"], pod["status"]["podIP"].as_str().ok_or("no address")?);
    setup.kubectl.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: by-hand}}\nspec: {{ports: [{{port: 80}}]}}\n---\napiVersion: v1\nkind: Endpoints\n\
         metadata: {{name: by-hand}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 8080}}]}}]\n"
    ))?;
    eventually("the Service leads to the address", MINUTE, || {
        let printed = in_pod(setup, "node-1", "timeout 3 wget -q -O - http://by-hand/ || echo FAILED").map_err(|e| e.to_string())?;
        if Some(printed.trim()) == name.as_str() { Ok(()) } else { Err(printed) }
    })?;
    setup.kubectl.run(&["delete", "service,endpoints", "by-hand"]).map(drop).map_err(Into::into)
}

fn proxied(setup: &Setup) -> Outcome {
    let all = backends(setup)?;
    let raw = |path: &str| setup.kubectl.run(&["get", "--raw", &format!("/api/v1/namespaces/default/{path}")]);
    let one = |path: &str| raw(path).map(|text| text.trim().to_owned());
    for path in ["services/backend/proxy/", "services/backend:80/proxy/index.html", "services/http:backend:/proxy/"] {
        let said = one(path)?;
        ensure!(all.contains(said.as_str()), "{path}: {said:?}");
    }
    for pod in &all {
        // Without a port it is the first that the pod declares.
        ensure!(one(&format!("pods/{pod}/proxy/"))? == *pod && one(&format!("pods/{pod}:8080/proxy/"))? == *pod, "{pod} by proxy");
    }
    let Err(none) = raw("services/nobody/proxy/") else { return Err("a Service without endpoints answered".into()) };
    ensure!(none.to_string().contains("no endpoints available for service"), "{none}");
    Ok(())
}

fn rolling_update(setup: &Setup) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = ["node-1", "node-3"]
        .into_iter()
        .map(|node| {
            let (setup_kubectl, stop) = (setup.kubectl.clone(), stop.clone());
            std::thread::spawn(move || {
                let (mut fine, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let script = "for i in $(seq 20); do \
                                  w=$(timeout 10 wget -q -O /dev/null http://backend/ 2>&1) && echo ok || echo \"FAILED $? $w\"; done";
                    match setup_kubectl.run(&["exec", &format!("client-{node}"), "--", "sh", "-c", script]) {
                        Ok(printed) => {
                            fine += printed.lines().filter(|l| *l == "ok").count();
                            failed.extend(printed.lines().filter(|l| *l != "ok").map(|l| format!("{node}: {l}")));
                        }
                        Err(error) => failed.push(format!("{node}: {error}")),
                    }
                }
                (fine, failed)
            })
        })
        .collect();
    let before = backends(setup)?;
    setup.kubectl.run(&["set", "image", "deployment/backend", "main=registry.pintle.test/web:2"])?;
    let rolled = setup.kubectl.run(&["rollout", "status", "deployment/backend", "--timeout=120s"]);
    // The last old pods go after the rollout is called complete.
    let gone = setup.kubectl.wait_for("the old pods are gone", &["pods", "-l", "app=backend"], MINUTE, |l| {
        let old = items(l).iter().filter(|p| before.contains(p["metadata"]["name"].as_str().unwrap_or_default())).count();
        if old == 0 && items(l).len() == 3 { Ok(()) } else { Err(format!("{old} old ones")) }
    });
    stop.store(true, Ordering::Relaxed);
    let (mut fine, mut failed) = (0, Vec::new());
    for thread in load {
        let counted = thread.join().map_err(|_| "a client panicked")?;
        fine += counted.0;
        failed.extend(counted.1);
    }
    rolled?;
    gone?;
    println!("{fine} requests during the rollout, {} failed", failed.len());
    ensure!(failed.is_empty() && fine > 40, "of {} requests failed {failed:?}", fine + failed.len());
    Ok(())
}

fn echoes(stream: &mut TcpStream) -> Outcome {
    stream.set_read_timeout(Some(MINUTE))?;
    stream.write_all(b"still there?")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"still there?", "an echo of {answer:?}");
    Ok(())
}

fn killed_daemons(setup: &Setup) -> Outcome {
    let (_, port) = address(setup, "echo")?;
    // In at one node, to a pod on another.
    let at = format!("{}:{port}", node_address(setup, "node-1")?);
    let mut standing = TcpStream::connect(&at)?;
    echoes(&mut standing)?;
    NODES.iter().try_for_each(|node| setup.cluster.kill(node))?;
    let outcome = echoes(&mut standing).and_then(|()| echoes(&mut TcpStream::connect(&at)?));
    setup.repair()?;
    outcome?;
    let all = backends(setup)?;
    eventually("names and Services are served again", MINUTE, || {
        let printed = in_pod(setup, "node-1", &thirty("http://backend/")).map_err(|e| e.to_string())?;
        if seen(&printed) == all { Ok(()) } else { Err(format!("{:?}", seen(&printed))) }
    })?;
    echoes(&mut standing)
}

fn refuse(setup: &Setup) -> Outcome {
    let printed = in_pod(setup, "node-1", "timeout 20 wget -O - http://nobody/ 2>&1; true")?;
    ensure!(printed.contains("refused"), "a Service without endpoints: {printed}");
    let (ip, _) = address(setup, "backend")?;
    setup.kubectl.run(&["delete", "service", "backend"])?;
    eventually("a deleted Service answers no more", MINUTE, || {
        let printed = in_pod(
            setup,
            "node-2",
            &format!("timeout 3 wget -O - http://{ip}/ 2>&1; nslookup backend.default.svc.cluster.local 2>&1; true"),
        );
        let printed = printed.map_err(|e| e.to_string())?;
        if printed.contains("refused") && printed.contains("NXDOMAIN") { Ok(()) } else { Err(printed) }
    })?;
    let rest = setup.kubectl.wait_for("its slices and Endpoints go too", &["endpointslices,endpoints"], MINUTE, |l| {
        let left = items(l)
            .iter()
            .filter(|o| o["metadata"]["labels"]["kubernetes.io/service-name"] == "backend" || o["metadata"]["name"] == "backend");
        let left = left.count();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    });
    setup.kubectl.run(&[
        "delete",
        "--timeout=60s",
        "deployment/backend",
        "pod/echo",
        "pod/client-node-1",
        "pod/client-node-2",
        "pod/client-node-3",
    ])?;
    setup.kubectl.run(&["delete", "service", "headless", "sticky", "local", "echo", "clients", "elsewhere", "nobody"])?;
    rest.map(drop).map_err(Into::into)
}
