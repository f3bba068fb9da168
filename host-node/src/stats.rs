//! What runs uses how much: the kubelet's `/stats/summary` (JSON) and `/metrics/resource` (Prometheus' text).
//!
//! Read on demand from the runtime and /proc; nothing is sampled in between.
//! Names of metrics: <https://kubernetes.io/docs/reference/instrumentation/metrics/> (those of the kubelet's resource endpoint).

use std::fmt::Write as _;

use jiff::Timestamp;
use pintle_runtime_bridge::{ContainerId, Stats};
use serde_json::{Value, json};

use crate::machine::{self, second};
use crate::node::Node;
use crate::pod::record::{name, namespace, uid};

/// What one container uses.
pub struct ContainerUse {
    name: String,
    started: Option<Timestamp>,
    stats: Stats,
}

/// What one pod uses.
pub struct PodUse {
    name: String,
    namespace: String,
    uid: String,
    started: Option<Timestamp>,
    containers: Vec<ContainerUse>,
}

/// Running pods with what their containers use; what ends meanwhile is left out.
pub async fn pods(node: &Node) -> Vec<PodUse> {
    let mut pods = Vec::new();
    for view in node.roster.views() {
        let pod = view.pod.borrow().clone();
        let (running, started): (Vec<_>, _) = {
            let record = view.record.borrow();
            let running = record.containers.iter().filter_map(|(name, c)| c.running().map(|a| (name.clone(), a.id.clone(), a.started_at)));
            (running.collect(), record.containers.values().filter_map(|c| c.running()?.started_at).min())
        };
        let mut containers = Vec::new();
        for (name, id, started) in running {
            let Ok(id) = ContainerId::parse(&id) else { continue };
            let Ok(stats) = node.runtime.stats(&id).await else { continue };
            containers.push(ContainerUse { name, started, stats });
        }
        let (name, namespace, uid) = (name(&pod).to_owned(), namespace(&pod).to_owned(), uid(&pod).to_owned());
        pods.push(PodUse { name, namespace, uid, started, containers });
    }
    pods
}

impl PodUse {
    fn sum(&self) -> Stats {
        self.containers.iter().fold(Stats::default(), |mut sum, container| {
            sum.cpu_usage_ns += container.stats.cpu_usage_ns;
            sum.memory_usage_bytes += container.stats.memory_usage_bytes;
            sum.memory_working_set_bytes += container.stats.memory_working_set_bytes;
            sum.memory_rss_bytes += container.stats.memory_rss_bytes;
            sum.pids += container.stats.pids;
            sum
        })
    }
}

/// The kubelet's summary of this node and its pods.
pub async fn summary(node: &Node) -> Value {
    let pods: Vec<Value> = pods(node).await.iter().map(pod_summary).collect();
    let (total, free) = machine::disk_bytes(&node.options.state_dir);
    let mut of_node = usage(&whole(), None);
    of_node["nodeName"] = json!(node.options.name);
    of_node["startTime"] = json!(second(node.machine.since()));
    of_node["memory"]["availableBytes"] = json!(machine::memory_field("MemAvailable:").unwrap_or(0));
    of_node["fs"] = json!({
        "time": second(Timestamp::now()), "capacityBytes": total, "availableBytes": free, "usedBytes": total.saturating_sub(free),
    });
    json!({ "node": of_node, "pods": pods })
}

fn pod_summary(pod: &PodUse) -> Value {
    let sum = pod.sum();
    let mut row = usage(&sum, pod.started);
    row["podRef"] = json!({ "name": pod.name, "namespace": pod.namespace, "uid": pod.uid });
    row["process_stats"] = json!({ "process_count": sum.pids });
    let containers = pod.containers.iter().map(|container| {
        let mut row = usage(&container.stats, container.started);
        row["name"] = json!(container.name);
        row
    });
    row["containers"] = containers.collect();
    row
}

fn usage(stats: &Stats, started: Option<Timestamp>) -> Value {
    let time = second(Timestamp::now());
    let mut row = json!({
        "cpu": { "time": time, "usageCoreNanoSeconds": stats.cpu_usage_ns },
        "memory": {
            "time": time, "usageBytes": stats.memory_usage_bytes, "workingSetBytes": stats.memory_working_set_bytes,
            "rssBytes": stats.memory_rss_bytes,
        },
    });
    if let Some(started) = started {
        row["startTime"] = json!(second(started));
    }
    row
}

/// The machine's own use, from /proc.
fn whole() -> Stats {
    let bytes = |name| machine::memory_field(name).unwrap_or(0);
    let (total, free, available) = (bytes("MemTotal:"), bytes("MemFree:"), bytes("MemAvailable:"));
    Stats {
        cpu_usage_ns: machine::cpu_nanos(),
        memory_usage_bytes: total.saturating_sub(free),
        memory_working_set_bytes: total.saturating_sub(available),
        memory_rss_bytes: bytes("AnonPages:"),
        ..Stats::default()
    }
}

/// One metric of the resource endpoint.
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    lines: String,
}

impl Metric {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Metric {
        Metric { name, help, kind, lines: String::new() }
    }

    /// `labels` are names of Kubernetes objects: nothing in them has to be quoted.
    fn add(&mut self, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.lines, "{} {value}", self.name),
            labels => writeln!(self.lines, "{}{{{labels}}} {value}", self.name),
        };
    }
}

fn written(metrics: &[Metric]) -> String {
    metrics.iter().fold(String::new(), |mut text, metric| {
        let _ = write!(text, "# HELP {0} {1}\n# TYPE {0} {2}\n{3}", metric.name, metric.help, metric.kind, metric.lines);
        text
    })
}

/// What `kubectl top` is made of, by way of a metrics server.
pub async fn resource_metrics(node: &Node) -> String {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut cpu =
        Metric::new("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds");
    let mut memory = Metric::new("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    let mut start = Metric::new("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    let mut pod_cpu = Metric::new("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
    let mut pod_memory = Metric::new("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for pod in pods(node).await {
        let of_pod = format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
        for container in &pod.containers {
            let labels = format!("container=\"{}\",{of_pod}", container.name);
            cpu.add(&labels, seconds(container.stats.cpu_usage_ns));
            memory.add(&labels, container.stats.memory_working_set_bytes);
            if let Some(started) = container.started {
                start.add(&labels, started.as_millisecond() as f64 / 1e3);
            }
        }
        let sum = pod.sum();
        pod_cpu.add(&of_pod, seconds(sum.cpu_usage_ns));
        pod_memory.add(&of_pod, sum.memory_working_set_bytes);
    }
    let whole = whole();
    let mut node_cpu = Metric::new("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    node_cpu.add("", seconds(whole.cpu_usage_ns));
    let mut node_memory = Metric::new("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    node_memory.add("", whole.memory_working_set_bytes);
    let mut errors = Metric::new("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    errors.add("", 0);
    written(&[cpu, memory, start, node_cpu, node_memory, pod_cpu, pod_memory, errors])
}

/// The daemon's own: what it runs.
pub fn own_metrics(node: &Node) -> String {
    let views = node.roster.views();
    let containers =
        views.iter().map(|view| view.record.borrow().containers.values().filter(|c| c.running().is_some()).count()).sum::<usize>();
    let pods = views.iter().filter(|view| view.record.borrow().containers.values().any(|c| c.running().is_some())).count();
    let mut name = Metric::new("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    name.add(&format!("node=\"{}\"", node.options.name), 1);
    let mut running_pods = Metric::new("kubelet_running_pods", "gauge", "Number of pods that have a running container");
    running_pods.add("", pods);
    let mut running = Metric::new("kubelet_running_containers", "gauge", "Number of containers by their state");
    running.add("container_state=\"running\"", containers);
    let mut memory = Metric::new("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    memory.add("", machine::own_memory());
    written(&[name, running_pods, running, memory])
}
