//! A node whose pods CNI plugins plug in, among nodes that do it themselves: Services, names, host ports and policies hold there, too.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run,
};
use serde_json::{Value, json};
use std::{path::Path, process::Command, time::Duration};

pub const TESTS: &[Test] = &[("cni_services_names_and_policies_hold_on_a_node_of_plugins", node_of_plugins)];

const MINUTE: Duration = Duration::from_secs(60);
const NODE: &str = "node-3";

fn pod(name: &str, node: &str, labels: &Value) -> Value {
    let script = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    let mut container = json!({ "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script] });
    if name == "plugged" {
        container["ports"] = json!([{ "containerPort": 8080, "hostPort": 8099 }]);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container] } })
}

/// Starts the node's daemon anew with these options, the old one's bridge gone.
fn again(setup: &Setup, bridge: &str, options: &[&str]) -> Outcome {
    let field = format!("--field-selector=spec.nodeName={NODE}");
    setup.kubectl.wait_for("the node has no pods", &["pods", "-A", &field], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} pods", items(l).len())) }
    })?;
    setup.cluster.kill(NODE)?;
    run(setup.cluster.in_node(NODE)?.args(["ip", "link", "del", bridge]))?;
    setup.repair_with(options)?;
    setup.kubectl.wait_for("the node is ready", &["node", NODE], MINUTE, |n| {
        if is_ready(n) { Ok(()) } else { Err(n["status"]["conditions"].to_string()) }
    })?;
    Ok(())
}

fn node_of_plugins(setup: &Setup) -> Outcome {
    if !Path::new("/usr/lib/cni/bridge").exists() {
        println!("skipped: needs Debian's containernetworking-plugins");
        return Ok(());
    }
    let node = setup.kubectl.get(&["node", NODE])?;
    let (cidr, address) = (&node["spec"]["podCIDR"], node["status"]["addresses"][0]["address"].as_str().ok_or("no address")?);
    let folder = setup.cluster.data_dir().join("cni");
    std::fs::create_dir_all(&folder)?;
    let list = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
          "ipam": { "type": "host-local", "dataDir": folder.join("ipam"), "ranges": [[{ "subnet": cidr }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
    ] });
    std::fs::write(folder.join("10-pods.conflist"), list.to_string())?;
    let option = format!("--node-arg=--cni-conf-dir={}", folder.display());
    again(setup, "pintle-pods", &[&option])?;
    let outcome = probed(setup, address);
    setup.kubectl.run(&["delete", "--ignore-not-found", "--timeout=60s", "networkpolicy/plugged", "service/plugged"])?;
    setup.kubectl.run(&["delete", "--ignore-not-found", "--timeout=60s", "pod", "plugged", "beside", "far"])?;
    // The pods are gone from the API at once; their node takes a moment more.
    let returned = eventually("the plugins have their addresses back", MINUTE, || {
        let files = std::fs::read_dir(folder.join("ipam/pods")).map_err(|e| e.to_string())?.flatten();
        let given: Vec<_> = files.map(|file| file.file_name()).filter(|name| name.to_string_lossy().starts_with("10.")).collect();
        if given.is_empty() { Ok(()) } else { Err(format!("{given:?}")) }
    });
    again(setup, "cni0", &[])?;
    outcome?;
    Ok(returned?)
}

fn probed(setup: &Setup, address: &str) -> Outcome {
    let pods = [
        pod("plugged", NODE, &json!({ "app": "plugged" })),
        pod("beside", NODE, &json!({})),
        pod("far", "node-1", &json!({ "may": "ask" })),
    ];
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "plugged" },
        "spec": { "type": "NodePort", "selector": { "app": "plugged" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    let items = [&pods[..], &[service]].concat();
    let all = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    setup.kubectl.apply(&all.to_string())?;
    for name in ["plugged", "beside", "far"] {
        setup
            .kubectl
            .wait_for("the pod is ready", &["pod", name], MINUTE, |p| if is_ready(p) { Ok(()) } else { Err(p["status"].to_string()) })?;
    }
    let ask = |from: &str, url: &str| {
        let script = format!("timeout 3 wget -q -O - {url}");
        setup.kubectl.run(&["exec", from, "--", "sh", "-c", &script]).map_err(|e| e.to_string())
    };
    let answered = |from: &str| {
        eventually("the Service answers by its name", MINUTE, || match ask(from, "http://plugged.default.svc.cluster.local/")? {
            said if said == "plugged\n" => Ok(()),
            other => Err(format!("{from}: {other}")),
        })
    };
    // From another node, from beside it on the plugins' bridge, and from itself.
    ["far", "beside", "plugged"].iter().try_for_each(|from| answered(from))?;
    let port = setup.kubectl.get(&["service", "plugged"])?["spec"]["ports"][0]["nodePort"].to_string();
    for port in [port.as_str(), "8099"] {
        let said = run(Command::new("curl").args(["-sS", "--max-time", "5", &format!("http://{address}:{port}/")]))?;
        ensure!(said == "plugged\n", "port {port} of the node says {said:?}");
    }
    let policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "plugged" },
        "spec": { "podSelector": { "matchLabels": { "app": "plugged" } }, "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "may": "ask" } } }] }] } });
    setup.kubectl.apply(&policy.to_string())?;
    eventually("the policy holds on the plugins' bridge", MINUTE, || match ask("beside", "http://plugged/") {
        Err(_) => Ok(()),
        Ok(said) => Err(said),
    })?;
    answered("far")?;
    setup.kubectl.run(&["label", "pod", "beside", "may=ask"])?;
    answered("beside")?;
    Ok(())
}
