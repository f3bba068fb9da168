//! What a machine is told on the command line.
//!
//! Invariant: after [`NodeOptions::check`] every name in here is fit for a path, an interface or a cgroup.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hickory_proto::rr::Name;
use pintle_runtime_bridge::Mirror;

use crate::error::{Error, Result};
use crate::housekeeping::options as housekeeping;
use crate::net::overlay::Overlay;
use crate::shutdown;

/// `host-node`: runs the pods of one machine.
#[derive(Parser)]
#[command(name = "host-node", version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Line {
    /// Another job than running the node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The node's own options.
    #[command(flatten)]
    pub node: Option<NodeOptions>,
    /// Logs, images, pressure.
    #[command(flatten)]
    pub housekeeping: housekeeping::Options,
    /// How a shutdown goes.
    #[command(flatten)]
    pub shutdown: shutdown::Options,
}

impl Line {
    /// All options of a node, if it is one that is to run.
    pub fn into_node(self) -> Option<NodeOptions> {
        Some(NodeOptions { housekeeping: self.housekeeping, shutdown: self.shutdown, ..self.node? })
    }
}

/// Jobs besides running the node.
#[derive(Subcommand)]
pub enum Command {
    /// Remove every process, mount, namespace pin, cgroup, link and file of a node.
    Purge(PurgeOptions),
}

/// Options of a running node.
#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// Name of the Node object; the client certificate's CN is system:node:NAME.
    #[arg(long)]
    pub name: String,
    /// The kernel, as host:port.
    #[arg(long)]
    pub kernel: String,
    /// The cluster's CA certificate (PEM).
    #[arg(long)]
    pub ca: PathBuf,
    /// The node's client certificate (PEM).
    #[arg(long)]
    pub cert: PathBuf,
    /// The node's private key (PEM).
    #[arg(long)]
    pub key: PathBuf,
    /// What must survive a restart of this process.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Sockets and namespace pins.
    #[arg(long)]
    pub run_dir: PathBuf,
    /// Where directories that are volumes lie; `purge` leaves them.
    #[arg(long, default_value = "/var/lib/pintle/volumes")]
    pub volumes_dir: PathBuf,
    /// Where storage drivers look for a kubelet's folders: `plugins_registry`, `plugins` and `pods`. Drivers' manifests name it, so it is rarely another.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// The node's InternalIP, or one of each family with a comma between; default: the address of the interface with the default route.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Serve images of one registry from another: docker.io=http://127.0.0.1:5000. May be repeated.
    #[arg(long = "registry-mirror", value_name = "HOST=URL")]
    pub registry_mirrors: Vec<String>,
    /// Who runs the containers: `native`, or `cri://` and the socket of a runtime that serves CRI v1, as cri:///run/containerd/containerd.sock.
    #[arg(long, default_value = "native")]
    pub runtime: RuntimeChoice,
    /// With a CRI runtime, who plugs its pods in: this node, by a plugin that the runtime finds in its directories, or the runtime as it is configured.
    #[arg(long, value_enum, default_value = "pintle")]
    pub cri_network: CriNetwork,
    /// Parent of all cgroups of this node; default: pintle/NAME.
    #[arg(long)]
    pub cgroup_parent: Option<String>,
    /// The bridge that pods are plugged into.
    #[arg(long, default_value = "pintle-pods")]
    pub bridge: String,
    /// How packets get to pods of other nodes: as they are, or in a VXLAN tunnel (UDP port 4789) where the network between the nodes does not route
    /// pods' addresses. The same on every node.
    #[arg(long, value_enum, default_value_t)]
    pub pod_overlay: Overlay,
    /// Longest packets of pods, bytes; 0: those of the interface with the node's address, less what the overlay needs.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=65_535))]
    pub pod_mtu: u32,
    /// Have CNI plugins make the pods' network: the first configuration in this directory says how.
    #[arg(long)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the plugins are, the first directory first.
    #[arg(long, value_delimiter = ',', default_values = ["/opt/cni/bin", "/usr/lib/cni"])]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Label of the Node object, KEY=VALUE. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Highest number of pods.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// First delay before a crashed container is restarted a second time; doubles up to 30 times this.
    #[arg(long, default_value_t = 10_000)]
    pub crash_backoff_ms: u64,
    /// First delay after a failed image pull; doubles up to 30 times this.
    #[arg(long, default_value_t = 10_000)]
    pub image_backoff_ms: u64,
    /// How often projected volumes are brought up to date with their objects.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub sync_period_ms: u64,
    /// Opens a port of the ingress under another number, PORT=LOCAL; LOCAL 0: not at all. May be repeated.
    #[arg(long = "ingress-port", value_name = "PORT=LOCAL")]
    pub ingress_ports: Vec<String>,
    /// Ask others for names of a domain, DOMAIN=ADDRESS[:PORT][,ADDRESS[:PORT]]. May be repeated; the longest domain counts.
    #[arg(long = "dns-stub-domain", value_name = "DOMAIN=ADDRESS")]
    pub stub_domains: Vec<String>,
    /// Run the pods of this directory's files (JSON or YAML), with or without a kernel, and show them in the API.
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Source of the resolver settings that pods inherit.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where the seccomp profiles are that pods name (`type: Localhost`).
    #[arg(long, default_value = "/var/lib/kubelet/seccomp")]
    pub seccomp_dir: PathBuf,
    /// Logs, images, pressure: of [`Line`], because a group of options that may be absent cannot have another one in it.
    #[arg(skip)]
    pub housekeeping: housekeeping::Options,
    /// How a shutdown goes: of [`Line`], too.
    #[arg(skip)]
    pub shutdown: shutdown::Options,
}

/// Who runs the containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// The bridge's own runtime.
    #[default]
    Native,
    /// Another one, behind this socket.
    Cri(PathBuf),
}

impl std::str::FromStr for RuntimeChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("cri://")) {
            ("native", _) => Ok(Self::Native),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Cri(path.into())),
            _ => Err("native, or cri:// and an absolute path".to_owned()),
        }
    }
}

/// Who plugs pods of a CRI runtime in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CriNetwork {
    /// This node: its own bridge.
    Pintle,
    /// The runtime, by its own CNI configuration.
    Runtime,
}

/// Options of `purge`.
#[derive(Args, Clone, Debug)]
pub struct PurgeOptions {
    /// As given to the node.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// As given to the node.
    #[arg(long)]
    pub run_dir: PathBuf,
    /// As given to the node; what is mounted there is unmounted.
    #[arg(long)]
    pub kubelet_dir: Option<PathBuf>,
    /// As given to the node; its cgroups are removed when empty.
    #[arg(long)]
    pub cgroup_parent: Option<String>,
    /// As given to the node.
    #[arg(long, default_value = "pintle-pods")]
    pub bridge: String,
    /// As given to the node; what it has there of this node's is removed.
    #[arg(long, default_value = "native")]
    pub runtime: RuntimeChoice,
}

impl NodeOptions {
    /// The cgroup path below every hierarchy's root, with a leading slash.
    pub fn cgroup_parent(&self) -> String {
        rooted(self.cgroup_parent.as_deref().unwrap_or(&format!("pintle/{}", self.name)))
    }

    /// Whether another runtime makes the pods' network by its own configuration.
    pub fn network_of_runtime(&self) -> bool {
        self.runtime != RuntimeChoice::Native && self.cri_network == CriNetwork::Runtime
    }

    /// Refuses names that may not reach a path or an interface.
    pub fn check(&self) -> Result<()> {
        if !is_node_name(&self.name) {
            return Err(Error::invalid("--name", "lower-case letters, digits, '-' and '.', at most 253"));
        }
        if !is_interface_name(&self.bridge) {
            return Err(Error::invalid("--bridge", "an interface name: letters, digits, '-', '_' and '.', at most 15"));
        }
        if self.cgroup_parent().split('/').any(|part| part == ".." || part == ".") {
            return Err(Error::invalid("--cgroup-parent", "no '.' or '..' parts"));
        }
        if !self.kubelet_dir.is_absolute() {
            return Err(Error::invalid("--kubelet-dir", "not an absolute path"));
        }
        if self.node_ip.len() > 2 || self.node_ip.len() == 2 && self.node_ip[0].is_ipv4() == self.node_ip[1].is_ipv4() {
            return Err(Error::invalid("--node-ip", "one address, or one of each family"));
        }
        if (1..1280).contains(&self.pod_mtu) {
            return Err(Error::invalid("--pod-mtu", "0, or 1280 to 65535: version 6 knows no shorter packets"));
        }
        if (self.cni_conf_dir.is_some() || self.network_of_runtime()) && (self.pod_overlay != Overlay::None || self.pod_mtu != 0) {
            return Err(Error::invalid("--cni-conf-dir", "overlay and MTU are the plugins' affair then: no --pod-overlay, no --pod-mtu"));
        }
        if self.runtime != RuntimeChoice::Native {
            if self.cni_conf_dir.is_some() {
                return Err(Error::invalid("--cni-conf-dir", "a CRI runtime calls plugins itself: say --cri-network runtime"));
            }
            if !self.registry_mirrors.is_empty() {
                return Err(Error::invalid("--registry-mirror", "a CRI runtime has its mirrors in its own configuration"));
            }
        }
        self.housekeeping.check()?;
        self.shutdown.check()?;
        self.mirrors()?;
        self.label_pairs()?;
        self.ingress_ports()?;
        self.stub_domains()?;
        Ok(())
    }

    /// The mirrors as the runtime wants them, with the endpoints that are spoken to in plain HTTP.
    pub fn mirrors(&self) -> Result<(Vec<Mirror>, Vec<String>)> {
        let (mut mirrors, mut plain) = (Vec::new(), Vec::new());
        for text in &self.registry_mirrors {
            let (registry, url) = text
                .split_once('=')
                .filter(|(host, url)| !host.is_empty() && !url.is_empty())
                .ok_or_else(|| Error::invalid("--registry-mirror", format!("{text:?} is not HOST=URL")))?;
            let url = url.trim_end_matches('/');
            let endpoint = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
                (Some(host), _) => {
                    plain.push(host.to_owned());
                    host
                }
                (_, Some(host)) => host,
                _ => url,
            };
            mirrors.push(Mirror { registry: registry.to_owned(), endpoint: endpoint.to_owned() });
        }
        Ok((mirrors, plain))
    }

    /// Ports of the ingress that are opened under another number.
    pub fn ingress_ports(&self) -> Result<BTreeMap<u16, u16>> {
        let pair = |text: &String| {
            let numbers = text.split_once('=').and_then(|(port, local)| Some((port.parse().ok()?, local.parse().ok()?)));
            numbers.ok_or_else(|| Error::invalid("--ingress-port", format!("{text:?} is not PORT=LOCAL")))
        };
        self.ingress_ports.iter().map(pair).collect()
    }

    /// Domains whose names are asked of their own resolvers.
    pub fn stub_domains(&self) -> Result<Vec<(Name, Vec<SocketAddr>)>> {
        let server = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)));
        let pair = |text: &String| {
            let bad = || Error::invalid("--dns-stub-domain", format!("{text:?} is not DOMAIN=ADDRESS[:PORT][,ADDRESS[:PORT]]"));
            let (domain, servers) = text.split_once('=').ok_or_else(bad)?;
            let domain = Name::from_ascii(format!("{}.", domain.trim_matches('.'))).map_err(|_| bad())?.to_lowercase();
            let servers = servers.split(',').map(server).collect::<std::result::Result<Vec<_>, _>>().map_err(|_| bad())?;
            if domain.is_root() { Err(bad()) } else { Ok((domain, servers)) }
        };
        self.stub_domains.iter().map(pair).collect()
    }

    /// The extra labels of the Node object.
    pub fn label_pairs(&self) -> Result<Vec<(String, String)>> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').ok_or_else(|| Error::invalid("--label", format!("{text:?} is not KEY=VALUE")))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        self.labels.iter().map(pair).collect()
    }
}

/// A cgroup path with exactly one leading slash and none at the end.
pub fn rooted(path: &str) -> String {
    format!("/{}", path.trim_matches('/'))
}

fn is_node_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name != "."
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> NodeOptions {
        let mut words = vec![
            "host-node",
            "--name",
            "n1",
            "--kernel",
            "k:1",
            "--ca",
            "a",
            "--cert",
            "b",
            "--key",
            "c",
            "--state-dir",
            "/s",
            "--run-dir",
            "/r",
        ];
        words.extend(extra);
        Line::try_parse_from(words).ok().and_then(Line::into_node).expect("a line that parses")
    }

    #[test]
    fn mirrors_name_the_registry_and_where_to_ask_instead() {
        let options = parse(&["--registry-mirror", "docker.io=http://127.0.0.1:5000/", "--registry-mirror", "q.io=https://m.example"]);
        let (mirrors, plain) = options.mirrors().expect("valid mirrors");
        assert_eq!(mirrors[0], Mirror { registry: "docker.io".into(), endpoint: "127.0.0.1:5000".into() });
        assert_eq!(mirrors[1].endpoint, "m.example");
        assert_eq!(plain, ["127.0.0.1:5000"]);
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        assert!(parse(&[]).check().is_ok());
        for bad in [
            &["--bridge", "../x"][..],
            &["--bridge", "a-name-that-is-too-long"],
            &["--cgroup-parent", "a/../b"],
            &["--label", "x"],
            &["--node-ip", "192.0.2.1,192.0.2.2"],
            &["--ingress-port", "80=x"],
            &["--pod-mtu", "576"],
            &["--kubelet-dir", "k"],
            &["--cni-conf-dir", "/c", "--pod-overlay", "vxlan"],
            &["--dns-stub-domain", "corp.example"],
            &["--dns-stub-domain", "=192.0.2.1"],
            &["--dns-stub-domain", "corp.example=192.0.2.1,x"],
            &["--runtime", "cri:///s", "--cni-conf-dir", "/c"],
            &["--runtime", "cri:///s", "--registry-mirror", "docker.io=http://m.example"],
        ] {
            assert!(parse(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_runtime_is_our_own_or_behind_a_socket() {
        assert_eq!(parse(&[]).runtime, RuntimeChoice::Native);
        let other = parse(&["--runtime", "cri:///run/containerd/containerd.sock"]);
        assert_eq!(other.runtime, RuntimeChoice::Cri("/run/containerd/containerd.sock".into()));
        assert!(!other.network_of_runtime() && parse(&["--runtime", "cri:///s", "--cri-network", "runtime"]).network_of_runtime());
        assert!("cri://s".parse::<RuntimeChoice>().is_err() && "docker".parse::<RuntimeChoice>().is_err());
    }

    #[test]
    fn stub_domains_name_resolvers_with_or_without_a_port() {
        let found = parse(&["--dns-stub-domain", "Corp.Example.=192.0.2.1,[2001:db8::1]:5353"]).stub_domains().expect("a stub domain");
        let servers = ["192.0.2.1:53", "[2001:db8::1]:5353"].map(|text| text.parse().expect("an address"));
        assert_eq!(found, [(Name::from_ascii("corp.example.").expect("a name"), servers.to_vec())]);
    }

    #[test]
    fn purge_needs_none_of_the_nodes_own_options() {
        let line = Line::try_parse_from(["host-node", "purge", "--state-dir", "/s", "--run-dir", "/r"]);
        assert!(matches!(line.map(|l| l.command), Ok(Some(Command::Purge(_)))));
    }

    #[test]
    fn the_cgroup_parent_is_rooted_and_named_after_the_node() {
        assert_eq!(parse(&[]).cgroup_parent(), "/pintle/n1");
        assert_eq!(parse(&["--cgroup-parent", "/a/b/"]).cgroup_parent(), "/a/b");
    }
}
