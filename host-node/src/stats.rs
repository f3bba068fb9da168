//! `stats/summary`: what runs uses how much.
//!
//! Read on demand from the runtime; nothing is sampled in between.

use jiff::Timestamp;
use pintle_runtime_bridge::{ContainerId, Stats};
use serde_json::{Value, json};

use crate::machine::second;
use crate::node::Node;
use crate::pod::record::{name, namespace, uid};

/// The kubelet's summary of this node and its pods.
pub async fn summary(node: &Node) -> Value {
    let mut pods = Vec::new();
    for view in node.roster.views() {
        let pod = view.pod.borrow().clone();
        let running: Vec<_> = {
            let record = view.record.borrow();
            record.containers.iter().filter_map(|(name, c)| c.running().map(|a| (name.clone(), a.id.clone()))).collect()
        };
        let mut containers = Vec::new();
        let mut sum = Stats::default();
        for (name, id) in running {
            let Ok(id) = ContainerId::parse(&id) else { continue };
            let Ok(stats) = node.runtime.stats(&id).await else { continue };
            sum.cpu_usage_ns += stats.cpu_usage_ns;
            sum.memory_usage_bytes += stats.memory_usage_bytes;
            sum.memory_working_set_bytes += stats.memory_working_set_bytes;
            sum.memory_rss_bytes += stats.memory_rss_bytes;
            let mut row = usage(&stats);
            row["name"] = json!(name);
            containers.push(row);
        }
        let mut row = usage(&sum);
        row["podRef"] = json!({ "name": name(&pod), "namespace": namespace(&pod), "uid": uid(&pod) });
        row["containers"] = json!(containers);
        pods.push(row);
    }
    let (total, free) = crate::machine::disk_bytes(&node.options.state_dir);
    json!({
        "node": {
            "nodeName": node.options.name,
            "fs": { "time": second(Timestamp::now()), "capacityBytes": total, "availableBytes": free, "usedBytes": total.saturating_sub(free) },
        },
        "pods": pods,
    })
}

fn usage(stats: &Stats) -> Value {
    let time = second(Timestamp::now());
    json!({
        "cpu": { "time": time, "usageCoreNanoSeconds": stats.cpu_usage_ns },
        "memory": {
            "time": time, "usageBytes": stats.memory_usage_bytes, "workingSetBytes": stats.memory_working_set_bytes,
            "rssBytes": stats.memory_rss_bytes,
        },
    })
}
