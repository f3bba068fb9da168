//! The Gateway API, by the definitions that its project publishes: one Gateway with HTTP and HTTPS, and a route that does what routes can do, asked with
//! curl at every node.

use crate::{Outcome, Test, ensure, ingress, setup::Setup};
use pintle_tests::{
    clients, eventually,
    kubectl::{is_ready, items},
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

pub const TESTS: &[Test] = &[
    ("gateway_a_class_and_a_gateway_become_programmed", programmed),
    ("gateway_routes_weigh_match_redirect_rewrite_mirror_and_time_out", routes),
    ("gateway_tls_ends_with_the_certificate_that_a_listener_names", tls),
    ("gateway_what_is_deleted_is_served_no_more", deleted),
];

const MINUTE: Duration = Duration::from_secs(60);
const HOST: &str = "gw.test";
const KINDS: [&str; 4] = ["gatewayclasses", "gateways", "httproutes", "referencegrants"];

fn definitions() -> Vec<PathBuf> {
    let folder = clients::folder().join("gateway-api");
    KINDS.iter().map(|kind| folder.join(format!("gateway.networking.k8s.io_{kind}.yaml"))).collect()
}

/// Whether this machine has them: they come with Go's modules.
fn missing() -> bool {
    let missing = !definitions().iter().all(|file| file.exists());
    if missing {
        println!("skipped: needs the Gateway API's definitions, which `cargo xtask test` gets where there is a Go");
    }
    missing
}

/// A pod that answers with its name at `/` and `/new/`, the log of one that is mirrored to, and one that is slow; with a Service each.
fn backends() -> Value {
    let web = |name: &str| {
        format!("mkdir -p /tmp/w/new; echo {name} | tee /tmp/w/index.html > /tmp/w/new/index.html; exec httpd -f -vv -p 8080 -h /tmp/w")
    };
    let scripts = [
        ("gw-one", web("gw-one")),
        ("gw-two", web("gw-two")),
        ("gw-mirror", web("gw-mirror")),
        ("gw-slow", "exec nc -ll -p 8080 -e sleep 30".into()),
    ];
    let objects = scripts.iter().flat_map(|(name, script)| {
        let container = json!({ "name": "main", "image": "registry.pintle.test/web:1", "command": ["sh", "-c", script] });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name, "of": "gateway" } },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [container] } });
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
        [pod, service]
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>() })
}

fn object(kind: &str, name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec }).to_string()
}

fn gateway(secure: bool) -> String {
    let mut listeners = vec![json!({ "name": "http", "port": 80, "protocol": "HTTP", "hostname": HOST })];
    if secure {
        let tls = json!({ "mode": "Terminate", "certificateRefs": [{ "name": "door-tls" }] });
        listeners.push(json!({ "name": "https", "port": 443, "protocol": "HTTPS", "hostname": HOST, "tls": tls }));
    }
    object("Gateway", "edge", &json!({ "gatewayClassName": "pintle", "listeners": listeners }))
}

/// Waits until a condition of an object (found by `at` in its status) holds.
fn holds(setup: &Setup, what: &[&str], at: &str, condition: &str) -> Outcome {
    setup.kubectl.wait_for(&format!("{condition} of {what:?}"), what, MINUTE, |object| {
        let all = object.pointer(at).and_then(Value::as_array).cloned().unwrap_or_default();
        let found = all.iter().any(|row| row["type"] == condition && row["status"] == "True");
        if found { Ok(()) } else { Err(object["status"].to_string()) }
    })?;
    Ok(())
}

fn programmed(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    for file in definitions() {
        setup.kubectl.run(&["apply", "--server-side", "-f", &file.display().to_string()])?;
    }
    let named: Vec<String> = KINDS.iter().map(|kind| format!("crd/{kind}.gateway.networking.k8s.io")).collect();
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    wait.extend(named.iter().map(String::as_str));
    setup.kubectl.run(&wait)?;
    setup.kubectl.apply(&backends().to_string())?;
    setup.kubectl.apply(&object("GatewayClass", "pintle", &json!({ "controllerName": "pintle.dev/gateway" })))?;
    setup.kubectl.apply(&gateway(false))?;
    setup.kubectl.run(&["patch", "module", "gateway", "--type=merge", "-p", r#"{"spec": {"suspend": false}}"#])?;
    holds(setup, &["gatewayclass", "pintle"], "/status/conditions", "Accepted")?;
    holds(setup, &["gateway", "edge"], "/status/conditions", "Programmed")?;
    let shown = setup.kubectl.get(&["gateway", "edge"])?["status"]["addresses"].as_array().map_or(0, Vec::len);
    ensure!(shown == ingress::addresses(setup)?.len(), "the Gateway shows {shown} addresses");
    setup.kubectl.wait_for("the backends run", &["pods", "-l", "of=gateway"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == 4 { Ok(()) } else { Err(format!("{ready} of 4")) }
    })?;
    Ok(())
}

fn route() -> String {
    let to = |name: &str, weight: u32| json!({ "name": name, "port": 80, "weight": weight });
    let path = |path: &str| json!([{ "path": { "type": "PathPrefix", "value": path } }]);
    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": { "statusCode": 301, "path": { "type": "ReplaceFullPath", "replaceFullPath": "/new/" } } });
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" } } });
    let mirror = json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "gw-mirror", "port": 80 } } });
    let header = json!([{ "headers": [{ "name": "x-version", "value": "two" }] }]);
    let mark = json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": [{ "name": "x-by", "value": "edge" }] } });
    let rules = json!([
        { "matches": header, "filters": [mark], "backendRefs": [to("gw-two", 1)] },
        { "matches": path("/old"), "filters": [redirect] },
        { "matches": path("/inner"), "filters": [rewrite], "backendRefs": [to("gw-two", 1)] },
        { "matches": path("/copied"), "filters": [mirror], "backendRefs": [to("gw-one", 1)] },
        { "matches": path("/slow"), "timeouts": { "request": "500ms" }, "backendRefs": [to("gw-slow", 1)] },
        { "backendRefs": [to("gw-one", 3), to("gw-two", 1)] },
    ]);
    object("HTTPRoute", "shop", &json!({ "parentRefs": [{ "name": "edge" }], "hostnames": [HOST], "rules": rules }))
}

fn routes(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    setup.kubectl.apply(&route())?;
    for condition in ["Accepted", "ResolvedRefs"] {
        holds(setup, &["httproute", "shop"], "/status/parents/0/conditions", condition)?;
    }
    for address in ingress::addresses(setup)? {
        let resolve = format!("{HOST}:80:{address}");
        let ask = |args: &[&str]| ingress::curl(&[&["--resolve", &resolve], args].concat());
        ingress::answers(&address, "http://gw.test/", &["-H", "x-version: two"], "gw-two 200")?;
        let marked = ask(&["-D", "-", "-H", "x-version: two", "http://gw.test/"])?;
        ensure!(marked.to_lowercase().contains("x-by: edge"), "no header: {marked}");
        let shared = ask(&["http://gw.test/?[1-40]"])?;
        let of = |word: &str| shared.matches(word).count();
        ensure!(of(" 200") + of("200gw") >= 40 && (26..=34).contains(&of("gw-one")) && of("gw-one") + of("gw-two") == 40, "{shared}");
        let moved = ask(&["-o", "/dev/null", "-w", " %{redirect_url}", "http://gw.test/old/page"])?;
        ensure!(moved.contains("http://gw.test/new/"), "redirected to {moved}");
        let inner = ask(&["http://gw.test/inner/"])?;
        ensure!(inner == "gw-two 200", "rewritten: {inner}");
        let slow = ask(&["-o", "/dev/null", "http://gw.test/slow"])?;
        ensure!(slow == "504", "slow: {slow}");
        let other = ingress::curl(&["-o", "/dev/null", &format!("http://{address}/")])?;
        ensure!(other == "404", "another host answers {other}");
    }
    let address = ingress::addresses(setup)?.swap_remove(0);
    let copied = ingress::curl(&["-o", "/dev/null", "--resolve", &format!("{HOST}:80:{address}"), "http://gw.test/copied/here"])?;
    ensure!(copied == "404", "what is mirrored is answered by the backend, which has no such page: {copied}");
    eventually("the mirror has seen it", MINUTE, || {
        let log = setup.kubectl.run(&["logs", "gw-mirror"]).map_err(|e| e.to_string())?;
        if log.contains("/copied/here") { Ok(()) } else { Err(log) }
    })?;
    Ok(())
}

fn tls(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    let (file, secret) = ingress::certificate(HOST)?;
    setup.kubectl.apply(&secret.to_string())?;
    setup.kubectl.apply(&gateway(true))?;
    let trusted = file.display().to_string();
    let outcome = ingress::addresses(setup)?.iter().try_for_each(|address| {
        ingress::answers(address, "https://gw.test/", &["--cacert", &trusted, "-H", "x-version: two"], "gw-two 200")
    });
    std::fs::remove_file(&file)?;
    outcome
}

fn deleted(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    setup.kubectl.run(&["delete", "gateway/edge", "httproute/shop", "gatewayclass/pintle", "secret/door-tls", "--timeout=60s"])?;
    setup.kubectl.wait_for("the table goes with its Gateway", &["routetables", "-A"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(l.to_string()) }
    })?;
    for address in ingress::addresses(setup)? {
        eventually("nothing listens", MINUTE, || match ingress::curl(&[&format!("http://{address}/")]) {
            Err(error) if error.contains("refused") || error.contains("Failed to connect") => Ok(()),
            other => Err(format!("{address}: {other:?}")),
        })?;
    }
    setup.kubectl.run(&["patch", "module", "gateway", "--type=merge", "-p", r#"{"spec": {"suspend": true}}"#])?;
    let named: Vec<String> = KINDS.iter().map(|kind| format!("crd/{kind}.gateway.networking.k8s.io")).collect();
    let mut delete = vec!["delete", "--timeout=60s"];
    delete.extend(named.iter().map(String::as_str));
    setup.kubectl.run(&delete)?;
    setup.kubectl.run(&["delete", "pods,services", "gw-one", "gw-two", "gw-mirror", "gw-slow", "--timeout=60s"])?;
    Ok(())
}
