//! Images made of Debian's busybox, and runtimes that are purged when a test ends, however it ends.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pintle_runtime_bridge::{ContainerId, ContainerSpec, ExecSpec, ImageRef, Runtime, RuntimeConfig, SandboxId, SandboxSpec};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pintle-runtime");
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "ls", "sleep", "id", "mount", "ps", "head", "tail", "dd", "stty", "hostname", "kill", "true", "touch", "mknod",
    "wc", "stat", "pwd", "env", "ln", "mkdir", "chmod", "rm", "ip", "tty", "awk", "readlink", "su",
];
/// Says how many times slower than usual this machine is: an emulated one takes that much longer.
const SLOWNESS: &str = "PINTLE_TEST_SLOWNESS";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// No wait in these tests is longer.
pub fn patience() -> Duration {
    let slowness = std::env::var(SLOWNESS).map_or(1, |text| text.parse().expect("a number"));
    Duration::from_secs(20) * slowness
}

/// Why these tests cannot run here, if they cannot.
pub fn unable() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("needs Debian's busybox-static");
    }
    if nix::sys::statfs::statfs(&std::env::temp_dir()).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC) {
        return Some("needs a temporary directory that is not on overlayfs (set TMPDIR)");
    }
    None
}

/// Skips the test where it cannot run.
#[macro_export]
macro_rules! require_containers {
    () => {
        if let Some(why) = $crate::fixture::unable() {
            println!("skipped: {why}");
            return;
        }
    };
}

/// Whether this machine (or this mount namespace's cgroup v2) can limit memory.
pub fn limits_memory() -> bool {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let can = v2.map_or_else(|_| Path::new("/sys/fs/cgroup/memory").exists(), |list| list.contains("memory"));
    if !can {
        println!("skipped: no memory controller");
    }
    can
}

/// Whether this machine enforces AppArmor profiles and has what loads them.
pub fn has_app_armor() -> bool {
    let can = pintle_runtime_bridge::enforces_app_armor() && Path::new("/sbin/apparmor_parser").exists();
    if !can {
        println!("skipped: no AppArmor");
    }
    can
}

/// Loads an AppArmor profile of this name, with these rules besides all that is usually allowed.
pub fn load_profile(name: &str, rules: &str) {
    let text =
        format!("profile {name} flags=(attach_disconnected) {{ file, network, capability, signal, ptrace, mount, umount, unix, {rules} }}");
    let mut parser = std::process::Command::new("/sbin/apparmor_parser")
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("apparmor_parser");
    std::io::Write::write_all(&mut parser.stdin.take().expect("stdin"), text.as_bytes()).expect("written");
    assert!(parser.wait().expect("ended").success(), "{text}");
}

/// One entry of a layer.
pub enum Entry<'a> {
    File(&'a str, u32, Vec<u8>),
    Link(&'a str, &'a str),
    Directory(&'a str, u32),
}

/// A layer's archive.
pub fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match entry {
            Entry::File(path, mode, content) => {
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, &content[..]).expect("append");
            }
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target).expect("append");
            }
            Entry::Directory(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                archive.append_data(&mut header, path, std::io::empty()).expect("append");
            }
        }
    }
    archive.into_inner().expect("archive")
}

/// busybox, its applets, and two users.
pub fn busybox_layer() -> Vec<u8> {
    let mut entries = vec![
        Entry::Directory("bin", 0o755),
        Entry::Directory("etc", 0o755),
        Entry::Directory("tmp", 0o1777),
        Entry::Directory("root", 0o700),
        Entry::File("bin/busybox", 0o755, std::fs::read(BUSYBOX).expect("busybox")),
        Entry::File("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n".to_vec()),
        Entry::File("etc/group", 0o644, b"root:x:0:\napp:x:1001:\naudio:x:29:app\n".to_vec()),
    ];
    let names: Vec<String> = APPLETS.iter().map(|applet| format!("bin/{applet}")).collect();
    entries.extend(names.iter().map(|name| Entry::Link(name, "busybox")));
    layer(&entries)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn blob(layout: &Path, bytes: &[u8]) -> serde_json::Value {
    let hex = digest(bytes);
    std::fs::write(layout.join("blobs/sha256").join(&hex), bytes).expect("blob");
    serde_json::json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
}

/// Writes an OCI layout of these layers; `config` is merged into the image's process config.
pub fn write_layout(layout: &Path, layers: &[Vec<u8>], config: serde_json::Value) {
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("layout");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("layout");
    let diffs: Vec<String> = layers.iter().map(|bytes| format!("sha256:{}", digest(bytes))).collect();
    let descriptors: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(index, bytes)| {
            // One of each compression, so that every pull tries them all.
            let (packed, kind) = match index % 3 {
                0 => (gzip(bytes), "application/vnd.oci.image.layer.v1.tar+gzip"),
                1 => (zstd::encode_all(&bytes[..], 1).expect("zstd"), "application/vnd.oci.image.layer.v1.tar+zstd"),
                _ => (bytes.clone(), "application/vnd.oci.image.layer.v1.tar"),
            };
            let mut descriptor = blob(layout, &packed);
            descriptor["mediaType"] = kind.into();
            descriptor
        })
        .collect();
    let file = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let mut config = blob(layout, file.to_string().as_bytes());
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors,
    });
    let mut manifest = blob(layout, manifest.to_string().as_bytes());
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string()).expect("index");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// A scratch directory, a runtime in it and a busybox image.
pub struct Fixture {
    pub runtime: Runtime,
    pub dir: PathBuf,
    pub cgroup: String,
    pub sandbox: SandboxId,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(SandboxSpec { hostname: Some("box".to_owned()), ..SandboxSpec::default() }).await
    }

    pub async fn with(sandbox: SandboxSpec) -> Self {
        let (dir, cgroup) = scratch();
        write_layout(&dir.join("layout"), &[busybox_layer()], serde_json::json!({"Cmd": ["sh"]}));
        let runtime = open(&dir, &cgroup).await;
        let name = ImageRef::parse("localhost/busybox").expect("name");
        runtime.import_layout(&dir.join("layout"), Some(&name)).await.expect("import");
        let sandbox = runtime.create_sandbox(sandbox).await.expect("sandbox").id;
        Self { runtime, dir, cgroup, sandbox }
    }

    pub fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            sandbox: Some(self.sandbox.clone()),
            image: "localhost/busybox".to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: Some(self.dir.join("log")),
            ..ContainerSpec::default()
        }
    }

    pub async fn start(&self, spec: ContainerSpec) -> ContainerId {
        let id = self.runtime.create_container(spec).await.expect("create");
        self.runtime.start(&id).await.expect("start");
        id
    }

    /// Runs to the end; exit code and output.
    pub async fn run(&self, spec: ContainerSpec) -> (i32, String) {
        let log = spec.log_path.clone().expect("log");
        let _ = std::fs::remove_file(&log);
        let id = self.start(spec).await;
        let exit = tokio::time::timeout(patience(), self.runtime.wait(&id)).await.expect("ends").expect("wait");
        self.runtime.remove(&id).await.expect("remove");
        (exit.code, log_text(&log))
    }

    pub async fn run_script(&self, script: &str) -> (i32, String) {
        self.run(self.spec(script)).await
    }

    /// Execs to the end; exit code, output, errors.
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> (i32, String, String) {
        let mut session = self.runtime.exec(id, spec).await.expect("exec");
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut stdout) = session.stdout.take() {
            stdout.read_to_string(&mut out).await.expect("stdout");
        }
        if let Some(mut stderr) = session.stderr.take() {
            stderr.read_to_string(&mut err).await.expect("stderr");
        }
        (session.wait().await.expect("wait").code, out, err)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        clean(&self.dir);
        assert!(std::thread::panicking() || leftovers(&self.dir, &self.cgroup).is_empty(), "{:?}", leftovers(&self.dir, &self.cgroup));
    }
}

pub fn scratch() -> (PathBuf, String) {
    let name = format!("pintle-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(&name);
    std::fs::create_dir_all(&dir).expect("scratch");
    (dir, format!("/{name}"))
}

/// Purges by the program, as `pintle down` would, from outside.
pub fn clean(dir: &Path) {
    let purged = std::process::Command::new(PROGRAM).arg("purge").arg(dir.join("state")).status();
    assert!(std::thread::panicking() || purged.is_ok_and(|s| s.success()), "purge failed");
    let _ = std::fs::remove_dir_all(dir);
}

/// Mounts, cgroups and processes that still name the scratch directory.
pub fn leftovers(dir: &Path, cgroup: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    found.extend(mounts.lines().filter(|l| l.contains(&*dir.to_string_lossy())).map(str::to_owned));
    for root in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = root.path().join(cgroup.trim_start_matches('/'));
        found.extend(group.exists().then(|| group.display().to_string()));
    }
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let own = process.file_name().as_bytes() == std::process::id().to_string().as_bytes();
        let needle = dir.as_os_str().as_bytes();
        if !own && line.windows(needle.len()).any(|w| w == needle) {
            found.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
    found
}

pub async fn open(dir: &Path, cgroup: &str) -> Runtime {
    let config =
        RuntimeConfig { cgroup_parent: cgroup.to_owned(), helper_exe: Some(PROGRAM.into()), ..RuntimeConfig::new(dir.join("state")) };
    Runtime::open(config).await.expect("open")
}

/// The text of a CRI log, without times and marks.
pub fn log_text(path: &Path) -> String {
    let raw = std::fs::read_to_string(path).unwrap_or_default();
    raw.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
}

/// Waits for a condition that only the file system or /proc can tell.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn command(words: &[&str]) -> ExecSpec {
    ExecSpec { command: words.iter().map(|w| (*w).to_owned()).collect(), ..ExecSpec::default() }
}
