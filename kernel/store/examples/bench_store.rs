//! Durable puts a second of the embedded store, as `cargo xtask bench` compares them with etcd's.
//!
//!     cargo run --release -p pintle-store --example bench_store -- --writers 64 --seconds 3 --value-bytes 2300
//!
//! Each writer puts one key after another, waiting for each. Prints one line of JSON. `--keys N` makes the writers overwrite N
//! keys in turn instead of making new ones; `--dir D` puts the file on another disk; `--watchers N` adds watches that see all;
//! `--compact-ms N` forgets all history every N milliseconds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pintle_store::{Error, Options, RedbStore, Revision, Store, Txn};

struct Arguments {
    writers: u64,
    seconds: u64,
    value_bytes: usize,
    keys: u64,
    watchers: u64,
    compact_ms: u64,
    dir: PathBuf,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed =
        Arguments { writers: 64, seconds: 3, value_bytes: 2300, keys: u64::MAX, watchers: 0, compact_ms: 0, dir: std::env::temp_dir() };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|err| format!("{name} {value}: {err}"));
        match name.as_str() {
            "--writers" => parsed.writers = number()?.max(1),
            "--seconds" => parsed.seconds = number()?.max(1),
            "--value-bytes" => parsed.value_bytes = number()? as usize,
            "--keys" => parsed.keys = number()?.max(1),
            "--watchers" => parsed.watchers = number()?,
            "--compact-ms" => parsed.compact_ms = number()?,
            "--dir" => parsed.dir = PathBuf::from(value),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(parsed)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(2);
        }
    };
    let path = arguments.dir.join(format!("pintle-bench-{}.redb", std::process::id()));
    let outcome = measure(&arguments, &path).await;
    for left in [path.clone(), path.with_extension("redb.reserve")] {
        let _ = std::fs::remove_file(left);
    }
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments, path: &std::path::Path) -> Result<String, Error> {
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(path, Options::default())?);
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..arguments.watchers {
        let mut watch = store.watch(Bytes::new(), Revision::FIRST).await?;
        tokio::spawn(async move { while watch.next().await.is_some() {} });
    }
    if arguments.compact_ms > 0 {
        let (store, stop, every) = (store.clone(), stop.clone(), Duration::from_millis(arguments.compact_ms));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(every).await;
                store.compact(store.current()).await?;
            }
            Ok::<_, Error>(())
        });
    }
    let started = Instant::now();
    let writers: Vec<_> = (0..arguments.writers)
        .map(|_| {
            let (store, stop, next) = (store.clone(), stop.clone(), next.clone());
            let (keys, value) = (arguments.keys, noise(arguments.value_bytes));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed) % keys;
                    let key = format!("/registry/pods/default/web-{:016x}", scatter(number));
                    let begun = Instant::now();
                    store.txn(Txn::new().put(key, value.clone())).await?;
                    latencies.push(begun.elapsed());
                }
                Ok::<_, Error>(latencies)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await.map_err(|_| Error::Closed)??);
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).map_or(0, Duration::as_micros)
    };
    let puts_per_s = latencies.len() as f64 / elapsed.as_secs_f64();
    let file_bytes = std::fs::metadata(path)?.len();
    Ok(format!(
        "{{\"puts_per_s\":{puts_per_s:.0},\"p50_us\":{},\"p99_us\":{},\"puts\":{},\"writers\":{},\"value_bytes\":{},\"file_bytes\":{file_bytes},\"resident_bytes\":{}}}",
        at(0.5),
        at(0.99),
        latencies.len(),
        arguments.writers,
        arguments.value_bytes,
        resident_bytes(),
    ))
}

/// Memory of this process; zero where /proc does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Names in a cluster do not come in order.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn noise(bytes: usize) -> Bytes {
    (0..bytes as u64).map(|index| (scatter(index + 1) >> 56) as u8).collect::<Vec<u8>>().into()
}
