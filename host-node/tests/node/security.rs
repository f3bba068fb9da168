//! Profiles that pods name, processes that containers share, and a machine that goes down.

use pintle_runtime_bridge::DEFAULT_PROFILE;
use serde_json::{Value, json};

use crate::machine::{pod, run, uid};

#[test]
fn a_pod_is_confined_by_the_seccomp_profile_that_it_names() {
    run(51, |mut machine, kernel| async move {
        let profiles = machine.dir.join("seccomp");
        std::fs::create_dir_all(profiles.join("audit")).expect("made");
        let no_directories = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 2, "op": "SCMP_CMP_EQ" }] }] });
        std::fs::write(profiles.join("audit/no-directories.json"), no_directories.to_string()).expect("written");
        std::fs::write(profiles.join("broken.json"), r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).expect("written");
        machine.extra = vec!["--seccomp-dir".into(), profiles.to_string_lossy().into_owned()];
        machine.start(&kernel);
        let script = "touch /tmp/file && echo made; mkdir /tmp/dir; wget http://127.0.0.1/; grep Seccomp: /proc/self/status; exit 0";
        let named = |name: &str, profile: &str, more: Value| {
            let mut context = json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": profile } });
            more.as_object().into_iter().flatten().for_each(|(key, value)| context[key] = value.clone());
            pod(
                name,
                json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["busybox", "sh", "-c", script], "securityContext": context }] }),
            )
        };
        let confined = named("confined", "audit/no-directories.json", json!({}));
        let unprivileged =
            named("unprivileged", "audit/no-directories.json", json!({ "allowPrivilegeEscalation": false, "runAsUser": 1000 }));
        for pod in [&confined, &unprivileged] {
            kernel.put_pod(pod.clone()).await;
            let done = kernel.until_phase(uid(pod), "Succeeded").await;
            let log = kernel.logs(&done, "c", |_| {}).await.expect("a log");
            assert!(log.contains("mkdir: can't create directory '/tmp/dir': Permission denied"), "{log}");
            assert!(log.contains("Operation not permitted"), "of the socket: {log}");
        }
        let on_containerd = machine.other.is_some();
        for (name, profile, words) in
            [("absent", "absent.json", "cannot load seccomp profile"), ("broken", "broken.json", "SCMP_ACT_NOTIFY")]
        {
            let pod = named(name, profile, json!({}));
            kernel.put_pod(pod.clone()).await;
            let said = |state: &crate::kernel::State| {
                let current = &state.pods[uid(&pod)]["status"]["containerStatuses"][0]["state"];
                // What containerd does not look at is runc's to refuse, at the start.
                let ended = on_containerd && current["terminated"]["reason"] == "StartError";
                let why = if ended { &current["terminated"] } else { &current["waiting"] };
                let created = !ended && why["reason"].as_str()?.starts_with("CreateContainer");
                ((ended || created) && why["message"].as_str()?.contains(words)).then_some(())
            };
            kernel.until(&format!("why {name} does not start"), said).await;
        }
    });
}

#[test]
fn a_pod_that_asks_for_app_armor_is_refused_where_it_is_not() {
    if std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        return println!("skipped: this machine has AppArmor");
    }
    run(52, |mut machine, kernel| async move {
        machine.start(&kernel);
        let context = json!({ "appArmorProfile": { "type": "RuntimeDefault" } });
        let asks = pod("asks", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"], "securityContext": context }] }));
        kernel.put_pod(asks.clone()).await;
        let failed = kernel.until_phase(uid(&asks), "Failed").await;
        assert_eq!(failed["status"]["reason"], "AppArmor");
        assert_eq!(failed["status"]["message"], "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host");
    });
}

#[test]
fn pods_have_the_app_armor_profile_that_field_or_annotation_names() {
    if !pintle_runtime_bridge::enforces_app_armor() {
        return println!("skipped: no AppArmor");
    }
    run(55, |mut machine, kernel| async move {
        machine.start(&kernel);
        load_profile("pintle-test-pods");
        let script = "cat /proc/self/attr/current; touch /tmp/x 2>/dev/null && echo made; exit 0";
        let with = |name: &str, context: Value, annotation: Option<&str>| {
            let containers = json!([{ "name": "c", "command": ["sh", "-c", script], "securityContext": context }]);
            let mut pod = pod(name, json!({ "restartPolicy": "Never", "containers": containers }));
            if let Some(text) = annotation {
                pod["metadata"]["annotations"] = json!({ "container.apparmor.security.beta.kubernetes.io/c": text });
            }
            pod
        };
        let field = |kind: &str, name: Option<&str>| json!({ "appArmorProfile": { "type": kind, "localhostProfile": name } });
        let default = if machine.other.is_some() { "cri-containerd.apparmor.d" } else { DEFAULT_PROFILE };
        let (default, named) = (format!("{default} (enforce)\nmade\n"), "pintle-test-pods (enforce)\n".to_owned());
        for (pod, expected) in [
            (with("silent", json!({}), None), &default),
            (with("default", field("RuntimeDefault", None), None), &default),
            (with("open", field("Unconfined", None), None), &"unconfined\nmade\n".to_owned()),
            (with("named", field("Localhost", Some("pintle-test-pods")), None), &named),
            (with("noted", json!({}), Some("localhost/pintle-test-pods")), &named),
        ] {
            kernel.put_pod(pod.clone()).await;
            let done = kernel.until_phase(uid(&pod), "Succeeded").await;
            assert_eq!(&kernel.logs(&done, "c", |_| {}).await.expect("a log"), expected, "{}", uid(&pod));
        }
        let absent = with("absent", field("Localhost", Some("pintle-absent")), None);
        kernel.put_pod(absent.clone()).await;
        let said = |state: &crate::kernel::State| {
            let why = &state.pods[uid(&absent)]["status"]["containerStatuses"][0]["state"]["waiting"];
            (why["reason"] == "CreateContainerError" && why["message"].as_str()?.contains("pintle-absent")).then_some(())
        };
        kernel.until("why it does not start", said).await;
    });
}

/// Loads an AppArmor profile of this name that forbids writing to /tmp.
fn load_profile(name: &str) {
    let text = format!("profile {name} flags=(attach_disconnected) {{ file, network, capability, signal, unix, deny /tmp/** wl, }}");
    let mut parser = std::process::Command::new("/sbin/apparmor_parser")
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("apparmor_parser");
    std::io::Write::write_all(&mut parser.stdin.take().expect("stdin"), text.as_bytes()).expect("written");
    assert!(parser.wait().expect("ended").success(), "{text}");
}

#[test]
fn an_ephemeral_container_lives_among_the_processes_of_its_target() {
    run(53, |mut machine, kernel| async move {
        machine.start(&kernel);
        let main = pod("main", json!({ "containers": [{ "name": "c", "command": ["sleep", "1234567"] }] }));
        kernel.put_pod(main.clone()).await;
        let mut up = kernel.until_ready(uid(&main)).await;
        let image = up["spec"]["containers"][0]["image"].clone();
        let debugger = |name: &str, target: &str| {
            let script = "busybox tr '\\0' ' ' < /proc/1/cmdline; echo; sleep 0.2";
            json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script], "targetContainerName": target })
        };
        up["spec"]["ephemeralContainers"] = json!([debugger("d", "c"), debugger("lost", "none")]);
        up["metadata"]["generation"] = json!(2);
        kernel.put_pod(up).await;
        let ended = |state: &crate::kernel::State, index: usize, kind: &str, field: &str| {
            let status = &state.pods[uid(&main)]["status"]["ephemeralContainerStatuses"][index];
            status["state"][kind][field].as_str().map(str::to_owned)
        };
        assert_eq!(kernel.until("the debugger's end", |s| ended(s, 0, "terminated", "reason")).await, "Completed");
        assert_eq!(kernel.logs(&kernel.pod(uid(&main)), "d", |_| {}).await.expect("a log").trim(), "sleep 1234567");
        let message = kernel.until("the other's trouble", |s| ended(s, 1, "waiting", "message")).await;
        assert!(message.contains("unable to find target container \"none\""), "{message}");
        assert_eq!(kernel.pod(uid(&main))["status"]["containerStatuses"][0]["ready"], true, "the target lives on");
        kernel.delete_pod(uid(&main), 0).await;
        kernel.until_removed(uid(&main)).await;
    });
}

#[test]
fn when_the_machine_goes_down_pods_end_in_order() {
    run(54, |mut machine, kernel| async move {
        machine.extra = ["--shutdown-grace-period-s", "6", "--shutdown-grace-period-critical-pods-s", "3"].map(str::to_owned).to_vec();
        machine.start(&kernel);
        let script = "trap 'busybox usleep 300000; exit 0' TERM; while true; do sleep 0.05; done";
        let patient = |name: &str, priority: i32| {
            let containers = json!([{ "name": "c", "command": ["sh", "-c", script] }]);
            pod(name, json!({ "terminationGracePeriodSeconds": 600, "priority": priority, "containers": containers }))
        };
        let (plain, vital) = (patient("plain", 0), patient("vital", 2_000_000_000));
        for pod in [&plain, &vital] {
            kernel.put_pod(pod.clone()).await;
            kernel.until_ready(uid(pod)).await;
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(machine.pid()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGPWR).expect("told");
        let over = async |pod: &Value| {
            let ended =
                |p: &&Value| p["status"]["phase"] == "Failed" && p["status"]["containerStatuses"][0]["state"]["terminated"].is_object();
            kernel.until("the pod's end", |s| s.pods.get(uid(pod)).filter(ended).cloned()).await
        };
        let failed = over(&plain).await;
        assert_eq!(failed["status"]["reason"], "Terminated");
        assert_eq!(failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "it had time");
        let last = over(&vital).await;
        assert_eq!(last["status"]["message"], "Pod was terminated in response to imminent node shutdown.");
        let ended = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"].as_str().map(str::to_owned);
        assert!(ended(&failed) <= ended(&last));
        kernel.until("the daemon's end", |_| machine.has_ended().then_some(())).await;
        let order: Vec<_> =
            kernel.state.borrow().history.iter().filter(|line| line.contains(" Failed ")).map(|line| line[..5].to_owned()).collect();
        assert_eq!(order.first().map(String::as_str), Some("plain"), "{order:?}");
    });
}
