//! What pods pay for their network: plugging in, Services, streams between machines, names.

use super::{Bench, Row, Rows, against, example, median, number, output_json};
use serde_json::Value;
use std::error::Error;

/// What the CoreDNS project publishes of one instance on two processors, asked for names of the cluster by clients on other machines: answers a second,
/// and milliseconds on average (coredns/deployment, `kubernetes/Scaling_CoreDNS.md`).
const COREDNS_PER_S: f64 = 33_669.0;
const COREDNS_MS: f64 = 2.608;

fn numbers(value: &Value, pointer: &str) -> Result<Vec<f64>, Box<dyn Error>> {
    let list = value.pointer(pointer).and_then(Value::as_array).ok_or_else(|| format!("no list at {pointer}"))?;
    Ok(list.iter().filter_map(Value::as_f64).collect())
}

fn middle(value: &Value, pointer: &str) -> Result<f64, Box<dyn Error>> {
    Ok(median("", "", "", numbers(value, pointer)?).value)
}

/// Names of the rows at a number of Services: a change of an endpoint, connections, round trips.
const SIZES: [(&str, [&str; 3]); 3] = [
    ("10", ["rule_us_10", "service_conn_10", "service_rtt_10"]),
    ("1000", ["rule_us_1000", "service_conn_1000", "service_rtt_1000"]),
    ("10000", ["rule_us_10000", "service_conn_10000", "service_rtt_10000"]),
];

/// The network of two machines in namespaces, without a cluster.
pub fn network(_: &Bench) -> Rows {
    let seen = example("bench_network", &[])?;
    let at = |part: &str| format!("/services/{part}");
    let mut rows = vec![median("pod_network_ms", "ms, plugging in a pod", "10 ms", numbers(&seen, "/pod_network_ms")?)];
    for (count, [change, connect, trip]) in SIZES {
        let all = |part: &str| numbers(&seen, &at(&format!("{count}/{part}")));
        let direct = |part: &str| middle(&seen, &at(&format!("{count}/{part}")));
        rows.push(median(change, "us, an endpoint's change to the rule", "10,000 us, flat", all("change_us")?));
        let through = median(connect, "connections/s, ratio through a Service/direct", "0.95, flat", all("through_per_s")?);
        rows.push(against(through, direct("direct_per_s")?));
        let through = median(trip, "us, there and back, ratio through a Service/direct", "1.05, flat", all("through_us")?);
        rows.push(against(through, direct("direct_us")?));
    }
    let across = median("across_gbit", "Gbit/s, pod to pod of two machines, ratio to a bare veth", "-", numbers(&seen, "/across_gbit")?);
    rows.push(against(across, middle(&seen, "/bare_gbit")?));
    Ok(rows)
}

/// The resolver of a node, asked from that node.
pub fn dns(bench: &Bench) -> Rows {
    bench.cluster.down(&["--delete-data"])?;
    bench.cluster.up(1, &[])?;
    let program = pintle_tests::programs().join("pintle-load");
    let data = bench.cluster.data_dir().display().to_string();
    let ask = |clients: &str, seconds: &str| -> Result<Value, Box<dyn Error>> {
        let mut command = bench.cluster.in_node("node-1")?;
        command.arg(&program).args(["dns", "--data-dir", &data, "--clients", clients, "--seconds", seconds]);
        output_json(&mut command)
    };
    // It listens a moment after the node is ready.
    pintle_tests::eventually("the resolver answers", std::time::Duration::from_secs(30), || ask("1", "1").map_err(|e| e.to_string()))?;
    let runs: Vec<Value> = (0..3).map(|_| ask("16", "4")).collect::<Result<_, _>>()?;
    let all = |pointer: &str| runs.iter().map(|seen| number(seen, pointer)).collect::<Result<Vec<_>, _>>();
    let rate: Row = median("dns_per_s", "answers/s, ratio to CoreDNS's published figure", "1", all("/per_s")?);
    let p50: Row = median("dns_p50_ms", "ms, ratio to CoreDNS's published average", "1", all("/ms/p50")?);
    Ok(vec![against(rate, COREDNS_PER_S), against(p50, COREDNS_MS), median("dns_p99_ms", "ms", "-", all("/ms/p99")?)])
}
