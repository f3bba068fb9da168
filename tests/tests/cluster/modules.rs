//! Third-party modules: loaded, swapped and deleted while the cluster runs, and contained when they are hostile.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{Error, eventually, https::Api, kubectl::items, programs, registry::Registry, workspace};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = &[
    ("modules_the_built_in_ones_are_running_objects", built_in),
    ("modules_a_controller_is_loaded_by_apply_and_stopped_by_delete", controller),
    ("modules_an_admission_rule_is_loaded_by_apply_and_gone_with_delete", admission),
    ("modules_the_tutorial_works_to_the_letter", tutorial),
    ("modules_an_artifact_is_pulled_by_its_digest", artifact),
    ("modules_a_policy_admits_what_a_key_signed_and_nothing_else", signed),
    ("modules_swapping_a_controller_among_200_creates_loses_and_doubles_nothing", swap),
    ("modules_hostile_ones_are_contained_and_named", hostile),
];

const MINUTE: Duration = Duration::from_secs(60);

/// Runs, unless it ships suspended: its user brings the API that it serves.
fn running(module: &Value) -> Result<(), String> {
    let wanted = if module["spec"]["suspend"] == true { "Stopped" } else { "Running" };
    if module["status"]["state"] == wanted { Ok(()) } else { Err(format!("{}: {}", module["metadata"]["name"], module["status"])) }
}

fn built_in(setup: &Setup) -> Outcome {
    let modules = setup.kubectl.wait_for("every built-in module runs", &["modules"], MINUTE, |l| items(l).iter().try_for_each(running))?;
    let names: BTreeSet<&str> = items(&modules).iter().filter_map(|m| m["metadata"]["name"].as_str()).collect();
    let expected = [
        "deployment",
        "replicaset",
        "scheduler",
        "serviceaccount",
        "root-ca-publisher",
        "namespace",
        "garbage-collector",
        "node-lifecycle",
        "endpointslice",
        "workloads",
    ];
    for name in expected {
        ensure!(names.contains(name), "{name} is not among {names:?}");
    }
    let printed = setup.kubectl.run(&["get", "modules"])?;
    for column in ["NAME", "TYPE", "STATE", "DIGEST", "CALLS", "P99", "MEMORY", "TRAPS"] {
        ensure!(printed.contains(column), "get modules lacks {column}:\n{printed}");
    }
    Ok(())
}

fn controller(setup: &Setup) -> Outcome {
    let kernel = setup.cluster.pid("kernel")?;
    setup.kubectl.run(&["create", "namespace", "home"])?;
    setup.kubectl.run(&["label", "namespace", "home", "greet=world"])?;
    let manifest = workspace().join("examples/module-controller/module.json").display().to_string();
    let begin = Instant::now();
    setup.kubectl.run(&["apply", "-f", &manifest])?;
    let greeting = ["configmap", "greeting", "-n", "home"];
    setup.kubectl.wait_for("the controller acts", &greeting, MINUTE, |map| {
        if map["data"]["text"] == "Hello, world!" { Ok(()) } else { Err(map["data"].to_string()) }
    })?;
    println!("from apply to its first write: {} ms", begin.elapsed().as_millis());
    setup.kubectl.wait_for("its status says so", &["module", "greeter"], MINUTE, running)?;

    setup.kubectl.run(&["patch", "module", "greeter", "--type=merge", "-p", r#"{"spec":{"config":{"greeting":"Welcome"}}}"#])?;
    setup.kubectl.wait_for("its new version takes over", &greeting, MINUTE, |map| {
        if map["data"]["text"] == "Welcome, world!" { Ok(()) } else { Err(map["data"].to_string()) }
    })?;

    setup.kubectl.run(&["delete", "module", "greeter", "--timeout=30s"])?;
    setup.kubectl.run(&["create", "namespace", "late"])?;
    setup.kubectl.run(&["label", "namespace", "late", "greet=nobody"])?;
    setup.kubectl.wait_for(
        "other controllers have seen the namespace",
        &["configmap", "kube-root-ca.crt", "-n", "late"],
        MINUTE,
        |_| Ok(()),
    )?;
    let late = setup.kubectl.run(&["get", "configmap", "greeting", "-n", "late", "--ignore-not-found"])?;
    ensure!(late.is_empty(), "a deleted module acted: {late}");
    ensure!(setup.cluster.pid("kernel")? == kernel, "the kernel was restarted");
    setup.kubectl.run(&["delete", "namespace", "home", "late", "--timeout=60s"])?;
    Ok(())
}

fn admission(setup: &Setup) -> Outcome {
    let manifest = workspace().join("examples/module-admission/module.json").display().to_string();
    setup.kubectl.run(&["apply", "-f", &manifest])?;
    setup.kubectl.wait_for("the rule is loaded", &["module", "tagged-images"], MINUTE, running)?;
    let pod = |image: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: tagged}}, spec: {{schedulerName: nobody, containers: [{{name: c, image: '{image}'}}]}}}}"
        )
    };
    let refused = setup.kubectl.apply(&pod("web:latest")).err().ok_or("an image tagged latest was let in")?.to_string();
    ensure!(refused.contains("must have a tag other than latest"), "refused with {refused}");
    setup.kubectl.apply(&pod("web:1"))?;
    setup.kubectl.run(&["delete", "pod", "tagged", "--timeout=30s"])?;
    setup.kubectl.run(&["delete", "module", "tagged-images", "--timeout=30s"])?;
    eventually("the rule is gone", MINUTE, || setup.kubectl.apply(&pod("web:latest")).map_err(|e| e.to_string()))?;
    setup.kubectl.run(&["delete", "pod", "tagged", "--timeout=30s"])?;
    Ok(())
}

/// Every `sh` block of docs/write-a-module.md, in one shell, from an empty folder.
fn tutorial(setup: &Setup) -> Outcome {
    let text = fs::read_to_string(workspace().join("docs/write-a-module.md"))?;
    let blocks: Vec<&str> = text.split("```").filter_map(|part| part.strip_prefix("sh\n")).collect();
    ensure!(blocks.len() > 5, "the tutorial has only {} blocks", blocks.len());
    let folder = programs().with_file_name("tutorial");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let path = format!("{}:{}", programs().display(), std::env::var("PATH")?);
    let output = Command::new("timeout")
        .args(["600", "bash", "-euxo", "pipefail", "-c", &blocks.concat()])
        .current_dir(&folder)
        .env("PATH", path)
        .env("KUBECONFIG", setup.cluster.data_dir().canonicalize()?.join("kubeconfig"))
        // What the examples were built with is built already.
        .env("CARGO_TARGET_DIR", programs().with_file_name("example-modules"))
        .stdin(Stdio::null())
        .output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {said}", output.status);
    ensure!(said.contains("must have a tag other than latest"), "the rule refused nothing: {said}");
    Ok(())
}

/// The example, pushed to a registry of this machine, pulled by the kernel, and refused when its digest is another.
fn artifact(setup: &Setup) -> Outcome {
    let address = SocketAddr::from(([127, 0, 0, 1], 5091));
    let registry = Registry::start(address, &programs().with_file_name("artifact-registry"))?;
    let wasm = programs().join("example-modules/module_controller.wasm");
    let tagged = format!("{address}/modules/greeter:1");
    let pushed = pintle_tests::run(Command::new(programs().join("pintle-artifact")).args(["push", &tagged]).arg(&wasm))?;
    let reference = pushed.trim();
    ensure!(reference.contains("@sha256:"), "pushed as {reference}");
    let mut module: Value = serde_json::from_slice(&fs::read(workspace().join("examples/module-controller/module.json"))?)?;
    for (name, reference, wanted) in [
        ("pulled", reference.to_owned(), "Running"),
        ("tagged", tagged, "Failed"),
        ("missing", format!("{address}/modules/greeter@sha256:{}", "0".repeat(64)), "Failed"),
    ] {
        module["metadata"]["name"] = json!(name);
        module["spec"]["source"] = json!({"oci": reference});
        setup.kubectl.apply(&module.to_string())?;
        setup.kubectl.wait_for(&format!("{name} is {wanted}"), &["module", name], MINUTE, |module| {
            if module["status"]["state"] == wanted { Ok(()) } else { Err(module["status"].to_string()) }
        })?;
        setup.kubectl.run(&["delete", "module", name, "--timeout=30s"])?;
    }
    drop(registry);
    Ok(())
}

/// The example in a registry: not admitted by a policy with a key until the holder of the key has signed it.
fn signed(setup: &Setup) -> Outcome {
    let address = SocketAddr::from(([127, 0, 0, 1], 5092));
    let folder = programs().with_file_name("signed-registry");
    let registry = Registry::start(address, &folder)?;
    let module_program = |words: &[&str]| pintle_tests::run(Command::new(programs().join("pintle-module")).args(words));
    let wasm = programs().join("example-modules/module_controller.wasm");
    let tagged = format!("{address}/modules/signed:1");
    let pushed = pintle_tests::run(Command::new(programs().join("pintle-artifact")).args(["push", &tagged]).arg(&wasm))?;
    let keys = folder.join("keys");
    let _ = fs::remove_dir_all(&keys);
    fs::create_dir_all(&keys)?;
    for name in ["ours", "theirs"] {
        module_program(&["new-key", &keys.join(name).display().to_string()])?;
    }
    let policy = json!({
        "apiVersion": "pintle.dev/v1", "kind": "ModulePolicy", "metadata": {"name": "signed"},
        "spec": {
            "modules": ["signed"],
            "signingKeys": [fs::read_to_string(keys.join("ours.pub"))?],
            "permissions": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
            "grants": ["logger"],
        },
    });
    setup.kubectl.apply(&policy.to_string())?;
    let mut module: Value = serde_json::from_slice(&fs::read(workspace().join("examples/module-controller/module.json"))?)?;
    module["metadata"]["name"] = json!("signed");
    module["spec"]["source"] = json!({"oci": pushed.trim()});
    let is = |wanted: &'static str| {
        setup.kubectl.wait_for(&format!("the module is {wanted}"), &["module", "signed"], MINUTE, move |module| {
            if module["status"]["state"] == wanted { Ok(()) } else { Err(module["status"].to_string()) }
        })
    };
    setup.kubectl.apply(&module.to_string())?;
    let denied = is("Denied")?;
    ensure!(denied["status"]["message"].as_str().is_some_and(|m| m.contains("has no key that signed it")), "{}", denied["status"]);
    let sign_and_retry = |key: &str| -> Outcome {
        module_program(&["sign", pushed.trim(), "--key", &keys.join(key).display().to_string()])?;
        setup.kubectl.run(&["delete", "module", "signed", "--timeout=30s"])?;
        setup.kubectl.apply(&module.to_string())?;
        Ok(())
    };
    sign_and_retry("theirs.key")?;
    is("Denied")?;
    sign_and_retry("ours.key")?;
    is("Running")?;
    setup.kubectl.run(&["delete", "module", "signed", "--timeout=30s"])?;
    setup.kubectl.run(&["delete", "modulepolicy", "signed"])?;
    drop(registry);
    Ok(())
}

/// Two hundred pods that no scheduler takes, made by the replicaset module while it is swapped again and again.
fn swap(setup: &Setup) -> Outcome {
    const COUNT: usize = 200;
    let mut watch = setup.kubectl.start(&["get", "pods", "-l", "app=swapped", "-w", "-o", "json", "--output-watch-events"])?;
    let output = watch.stdout.take().ok_or("no output")?;
    let (send, events) = mpsc::channel::<Value>();
    std::thread::spawn(move || {
        serde_json::Deserializer::from_reader(output).into_iter::<Value>().map_while(Result::ok).try_for_each(|e| send.send(e))
    });
    let before = setup.kubectl.get(&["module", "replicaset"])?["status"]["generation"].as_u64().unwrap_or(0);
    let done = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (api, done) = (Api::new(&setup.cluster)?, done.clone());
        move || swap_until(&api, &done).map_err(|e| e.to_string())
    });
    setup.kubectl.apply(&format!(
        "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: swapped}}, spec: {{replicas: {COUNT}, selector: {{matchLabels: {{app: swapped}}}}, \
         template: {{metadata: {{labels: {{app: swapped}}}}, spec: {{schedulerName: nobody, terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: 'web:1'}}]}}}}}}}}"
    ))?;
    let mut created = BTreeSet::new();
    let deadline = Instant::now() + MINUTE;
    while created.len() < COUNT {
        ensure!(Instant::now() < deadline, "only {} pods within a minute", created.len());
        while let Ok(event) = events.recv_timeout(Duration::from_millis(50)) {
            let uid = event["object"]["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            ensure!(event["type"] != "DELETED", "a pod too many was made and deleted");
            created.insert(uid);
        }
    }
    done.store(true, Ordering::Relaxed);
    let swaps = swapper.join().map_err(|_| "the swapping thread panicked")??;
    setup.kubectl.wait_for("the status counts them", &["replicaset", "swapped"], MINUTE, |r| {
        if r["status"]["replicas"] == COUNT { Ok(()) } else { Err(r["status"].to_string()) }
    })?;
    while let Ok(event) = events.recv_timeout(Duration::from_millis(500)) {
        created.insert(event["object"]["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
    }
    watch.kill()?;
    watch.wait()?;
    ensure!(created.len() == COUNT, "{} pods were made, {COUNT} wanted", created.len());
    let generation = |m: &Value| m["status"]["generation"].as_u64().unwrap_or(0);
    let swapped = setup.kubectl.wait_for("the status tells of the swaps", &["module", "replicaset"], MINUTE, |m| {
        if generation(m) > before { Ok(()) } else { Err(format!("generation {before}, then {}", generation(m))) }
    })?;
    let after = generation(&swapped);
    println!("{swaps} swaps while {COUNT} pods were made; generation {before} became {after}");
    setup.kubectl.run(&["delete", "replicaset", "swapped", "--timeout=60s"])?;
    setup.kubectl.wait_for("they are gone", &["pods", "-l", "app=swapped"], MINUTE, |l| {
        if items(l).is_empty() { Ok(()) } else { Err(format!("{} left", items(l).len())) }
    })?;
    Ok(())
}

/// Changes the replicaset module's configuration, each change a swap, until told to stop; how often.
#[tokio::main(flavor = "current_thread")]
async fn swap_until(api: &Api, done: &AtomicBool) -> Result<usize, Error> {
    let mut connection = api.connect().await?;
    let mut swaps = 0;
    while !done.load(Ordering::Relaxed) {
        let patch = json!({"spec": {"config": {"swap": swaps}}}).to_string();
        let path = "/apis/pintle.dev/v1/modules/replicaset";
        let answer = connection.request(http::Method::PATCH, path, "application/merge-patch+json", patch.into()).await?;
        if answer.status != 200 {
            return Err(Error::Http { what: path.into(), reason: answer.status.to_string() });
        }
        swaps += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(swaps)
}

/// One module for each sin, all at once, on the real kernel; the guests are those of the host's own tests.
fn hostile(setup: &Setup) -> Outcome {
    const SINS: &[&str] = &["loop", "grow", "trap", "malformed", "steady-flood"];
    for sin in SINS {
        let module = json!({
            "apiVersion": "pintle.dev/v1", "kind": "Module", "metadata": {"name": format!("sinner-{sin}")},
            "spec": {
                "type": "controller", "source": {"file": "host_test_guest.wasm"}, "config": {"mode": sin},
                "permissions": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
                "limits": {"callsPerSecond": 200}, "controller": {"primary": "/configmaps"},
            },
        });
        setup.kubectl.apply(&module.to_string())?;
    }
    let modules = setup.kubectl.wait_for("each has faulted and says why", &["modules"], 2 * MINUTE, |l| {
        let sinner = |m: &&Value| m["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("sinner-"));
        let named = |m: &Value| m["status"]["traps"].as_u64() >= Some(1) && m["status"]["message"].as_str().is_some_and(|t| !t.is_empty());
        match items(l).iter().filter(sinner).find(|m| !named(m)) {
            Some(m) => Err(format!("{}: {}", m["metadata"]["name"], m["status"])),
            None => Ok(()),
        }
    })?;
    let honest = |m: &&Value| m["metadata"]["name"].as_str().is_some_and(|n| !n.starts_with("sinner-"));
    items(&modules).iter().filter(honest).try_for_each(running)?;
    // The API and the honest controllers go on meanwhile.
    setup.kubectl.run(&["create", "namespace", "meanwhile"])?;
    setup.kubectl.wait_for("honest controllers work", &["serviceaccount", "default", "-n", "meanwhile"], MINUTE, |_| Ok(()))?;
    setup.kubectl.run(&["delete", "namespace", "meanwhile", "--timeout=60s"])?;
    for sin in SINS {
        setup.kubectl.run(&["delete", "module", &format!("sinner-{sin}"), "--timeout=30s"])?;
    }
    let alive = Command::new("kill").args(["-0", &setup.cluster.pid("kernel")?.to_string()]).stderr(Stdio::null()).status()?;
    ensure!(alive.success(), "the kernel is gone");
    Ok(())
}
