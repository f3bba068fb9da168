//! The load generator behind `cargo xtask bench`: measures a running kernel through its real face, HTTPS with client certificates.
//!
//! `pintle-load WHAT --data-dir DIR --port PORT` prints one JSON object of numbers. Client and kernel share the machine: what is measured
//! includes the client's own work.

mod api;
mod dns;
mod machinery;
mod pods;
mod webhook;

use pintle_tests::{Error, cluster::Cluster, https::Api};
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

const USAGE: &str = "pintle-load dns|ready|creates|gets|steady|watch|bind|pod-start|pod-burst|fill|webhook|judged|pods|list|watchers|apply|strategic --data-dir DIR --port PORT [--clients N] [--seconds N] [--count N] [--form json|protobuf|table]";

/// What to measure, and how hard.
pub struct Options {
    data_dir: String,
    port: u16,
    clients: usize,
    seconds: u64,
    count: usize,
    form: String,
}

impl Options {
    fn parse(args: &[String]) -> Option<Self> {
        let mut options = Self { data_dir: String::new(), port: 6443, clients: 16, seconds: 5, count: 100, form: "json".into() };
        for pair in args.chunks(2) {
            let [name, value] = pair else { return None };
            match name.as_str() {
                "--data-dir" => options.data_dir.clone_from(value),
                "--port" => options.port = value.parse().ok()?,
                "--clients" => options.clients = value.parse().ok()?,
                "--seconds" => options.seconds = value.parse().ok()?,
                "--count" => options.count = value.parse().ok()?,
                "--form" => options.form.clone_from(value),
                _ => return None,
            }
        }
        Some(options)
    }

    /// The kernel's API.
    pub fn api(&self) -> Result<Api, Error> {
        Api::new(&Cluster::new(&self.data_dir, self.port))
    }

    /// The kernel's process.
    pub fn kernel(&self) -> Result<u32, Error> {
        Cluster::new(&self.data_dir, self.port).pid("kernel")
    }

    /// How long to load.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(what), Some(options)) = (args.first(), Options::parse(args.get(1..).unwrap_or_default())) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match measure(what, &options).await {
        Ok(numbers) => {
            println!("{numbers}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pintle-load {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(what: &str, options: &Options) -> Result<Value, Error> {
    match what {
        "dns" => dns::dns(options),
        "ready" => api::ready(options).await,
        "creates" => api::creates(options).await,
        "gets" => api::gets(options).await,
        "steady" => api::steady(options).await,
        "watch" => api::watch(options).await,
        "fill" => api::fill(options).await,
        "bind" => pods::bind(options).await,
        "pod-start" => pods::start(options).await,
        "pod-burst" => pods::burst(options).await,
        "webhook" => webhook::webhook(options).await,
        "judged" => webhook::judged(options).await,
        "pods" => machinery::pods(options).await,
        "list" => machinery::list(options).await,
        "watchers" => machinery::watchers(options).await,
        "apply" => machinery::patches(options, machinery::Patch::Apply).await,
        "strategic" => machinery::patches(options, machinery::Patch::Strategic).await,
        other => Err(Error::Http { what: other.into(), reason: USAGE.into() }),
    }
}

/// The value below which the share `q` of the sorted sample lies.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * q).round() as usize).copied().unwrap_or(f64::NAN)
}

/// p50, p99, min and max of a sample, in its own unit.
pub fn summary(mut sample: Vec<f64>) -> Value {
    sample.sort_by(f64::total_cmp);
    let round = |v: f64| (v * 1000.0).round() / 1000.0;
    serde_json::json!({
        "p50": round(quantile(&sample, 0.5)), "p99": round(quantile(&sample, 0.99)),
        "min": round(quantile(&sample, 0.0)), "max": round(quantile(&sample, 1.0)), "count": sample.len(),
    })
}
