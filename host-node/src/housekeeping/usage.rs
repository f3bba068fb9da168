//! What pods use, measured when somebody asks.

use k8s_openapi::api::core::v1::Pod;
use pintle_runtime_bridge::{ContainerId, DiskUsage, SandboxId, disk_usage};

use super::logs;
use super::ranking::Usage;
use crate::node::Node;
use crate::pod::note::View;

/// Measures a pod. `disk`: its files, too, which takes a while.
pub async fn measure(node: &Node, view: &View, disk: bool) -> Usage {
    let pod = view.pod.borrow().clone();
    let (sandbox, attempts) = {
        let record = view.record.borrow();
        let attempts =
            record.containers.iter().filter_map(|(name, c)| c.current.as_ref().map(|a| (name.clone(), a.clone(), c.running().is_some())));
        (record.sandbox.as_ref().and_then(|s| SandboxId::parse(&s.id).ok()), attempts.collect::<Vec<_>>())
    };
    let mut usage = Usage::default();
    if let Some(sandbox) = sandbox
        && let Ok(stats) = node.runtime.sandbox_stats(&sandbox).await
    {
        (usage.memory, usage.pids) = (stats.memory_working_set_bytes, stats.pids);
    }
    for (name, attempt, running) in attempts {
        let (mut memory, mut files) = (0, DiskUsage::default());
        if let Ok(id) = ContainerId::parse(&attempt.id)
            && running
        {
            memory = node.runtime.stats(&id).await.map_or(0, |stats| stats.memory_working_set_bytes);
            if disk {
                files = node.runtime.writable_layer(&id).await.unwrap_or_default();
            }
        }
        if disk {
            let log = attempt.log.clone();
            files.bytes += tokio::task::spawn_blocking(move || logs::bytes(&log)).await.unwrap_or(0);
        }
        usage.disk += files;
        usage.containers.push((name, memory, files));
    }
    if disk {
        for (name, on_disk, files) in empty_dirs(node, &pod).await {
            if on_disk {
                usage.disk += files;
            }
            usage.empty_dirs.push((name, files));
        }
    }
    usage
}

/// Every emptyDir of a pod: its name, whether it lies on the disk, what it takes.
async fn empty_dirs(node: &Node, pod: &Pod) -> Vec<(String, bool, DiskUsage)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let dirs = volumes.filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        let on_disk = source.medium.as_deref().unwrap_or_default().is_empty();
        Some((volume.name.clone(), on_disk, node.paths(pod).dir.join("volumes").join(&volume.name)))
    });
    let dirs: Vec<_> = dirs.collect();
    let measured = tokio::task::spawn_blocking(move || {
        dirs.into_iter().map(|(name, on_disk, path)| (name, on_disk, disk_usage(&path))).collect::<Vec<_>>()
    });
    measured.await.unwrap_or_default()
}
