//! Removes everything a node left on the machine, whoever died before.
//!
//! Order: what runs (the runtime's own purge), then what it hung on: links, mounts, files. Each part is tried even when another
//! fails; the first failure is what is told.

use pintle_cri::{Cri, CriConfig};

use crate::cni;
use crate::error::{Error, Result};
use crate::file;
use crate::net;
use crate::options::{PurgeOptions, RuntimeChoice, rooted};
use crate::volume::mounts;

/// Runs `host-node purge`.
pub fn run(options: &PurgeOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Error::io("starting the runtime", e))?;
    runtime.block_on(purge(options))
}

async fn purge(options: &PurgeOptions) -> Result<()> {
    let runtime_dir = options.state_dir.join("runtime");
    let other = purge_other(options, &runtime_dir).await;
    let results = [
        other,
        // While the pods' namespaces are there: what plugins made in them and beside them.
        cni::purge(&options.state_dir.join("cni")).await,
        pintle_runtime_bridge::Runtime::purge(&runtime_dir, Some(&options.run_dir)).await.map_err(Error::from),
        net::purge(&options.bridge).await,
        crate::service::purge(),
        crate::policy::purge(),
        mounts::unmount_below(&options.state_dir),
        mounts::unmount_below(&options.run_dir),
        options.kubelet_dir.as_deref().map_or(Ok(()), mounts::unmount_below),
        file::remove_tree(&options.state_dir),
        file::remove_tree(&options.run_dir),
        options.cgroup_parent.as_deref().map_or(Ok(()), |parent| remove_cgroups(&rooted(parent))),
    ];
    results.into_iter().collect()
}

/// What the node has on another runtime.
async fn purge_other(options: &PurgeOptions, state_dir: &std::path::Path) -> Result<()> {
    let RuntimeChoice::Cri(socket) = &options.runtime else { return Ok(()) };
    let Some(cgroup_parent) = options.cgroup_parent.as_deref().map(rooted) else {
        return Err(Error::invalid("--cgroup-parent", "is needed to tell this node's containers from others"));
    };
    let cri = Cri::open(CriConfig { socket: socket.clone(), state_dir: state_dir.to_owned(), cgroup_parent }).await?;
    cri.purge().await?;
    // Last: without a configuration the runtime takes no sandbox down.
    if let Some((conf_dir, bin_dir)) = &cri.about().cni {
        crate::plugin::uninstall(conf_dir, bin_dir, &options.run_dir);
    }
    Ok(())
}

/// Removes an empty cgroup subtree from every hierarchy.
fn remove_cgroups(parent: &str) -> Result<()> {
    if parent.len() < 2 || parent.split('/').any(|part| part == "..") {
        return Err(Error::UnsafePath(parent.to_owned()));
    }
    let table = std::fs::read_to_string("/proc/self/mounts").map_err(|e| Error::io("reading the mount table", e))?;
    for line in table.lines() {
        let mut words = line.split(' ');
        let (target, kind) = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
        if matches!(kind, "cgroup" | "cgroup2") {
            remove_cgroup(&std::path::PathBuf::from(format!("{target}{parent}")));
        }
    }
    Ok(())
}

fn remove_cgroup(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Files of a cgroup go with it; a busy one stays, and the runtime's purge has told why.
    let _ = std::fs::remove_dir(path);
}
