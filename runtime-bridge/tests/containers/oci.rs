//! The OCI command line: by its own commands, and in runc's place under Debian's containerd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fixture::{busybox_layer, has_app_armor, leftovers, load_profile, patience, scratch, until, write_layout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pintle-oci");

/// A bundle of busybox in a scratch directory, and where the states go.
struct Bundle {
    dir: PathBuf,
    cgroup: String,
}

impl Bundle {
    /// `change` makes of the usual config.json what the test wants.
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let (dir, cgroup) = scratch();
        tar::Archive::new(&busybox_layer()[..]).unpack(dir.join("bundle/rootfs")).expect("root");
        let mut config = json!({
            "ociVersion": "1.0.2", "hostname": "boxed", "root": { "path": "rootfs" },
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", "echo ran; exit 7"], "env": ["A=b"], "cwd": "/",
                "capabilities": { "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"] },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }], "noNewPrivileges": true,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] },
            ],
            "linux": {
                "cgroupsPath": format!("{cgroup}/c"), "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
                "resources": { "pids": { "limit": 30 }, "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": (["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }))),
            },
        });
        change(&mut config);
        std::fs::write(dir.join("bundle/config.json"), config.to_string()).expect("config");
        Self { dir, cgroup }
    }

    fn call(&self, words: &[&str]) -> Output {
        let output = std::fs::File::create(self.dir.join("output")).expect("output");
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(self.dir.join("oci")).arg("--log").arg(self.dir.join("log")).args(["--log-format", "json"]).args(words);
        // The container keeps what `create` was given.
        if words[0] == "create" {
            command.stdout(output).stderr(Stdio::null());
        }
        command.stdin(Stdio::null()).current_dir(self.dir.join("bundle")).output().expect("runs")
    }

    #[track_caller]
    fn done(&self, words: &[&str]) -> String {
        let output = self.call(words);
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{words:?}: {}{log}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.done(&["state", "c"])).expect("json");
        state["status"].as_str().expect("status").to_owned()
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.dir.join("output")).unwrap_or_default()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", "c"]);
        let _ = std::fs::remove_dir_all(&self.dir);
        for root in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(root.path().join(self.cgroup.trim_start_matches('/')));
        }
        assert!(std::thread::panicking() || leftovers(&self.dir, &self.cgroup).is_empty(), "{:?}", leftovers(&self.dir, &self.cgroup));
    }
}

#[tokio::test]
async fn a_container_is_created_waits_runs_when_it_is_started_and_is_deleted() {
    crate::require_containers!();
    let bundle = Bundle::new(|config| {
        config["process"]["args"][2] =
            "echo $$ $A $(hostname) $(ulimit -n); cat /proc/self/status | grep CapEff; ip link | grep -c UP; exec sleep 1000".into();
    });
    bundle.done(&["create", "--pid-file", "pid", "c"]);
    assert_eq!((bundle.status().as_str(), bundle.output().as_str()), ("created", ""));
    let pid = std::fs::read_to_string(bundle.dir.join("bundle/pid")).expect("pid file");
    assert!(Path::new("/proc").join(&pid).exists());
    assert!(!bundle.call(&["delete", "c"]).status.success(), "what waits is not deleted without force");
    bundle.done(&["start", "c"]);
    until("output", || bundle.output().lines().count() == 3).await;
    assert_eq!(bundle.output(), "1 b boxed 100\nCapEff:\t0000000000000021\n1\n");
    assert_eq!(bundle.status(), "running");
    let process = json!({ "user": { "uid": 1000, "gid": 1001 }, "args": ["sh", "-c", "id -u; exit 3"], "cwd": "/", "env": [] });
    std::fs::write(bundle.dir.join("bundle/process.json"), process.to_string()).expect("process");
    let exec = bundle.call(&["exec", "--process", "process.json", "c"]);
    assert_eq!((exec.status.code(), String::from_utf8_lossy(&exec.stdout).as_ref()), (Some(3), "1000\n"), "{exec:?}");
    assert_eq!(bundle.done(&["ps", "c"]).trim(), format!("[{pid}]"));
    assert!(!bundle.call(&["start", "c"]).status.success(), "it runs already");
    bundle.done(&["kill", "c", "KILL"]);
    until("the end", || bundle.status() == "stopped").await;
    bundle.done(&["delete", "c"]);
    assert!(!bundle.call(&["state", "c"]).status.success());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_field() {
    crate::require_containers!();
    for (pointer, value, why) in [
        ("/process/selinuxLabel", json!("u:r:t"), "config.json: process.selinuxLabel: this machine has no SELinux"),
        ("/linux/namespaces/5", json!({ "type": "user" }), "config.json: linux.namespaces: user is not served"),
        ("/hooks", json!({ "prestart": [{ "path": "/bin/true" }] }), "config.json: hooks is not served"),
        ("/linux/sysctl", json!({ "kernel.panic": "1" }), "kernel.panic does not belong to a namespace"),
        ("/mounts/3", json!({ "destination": "/x", "type": "nfs", "source": "x" }), "mount /x: type \"nfs\" is not served"),
        ("/process/args", json!(["/no/such"]), "executable file not found"),
    ] {
        let bundle = Bundle::new(|config| {
            let (parent, key) = pointer.rsplit_once('/').expect("pointer");
            match config.pointer_mut(parent).expect("parent") {
                Value::Array(list) => list.push(value.clone()),
                map => map[key] = value.clone(),
            }
        });
        let created = bundle.call(&["create", "c"]);
        // A program is looked for when it is started.
        let refused = if created.status.success() { bundle.call(&["start", "c"]) } else { created };
        let log = std::fs::read_to_string(bundle.dir.join("log")).unwrap_or_default();
        assert!(!refused.status.success() && log.contains(&why.replace('"', "\\\"")), "{pointer}: {log}");
    }
}

#[tokio::test]
async fn a_bundles_profile_of_app_armor_holds_it_and_its_execs() {
    crate::require_containers!();
    let named = |config: &mut Value| {
        config["process"]["apparmorProfile"] = "pintle-test-bundle".into();
        config["process"]["args"][2] = "cat /proc/self/attr/current; exec sleep 1000".into();
    };
    if !pintle_runtime_bridge::enforces_app_armor() {
        let bundle = Bundle::new(named);
        assert!(!bundle.call(&["create", "c"]).status.success());
        let log = std::fs::read_to_string(bundle.dir.join("log")).expect("a log");
        return assert!(log.contains("config.json: process.apparmorProfile: this machine has no AppArmor"), "{log}");
    }
    if !has_app_armor() {
        return;
    }
    load_profile("pintle-test-bundle", "deny /tmp/** wl,");
    let bundle = Bundle::new(named);
    bundle.done(&["create", "c"]);
    bundle.done(&["start", "c"]);
    until("output", || bundle.output() == "pintle-test-bundle (enforce)\n").await;
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["touch", "/tmp/x"], "cwd": "/", "env": [], "apparmorProfile": "pintle-test-bundle" });
    std::fs::write(bundle.dir.join("bundle/process.json"), process.to_string()).expect("process");
    let exec = bundle.call(&["exec", "--process", "process.json", "c"]);
    assert!(String::from_utf8_lossy(&exec.stderr).contains("ermission denied"), "{exec:?}");
    bundle.done(&["delete", "--force", "c"]);
}

/// containerd with a state of its own.
struct Containerd {
    dir: PathBuf,
    daemon: Child,
}

impl Containerd {
    async fn start() -> Self {
        let (dir, _) = scratch();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            root = dir.join("root"),
            state = dir.join("state"),
            socket = dir.join("socket"),
        );
        std::fs::write(dir.join("config.toml"), config).expect("config");
        let log = std::fs::File::create(dir.join("containerd.log")).expect("log");
        let daemon = Command::new("containerd")
            .arg("-c")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let made = Self { dir, daemon: daemon.expect("containerd starts") };
        until("containerd serves", || made.ctr(&["version"]).status.success()).await;
        made
    }

    fn ctr(&self, words: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("socket")).args(words);
        command.stdin(Stdio::null()).output().expect("ctr")
    }

    #[track_caller]
    fn done(&self, words: &[&str]) -> String {
        let output = self.ctr(words);
        assert!(output.status.success(), "ctr {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for words in
            [["tasks", "kill", "--signal", "KILL", "c"].as_slice(), &["tasks", "delete", "--force", "c"], &["containers", "delete", "c"]]
        {
            let _ = self.ctr(words);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.dir.to_string_lossy().into_owned();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&ours)) {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn containerd_runs_its_containers_with_it() {
    crate::require_containers!();
    let has =
        |program: &str| std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !has("containerd") || !has("ctr") {
        println!("skipped: needs Debian's containerd");
        return;
    }
    let containerd = Containerd::start().await;
    write_layout(&containerd.dir.join("layout"), &[busybox_layer()], json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] }));
    let mut archive = tar::Builder::new(std::fs::File::create(containerd.dir.join("image.tar")).expect("archive"));
    archive.append_dir_all(".", containerd.dir.join("layout")).expect("archive");
    archive.into_inner().expect("archive").sync_all().expect("archive");
    let archive = containerd.dir.join("image.tar").to_string_lossy().into_owned();
    containerd.done(&["images", "import", "--index-name", "localhost/busybox:test", &archive]);
    let run = ["run", "--snapshotter", "native", "--runc-binary", PROGRAM];
    let image = ["localhost/busybox:test", "c"];
    let ended = containerd
        .ctr(&[&run[..], &["--rm"], &image, &["sh", "-c", "echo out; id -u; grep -c . /proc/self/mounts > /dev/null && exit 5"]].concat());
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stdout).as_ref()), (Some(5), "out\n0\n"), "{ended:?}");
    containerd.done(&[&run[..], &["--detach"], &image, &["sleep", "1000"]].concat());
    let tasks = containerd.done(&["tasks", "list"]);
    assert!(tasks.lines().any(|line| line.starts_with("c ") && line.ends_with("RUNNING")), "{tasks}");
    let exec = containerd.ctr(&["tasks", "exec", "--exec-id", "e", "c", "sh", "-c", "ps | grep -c '[s]leep 1000'; exit 4"]);
    assert_eq!((exec.status.code(), String::from_utf8_lossy(&exec.stdout).as_ref()), (Some(4), "1\n"), "{exec:?}");
    containerd.done(&["tasks", "kill", "--signal", "KILL", "c"]);
    let deadline = std::time::Instant::now() + patience();
    while !containerd.done(&["tasks", "list"]).contains("STOPPED") {
        assert!(std::time::Instant::now() < deadline, "the task never stops");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    containerd.done(&["tasks", "delete", "c"]);
    containerd.done(&["containers", "delete", "c"]);
}
