//! What a user does with a Deployment, from apply to delete.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
    run, workspace,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Command,
    sync::mpsc,
    time::Duration,
};

pub const TESTS: &[Test] = &[
    ("web_a_deployment_becomes_pods_that_answer_http_on_their_addresses", answers_http),
    ("web_describe_and_get_wide_show_what_users_look_for", describe),
    ("web_get_watch_prints_each_change", get_watch),
    ("web_logs_follow_shows_lines_as_they_are_written", logs_follow),
    ("web_exec_carries_output_input_and_the_exit_code", exec),
    ("web_scale_up_and_down_converges", scale),
    ("web_a_rolling_update_stays_inside_max_unavailable_and_max_surge", rolling_update),
    ("web_rollout_undo_goes_back", rollout_undo),
    ("web_delete_collects_the_children", delete),
];

const MINUTE: Duration = Duration::from_secs(60);

fn ready_pods(list: &Value, count: usize) -> Result<(), String> {
    let ready = items(list).iter().filter(|p| is_ready(p) && p["metadata"]["deletionTimestamp"].is_null()).count();
    let total = items(list).len();
    if ready == count && total == count { Ok(()) } else { Err(format!("{ready} of {total} pods are ready, {count} wanted")) }
}

fn answers_http(setup: &Setup) -> Outcome {
    let manifest = workspace().join("examples/web/web.yaml");
    let printed = setup.kubectl.run(&["apply", "-f", &manifest.display().to_string()])?;
    ensure!(printed.contains("deployment.apps/web created"), "apply printed {printed}");
    setup.kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let pods = setup.kubectl.wait_for("three pods are ready", &["pods", "-l", "app=web"], MINUTE, |l| ready_pods(l, 3))?;
    for pod in items(&pods) {
        ensure!(pod["status"]["phase"] == "Running", "phase {}", pod["status"]["phase"]);
        let ip = pod["status"]["podIP"].as_str().ok_or("no podIP")?;
        let page = eventually("the pod answers HTTP", MINUTE, || {
            run(Command::new("curl").args(["-sS", "--max-time", "2", &format!("http://{ip}:8080/")])).map_err(|e| e.to_string())
        })?;
        ensure!(page.contains("pintle web 1"), "page {page}");
    }
    Ok(())
}

fn describe(setup: &Setup) -> Outcome {
    let deployment = setup.kubectl.run(&["describe", "deployment", "web"])?;
    for expected in ["3 desired", "3 available", "RollingUpdateStrategy:", "registry.pintle.test/web:1", "NewReplicaSet:"] {
        ensure!(deployment.contains(expected), "describe lacks {expected:?}:\n{deployment}");
    }
    let pod = setup.kubectl.run(&["describe", "pod", "-l", "app=web"])?;
    for expected in ["Status:           Running", "Ready:          True", "Started", "Pulled"] {
        ensure!(pod.contains(expected), "describe pod lacks {expected:?}:\n{pod}");
    }
    let wide = setup.kubectl.run(&["get", "pods", "-l", "app=web", "-o", "wide"])?;
    for expected in ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "1/1", "Running", "node-"] {
        ensure!(wide.contains(expected), "get -o wide lacks {expected:?}:\n{wide}");
    }
    let deployments = setup.kubectl.run(&["get", "deployments"])?;
    ensure!(deployments.contains("3/3"), "get deployments:\n{deployments}");
    Ok(())
}

fn get_watch(setup: &Setup) -> Outcome {
    let mut watch = setup.kubectl.start(&["get", "configmaps", "-w"])?;
    let output = watch.stdout.take().ok_or("no output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
    lines.recv_timeout(MINUTE)?;
    setup.kubectl.run(&["create", "configmap", "watched", "--from-literal=a=b"])?;
    let outcome = eventually("the watch prints the new object", MINUTE, || match lines.recv_timeout(Duration::from_secs(1)) {
        Ok(line) if line.starts_with("watched") => Ok(()),
        Ok(line) => Err(line),
        Err(e) => Err(e.to_string()),
    });
    watch.kill()?;
    watch.wait()?;
    setup.kubectl.run(&["delete", "configmap", "watched"])?;
    Ok(outcome?)
}

fn a_pod(setup: &Setup) -> Result<Value, Box<dyn std::error::Error>> {
    let pods = setup.kubectl.get(&["pods", "-l", "app=web"])?;
    items(&pods).first().cloned().ok_or_else(|| "no pod of web".into())
}

fn logs_follow(setup: &Setup) -> Outcome {
    let pod = a_pod(setup)?;
    let (name, ip) = (pod["metadata"]["name"].as_str().unwrap_or_default(), pod["status"]["podIP"].as_str().unwrap_or_default());
    let mut follow = setup.kubectl.start(&["logs", "-f", name])?;
    let output = follow.stdout.take().ok_or("no output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
    let outcome = eventually("the request shows in the log", MINUTE, || {
        run(Command::new("curl").args(["-sS", "-o", "/dev/null", "--max-time", "2", &format!("http://{ip}:8080/marker")]))
            .map_err(|e| e.to_string())?;
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) if line.contains("response:404") => Ok(()),
            Ok(line) => Err(line),
            Err(e) => Err(e.to_string()),
        }
    });
    follow.kill()?;
    follow.wait()?;
    outcome?;
    let tail = setup.kubectl.run(&["logs", "--tail=1", "--timestamps", name])?;
    ensure!(tail.lines().count() == 1 && tail.starts_with("20"), "logs --tail=1 --timestamps printed {tail}");
    Ok(())
}

fn exec(setup: &Setup) -> Outcome {
    let pod = a_pod(setup)?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let hostname = setup.kubectl.run(&["exec", name, "--", "hostname"])?;
    ensure!(hostname.trim() == name, "hostname {hostname}");
    let echoed = setup.kubectl.run_with(&["exec", "-i", name, "--", "cat"], "carried through\n")?;
    ensure!(echoed == "carried through\n", "cat printed {echoed:?}");
    let status = setup.kubectl.command(&["exec", name, "--", "sh", "-c", "echo to stderr >&2; exit 7"]).output()?;
    ensure!(status.status.code() == Some(7), "exit code {:?}", status.status.code());
    ensure!(String::from_utf8_lossy(&status.stderr).contains("to stderr"), "stderr {:?}", String::from_utf8_lossy(&status.stderr));
    let missing = setup.kubectl.command(&["exec", name, "--", "no-such-program"]).output()?;
    ensure!(!missing.status.success(), "a missing program succeeded");
    Ok(())
}

fn scale(setup: &Setup) -> Outcome {
    for count in [5, 2, 3] {
        setup.kubectl.run(&["scale", "deployment/web", &format!("--replicas={count}")])?;
        setup.kubectl.wait_for(&format!("{count} pods are ready"), &["pods", "-l", "app=web"], MINUTE, |l| ready_pods(l, count))?;
        setup.kubectl.wait_for("the status says so", &["deployment", "web"], MINUTE, |d| {
            if d["status"]["readyReplicas"] == count { Ok(()) } else { Err(d["status"].to_string()) }
        })?;
    }
    Ok(())
}

/// Of each pod whether it is not on its way out, and whether it is ready, too; after an event of a watch.
fn note(pods: &mut BTreeMap<String, (bool, bool)>, event: &Value) {
    let object = &event["object"];
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if event["type"] == "DELETED" {
        pods.remove(&name);
    } else {
        let alive = object["metadata"]["deletionTimestamp"].is_null();
        pods.insert(name, (alive, alive && is_ready(object)));
    }
}

fn rolling_update(setup: &Setup) -> Outcome {
    let patch = r#"{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":1,"maxSurge":1}}}}"#;
    setup.kubectl.run(&["patch", "deployment", "web", "-p", patch])?;
    let mut watch = setup.kubectl.start(&["get", "pods", "-l", "app=web", "-w", "-o", "json", "--output-watch-events"])?;
    let output = watch.stdout.take().ok_or("no output")?;
    let (send, events) = mpsc::channel::<Value>();
    std::thread::spawn(move || {
        for event in serde_json::Deserializer::from_reader(output).into_iter::<Value>().map_while(Result::ok) {
            if send.send(event).is_err() {
                break;
            }
        }
    });
    // From here on the watch is told of everything.
    let mut pods = BTreeMap::new();
    while pods.values().filter(|(_, ready)| *ready).count() < 3 {
        let event = events.recv_timeout(MINUTE)?;
        note(&mut pods, &event);
    }
    setup.kubectl.run(&["set", "image", "deployment/web", "httpd=registry.pintle.test/web:2"])?;
    setup.kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let mut replaced = false;
    while let Ok(event) = events.recv_timeout(Duration::from_secs(2)) {
        note(&mut pods, &event);
        replaced |= event["object"]["spec"]["containers"][0]["image"] == "registry.pintle.test/web:2";
        let alive = pods.values().filter(|(alive, _)| *alive).count();
        let ready = pods.values().filter(|(_, ready)| *ready).count();
        ensure!(alive <= 4, "{alive} pods at once, 4 allowed by maxSurge 1");
        ensure!(ready >= 2, "{ready} pods ready, 2 demanded by maxUnavailable 1");
    }
    watch.kill()?;
    watch.wait()?;
    ensure!(replaced, "the watch saw no new pod");
    let pods = setup.kubectl.wait_for("three new pods are ready", &["pods", "-l", "app=web"], MINUTE, |l| ready_pods(l, 3))?;
    ensure!(items(&pods).iter().all(|p| p["spec"]["containers"][0]["image"] == "registry.pintle.test/web:2"), "an old pod is left");
    Ok(())
}

fn rollout_undo(setup: &Setup) -> Outcome {
    setup.kubectl.run(&["rollout", "undo", "deployment/web"])?;
    setup.kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    setup.kubectl.wait_for("the old image is back", &["pods", "-l", "app=web"], MINUTE, |l| {
        ready_pods(l, 3)?;
        let old = items(l).iter().all(|p| p["spec"]["containers"][0]["image"] == "registry.pintle.test/web:1");
        if old { Ok(()) } else { Err("a pod still has the new image".into()) }
    })?;
    let history = setup.kubectl.run(&["rollout", "history", "deployment/web"])?;
    ensure!(history.contains('3'), "history lacks revision 3:\n{history}");
    Ok(())
}

fn delete(setup: &Setup) -> Outcome {
    setup.kubectl.run(&["delete", "deployment", "web", "--timeout=60s"])?;
    setup.kubectl.wait_for("its children are gone", &["replicasets,pods", "-l", "app=web"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} are left", items(l).len())) }
    })?;
    Ok(())
}
