//! A `host-node` process of a test: its directories, its image, its end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pintle_runtime_bridge::{ImageRef, Runtime, RuntimeConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::containerd::{self, Containerd};
use crate::kernel::Kernel;

/// The image that tests run: busybox with all its applets' names.
pub const IMAGE: &str = "localhost/busybox:test";
const APPLETS: &[&str] =
    &["sh", "sleep", "cat", "echo", "httpd", "id", "ls", "env", "touch", "true", "false", "ip", "wget", "hostname", "mkdir", "stat"];

/// Says how many times slower than usual this machine is: an emulated one takes that much longer.
const SLOWNESS: &str = "PINTLE_TEST_SLOWNESS";

/// How long to wait for what takes less than so many seconds on a usual machine.
pub fn patience(seconds: u64) -> Duration {
    let slowness = std::env::var(SLOWNESS).map_or(1, |text| text.parse().expect("a number"));
    Duration::from_secs(seconds) * slowness
}

/// A machine of one test.
pub struct Machine {
    pub dir: PathBuf,
    pub number: u8,
    pub extra: Vec<String>,
    process: Option<Child>,
    /// Who runs the pods, if it is not the node itself.
    pub other: Option<Containerd>,
}

/// Whether all pods are to run on containerd.
pub fn on_containerd() -> bool {
    std::env::var_os("PINTLE_RUNTIME").is_some_and(|runtime| runtime == "cri")
}

/// Runs a test on a local executor with a machine and a kernel; skips where it cannot.
pub fn run<F: Future<Output = ()>>(number: u8, test: impl FnOnce(Machine, Kernel) -> F) {
    run_with(on_containerd(), number, test);
}

/// The same, with containerd in any case.
pub fn run_on_containerd<F: Future<Output = ()>>(number: u8, test: impl FnOnce(Machine, Kernel) -> F) {
    run_with(true, number, test);
}

/// The same, with our own runtime alone; `why` it cannot be otherwise.
pub fn run_natively<F: Future<Output = ()>>(number: u8, why: &str, test: impl FnOnce(Machine, Kernel) -> F) {
    if on_containerd() {
        return println!("skipped on containerd: {why}");
    }
    run_with(false, number, test);
}

fn run_with<F: Future<Output = ()>>(containerd: bool, number: u8, test: impl FnOnce(Machine, Kernel) -> F) {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root for namespaces and cgroups");
    }
    if !Path::new("/bin/busybox").exists() {
        return println!("skipped: needs Debian's busybox-static");
    }
    if let Some(why) = containerd::unable().filter(|_| containerd) {
        return println!("skipped: {why}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let dir = std::env::temp_dir().join(format!("host-node-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let machine =
            Machine { dir: dir.clone(), number, extra: Vec::new(), process: None, other: containerd.then(|| Containerd::start(&dir)) };
        let kernel = Kernel::start(&dir, "n1", &format!("10.213.{number}.0/24")).await;
        machine.import().await;
        test(machine, kernel).await;
    });
}

impl Machine {
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn kubelet_dir(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    pub fn cgroup_parent(&self) -> String {
        format!("pintle-it-{}-{}", std::process::id(), self.number)
    }

    pub fn bridge(&self) -> String {
        format!("pit{}-{}", self.number, std::process::id() % 100_000)
    }

    async fn import(&self) {
        self.import_as(IMAGE, "layout", b"").await;
    }

    /// Images like the usual one, each with a file that tells it from the others.
    pub async fn import_more(&self, names: &[&str]) {
        for name in names {
            self.import_as(name, &name.replace(['/', ':'], "-"), name.as_bytes()).await;
        }
    }

    async fn import_as(&self, name: &str, directory: &str, mark: &[u8]) {
        std::fs::create_dir_all(self.state_dir()).expect("a directory");
        if let Some(other) = &self.other {
            return other.import(name, mark, &["sh"]);
        }
        let layout = self.dir.join(directory);
        write_layout(&layout, mark, &["sh"]);
        let config = RuntimeConfig {
            run_dir: Some(self.dir.join("run")),
            helper_exe: Some(env!("CARGO_BIN_EXE_host-node").into()),
            cgroup_parent: format!("/{}", self.cgroup_parent()),
            ..RuntimeConfig::new(self.state_dir().join("runtime"))
        };
        let runtime = Runtime::open(config).await.expect("a runtime");
        let name = ImageRef::parse(name).expect("a reference");
        runtime.import_layout(&layout, Some(&name)).await.expect("imported");
    }

    /// What ids of containers begin with.
    pub fn scheme(&self) -> &'static str {
        if self.other.is_some() { "containerd://" } else { "pintle://" }
    }

    /// Says who runs the pods.
    fn runtime(&self) -> Vec<String> {
        self.other.iter().flat_map(|other| ["--runtime".to_owned(), other.url()]).collect()
    }

    /// Starts the daemon.
    pub fn start(&mut self, kernel: &Kernel) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("node.log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_host-node"))
            .args(["--name", "n1", "--kernel", &kernel.address.to_string(), "--node-ip", "127.0.0.1"])
            .args(["--bridge", &self.bridge(), "--cgroup-parent", &self.cgroup_parent(), "--crash-backoff-ms", "400"])
            .args(["--image-backoff-ms", "400"])
            .arg("--kubelet-dir")
            .arg(self.kubelet_dir())
            .args(self.runtime())
            .args(&self.extra)
            .arg("--ca")
            .arg(self.dir.join("ca.crt"))
            .arg("--cert")
            .arg(self.dir.join("node.crt"))
            .arg("--key")
            .arg(self.dir.join("node.key"))
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .env("PINTLE_LOG", "debug,h2=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("host-node starts");
        self.process = Some(child);
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Whether the daemon has ended by itself, and well.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().and_then(|child| child.try_wait().ok().flatten()).is_some_and(|status| status.success())
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn purge(&self) {
        let output = Command::new(env!("CARGO_BIN_EXE_host-node"))
            .arg("purge")
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .args(["--bridge", &self.bridge(), "--cgroup-parent", &self.cgroup_parent()])
            .arg("--kubelet-dir")
            .arg(self.kubelet_dir())
            .args(self.runtime())
            .output()
            .expect("purge runs");
        assert!(output.status.success(), "purge: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What is left on the machine that bears this machine's marks.
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mark = self.dir.to_string_lossy().into_owned();
        for line in std::fs::read_to_string("/proc/self/mountinfo").expect("readable").lines().filter(|l| l.contains(&mark)) {
            found.push(format!("mount {line}"));
        }
        for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let me = entry.file_name().to_string_lossy() == std::process::id().to_string();
            let runtime = cmdline.starts_with(b"containerd\0");
            if !me && !runtime && String::from_utf8_lossy(&cmdline).contains(&mark) {
                found.push(format!("process {}", String::from_utf8_lossy(&cmdline).replace('\0', " ")));
            }
        }
        if Path::new("/sys/class/net").join(self.bridge()).exists() {
            found.push("bridge".into());
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("readable").flatten() {
            if hierarchy.path().join(self.cgroup_parent()).exists() {
                found.push(format!("cgroup in {}", hierarchy.path().display()));
            }
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("node.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- node.log\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        let _ = Command::new(env!("CARGO_BIN_EXE_host-node"))
            .arg("purge")
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .args(["--bridge", &self.bridge(), "--cgroup-parent", &self.cgroup_parent()])
            .arg("--kubelet-dir")
            .arg(self.kubelet_dir())
            .args(self.runtime())
            .output();
        self.other = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether pods can have users of their own here: on our own runtime; overlayfs takes mapped layers from 5.19 on, and a tmpfs can be mapped from 6.3 on.
pub fn user_namespaces() -> bool {
    if std::env::var_os("PINTLE_RUNTIME").is_some_and(|runtime| runtime == "cri") {
        return false;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let on_tmpfs = nix::sys::statfs::statfs(&std::env::temp_dir()).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    (numbers[0], numbers[1]) >= if on_tmpfs { (6, 3) } else { (5, 19) }
}

/// A pod with these containers, as the API server would have defaulted it.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    for kind in ["containers", "initContainers"] {
        for container in spec[kind].as_array_mut().into_iter().flatten() {
            if container["image"].is_null() {
                container["image"] = json!(IMAGE);
            }
            if container["imagePullPolicy"].is_null() {
                container["imagePullPolicy"] = json!("IfNotPresent");
            }
        }
    }
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = json!(2);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default", "uid": format!("{name}-0001-4000"), "generation": 1 }, "spec": spec })
}

pub fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a uid")
}

/// An OCI layout of one layer: /bin/busybox and its applets.
pub fn write_layout(dir: &Path, mark: &[u8], command: &[&str]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    let put = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        std::fs::write(blobs.join(&digest), bytes).expect("written");
        (format!("sha256:{digest}"), bytes.len())
    };
    let (layer, layer_size) = put(&layer(mark));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": command, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size }],
    });
    let (manifest, manifest_size) = put(manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size }] });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("written");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
}

fn layer(mark: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = |path: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        match link {
            Some(link) => tar.append_link(&mut header, path, link).expect("added"),
            None => tar.append_data(&mut header, path, bytes).expect("added"),
        }
    };
    for dir in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/", "www/"] {
        header(dir, tar::EntryType::Directory, 0o755, None, b"");
    }
    header("bin/busybox", tar::EntryType::Regular, 0o755, None, &std::fs::read("/bin/busybox").expect("busybox"));
    header("etc/passwd", tar::EntryType::Regular, 0o644, None, b"root:x:0:0::/:/bin/sh\n");
    header("etc/mark", tar::EntryType::Regular, 0o644, None, mark);
    for applet in APPLETS {
        header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, Some("busybox"), b"");
    }
    tar.into_inner().expect("an archive")
}
