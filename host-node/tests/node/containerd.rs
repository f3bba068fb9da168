//! Debian's containerd with a state of its own, for nodes that run their pods on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::{patience, write_layout};

/// What its pause process is made of.
pub const PAUSE: &str = "localhost/pause:test";

/// A daemon and its directories.
pub struct Containerd {
    dir: PathBuf,
    daemon: Option<Child>,
}

/// Why there can be none here, if so.
pub fn unable() -> Option<&'static str> {
    let has =
        |program: &str| std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !has("containerd") || !has("ctr") || !has("runc") {
        return Some("needs Debian's containerd and runc");
    }
    (!Path::new("/usr/lib/cni/loopback").exists()).then_some("needs Debian's containernetworking-plugins")
}

impl Containerd {
    /// Starts it below a directory, and gives it the image of its pause process.
    pub fn start(dir: &Path) -> Self {
        let mut made = Self { dir: dir.join("containerd"), daemon: None };
        for part in ["bin", "conf"] {
            std::fs::create_dir_all(made.dir.join(part)).expect("a directory");
        }
        // containerd raises the loopback itself, by a plugin.
        std::os::unix::fs::symlink("/usr/lib/cni/loopback", made.dir.join("bin/loopback")).expect("linked");
        let path = |name: &str| made.dir.join(name);
        // Without CAP_SYS_RESOURCE nobody may be spared more than this process is.
        let config = format!(
            r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = {socket:?}
[plugins."io.containerd.internal.v1.opt"]
path = {opt:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
netns_mounts_under_state_dir = true
tolerate_missing_hugetlb_controller = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {bin:?}
conf_dir = {conf:?}
"#,
            root = path("root"),
            state = path("state"),
            socket = path("socket"),
            opt = path("opt"),
            bin = path("bin"),
            conf = path("conf"),
        );
        std::fs::write(path("config.toml"), config).expect("written");
        made.wake();
        made.import(PAUSE, b"pause", &["sleep", "2000000000"]);
        made
    }

    /// Starts the daemon; what ran before runs on.
    pub fn wake(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("a log");
        let mut command = Command::new("containerd");
        command.arg("-c").arg(self.dir.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("containerd starts"));
        let deadline = Instant::now() + patience(30);
        while self.ctr(&["version"]).is_err() {
            assert!(Instant::now() < deadline, "containerd does not serve: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL; containers run on.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// What `--runtime` is given.
    pub fn url(&self) -> String {
        format!("cri://{}", self.dir.join("socket").display())
    }

    /// Brings an image of busybox, with a file that tells it from others.
    pub fn import(&self, name: &str, mark: &[u8], command: &[&str]) {
        let directory = self.dir.join("layouts").join(name.replace(['/', ':'], "-"));
        write_layout(&directory, mark, command);
        let archive = directory.with_extension("tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&archive).expect("an archive"));
        tar.append_dir_all(".", &directory).expect("an archive");
        tar.into_inner().expect("an archive").sync_all().expect("an archive");
        let done = self.ctr(&["images", "import", "--index-name", name, &archive.to_string_lossy()]);
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Whether it has an image.
    pub fn has(&self, name: &str) -> bool {
        self.ctr(&["images", "list", "--quiet"]).expect("listed").lines().any(|line| line == name)
    }

    /// A network of its own: Debian's `ptp` with addresses out of a range.
    pub fn make_network(&self, range: &str) {
        for plugin in ["ptp", "host-local"] {
            std::os::unix::fs::symlink(Path::new("/usr/lib/cni").join(plugin), self.dir.join("bin").join(plugin)).expect("linked");
        }
        let ipam = serde_json::json!({ "type": "host-local", "subnet": range, "dataDir": self.dir.join("addresses") });
        let config = serde_json::json!({ "cniVersion": "0.4.0", "name": "own", "plugins": [{ "type": "ptp", "ipam": ipam }] });
        std::fs::write(self.dir.join("conf/10-own.conflist"), config.to_string()).expect("written");
    }

    fn ctr(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("socket")).args(["--namespace", "k8s.io"]).args(words).stdin(Stdio::null());
        let output = command.output().expect("ctr runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Ends what a test that failed has left running.
    fn kill_shims(&self) {
        let kill = |pid: i32| {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        };
        let ours = self.dir.to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if line.contains("containerd-shim") && line.contains(&ours) {
                let children = std::fs::read_to_string(entry.path().join(format!("task/{pid}/children"))).unwrap_or_default();
                children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(kill);
                kill(pid);
            }
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(40).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- containerd\n{}", self.log());
        }
        self.kill();
        self.kill_shims();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.dir.to_string_lossy().into_owned();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&ours)) {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
