//! Drivers of storage: a real one of `tests/clients/csi`, in Go, by the published packages of CSI and of the kubelet's registration.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::machine::{Machine, pod, run_natively, uid};

const NAME: &str = "dir.csi.pintle.test";
const WHY: &str = "containerd has a mount namespace of its own here";

/// A driver beside a machine's daemon, as a program of the machine.
struct Driver {
    dir: PathBuf,
    data: PathBuf,
    process: Option<Child>,
}

impl Driver {
    /// Where `cargo xtask test` puts it, with Go.
    fn program() -> PathBuf {
        let programs = Path::new(env!("CARGO_BIN_EXE_host-node")).parent().expect("a folder");
        programs.with_file_name("clients").join("csi-driver")
    }

    fn new(machine: &Machine) -> Self {
        Self { dir: machine.kubelet_dir(), data: machine.dir.join("driver"), process: None }
    }

    fn start(&mut self) {
        let (socket, register) = (self.dir.join("plugins/dir/csi.sock"), self.dir.join("plugins_registry/dir-reg.sock"));
        std::fs::create_dir_all(&self.data).expect("made");
        let log = std::fs::File::create(self.data.join("log")).expect("a log");
        let mut command = Command::new(Self::program());
        command
            .args(["--node", "n1", "--limit", "3", "--data"])
            .arg(&self.data)
            .arg("--socket")
            .arg(socket)
            .arg("--register")
            .arg(register);
        self.process = Some(command.stdin(Stdio::null()).stderr(log).spawn().expect("the driver starts"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// A volume, as a controller would have had it made.
    fn make(&self, id: &str) {
        let volume = self.data.join("volumes").join(id);
        std::fs::create_dir_all(&volume).expect("made");
        std::fs::write(volume.with_extension("json"), r#"{"Bytes":1048576,"Node":""}"#).expect("written");
    }

    /// What it was asked of a kind, oldest first.
    fn calls(&self, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.data.join("calls")).unwrap_or_default();
        let calls = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        calls.filter(|call| call["call"] == kind && call["code"] == "OK").map(|call| call["request"].clone()).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run<F: Future<Output = ()>>(number: u8, test: impl FnOnce(Machine, Kernel, Driver) -> F) {
    if !Driver::program().exists() {
        return println!("skipped: needs the driver of tests/clients/csi, which `cargo xtask test` builds with Go");
    }
    run_natively(number, WHY, |machine, kernel| {
        let driver = Driver::new(&machine);
        test(machine, kernel, driver)
    });
}

/// A claim that is bound to a volume of the driver.
async fn bound(kernel: &Kernel, name: &str, change: impl FnOnce(&mut Value)) {
    let mut volume = json!({
        "metadata": { "name": format!("pv-{name}") },
        "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
            "claimRef": { "namespace": "default", "name": name, "uid": format!("uid-{name}") },
            "csi": { "driver": NAME, "volumeHandle": name, "fsType": "ext4", "volumeAttributes": { "colour": "red" } },
        },
    });
    change(&mut volume);
    kernel.put_volume(volume).await;
    let claim = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "volumeName": format!("pv-{name}") }, "status": { "phase": "Bound", "capacity": { "storage": "1Mi" } },
    });
    kernel.object("persistentvolumeclaims", "default", name, claim);
}

fn mounts(name: &str, volume: Value, script: &str) -> Value {
    let mut volume = volume;
    volume["name"] = json!("data");
    let container = json!({ "name": "c", "command": ["sh", "-c", script], "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    pod(
        name,
        json!({ "terminationGracePeriodSeconds": 0, "volumes": [volume], "securityContext": { "fsGroup": 2000 }, "containers": [container] }),
    )
}

fn of_claim(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

fn csi_driver(spec: Value) -> Value {
    json!({ "metadata": { "name": NAME }, "spec": spec })
}

/// Mounts of drivers on the machine.
fn mounted(machine: &Machine) -> Vec<String> {
    let below = |line: &&String| line.contains("/kubelet/pods/") || line.contains("globalmount");
    machine.remains().iter().filter(|line| line.starts_with("mount")).filter(below).cloned().collect()
}

fn in_use(state: &crate::kernel::State) -> Vec<String> {
    let names = state.node["status"]["volumesInUse"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

async fn told(kernel: &Kernel, reason: &str, words: &str) {
    let test = |e: &Value| e["reason"] == reason && e["message"].as_str().is_some_and(|m| m.contains(words));
    kernel.until(words, |s| s.events.values().any(test).then_some(())).await;
}

/// What a container has said, once it has ended a line.
async fn said(kernel: &Kernel, pod: &Value) -> String {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let text = kernel.logs(pod, "c", |_| {}).await.expect("a log");
        if text.ends_with('\n') {
            return text;
        }
        assert!(tokio::time::Instant::now() < deadline, "it said {text:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// `csi-` and the SHA-256 of handle, driver and node, as whoever attaches names it.
fn attachment(handle: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{handle}{NAME}n1"));
    format!("csi-{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn a_drivers_volume_is_staged_published_kept_and_taken_back() {
    run(81, |mut machine, kernel, mut driver| async move {
        kernel.object("csidrivers", "", NAME, csi_driver(json!({ "attachRequired": true, "fsGroupPolicy": "File" })));
        kernel.object("secrets", "vault", "s", json!({ "metadata": { "name": "s" }, "data": { "word": "b3Blbg==" } }));
        machine.start(&kernel);
        driver.make("one");
        bound(&kernel, "one", |v| {
            v["spec"]["mountOptions"] = json!(["noatime"]);
            v["spec"]["csi"]["volumeAttributes"]["secret"] = json!("open");
            v["spec"]["csi"]["nodeStageSecretRef"] = json!({ "namespace": "vault", "name": "s" });
        })
        .await;
        // Without its driver the pod waits, and says for whom.
        let writes = mounts("writes", of_claim("one"), "echo line >> /data/log; stat -c %g /data; exec sleep 1000");
        kernel.put_pod(writes.clone()).await;
        told(&kernel, "FailedMount", &format!("driver name {NAME} not found in the list of registered CSI drivers")).await;
        driver.start();
        // Nothing is mounted before the volume is attached; that the machine wants it is told before.
        let name = "kubernetes.io/csi/dir.csi.pintle.test^one".to_owned();
        kernel.until("the volume to be in use", |s| in_use(s).contains(&name).then_some(())).await;
        assert!(driver.calls("NodeStageVolume").is_empty());
        let attached = json!({ "status": { "attached": true, "attachmentMetadata": { "published": "n1" } } });
        kernel.object("volumeattachments", "", &attachment("one"), attached);
        let ready = kernel.until_ready(uid(&writes)).await;
        assert_eq!(said(&kernel, &ready).await.trim(), "2000");
        let staged = driver.calls("NodeStageVolume");
        assert_eq!((&staged[0]["publish_context"]["published"], &staged[0]["volume_context"]["colour"]), (&json!("n1"), &json!("red")));
        let mount = &staged[0]["volume_capability"]["AccessType"]["Mount"];
        assert_eq!((&mount["fs_type"], &mount["mount_flags"]), (&json!("ext4"), &json!(["noatime"])), "{staged:?}");
        // A second pod shares what is staged; the daemon is killed, and one of them goes while it is away.
        let reads = mounts("reads", of_claim("one"), "cat /data/log; exec sleep 1000");
        kernel.put_pod(reads.clone()).await;
        kernel.until_ready(uid(&reads)).await;
        machine.kill();
        kernel.erase_pod(uid(&writes)).await;
        machine.start(&kernel);
        kernel.until("the erased pod's volume to be unpublished", |_| (driver.calls("NodeUnpublishVolume").len() == 1).then_some(())).await;
        assert!(driver.calls("NodeUnstageVolume").is_empty() && mounted(&machine).len() == 2, "{:?}", mounted(&machine));
        // The driver dies: what it has mounted stays until it is back.
        driver.kill();
        kernel.delete_pod(uid(&reads), 0).await;
        told(&kernel, "FailedKillPod", NAME).await;
        assert!(kernel.state.borrow().pods.contains_key(uid(&reads)) && in_use(&kernel.state.borrow()).contains(&name));
        driver.start();
        kernel.until_removed(uid(&reads)).await;
        kernel.until("nothing in use", |s| in_use(s).is_empty().then_some(())).await;
        assert_eq!((driver.calls("NodeUnstageVolume").len(), mounted(&machine)), (1, Vec::new()));
        assert!(!machine.kubelet_dir().join("pods").join(uid(&reads)).exists());
        assert_eq!(std::fs::read_to_string(driver.data.join("volumes/one/log")).expect("data"), "line\n", "content outlives pods");
        // And again, from the beginning.
        let again = mounts("again", of_claim("one"), "cat /data/log; exec sleep 1000");
        kernel.put_pod(again.clone()).await;
        let ready = kernel.until_ready(uid(&again)).await;
        assert_eq!(said(&kernel, &ready).await, "line\n");
        kernel.delete_pod(uid(&again), 0).await;
        kernel.until_removed(uid(&again)).await;
    });
}

#[test]
fn a_pods_own_volume_of_a_driver_is_told_of_the_pod_again_and_again() {
    run(82, |mut machine, kernel, mut driver| async move {
        let spec = json!({
            "attachRequired": false, "podInfoOnMount": true, "requiresRepublish": true, "volumeLifecycleModes": ["Ephemeral"],
            "tokenRequests": [{ "audience": "vault", "expirationSeconds": 600 }],
        });
        kernel.object("csidrivers", "", NAME, csi_driver(spec));
        kernel.object("secrets", "default", "s", json!({ "metadata": { "name": "s" }, "data": { "word": "b3Blbg==" } }));
        machine.extra = vec!["--sync-period-ms".into(), "200".into()];
        machine.start(&kernel);
        driver.start();
        let source =
            json!({ "csi": { "driver": NAME, "volumeAttributes": { "colour": "blue" }, "nodePublishSecretRef": { "name": "s" } } });
        let own = mounts("own", source, "cat /data/told; echo; exec sleep 1000");
        kernel.put_pod(own.clone()).await;
        let ready = kernel.until_ready(uid(&own)).await;
        let text = said(&kernel, &ready).await;
        let told: Value = serde_json::from_str(&text).expect("JSON");
        for (key, value) in [
            ("colour", "blue"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "own"),
            ("csi.storage.k8s.io/pod.uid", uid(&own)),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ] {
            assert_eq!(told["context"][key], value, "{told}");
        }
        assert!(told["context"]["csi.storage.k8s.io/serviceAccount.tokens"].to_string().contains("token-of-default"), "{told}");
        assert_eq!(told["secrets"]["word"], "open");
        kernel.until("it to be published again", |_| (driver.calls("NodePublishVolume").len() >= 3).then_some(())).await;
        assert!(driver.calls("NodeStageVolume").is_empty() && in_use(&kernel.state.borrow()).is_empty());
        kernel.delete_pod(uid(&own), 0).await;
        kernel.until_removed(uid(&own)).await;
        assert_eq!(mounted(&machine), Vec::<String>::new());
        // One that has no such volumes is not asked.
        kernel.object("csidrivers", "", NAME, csi_driver(json!({ "attachRequired": false })));
        let refused = mounts("refused", json!({ "csi": { "driver": NAME } }), "true");
        kernel.put_pod(refused.clone()).await;
        crate::csi::told(&kernel, "FailedMount", "volume mode \"Ephemeral\"").await;
        kernel.delete_pod(uid(&refused), 0).await;
        kernel.until_removed(uid(&refused)).await;
    });
}
