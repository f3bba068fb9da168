//! What is known of one module, shared between its supervisor, status and metrics.

use crate::{counters::Counters, fault::Generation, host::ModuleStats, shadow::ShadowFacts, tap::Tap};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::sync::Notify;

/// What a module is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Its code is being fetched, compiled or started.
    #[default]
    Loading,
    /// Its code is being compiled: the first time on this machine.
    Compiling,
    /// It serves.
    Running,
    /// It cannot run as its object says; nothing happens until that changes.
    Failed,
    /// It faulted and waits to be started again.
    BackOff,
    /// No policy admits it; nothing happens until its object or a policy changes.
    Denied,
    /// It is suspended or deleted.
    Stopped,
}

impl Phase {
    /// As the status says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::Compiling => "Compiling",
            Self::Running => "Running",
            Self::Failed => "Failed",
            Self::BackOff => "BackOff",
            Self::Denied => "Denied",
            Self::Stopped => "Stopped",
        }
    }
}

/// The part that changes rarely.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub phase: Phase,
    pub digest: String,
    pub last_good_digest: String,
    pub generation: Generation,
    /// `metadata.generation` that this is about.
    pub observed_generation: i64,
    pub last_swap_micros: u64,
    pub start_time: String,
    pub is_recording: bool,
    pub shadow: Option<ShadowFacts>,
    /// Versions that ran, the newest last.
    pub history: Vec<Past>,
    /// What is under way, for people; goes before `message`.
    pub progress: String,
    /// The last failure, for people.
    pub message: String,
}

/// A version that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    pub digest: String,
    /// The kind of its source.
    pub source: String,
    pub start_time: String,
}

/// One module.
pub struct ModuleState {
    pub name: String,
    pub counters: Arc<Counters>,
    pub tap: Arc<Tap>,
    facts: Mutex<Facts>,
    changed: Arc<Notify>,
}

impl ModuleState {
    /// A module that is not running yet. `changed` is told of every change of its facts.
    pub fn new(name: &str, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), counters: Arc::default(), tap: Arc::default(), facts: Mutex::default(), changed })
    }

    /// What is known now.
    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Changes what is known.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        let before = facts.clone();
        change(&mut facts);
        if *facts != before {
            self.changed.notify_one();
        }
    }

    /// For metrics.
    pub fn stats(&self) -> ModuleStats {
        let (facts, c) = (self.facts(), &self.counters);
        ModuleStats {
            name: self.name.clone(),
            state: facts.phase.as_str(),
            generation: facts.generation.0,
            calls: c.calls.load(Relaxed),
            errors: c.errors.load(Relaxed),
            traps: c.traps.load(Relaxed),
            restarts: c.restarts.load(Relaxed),
            denied: c.denied.load(Relaxed),
            cpu: c.cpu.used(),
            throttled: c.cpu.throttled(),
            p50: c.quantile(0.5),
            p99: c.quantile(0.99),
            memory_bytes: c.memory_bytes.load(Relaxed),
            queue_length: c.queue_length.load(Relaxed),
            shadow_calls: self.tap.shadow_calls().0,
            shadow_skipped: self.tap.shadow_calls().1,
            shadow_differences: facts.shadow.map_or(0, |shadow| shadow.differences),
        }
    }

    /// The `status` of the Module object.
    pub fn status(&self) -> Value {
        let (facts, stats) = (self.facts(), self.stats());
        let mut status = json!({
            "state": facts.phase.as_str(),
            "generation": facts.generation.0,
            "observedGeneration": facts.observed_generation,
            "calls": stats.calls,
            "errors": stats.errors,
            "traps": stats.traps,
            "restarts": stats.restarts,
            "p50Micros": u64::try_from(stats.p50.as_micros()).unwrap_or(u64::MAX),
            "p99Micros": u64::try_from(stats.p99.as_micros()).unwrap_or(u64::MAX),
            "memoryBytes": stats.memory_bytes,
            "queueLength": stats.queue_length,
            "lastSwapMicros": facts.last_swap_micros,
            "record": self.tap.record_status(),
            "shadow": facts.shadow.map(|shadow| json!({
                "digest": shadow.digest, "state": shadow.state, "calls": stats.shadow_calls, "skipped": stats.shadow_skipped,
                "differences": shadow.differences, "message": shadow.message,
            })),
            "history": facts.history,
            "message": if facts.progress.is_empty() { &facts.message } else { &facts.progress },
        });
        for (field, value) in [("digest", facts.digest), ("lastGoodDigest", facts.last_good_digest), ("startTime", facts.start_time)] {
            if !value.is_empty() {
                status[field] = Value::String(value);
            }
        }
        status
    }
}
