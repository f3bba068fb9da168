//! Where a cluster keeps its things, and what it calls them on the machine.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Component, Path, PathBuf},
};

/// Paths and names of one cluster, all derived from its data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    tag: String,
}

impl Layout {
    /// The cluster whose state is in `data_dir` (made absolute; it need not exist).
    pub fn new(data_dir: &Path) -> std::io::Result<Self> {
        let root = resolved(&std::path::absolute(data_dir)?);
        let hash = root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        Ok(Self { root, tag: format!("{:06x}", hash & 0xff_ffff) })
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// State of the kernel: store, keys, code cache.
    pub fn kernel_dir(&self) -> PathBuf {
        self.root.join("kernel")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Log file of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join("log").join(format!("{process}.log"))
    }

    /// Runtime files that need not survive a reboot: a private tmpfs that also pins mount namespaces.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Pid file of a process.
    pub fn pid_file(&self, process: &str) -> PathBuf {
        self.run_dir().join(format!("{process}.pid"))
    }

    /// The pinned mount namespace of a node.
    pub fn mount_namespace(&self, node: &str) -> PathBuf {
        self.run_dir().join(format!("{node}.mnt"))
    }

    /// Persistent state of a node: images, containers, volumes.
    pub fn node_state(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// Directories of a node that are volumes; they outlive the node.
    pub fn node_volumes(&self, node: &str) -> PathBuf {
        self.root.join("volumes").join(node)
    }

    /// What stands for a kubelet's directory on a node.
    pub fn node_kubelet(&self, node: &str) -> PathBuf {
        self.node_state(node).join("kubelet")
    }

    /// Runtime files of a node: sockets, namespace pins.
    pub fn node_run(&self, node: &str) -> PathBuf {
        self.run_dir().join(node)
    }

    /// Names of the nodes that have state here.
    pub fn known_nodes(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.root.join("nodes"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The network namespace of a node, as `ip netns` shows it.
    pub fn network_namespace(&self, node: &str) -> String {
        format!("pintle-{}-{node}", self.tag)
    }

    /// Prefix of every network namespace of this cluster.
    pub fn network_namespace_prefix(&self) -> String {
        format!("pintle-{}-", self.tag)
    }

    /// The bridge that joins the nodes (at most 15 characters).
    pub fn bridge(&self) -> String {
        format!("pintle{}", self.tag)
    }

    /// The machine's end of a node's link (at most 15 characters).
    pub fn veth(&self, index: u8) -> String {
        format!("pt{}n{index}", self.tag)
    }

    /// Parent cgroup of a node, relative to each hierarchy's root.
    pub fn cgroup(&self, node: &str) -> String {
        format!("pintle-{}/{node}", self.tag)
    }

    /// Parent cgroup of the whole cluster.
    pub fn cgroup_root(&self) -> String {
        format!("pintle-{}", self.tag)
    }

    /// Address of the machine on the node bridge: 10.88.X.1 of a /24, X from the data directory's name.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, self.subnet(), 1)
    }

    /// Address of node number `index` (from 1).
    pub fn node_address(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, self.subnet(), 10 + index)
    }

    /// The machine's address of version 6, where the cluster has both: fd88:0:0:X::1 of a /64.
    pub fn gateway_v6(&self) -> Ipv6Addr {
        self.v6(1)
    }

    /// The same of a node.
    pub fn node_address_v6(&self, index: u8) -> Ipv6Addr {
        self.v6(10 + u16::from(index))
    }

    fn v6(&self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd88, 0, 0, self.subnet().into(), 0, 0, 0, host)
    }

    fn subnet(&self) -> u8 {
        u8::from_str_radix(&self.tag[4..], 16).unwrap_or(0)
    }
}

/// The path without `..` and without links, as the kernel's mount table names it; its last parts need not exist.
fn resolved(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    let existing = plain.ancestors().find_map(|a| Some((a, a.canonicalize().ok()?)));
    match existing.and_then(|(ancestor, real)| Some(real.join(plain.strip_prefix(ancestor).ok()?))) {
        Some(whole) => whole.components().collect(),
        None => plain,
    }
}

impl std::fmt::Display for Layout {
    /// One `name=value` a line, for scripts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "data-dir={}", self.root.display())?;
        writeln!(f, "kubeconfig={}", self.kubeconfig().display())?;
        writeln!(f, "bridge={}", self.bridge())?;
        writeln!(f, "gateway={}", self.gateway())?;
        writeln!(f, "cgroup={}", self.cgroup_root())?;
        writeln!(f, "network-namespaces={}*", self.network_namespace_prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernels_limit_of_fifteen_characters() {
        let layout = Layout::new(Path::new("/some/where/.pintle")).unwrap();
        assert!(layout.bridge().len() <= 15);
        assert!(layout.veth(255).len() <= 15);
    }

    #[test]
    fn a_detour_in_the_path_is_the_same_cluster() {
        let (a, b) = (Layout::new(Path::new("/usr/none/../x/.pintle")).unwrap(), Layout::new(Path::new("/usr/x/.pintle")).unwrap());
        assert_eq!((a.root(), a.bridge()), (b.root(), b.bridge()));
    }

    #[test]
    fn two_directories_are_two_clusters() {
        let (a, b) = (Layout::new(Path::new("/a/.pintle")).unwrap(), Layout::new(Path::new("/b/.pintle")).unwrap());
        assert_ne!(a.bridge(), b.bridge());
    }
}
