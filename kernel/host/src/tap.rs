//! What watches the calls into a module from beside: a record, a shadow.
//!
//! The invariant: what watches never changes an answer and never holds one back for long. A record that cannot be written ends and says why; a
//! shadow that is too slow misses calls, and they are counted.

use crate::fault::{Fault, Generation};
use parking_lot::Mutex;
use pintle_record::{Entry, Header, Outcome, RecordError, Recorder, Step};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use tokio::sync::mpsc;

/// Of one module, over all its incarnations.
#[derive(Default)]
pub struct Tap {
    on: AtomicBool,
    ends: Mutex<Ends>,
    /// Calls that a shadow has answered, too; and those that it missed.
    compared: AtomicU64,
    skipped: AtomicU64,
}

#[derive(Default)]
struct Ends {
    recorder: Option<Recorder>,
    shadow: Option<mpsc::Sender<Seen>>,
}

/// A call, for a shadow.
#[derive(Debug)]
pub struct Seen {
    pub interface: u64,
    pub method: u16,
    pub params: Vec<u8>,
    pub outcome: Outcome,
}

impl Tap {
    /// Whether anybody watches.
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Begins a record.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn record(&self, path: &Path, header: &Header, bytes_max: u64) -> Result<(), RecordError> {
        let recorder = Recorder::create(path, header, bytes_max)?;
        self.change(|ends| ends.recorder = Some(recorder));
        Ok(())
    }

    /// Ends the record, if there is one.
    pub fn stop(&self) {
        self.change(|ends| ends.recorder.take().iter_mut().for_each(Recorder::flush));
    }

    /// Shows the calls to a shadow, or to none.
    pub fn shadow(&self, to: Option<mpsc::Sender<Seen>>) {
        self.change(|ends| ends.shadow = to);
    }

    fn change(&self, change: impl FnOnce(&mut Ends)) {
        let mut ends = self.ends.lock();
        change(&mut ends);
        self.on.store(ends.recorder.is_some() || ends.shadow.is_some(), Relaxed);
    }

    /// Whether a record is being made.
    pub fn is_recording(&self) -> bool {
        self.ends.lock().recorder.is_some()
    }

    /// An incarnation begins, told this.
    pub fn started(&self, generation: Generation, hello: Vec<u8>) {
        if let Some(recorder) = self.ends.lock().recorder.as_mut() {
            recorder.add(&Entry { at_millis: crate::now_millis(), generation: generation.0, step: Step::Start { hello } });
        }
    }

    /// A call and what came back.
    pub fn saw(&self, generation: Generation, interface: u64, method: u16, params: Vec<u8>, outcome: Outcome) {
        let mut ends = self.ends.lock();
        let Ends { recorder, shadow } = &mut *ends;
        let shown = shadow.as_ref().map(|shadow| shadow.try_reserve());
        match shown {
            Some(Ok(place)) => place.send(Seen { interface, method, params: params.clone(), outcome: outcome.clone() }),
            Some(Err(_)) => drop(self.skipped.fetch_add(1, Relaxed)),
            None => {}
        }
        if let Some(recorder) = recorder {
            let step = Step::Call { interface, method, params, outcome };
            recorder.add(&Entry { at_millis: crate::now_millis(), generation: generation.0, step });
        }
    }

    /// A shadow has answered one more.
    pub fn compared(&self) {
        self.compared.fetch_add(1, Relaxed);
    }

    /// Calls that a shadow has answered and those that it missed.
    pub fn shadow_calls(&self) -> (u64, u64) {
        (self.compared.load(Relaxed), self.skipped.load(Relaxed))
    }

    /// `status.record`; null when nothing is recorded.
    pub fn record_status(&self) -> Value {
        let mut ends = self.ends.lock();
        let Some(recorder) = ends.recorder.as_mut() else { return Value::Null };
        recorder.flush();
        let message = recorder.ended().unwrap_or_default();
        json!({ "file": recorder.path().display().to_string(), "calls": recorder.calls(), "bytes": recorder.bytes(), "message": message })
    }
}

/// What a call came to.
pub fn outcome(answer: &Result<Result<Vec<u8>, String>, Fault>) -> Outcome {
    match answer {
        Ok(Ok(results)) => Outcome::Answer(results.clone()),
        Ok(Err(text)) => Outcome::Error(text.clone()),
        Err(fault) => Outcome::Fault(format!("{}: {}", fault.kind, fault.message)),
    }
}

/// A message of its own with `root` in it.
pub fn message<T: capnp::traits::Owned>(root: impl capnp::traits::SetterInput<T>) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    match message.set_root(root) {
        Ok(()) => capnp::serialize::write_message_to_words(&message),
        Err(_) => Vec::new(),
    }
}
