//! One guest: its memory, its limits, and the two lanes into it.
//!
//! A deadline is processor time of the calling thread, so that a busy machine does not end honest modules; wall time counts when it is
//! `WALL_FACTOR` times that.
//!
//! The invariant: every entry sets a deadline first, and whatever comes back other than a value is a `Fault` that names the module and
//! its generation. After a fault the instance answers nothing but that fault.

use super::{Code, CpuShare, code::bindings, frames, log::ModuleLog, ticks};
use crate::{
    fault::{Fault, FaultKind, Generation, ModuleId},
    limits::PUMP_BYTES_MAX,
};
use nix::time::{ClockId, clock_gettime};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Wall time that an entry may take, as a multiple of its deadline.
const WALL_FACTOR: u32 = 20;

/// One entry into the guest.
#[derive(Clone, Copy)]
struct Turn {
    began: Instant,
    cpu: Duration,
    deadline: Duration,
}

impl Turn {
    fn begin(deadline: Duration) -> Self {
        Self { began: Instant::now(), cpu: thread_cpu(), deadline }
    }

    /// What the deadline clock is told when it rings.
    fn ring(&self) -> wasmtime::UpdateDeadline {
        let left = self.deadline.saturating_sub(thread_cpu().saturating_sub(self.cpu));
        if left.is_zero() || self.began.elapsed() > self.deadline.saturating_mul(WALL_FACTOR) {
            return wasmtime::UpdateDeadline::Interrupt;
        }
        wasmtime::UpdateDeadline::Continue(ticks(left))
    }
}

/// Processor time of the calling thread. A kernel without that clock makes deadlines wall time times `WALL_FACTOR`.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The host's side of one store.
pub struct Guest {
    pub(super) log: ModuleLog,
    pub(super) last_words: Option<String>,
    memory: MemoryLimit,
    random: u64,
    turn: Turn,
}

impl Guest {
    /// The next of a fixed sequence (splitmix64): the same for every run of every module.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

struct MemoryLimit {
    limit: usize,
    used: usize,
    refused: bool,
}

impl wasmtime::ResourceLimiter for MemoryLimit {
    /// All memories of the instance count together: a module may be several components in one.
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.used.saturating_add(desired.saturating_sub(current));
        let fits = wanted <= self.limit;
        self.refused |= !fits;
        self.used = if fits { wanted } else { self.used };
        Ok(fits)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 20_000)
    }
}

/// What a slice of the RPC lane gave.
pub struct Slice {
    /// Whole messages, checked.
    pub frames: Vec<u8>,
    /// The guest wants another slice.
    pub more: bool,
}

/// One instantiated module.
pub struct Instance {
    store: wasmtime::Store<Guest>,
    exports: bindings::Module,
    module: ModuleId,
    generation: Generation,
    fault: Option<Fault>,
    message_bytes: usize,
    share: Arc<CpuShare>,
}

impl Instance {
    /// Makes an instance of `code` that may use `memory_bytes` of memory and has `deadline` to initialize itself.
    ///
    /// # Errors
    /// The fault that ended it before it began.
    pub fn new(code: &Code, module: ModuleId, generation: Generation, memory_bytes: usize, deadline: Duration) -> Result<Self, Fault> {
        let guest = Guest {
            log: ModuleLog::new(module.clone(), generation),
            last_words: None,
            memory: MemoryLimit { limit: memory_bytes, used: 0, refused: false },
            random: 0,
            turn: Turn::begin(deadline),
        };
        let mut store = wasmtime::Store::new(code.engine(), guest);
        store.limiter(|guest| &mut guest.memory);
        store.epoch_deadline_callback(|store| Ok(store.data().turn.ring()));
        store.set_epoch_deadline(ticks(deadline));
        match code.instantiate(&mut store) {
            Ok(exports) => {
                Ok(Self { store, exports, module, generation, fault: None, message_bytes: PUMP_BYTES_MAX, share: Arc::default() })
            }
            Err(error) => Err(classify(&error, store.data_mut(), module, generation)),
        }
    }

    /// Bounds each message from the guest, in bytes.
    #[must_use]
    pub fn limited_to(mut self, message_bytes: usize) -> Self {
        self.message_bytes = message_bytes;
        self
    }

    /// Counts its processor time with that of the module's other instances.
    #[must_use]
    pub fn sharing(mut self, share: Arc<CpuShare>) -> Self {
        self.share = share;
        self
    }

    /// How long the module has to wait until its share of the processor allows another entry.
    pub fn debt(&self) -> Option<Duration> {
        self.share.debt()
    }

    /// Whose instance this is.
    pub fn module(&self) -> &ModuleId {
        &self.module
    }

    /// Which incarnation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The most linear memory it has had, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.used
    }

    /// Whether it has not faulted.
    pub fn is_alive(&self) -> bool {
        self.fault.is_none()
    }

    /// A fault of this instance, not yet recorded in it.
    pub fn fault(&self, kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, module: self.module.clone(), generation: self.generation, message: message.into() }
    }

    /// A line in the module's log.
    pub fn log(&mut self, level: tracing::Level, line: &str) {
        self.store.data_mut().log.line(level, line);
    }

    /// The hot lane: one message each way. The inner error is the guest's own text, for logs.
    ///
    /// # Errors
    /// The fault that ended the instance, in this call or an earlier one.
    pub fn call(&mut self, interface: u64, method: u16, params: &[u8], deadline: Duration) -> Result<Result<Vec<u8>, String>, Fault> {
        if let Some(debt) = self.debt() {
            return Ok(Err(format!("the module has used up its share of the processor and is asked again in {} ms", debt.as_millis())));
        }
        self.enter(deadline)?;
        let answer = self.exports.call_call(&mut self.store, interface, method, params);
        self.leave();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.ended(&error)),
        };
        match &answer {
            Ok(bytes) if bytes.len() > self.message_bytes => {
                let fault = self.fault(FaultKind::BadFrame, format!("an answer of {} bytes", bytes.len()));
                self.fault = Some(fault.clone());
                Err(fault)
            }
            _ => Ok(answer),
        }
    }

    /// The RPC lane: delivers frames, lets the guest run until it stalls, and takes what it sends.
    ///
    /// # Errors
    /// The fault that ended the instance, in this slice or an earlier one.
    pub fn pump(&mut self, frames: &[u8], deadline: Duration) -> Result<Slice, Fault> {
        self.enter(deadline)?;
        let pumped = self.exports.call_pump(&mut self.store, frames);
        self.leave();
        let pumped = match pumped {
            Ok(pumped) => pumped,
            Err(error) => return Err(self.ended(&error)),
        };
        match frames::check(&pumped.frames, self.message_bytes) {
            Ok(_) => Ok(Slice { frames: pumped.frames, more: pumped.more }),
            Err((kind, message)) => {
                let fault = self.fault(kind, message);
                self.fault = Some(fault.clone());
                Err(fault)
            }
        }
    }

    fn enter(&mut self, deadline: Duration) -> Result<(), Fault> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => {
                self.store.data_mut().turn = Turn::begin(deadline);
                self.store.set_epoch_deadline(ticks(deadline));
                Ok(())
            }
        }
    }

    fn leave(&mut self) {
        self.share.spend(thread_cpu().saturating_sub(self.store.data().turn.cpu));
    }

    fn ended(&mut self, error: &wasmtime::Error) -> Fault {
        let fault = classify(error, self.store.data_mut(), self.module.clone(), self.generation);
        self.fault = Some(fault.clone());
        fault
    }
}

fn classify(error: &wasmtime::Error, guest: &mut Guest, module: ModuleId, generation: Generation) -> Fault {
    let trap = error.downcast_ref::<wasmtime::Trap>().copied();
    let (kind, mut message) = match trap {
        Some(wasmtime::Trap::Interrupt) => (FaultKind::Deadline, "it ran past its deadline".to_owned()),
        _ if guest.memory.refused => (FaultKind::Memory, format!("it wanted more than {} MiB", guest.memory.limit >> 20)),
        Some(trap) => (FaultKind::Trap, trap.to_string()),
        None => (FaultKind::Trap, error.root_cause().to_string()),
    };
    if let Some(words) = guest.last_words.take() {
        message = format!("{message}; it said: {words}");
    }
    Fault { kind, module, generation, message }
}
