//! The machine's side of the node network: one bridge, and a veth pair into each node's network namespace.
//!
//! Pod networks inside the nodes are host-node's; this only joins "machines" that are namespaces.

use crate::{ClusterError, Layout, processes::run};

fn ip(args: &str) -> Result<String, ClusterError> {
    run("ip", &args.split_whitespace().collect::<Vec<_>>())
}

fn exists(args: &str) -> bool {
    ip(args).is_ok()
}

/// Makes the bridge with the machine's address, or one of each family, if it is not there.
pub fn ensure_bridge(layout: &Layout, dual_stack: bool) -> Result<(), ClusterError> {
    let bridge = layout.bridge();
    if !exists(&format!("link show {bridge}")) {
        // An address of its own: a bridge's own choice changes as nodes come, and they would speak to one that is no more for a while.
        let [a, b, c, d] = layout.gateway().octets();
        ip(&format!("link add {bridge} address 02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", layout.gateway()))?;
    }
    ip(&format!("link set {bridge} up"))?;
    if dual_stack {
        ip(&format!("-6 addr replace {}/64 dev {bridge} nodad", layout.gateway_v6()))?;
    }
    Ok(())
}

/// Makes a node's network namespace and its link to the bridge, if they are not there.
pub fn ensure_node(layout: &Layout, node: &str, index: u8, dual_stack: bool) -> Result<(), ClusterError> {
    let (namespace, veth, bridge) = (layout.network_namespace(node), layout.veth(index), layout.bridge());
    if !std::path::Path::new("/run/netns").join(&namespace).exists() {
        ip(&format!("netns add {namespace}"))?;
    }
    if !exists(&format!("-n {namespace} link show eth0")) {
        // The end of a namespace that is just going away may still be there.
        let _ = ip(&format!("link delete {veth}"));
        ip(&format!("link add {veth} type veth peer name eth0 netns {namespace}"))?;
        ip(&format!("link set {veth} master {bridge} up"))?;
        ip(&format!("-n {namespace} addr add {}/24 dev eth0", layout.node_address(index)))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} route add default via {}", layout.gateway()))?;
    }
    if dual_stack {
        ip(&format!("-n {namespace} -6 addr replace {}/64 dev eth0 nodad", layout.node_address_v6(index)))?;
        ip(&format!("-n {namespace} -6 route replace default via {}", layout.gateway_v6()))?;
    }
    Ok(())
}

/// Routes a node's pod addresses from the machine itself, so that a user can reach pods directly.
pub fn route_pods(layout: &Layout, index: u8, pod_cidr: &str) -> Result<(), ClusterError> {
    let (family, through) = match pod_cidr.contains(':') {
        true => ("-6", layout.node_address_v6(index).to_string()),
        false => ("-4", layout.node_address(index).to_string()),
    };
    ip(&format!("{family} route replace {pod_cidr} via {through} dev {}", layout.bridge())).map(drop)
}

/// Removes a node's namespace and link. What is not there is fine.
pub fn remove_node(layout: &Layout, node: &str) {
    let _ = ip(&format!("netns delete {}", layout.network_namespace(node)));
}

/// Removes every namespace of the cluster and the bridge.
pub fn remove_all(layout: &Layout) {
    let prefix = layout.network_namespace_prefix();
    for line in ip("netns list").unwrap_or_default().lines() {
        if let Some(name) = line.split_whitespace().next().filter(|n| n.starts_with(&prefix)) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
    let _ = ip(&format!("link delete {}", layout.bridge()));
}
