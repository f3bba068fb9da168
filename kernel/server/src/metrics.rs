//! Counters and histograms of requests, and their text form for Prometheus.
//!
//! Invariant: the number of series is bounded by what is served (verbs, resources, codes), never by what clients send.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Metric;

/// Upper bounds of the latency histogram, seconds: upstream's.
const BUCKETS: [f64; 25] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0,
    120.0,
];

#[derive(Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Default)]
struct PerResource {
    codes: BTreeMap<u16, u64>,
    latency: Histogram,
}

/// Requests, by verb and resource.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<&'static str, BTreeMap<String, PerResource>>>,
}

impl Metrics {
    /// Count an answer. `latency` is `None` for watches and streams.
    pub(crate) fn observe(&self, verb: &'static str, resource: &str, code: u16, latency: Option<Duration>) {
        let mut requests = self.requests.lock();
        let resources = requests.entry(verb).or_default();
        let entry = match resources.get_mut(resource) {
            Some(entry) => entry,
            None => resources.entry(resource.to_owned()).or_default(),
        };
        *entry.codes.entry(code).or_default() += 1;
        if let Some(latency) = latency {
            let seconds = latency.as_secs_f64();
            entry.latency.count += 1;
            entry.latency.sum += seconds;
            if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
                entry.latency.counts[bucket] += 1;
            }
        }
    }

    /// Everything in Prometheus' text format, `others` behind the server's own.
    pub(crate) fn text(&self, others: &[Metric]) -> String {
        let mut out = String::with_capacity(64 * 1024);
        let requests = self.requests.lock();
        let rows = || requests.iter().flat_map(|(verb, resources)| resources.iter().map(move |(resource, entry)| (verb, resource, entry)));
        // Writing to a String does not fail.
        let _ = out.write_str(
            "# HELP apiserver_request_total Requests by verb, resource and HTTP code.\n# TYPE apiserver_request_total counter\n",
        );
        for (verb, resource, entry) in rows() {
            for (code, count) in &entry.codes {
                let _ = writeln!(out, "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}");
            }
        }
        let name = "apiserver_request_duration_seconds";
        let _ = write!(
            out,
            "# HELP {name} Time from the request's head to the answer's, watches and streams aside.\n# TYPE {name} histogram\n"
        );
        for (verb, resource, entry) in rows() {
            let labels = format!("verb=\"{verb}\",resource=\"{resource}\"");
            let mut total = 0;
            for (bound, count) in BUCKETS.iter().zip(entry.latency.counts) {
                total += count;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", entry.latency.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", entry.latency.sum, entry.latency.count);
        }
        drop(requests);
        write_samples(&mut out, others);
        out
    }
}

fn write_samples(out: &mut String, samples: &[Metric]) {
    let mut before = "";
    for sample in samples {
        if sample.name != before {
            let _ = write!(out, "# HELP {0} {1}\n# TYPE {0} {2}\n", sample.name, sample.help, sample.kind);
            before = sample.name;
        }
        let labels: Vec<String> = sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{}{labels} {}", sample.name, sample.value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
