//! Ingresses, from `kubectl apply` to pods through the HTTP proxy of every node, from outside with curl.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{eventually, kubectl::items, run};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub const TESTS: &[Test] = &[
    ("ingress_hosts_and_paths_lead_to_pods_at_every_node", hosts_and_paths),
    ("ingress_tls_ends_with_the_certificate_that_the_secret_holds_now", tls),
    ("ingress_a_rolling_update_under_load_loses_no_request", rolling_update),
    ("ingress_a_table_by_hand_shares_requests_by_weight", weights),
    ("ingress_what_is_deleted_is_served_no_more", deleted),
];

const MINUTE: Duration = Duration::from_secs(60);

/// Two Deployments that tell their name at every path they know, their Services, and an Ingress in front of them.
fn manifests() -> String {
    let app = |name: &str| {
        format!(
            r#"
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 2
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: registry.pintle.test/web:1
        command: [sh, -c, "mkdir -p /tmp/w/api; echo {name} | tee /tmp/w/index.html > /tmp/w/api/index.html; exec httpd -f -p 8080 -h /tmp/w"]
        ports: [{{name: web, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{port: web, path: /}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{exec: {{command: [sleep, "2"]}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: web}}]}}
"#
        )
    };
    app("front") + &app("back") + &ingress("")
}

fn ingress(more: &str) -> String {
    format!(
        r#"
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: door}}
spec:
  ingressClassName: pintle
  rules:
  - host: shop.test
    http:
      paths:
      - {{path: /, pathType: Prefix, backend: {{service: {{name: front, port: {{number: 80}}}}}}}}
      - {{path: /api, pathType: Prefix, backend: {{service: {{name: back, port: {{name: http}}}}}}}}
{more}"#
    )
}

pub fn addresses(setup: &Setup) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let nodes = setup.kubectl.get(&["nodes"])?;
    Ok(items(&nodes).iter().filter_map(|node| node["status"]["addresses"][0]["address"].as_str().map(str::to_owned)).collect())
}

/// What curl prints: the answer and its status.
pub fn curl(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "-w", " %{http_code}"]).args(args);
    run(&mut command).map(|printed| printed.split_whitespace().collect::<Vec<_>>().join(" ")).map_err(|error| error.to_string())
}

/// Waits until a URL of a host, asked at an address, answers so.
pub fn answers(address: &str, url: &str, more: &[&str], expected: &str) -> Outcome {
    let port = if url.starts_with("https") { 443 } else { 80 };
    let host = url.split('/').nth(2).unwrap_or_default();
    let resolve = format!("{host}:{port}:{address}");
    eventually("the ingress answers", MINUTE, || {
        let printed = curl(&[&["--resolve", &resolve, url], more].concat())?;
        if printed == expected { Ok(()) } else { Err(format!("{url} at {address}: {printed:?}, not {expected:?}")) }
    })?;
    Ok(())
}

fn hosts_and_paths(setup: &Setup) -> Outcome {
    setup.kubectl.apply(&manifests())?;
    setup.kubectl.run(&["rollout", "status", "deployment/front", "deployment/back", "--timeout=120s"])?;
    let mut all = addresses(setup)?;
    all.sort();
    setup.kubectl.wait_for("the Ingress shows every node", &["ingress", "door"], MINUTE, |ingress| {
        let shown = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let shown: Vec<&str> = shown.iter().filter_map(|entry| entry["ip"].as_str()).collect();
        if shown == all { Ok(()) } else { Err(ingress["status"].to_string()) }
    })?;
    for address in &all {
        answers(address, "http://shop.test/", &[], "front 200")?;
        answers(address, "http://shop.test/api/", &[], "back 200")?;
        let other = curl(&["-o", "/dev/null", &format!("http://{address}/")])?;
        ensure!(other == "404", "another host answers {other}");
    }
    // A change is felt at once.
    setup.kubectl.apply(&ingress("  defaultBackend: {service: {name: back, port: {number: 80}}}\n"))?;
    answers(&all[0], "http://other.test/", &[], "back 200")?;
    answers(&all[0], "http://shop.test/", &[], "front 200")
}

/// A certificate of its own for a host: a file to trust it by, and the Secret.
pub fn certificate(host: &str) -> Result<(PathBuf, Value), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
    let file = std::env::temp_dir().join(format!("pintle-{}-{host}.crt", std::process::id()));
    std::fs::write(&file, made.cert.pem())?;
    let data = json!({ "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "door-tls" }, "type": "kubernetes.io/tls", "stringData": data });
    Ok((file, secret))
}

fn tls(setup: &Setup) -> Outcome {
    let all = addresses(setup)?;
    setup.kubectl.apply(&ingress("  tls: [{hosts: [shop.test], secretName: door-tls}]\n"))?;
    for _ in 0..2 {
        // The second is another: it is served as soon as the Secret holds it.
        let (file, secret) = certificate("shop.test")?;
        setup.kubectl.apply(&secret.to_string())?;
        let trusted = file.display().to_string();
        let outcome = all.iter().try_for_each(|address| answers(address, "https://shop.test/api/", &["--cacert", &trusted], "back 200"));
        std::fs::remove_file(&file)?;
        outcome?;
    }
    let resolve = format!("other.test:443:{}", all[0]);
    let refused = curl(&["-k", "--resolve", &resolve, "https://other.test/"]);
    ensure!(refused.is_err(), "a name without a certificate is served: {refused:?}");
    Ok(())
}

fn rolling_update(setup: &Setup) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = addresses(setup)?
        .into_iter()
        .map(|address| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut fine, mut failed) = (0, Vec::new());
                let resolve = format!("shop.test:80:{address}");
                while !stop.load(Ordering::Relaxed) {
                    // Kept connections and new ones.
                    let url = "http://shop.test/?[1-20]";
                    match curl(&["--resolve", &resolve, url]) {
                        Ok(printed) => {
                            let good = printed.matches("front 200").count();
                            fine += good;
                            failed.extend((good != 20).then_some(printed));
                        }
                        Err(error) => failed.push(error),
                    }
                }
                (fine, failed)
            })
        })
        .collect();
    setup.kubectl.run(&["set", "image", "deployment/front", "main=registry.pintle.test/web:2"])?;
    let rolled = setup.kubectl.run(&["rollout", "status", "deployment/front", "--timeout=120s"]);
    let gone = setup.kubectl.wait_for("the old pods are gone", &["pods", "-l", "app=front"], MINUTE, |l| {
        let old = items(l).iter().filter(|p| p["spec"]["containers"][0]["image"] == "registry.pintle.test/web:1").count();
        if old == 0 { Ok(()) } else { Err(format!("{old} old ones")) }
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
    ensure!(failed.is_empty() && fine > 40, "{fine} requests, of which failed {failed:?}");
    Ok(())
}

fn weights(setup: &Setup) -> Outcome {
    let backend = |name: &str, weight: u32| json!({ "namespace": "default", "service": name, "port": 80, "weight": weight });
    let table = json!({
        "apiVersion": "pintle.dev/v1", "kind": "RouteTable", "metadata": { "name": "by-hand" },
        "spec": {
            "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP", "hostname": "weighed.test" }],
            "rules": [{ "backends": [backend("front", 3), backend("back", 1)] }],
        },
    });
    setup.kubectl.apply(&table.to_string())?;
    let address = addresses(setup)?.swap_remove(0);
    let resolve = format!("weighed.test:80:{address}");
    eventually("the table is served", MINUTE, || {
        let printed = curl(&["--resolve", &resolve, "http://weighed.test/"])?;
        if printed.ends_with(" 200") { Ok(()) } else { Err(printed) }
    })?;
    let printed = curl(&["--resolve", &resolve, "http://weighed.test/?[1-80]"])?;
    // One answer follows the other without a space.
    let of = |word: &str| printed.matches(word).count();
    ensure!(of("200") == 80 && (56..=64).contains(&of("front")) && of("front") + of("back") == 80, "{printed}");
    setup.kubectl.run(&["delete", "routetable", "by-hand"])?;
    Ok(())
}

fn deleted(setup: &Setup) -> Outcome {
    setup.kubectl.run(&["delete", "ingress", "door"])?;
    setup.kubectl.wait_for("the table goes with its Ingress", &["routetables", "-A"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(l.to_string()) }
    })?;
    for address in addresses(setup)? {
        eventually("nothing listens", MINUTE, || match curl(&[&format!("http://{address}/")]) {
            Err(error) if error.contains("refused") || error.contains("Failed to connect") => Ok(()),
            other => Err(format!("{address}: {other:?}")),
        })?;
    }
    let args = ["delete", "--timeout=60s", "deployment/front", "deployment/back", "service/front", "service/back", "secret/door-tls"];
    setup.kubectl.run(&args)?;
    Ok(())
}
