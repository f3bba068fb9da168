//! Compiled modules, and the cache of them on disk.
//!
//! Compiling half a megabyte costs half a second, loading what was compiled a tenth of a millisecond: so compiling happens once a
//! machine, in threads of low priority, and never on the path of a swap. An entry is named by everything that it depends on
//! (the module's digest, the wasmtime version, the configuration, the processor's features) and ends with a hash of itself: an
//! entry that does not match is thrown away and compiled again. Compiled code never comes from anywhere but this folder. What runs
//! is the file itself, mapped, so that code which is never used takes no memory: an entry is replaced or removed, never written to.
//! Where the folder's file system may hold no programs (`noexec`), what was compiled is of no use to the next start.

use super::{instance::Guest, wasi};
use crate::{fault::HostError, limits::WASM_BYTES_MAX};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    hash::{Hash, Hasher},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::Component;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The pipe's world as Rust.
#[allow(missing_docs)]
pub mod bindings {
    wasmtime::component::bindgen!({ path: "../../wit/world.wit", world: "module" });
}

const MAGIC: &[u8; 8] = b"PNTLAOT2";
/// When a file that is being written counts as never finished.
const UNFINISHED_AFTER: Duration = Duration::from_secs(3600);
/// How much lower than the rest of the process compiling runs.
const COMPILE_NICENESS: libc::c_int = 5;

/// The digest of a module as Module objects write it: `sha256:` and 64 hex digits.
pub fn digest_of(wasm: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(wasm)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

/// A compiled and linked module, ready to instantiate in microseconds. Cheap to clone.
#[derive(Clone)]
pub struct Code {
    pre: bindings::ModulePre<Guest>,
    digest: Arc<str>,
}

impl Code {
    /// Digest of the WebAssembly it was compiled from.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn engine(&self) -> &wasmtime::Engine {
        self.pre.engine()
    }

    pub(super) fn instantiate(&self, store: &mut wasmtime::Store<Guest>) -> wasmtime::Result<bindings::Module> {
        self.pre.instantiate(store)
    }
}

/// The cache: in memory while the code is in use, and on disk.
pub(super) struct Cache {
    dir: Option<PathBuf>,
    fingerprint: String,
    compilers: Arc<Semaphore>,
    loading: Mutex<HashMap<String, Arc<tokio::sync::OnceCell<Code>>>>,
    hits: AtomicU64,
    compiled: AtomicU64,
}

impl Cache {
    pub fn open(engine: &wasmtime::Engine, dir: Option<PathBuf>) -> Result<Self, HostError> {
        if let Some(path) = &dir {
            fs::create_dir_all(path).map_err(|source| HostError::Io { path: path.clone(), source })?;
        }
        let mut hasher = ShaHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let fingerprint = hex(&hasher.0.finalize()[..8]);
        if let Some(dir) = &dir {
            forget_others(dir, &fingerprint);
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            dir,
            fingerprint,
            compilers: Arc::new(Semaphore::new(threads)),
            loading: Mutex::default(),
            hits: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
        })
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.compiled.load(Ordering::Relaxed))
    }

    pub async fn load(self: &Arc<Self>, engine: &wasmtime::Engine, wasm: Bytes, compiling: Arc<AtomicBool>) -> Result<Code, HostError> {
        if wasm.len() > WASM_BYTES_MAX {
            return Err(HostError::TooLarge { actual: wasm.len(), limit: WASM_BYTES_MAX });
        }
        let (cache, engine) = (self.clone(), engine.clone());
        let hashed = wasm.clone();
        let digest = tokio::task::spawn_blocking(move || digest_of(&hashed)).await.map_err(|_| HostError::ShuttingDown)?;
        let cell = {
            let mut loading = self.loading.lock();
            loading.retain(|name, cell| *name == digest || Arc::strong_count(cell) > 1);
            loading.entry(digest.clone()).or_default().clone()
        };
        cell.get_or_try_init(|| cache.load_once(engine, wasm, digest, &compiling)).await.cloned()
    }

    /// Where the compiled code of a digest is kept.
    fn place(&self, digest: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join(format!("{}-{}.aot", digest.trim_start_matches("sha256:"), self.fingerprint)))
    }

    /// Throws the compiled code of a version away.
    pub fn forget(&self, digest: &str) {
        self.place(digest).into_iter().for_each(|path| drop(fs::remove_file(path)));
    }

    async fn load_once(
        self: Arc<Self>,
        engine: wasmtime::Engine,
        wasm: Bytes,
        digest: String,
        compiling: &AtomicBool,
    ) -> Result<Code, HostError> {
        let path = self.place(&digest);
        if let Some(path) = path.clone() {
            let engine = engine.clone();
            let read = tokio::task::spawn_blocking(move || {
                let component = read_entry(&engine, &path)?;
                link(&engine, &component).ok()
            });
            if let Some(pre) = read.await.map_err(|_| HostError::ShuttingDown)? {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Code { pre, digest: digest.into() });
            }
        }
        compiling.store(true, Ordering::Relaxed);
        let permit = self.compilers.clone().acquire_owned().await.map_err(|_| HostError::ShuttingDown)?;
        let (done, result) = oneshot::channel();
        let work = move || {
            lower_priority(COMPILE_NICENESS);
            let _ = done.send(compile(&engine, &wasm, path.as_deref()));
            drop(permit);
        };
        let spawned = thread::Builder::new().name("module-compile".into()).spawn(work);
        spawned.map_err(|source| HostError::Io { path: PathBuf::from("a compile thread"), source })?;
        let pre = result.await.map_err(|_| HostError::Compile("the compiler gave up".into()))??;
        self.compiled.fetch_add(1, Ordering::Relaxed);
        Ok(Code { pre, digest: digest.into() })
    }
}

fn compile(engine: &wasmtime::Engine, wasm: &[u8], path: Option<&Path>) -> Result<bindings::ModulePre<Guest>, HostError> {
    let component = Component::from_binary(engine, wasm).map_err(|e| HostError::Compile(format!("{e:#}")))?;
    let pre = link(engine, &component)?;
    let Some(path) = path else { return Ok(pre) };
    match component.serialize().map_err(std::io::Error::other).and_then(|code| write_entry(path, &code)) {
        Ok(()) => read_entry(engine, path).map_or(Ok(pre), |mapped| link(engine, &mapped)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot keep compiled code; it will be compiled again");
            Ok(pre)
        }
    }
}

fn link(engine: &wasmtime::Engine, component: &Component) -> Result<bindings::ModulePre<Guest>, HostError> {
    let linker = wasi::linker(engine, component)?;
    let pre = linker.instantiate_pre(component).map_err(|e| HostError::NotAModule(format!("{e:#}")))?;
    bindings::ModulePre::new(pre).map_err(|e| HostError::NotAModule(format!("{e:#}")))
}

/// The entry at `path` if it is whole; a broken one is removed.
fn read_entry(engine: &wasmtime::Engine, path: &Path) -> Option<Component> {
    let file = fs::File::open(path).ok()?;
    if !is_whole(&file).unwrap_or(false) {
        tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
        let _ = fs::remove_file(path);
        return None;
    }
    // SAFETY: the file is what `Component::serialize` gave in `write_entry`: it carries the hash that was made of it then, and the
    // folder is the kernel's own, as trusted as its store. Nothing else ever writes there, no module can, and nobody writes to an entry.
    #[allow(unsafe_code, reason = "compiled code can only be loaded by vouching for it")]
    let component = unsafe { Component::deserialize_file(engine, path) };
    component
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "compiled code does not fit this engine; compiling again"))
        .ok()
}

/// What an entry ends with: the sum of what comes before, and the magic.
fn ending(sum: u128) -> Vec<u8> {
    [&sum.to_le_bytes()[..], MAGIC].concat()
}

/// Whether an entry ends as it should.
fn is_whole(mut file: &fs::File) -> std::io::Result<bool> {
    let code = file.metadata()?.len().saturating_sub(ending(0).len() as u64);
    let mut hasher = Xxh3::new();
    std::io::copy(&mut file.take(code), &mut hasher)?;
    let mut found = Vec::new();
    file.read_to_end(&mut found)?;
    Ok(found == ending(hasher.digest128()))
}

fn write_entry(path: &Path, code: &[u8]) -> std::io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let temporary = path.with_extension(format!("{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(code)?;
    file.write_all(&ending(xxh3_128(code)))?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// Removes entries that another engine (version, configuration, processor) made, and files that were never finished.
fn forget_others(dir: &Path, fingerprint: &str) {
    let ours = format!("-{fingerprint}.aot");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        if (name.ends_with(".aot") && !name.ends_with(&ours)) || (name.ends_with(".tmp") && age > UNFINISHED_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the calling thread yield to the rest of the process: by how much, as `nice` counts.
pub fn lower_priority(niceness: libc::c_int) {
    // SAFETY: a plain system call without pointers; on Linux it applies to the calling thread only.
    #[allow(unsafe_code, reason = "the standard library has no thread priorities")]
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if result != 0 {
        tracing::debug!(niceness, "a thread keeps its priority");
    }
}

struct ShaHasher(Sha256);

impl Hasher for ShaHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        u64::from_le_bytes(self.0.clone().finalize()[..8].try_into().unwrap_or_default())
    }
}
