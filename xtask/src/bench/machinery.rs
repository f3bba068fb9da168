//! The API's machinery under many objects, many watchers and large objects.

use super::{Bench, Row, Rows, median, number, repeat};
use serde_json::Value;
use std::error::Error;

/// What is listed, and how often in each form.
const LISTED: &str = "10000";
const LISTS: &str = "9";

/// Lists of 10,000 pods of 2 KB in each form: latency, what was copied a second, the kernel's peak above what it was.
pub fn lists(bench: &Bench) -> Rows {
    bench.kernel()?;
    bench.load("pods", &["--count", LISTED, "--clients", "16"])?;
    let mut rows = Vec::new();
    for (form, latency, peak, aim) in [
        ("json", "list_json_ms", "list_json_peak_mb", "memory-copy speed, from bytes already encoded"),
        ("protobuf", "list_protobuf_ms", "list_protobuf_peak_mb", "memory-copy speed after the first"),
        ("table", "list_table_ms", "list_table_peak_mb", "bounded memory"),
    ] {
        let seen = bench.load("list", &["--count", LISTS, "--form", form])?;
        eprintln!("  {form}: {seen}");
        rows.push(spread(latency, "ms", aim, &seen)?);
        rows.push(median(peak, "MB", "less than the answer twice", vec![number(&seen, "/peak_mb")?]));
    }
    Ok(rows)
}

/// A row from a summary of latencies.
fn spread(name: &'static str, unit: &'static str, aim: &'static str, seen: &Value) -> Result<Row, Box<dyn Error>> {
    let mut row = median(name, unit, aim, vec![number(seen, "/ms/p50")?]);
    (row.min, row.max, row.runs) = (number(seen, "/ms/min")?, number(seen, "/ms/max")?, number(seen, "/ms/count")? as usize);
    Ok(row)
}

/// 1,000 watchers of one kind at 500 writes a second.
pub fn fan_out(bench: &Bench) -> Rows {
    bench.kernel()?;
    let runs: Vec<Value> =
        (0..3).map(|_| bench.load("watchers", &["--clients", "1000", "--count", "500", "--seconds", "5"])).collect::<Result<_, _>>()?;
    runs.iter().for_each(|seen| eprintln!("  {seen}"));
    if let Some(short) = runs.iter().find(|seen| seen["delivered"] != seen["wanted"]) {
        return Err(format!("not every event reached every watcher: {short}").into());
    }
    let all = |pointer: &str| runs.iter().map(|seen| number(seen, pointer)).collect::<Result<Vec<_>, _>>();
    Ok(vec![
        median("fan_out_p50_ms", "ms", "50 ms", all("/ms/p50")?),
        median("fan_out_p99_ms", "ms", "250 ms", all("/ms/p99")?),
        median("fan_out_writes_per_s", "writes/s", "500 while measuring", all("/writes_per_s")?),
        median("fan_out_deliveries_per_s", "events/s", "500,000", all("/deliveries_per_s")?),
        median("fan_out_us_each", "us of the kernel's processor time", "2 us", all("/kernel_us_per_delivery")?),
    ])
}

/// Patches of a Deployment with 20 containers, eight clients each with its own.
pub fn patches(bench: &Bench) -> Rows {
    bench.kernel()?;
    let rate = |what: &str| repeat(3, || number(&bench.load(what, &["--clients", "8", "--seconds", "4"])?, "/per_s"));
    Ok(vec![
        median("apply_per_s", "applies/s", "1,000", rate("apply")?),
        median("strategic_per_s", "patches/s", "1,000", rate("strategic")?),
    ])
}

/// 100,000 pods of 2 KB in the kernel's memory.
pub fn pods(bench: &Bench) -> Rows {
    bench.kernel()?;
    let seen = bench.load("pods", &["--count", "100000", "--clients", "16"])?;
    eprintln!("  {seen}");
    Ok(vec![
        median("pod_bytes", "bytes", "less than 10,000", vec![number(&seen, "/bytes_each")?]),
        median("pods_100000_mb", "MB", "under 1,000", vec![number(&seen, "/rss_mb")?]),
    ])
}
