//! Writes what is known of the modules into their objects. The invariant: a module's status is written at most once an interval, at once
//! only when a fact changed and rarely when only counters did, so that status never feeds itself.

use crate::state::{Facts, ModuleState};
use parking_lot::Mutex;
use pintle_registry::{Caller, Patch, Registry, WriteOptions};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How often counters alone are worth a write.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(10);
/// Facts are gathered for this long, so that a start is one write and not three.
const SETTLE: Duration = Duration::from_millis(20);

/// The modules by name.
pub type Modules = Mutex<BTreeMap<String, Arc<ModuleState>>>;

#[derive(Default)]
struct Written {
    /// Whose; a module that was deleted and made again has a status to be written, even one of the same words.
    of: Option<Arc<ModuleState>>,
    at: Option<Instant>,
    facts: Facts,
    status: Value,
}

/// Writes statuses until dropped, at most one a module and `every`. `changed` is told by the modules; `rounds` counts the looks.
pub async fn write_statuses(registry: Arc<Registry>, modules: Arc<Modules>, changed: Arc<Notify>, every: Duration, rounds: Arc<AtomicU64>) {
    let mut written: HashMap<String, Written> = HashMap::new();
    loop {
        let _ = tokio::time::timeout(every, changed.notified()).await;
        tokio::time::sleep(SETTLE).await;
        let states: Vec<_> = modules.lock().values().cloned().collect();
        written.retain(|name, _| states.iter().any(|s| s.name == *name));
        let mut postponed = false;
        for state in states {
            let entry = written.entry(state.name.clone()).or_default();
            if !entry.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &state)) {
                *entry = Written { of: Some(state.clone()), ..Written::default() };
            }
            let age = entry.at.map_or(Duration::MAX, |at| at.elapsed());
            let (facts, status) = (state.facts(), state.status());
            let due = if facts != entry.facts { age >= every } else { age >= COUNTERS_INTERVAL && status != entry.status };
            postponed |= !due && facts != entry.facts;
            if due {
                write(&registry, &state.name, &status).await;
                *entry = Written { of: Some(state), at: Some(Instant::now()), facts, status };
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        if postponed {
            tokio::time::sleep(every / 4).await;
            changed.notify_one();
        }
    }
}

async fn write(registry: &Registry, name: &str, status: &Value) {
    let Ok(target) = registry.resolve("pintle.dev", "v1", "modules", "status", "", name) else { return };
    let patch = Patch::Merge(json!({"status": status}).to_string().into());
    match registry.patch(&Caller::kernel(), &target, patch, &WriteOptions::default()).await {
        Ok(_) => {}
        Err(error) if error.code == 404 => {}
        Err(error) => tracing::warn!(module = name, %error, "cannot write the module's status"),
    }
}
