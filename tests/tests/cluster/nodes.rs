//! Nodes: spreading, containers and daemons that are killed, machines that stop.

use crate::{
    Outcome, Test, ensure,
    setup::{NODES, Setup},
};
use pintle_tests::kubectl::{is_ready, items};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

pub const TESTS: &[Test] = &[
    ("nodes_are_ready_with_addresses_and_pod_cidrs", ready),
    ("nodes_show_their_use_and_logs_through_the_proxy", proxied),
    ("nodes_pods_of_one_deployment_spread_over_them", spread),
    ("nodes_a_killed_container_restarts_with_back_off", restart),
    ("nodes_a_killed_host_node_leaves_containers_running_and_adopts_them", adopt),
    ("nodes_pods_of_a_stopped_node_are_replaced_elsewhere", replaced),
    ("nodes_one_that_was_cut_off_comes_back_with_its_pods_and_is_reached_again", cut_off),
];

const MINUTE: Duration = Duration::from_secs(60);

/// A deployment of sleepers whose pods leave an unreachable node after one second.
fn sleepers(name: &str, replicas: usize) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      containers:
      - name: main
        image: registry.pintle.test/web:1
        command: ["sh", "-c", "echo started; trap 'exit 0' TERM; while true; do sleep 0.2; done"]
"#
    )
}

fn all_ready(list: &Value, count: usize) -> Result<(), String> {
    let ready = items(list).iter().filter(|p| is_ready(p)).count();
    if ready == count { Ok(()) } else { Err(format!("{ready} of {count} ready")) }
}

/// What a metrics collector reads: the kubelet's paths below `nodes/NAME/proxy`.
fn proxied(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&sleepers("shown", 1))?;
    let pods = setup.kubectl.wait_for("a pod is ready", &["pods", "-l", "app=shown"], MINUTE, |l| all_ready(l, 1))?;
    let pod = items(&pods).first().ok_or("no pod")?;
    let (node, name) = (pod["spec"]["nodeName"].as_str().unwrap_or_default(), pod["metadata"]["name"].as_str().unwrap_or_default());
    let raw = |path: &str| setup.kubectl.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/{path}")]);
    ensure!(raw("healthz")? == "ok", "healthz");
    let metrics = raw("metrics/resource")?;
    for metric in ["pod_memory_working_set_bytes", "container_cpu_usage_seconds_total", "container_start_time_seconds"] {
        let line = metrics.lines().find(|line| line.starts_with(metric) && line.contains(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        ensure!(value.is_some_and(|value| value > 0.0), "{metric} of {name} is {line:?}");
    }
    ensure!(metrics.contains("node_cpu_usage_seconds_total "), "no use of the node:\n{metrics}");
    let summary: Value = serde_json::from_str(&raw("stats/summary")?)?;
    let row = summary["pods"].as_array().and_then(|pods| pods.iter().find(|row| row["podRef"]["name"] == name)).ok_or("no row")?;
    ensure!(row["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{row}");
    ensure!(summary["node"]["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|nanos| nanos > 0), "{}", summary["node"]);
    let log = raw(&format!("containerLogs/{}/{name}/main?tailLines=1", pod["metadata"]["namespace"].as_str().unwrap_or_default()))?;
    ensure!(log.trim_end() == "started", "log {log:?}");
    ensure!(raw("pods")?.contains(name), "pods");
    ensure!(raw("logs/../../etc/passwd").is_err() && raw("logs/%2e%2e/%2e%2e/etc/passwd").is_err(), "a file outside of the logs was shown");
    ensure!(raw("exec").is_err(), "a path that is not served was answered");
    setup.kubectl.run(&["delete", "deployment", "shown"])?;
    Ok(())
}

fn ready(setup: &Setup) -> Outcome {
    let nodes = setup.kubectl.get(&["nodes"])?;
    ensure!(items(&nodes).len() == usize::from(NODES), "{} nodes", items(&nodes).len());
    let cidrs: BTreeSet<&str> = items(&nodes).iter().filter_map(|n| n["spec"]["podCIDR"].as_str()).collect();
    ensure!(cidrs.len() == usize::from(NODES), "pod CIDRs {cidrs:?}");
    let printed = setup.kubectl.run(&["get", "nodes", "-o", "wide"])?;
    ensure!(printed.matches(" Ready ").count() == usize::from(NODES), "get nodes:\n{printed}");
    Ok(())
}

fn spread(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&sleepers("spread", 6))?;
    let pods = setup.kubectl.wait_for("six pods are ready", &["pods", "-l", "app=spread"], MINUTE, |l| all_ready(l, 6))?;
    let used: BTreeSet<&str> = items(&pods).iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    ensure!(used.len() == usize::from(NODES), "six pods are on {used:?} only");
    setup.kubectl.run(&["delete", "deployment", "spread"])?;
    Ok(())
}

fn restart(setup: &Setup) -> Outcome {
    setup.kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "registry.pintle.test/web:1", command: ["sh", "-c", "echo up; sleep 0.3; exit 3"]}
"#,
    )?;
    let pod = setup.kubectl.wait_for("it has restarted twice and backs off", &["pod", "crasher"], MINUTE, |p| {
        let status = &p["status"]["containerStatuses"][0];
        let waiting = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        if status["restartCount"].as_u64() >= Some(2) && waiting { Ok(()) } else { Err(status.to_string()) }
    })?;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(last["exitCode"] == 3 && last["reason"] == "Error", "last state {last}");
    let previous = setup.kubectl.run(&["logs", "--previous", "crasher"])?;
    ensure!(previous.contains("up"), "previous logs {previous:?}");
    setup.kubectl.run(&["delete", "pod", "crasher", "--timeout=30s"])?;
    Ok(())
}

fn container_ids(list: &Value) -> BTreeSet<(String, u64)> {
    let status = |p: &Value| p["status"]["containerStatuses"][0].clone();
    let row = |s: Value| (s["containerID"].as_str().unwrap_or_default().to_owned(), s["restartCount"].as_u64().unwrap_or(99));
    items(list).iter().map(|p| row(status(p))).collect()
}

fn adopt(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&sleepers("adopted", 3))?;
    let args = ["pods", "-l", "app=adopted"];
    let before = setup.kubectl.wait_for("three pods are ready", &args, MINUTE, |l| all_ready(l, 3))?;
    for index in 1..=NODES {
        setup.cluster.kill(&format!("node-{index}"))?;
    }
    setup.repair()?;
    let after = setup.kubectl.wait_for("they are ready again", &args, MINUTE, |l| all_ready(l, 3))?;
    ensure!(
        container_ids(&before) == container_ids(&after),
        "ids and restarts {:?} became {:?}",
        container_ids(&before),
        container_ids(&after)
    );
    let name = items(&after)[0]["metadata"]["name"].as_str().unwrap_or_default();
    let logs = setup.kubectl.run(&["logs", name])?;
    ensure!(logs.contains("started"), "logs {logs:?}");
    let echoed = setup.kubectl.run(&["exec", name, "--", "echo", "adopted"])?;
    ensure!(echoed.trim() == "adopted", "exec printed {echoed:?}");
    setup.kubectl.run(&["delete", "deployment", "adopted"])?;
    setup
        .kubectl
        .wait_for("they are gone", &args, MINUTE, |l| if items(l).is_empty() { Ok(()) } else { Err(format!("{} left", items(l).len())) })?;
    Ok(())
}

fn replaced(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&sleepers("moved", 3))?;
    let args = ["pods", "-l", "app=moved"];
    setup.kubectl.wait_for("three pods are ready", &args, MINUTE, |l| all_ready(l, 3))?;
    setup.cluster.down(&["--node", "node-2"])?;
    setup.kubectl.wait_for("the node is not ready", &["node", "node-2"], 2 * MINUTE, |n| {
        if is_ready(n) { Err("still ready".into()) } else { Ok(()) }
    })?;
    setup.kubectl.wait_for("three pods run on the other nodes", &args, 2 * MINUTE, |l| {
        let elsewhere =
            items(l).iter().filter(|p| is_ready(p) && p["spec"]["nodeName"] != "node-2" && p["metadata"]["deletionTimestamp"].is_null());
        let count = elsewhere.count();
        if count == 3 { Ok(()) } else { Err(format!("{count} run elsewhere")) }
    })?;
    setup.repair()?;
    setup.kubectl.wait_for(
        "the node is back",
        &["node", "node-2"],
        MINUTE,
        |n| if is_ready(n) { Ok(()) } else { Err("not ready".into()) },
    )?;
    setup.kubectl.run(&["delete", "deployment", "moved"])?;
    setup
        .kubectl
        .wait_for("they are gone", &args, MINUTE, |l| if items(l).is_empty() { Ok(()) } else { Err(format!("{} left", items(l).len())) })?;
    Ok(())
}

/// A server that stays on its node whatever happens to that, and a Service in front of it.
fn steadfast() -> String {
    let script = "mkdir -p /tmp/w; echo steadfast > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    let pod = serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "steadfast", "labels": { "app": "steadfast" } },
        "spec": { "nodeName": "node-3", "terminationGracePeriodSeconds": 0, "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script] }] } });
    let service = serde_json::json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "steadfast" },
        "spec": { "selector": { "app": "steadfast" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [pod, service] }).to_string()
}

/// The link of the node goes down and up again: all that time its pods run, and nobody is sent to them.
fn cut_off(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&steadfast())?;
    let pod = setup
        .kubectl
        .wait_for("the pod is ready", &["pod", "steadfast"], MINUTE, |p| if is_ready(p) { Ok(()) } else { Err(p["status"].to_string()) })?;
    let ip = setup.kubectl.get(&["service", "steadfast"])?["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let ask = |node: &str| {
        let url = format!("http://{ip}/");
        let mut command = setup.cluster.in_node(node).map_err(|e| e.to_string())?;
        pintle_tests::run(command.args(["curl", "-sS", "--max-time", "2", &url])).map_err(|e| e.to_string())
    };
    let answered = |node: &str| {
        pintle_tests::eventually("the Service answers", MINUTE, || match ask(node)? {
            said if said == "steadfast\n" => Ok(()),
            other => Err(other),
        })
    };
    answered("node-1")?;
    let link = |state: &str| -> Outcome {
        // The way out goes with the link, and does not come back by itself. An address of version 6 would go, too: who cares for it on a real machine gives it again.
        let gateway = setup.cluster.gateway()?.to_string();
        let keep = "echo 1 > /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down || true";
        let mut lines = vec![vec!["sh", "-c", keep], vec!["ip", "link", "set", "eth0", state]];
        if state == "up" {
            lines.push(vec!["ip", "route", "replace", "default", "via", &gateway]);
        }
        lines.into_iter().try_for_each(|words| pintle_tests::run(setup.cluster.in_node("node-3")?.args(words)).map(drop))?;
        Ok(())
    };
    link("down")?;
    setup.kubectl.wait_for("the node is not ready", &["node", "node-3"], 2 * MINUTE, |n| {
        if is_ready(n) { Err("still ready".into()) } else { Ok(()) }
    })?;
    let nobody = ["endpointslices", "-l", "kubernetes.io/service-name=steadfast"];
    let ready = |l: &Value| {
        items(l).iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default()).any(|e| e["conditions"]["ready"] == true)
    };
    setup.kubectl.wait_for("its pod is no endpoint", &nobody, MINUTE, |l| if ready(l) { Err(l["items"].to_string()) } else { Ok(()) })?;
    link("up")?;
    setup.kubectl.wait_for(
        "the node is back",
        &["node", "node-3"],
        MINUTE,
        |n| if is_ready(n) { Ok(()) } else { Err("not ready".into()) },
    )?;
    let after = setup.kubectl.wait_for("its pod is ready again", &["pod", "steadfast"], MINUTE, |p| {
        if is_ready(p) { Ok(()) } else { Err(p["status"].to_string()) }
    })?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(id(&pod) == id(&after) && after["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", after["status"]);
    answered("node-1")?;
    answered("node-3")?;
    setup.kubectl.run(&["delete", "pod/steadfast", "service/steadfast", "--timeout=60s"])?;
    Ok(())
}
