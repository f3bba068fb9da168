//! `pintle down`: ends every process of a cluster and removes what it left on the machine, also after a kill.

use crate::{ClusterError, Layout, network, processes};
use nix::mount::{MntFlags, umount2};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Arguments of `pintle down`.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    /// Where the state is kept.
    #[arg(long, default_value = ".pintle")]
    data_dir: PathBuf,
    /// Only this node, as if its machine were switched off; its Node object stays.
    #[arg(long)]
    node: Option<String>,
    /// Delete the data directory too: objects, keys, images.
    #[arg(long, conflicts_with = "node")]
    delete_data: bool,
}

/// Stops the cluster. Processes end first, so that nothing new is made while things are removed.
pub fn down(args: &DownArgs) -> Result<(), ClusterError> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |source| ClusterError::Directory { path, source }
    };
    let layout = Layout::new(&args.data_dir).map_err(at(&args.data_dir))?;
    if let Some(node) = &args.node {
        return stop_node(&layout, node);
    }
    processes::stop(&layout, "kernel", Duration::from_secs(5));
    for node in layout.known_nodes() {
        stop_node(&layout, &node)?;
    }
    network::remove_all(&layout);
    remove_cgroups(&layout.cgroup_root());
    let run = layout.run_dir();
    while super::up::is_mount_point(&run) {
        umount2(&run, MntFlags::MNT_DETACH).map_err(|e| at(&run)(e.into()))?;
    }
    if args.delete_data && layout.root().exists() {
        fs::remove_dir_all(layout.root()).map_err(at(layout.root()))?;
    }
    println!("cluster is down{}", if args.delete_data { "" } else { "; its data stays for the next `pintle up`" });
    Ok(())
}

/// Ends one node: the daemon, then everything it ran, then its namespaces.
fn stop_node(layout: &Layout, node: &str) -> Result<(), ClusterError> {
    processes::stop(layout, node, Duration::from_secs(3));
    let pin = layout.mount_namespace(node);
    let host_node =
        std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join("host-node"))).unwrap_or_else(|| "host-node".into());
    let mut argv = Vec::new();
    if super::up::is_mount_point(&pin) {
        argv.extend(["nsenter".to_owned(), format!("--mount={}", pin.display())]);
    }
    let network = Path::new("/run/netns").join(layout.network_namespace(node));
    if !argv.is_empty() && network.exists() {
        argv.push(format!("--net={}", network.display()));
    }
    let inside = !argv.is_empty();
    argv.extend([host_node.display().to_string(), "purge".into()]);
    if inside {
        // What drivers have mounted there holds the directories below.
        argv.extend(["--kubelet-dir".into(), super::up::KUBELET_DIR.into()]);
    }
    argv.extend(["--state-dir".into(), layout.node_state(node).display().to_string()]);
    argv.extend(["--run-dir".into(), layout.node_run(node).display().to_string()]);
    argv.extend(["--cgroup-parent".into(), layout.cgroup(node)]);
    let args: Vec<&str> = argv[1..].iter().map(String::as_str).collect();
    processes::run(&argv[0], &args)?;
    network::remove_node(layout, node);
    if super::up::is_mount_point(&pin) {
        let _ = umount2(&pin, MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_file(&pin);
    remove_cgroups(&layout.cgroup(node));
    Ok(())
}

/// Removes an empty cgroup subtree in every hierarchy (v1 controllers, or the one of v2).
fn remove_cgroups(relative: &str) {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path()).chain([base.to_owned()]);
    for root in hierarchies {
        remove_tree(&root.join(relative));
    }
}

/// A cgroup goes by `rmdir`, children first; its files cannot be deleted and need not.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
