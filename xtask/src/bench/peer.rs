//! Debian's containerd with a state of its own, to measure against.

use super::target;
use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A daemon and its directories; both go when dropped.
pub struct Containerd {
    dir: PathBuf,
    daemon: Child,
}

impl Containerd {
    /// Starts it, by `prefix` in a node's namespaces. Images of `registry.pintle.test` come from the registry at an address, its pause process is
    /// `registry.pintle.test/pause:1`.
    pub fn start(prefix: &[String], registry: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let dir = target().join("bench-containerd");
        let _ = fs::remove_dir_all(&dir);
        for part in ["bin", "conf"] {
            fs::create_dir_all(dir.join(part))?;
        }
        // It raises the loopback device itself, by a plugin.
        std::os::unix::fs::symlink("/usr/lib/cni/loopback", dir.join("bin/loopback"))?;
        fs::write(dir.join("config.toml"), configuration(&dir, registry))?;
        let log = fs::File::create(dir.join("log"))?;
        let words: Vec<&str> = prefix.iter().map(String::as_str).chain(["containerd"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-c").arg(dir.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let started = Self { daemon: command.spawn()?, dir };
        pintle_tests::eventually("containerd answers", Duration::from_secs(30), || {
            pintle_tests::run(Command::new("ctr").arg("--address").arg(started.socket()).arg("version")).map_err(|e| e.to_string())
        })?;
        Ok(started)
    }

    /// Where it serves.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }
}

fn configuration(dir: &Path, registry: SocketAddr) -> String {
    let path = |name: &str| dir.join(name);
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = {socket:?}
[plugins."io.containerd.internal.v1.opt"]
path = {opt:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.pintle.test/pause:1"
netns_mounts_under_state_dir = true
tolerate_missing_hugetlb_controller = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {bin:?}
conf_dir = {conf:?}
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."registry.pintle.test"]
endpoint = ["http://{registry}"]
"#,
        root = path("root"),
        state = path("state"),
        socket = path("socket"),
        opt = path("opt"),
        bin = path("bin"),
        conf = path("conf"),
    )
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // By SIGTERM it unmounts what it has mounted for itself.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
