//! The engine: WebAssembly modules behind the pipe, and nothing of Kubernetes.
//!
//! `Engine` compiles and caches code, `Instance` is one guest with its memory and its two lanes, `Vat` gives an instance its end
//! of the RPC lane, `Mirror` is an instance that only answers. The invariant: whatever a guest does, a call into it ends by its deadline with a value or a `Fault`.

mod code;
pub mod frames;
mod instance;
mod log;
mod mirror;
mod share;
mod vat;
mod wasi;

pub(crate) use code::lower_priority;
pub use code::{Code, digest_of};
pub use instance::Instance;
pub use log::ModuleLog;
pub use mirror::{Answers, Mirror, MirrorSettings};
pub use share::CpuShare;
pub use vat::Vat;

use crate::{
    fault::HostError,
    limits::{EPOCH_TICK, INSTANCE_MEMORY_BYTES_MAX, INSTANCES_MAX},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// One WebAssembly engine with its deadline clock and code cache. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    cache: Arc<code::Cache>,
    _ticker: Arc<Ticker>,
}

impl Engine {
    /// Sets up the engine; compiled code is kept in `cache_dir` (made when missing), or nowhere.
    ///
    /// # Errors
    /// `Engine` when this machine cannot run it, `Io` when the folder cannot be made.
    pub fn new(cache_dir: Option<PathBuf>) -> Result<Self, HostError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(HostError::Engine)?;
        let cache = Arc::new(code::Cache::open(&wasmtime, cache_dir)?);
        let ticker = Arc::new(Ticker::start(wasmtime.clone()));
        Ok(Self { wasmtime, cache, _ticker: ticker })
    }

    /// Compiles `wasm`, or takes it from the cache. Never runs on the caller's thread for long: compiling happens in a thread of
    /// low priority, several modules at once.
    ///
    /// # Errors
    /// `TooLarge`, `Compile`, `UnapprovedImport` or `NotAModule`.
    pub async fn load(&self, wasm: bytes::Bytes) -> Result<Code, HostError> {
        self.load_watched(wasm, Arc::default()).await
    }

    /// The same; `compiling` becomes true when the code has to be compiled.
    ///
    /// # Errors
    /// As `load`.
    pub async fn load_watched(&self, wasm: bytes::Bytes, compiling: Arc<AtomicBool>) -> Result<Code, HostError> {
        self.cache.load(&self.wasmtime, wasm, compiling).await
    }

    /// Throws the compiled code of a version away; what runs is not touched.
    pub fn forget(&self, digest: &str) {
        self.cache.forget(digest);
    }

    /// How many modules came from the cache and how many were compiled.
    pub fn cache_counts(&self) -> (u64, u64) {
        self.cache.counts()
    }
}

fn config() -> wasmtime::Config {
    let mut pool = wasmtime::PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX);
    pool.total_core_instances(INSTANCES_MAX * 4);
    pool.total_memories(INSTANCES_MAX * 2);
    pool.total_tables(INSTANCES_MAX * 4);
    pool.max_memory_size(INSTANCE_MEMORY_BYTES_MAX);
    pool.max_memories_per_component(4);
    let mut config = wasmtime::Config::new();
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::Pooling(pool));
    config.memory_reservation(INSTANCE_MEMORY_BYTES_MAX as u64);
    config.memory_init_cow(true);
    config.epoch_interruption(true);
    config.wasm_relaxed_simd(false);
    config.cranelift_nan_canonicalization(true);
    config
}

/// The one thread that advances every deadline.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        };
        let thread = thread::Builder::new().name("module-clock".into()).spawn(tick).ok();
        if thread.is_none() {
            tracing::error!("cannot start the deadline clock of the module engine: deadlines are not enforced");
        }
        Self { stop, thread }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A deadline in ticks of the clock, rounded up, with one tick of grace because the current one has begun.
fn ticks(deadline: Duration) -> u64 {
    let tick = EPOCH_TICK.as_micros().max(1);
    u64::try_from(deadline.as_micros().div_ceil(tick)).unwrap_or(u64::MAX / 2).saturating_add(1)
}
