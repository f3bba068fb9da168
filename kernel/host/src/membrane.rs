//! The membrane: the one layer between a guest and every capability it holds.
//!
//! The problem: a capability, once given, works for as long as the guest keeps it, as often as it likes. The answer: the guest never gets
//! the capability itself but a wrapper that asks its instance's `Gate` first. The gate counts, holds the quota, and closes for good
//! when the instance is replaced. Capabilities that come out of calls (subscriptions) hold the same gate.
//!
//! Invariants: a call after revocation never reaches the registry; a module over its quota is refused, and one that does not stop asking
//! is ended; what is in flight never weighs more than the module's budget.

use crate::{
    counters::Counters,
    fault::{FaultKind, Generation, ModuleId},
    limits::{CALL_BYTES, ModuleLimits},
};
use capnp::{
    MessageSize, any_pointer,
    capability::{FromClientHook, Promise, Request},
    private::capability::{ClientHook, ParamsHook, ResultsHook},
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// Refusals in a second, as a multiple of the calls allowed, after which asking on is misuse.
const PATIENCE: u32 = 4;

/// What one instance may do with all its capabilities together.
pub struct Gate {
    module: ModuleId,
    generation: Generation,
    counters: Arc<Counters>,
    limits: ModuleLimits,
    revoked: Cell<bool>,
    calls: RefCell<Rate>,
    writes: RefCell<Rate>,
    refusals: RefCell<Rate>,
    bytes_in_flight: Cell<usize>,
    held: Cell<u32>,
    denied: Box<dyn Fn(&str)>,
    end: Box<dyn Fn(FaultKind, String)>,
}

impl Gate {
    /// An open gate. `denied` is told of each misuse, `end` ends the instance.
    pub fn new(
        module: ModuleId,
        generation: Generation,
        limits: ModuleLimits,
        counters: Arc<Counters>,
        denied: impl Fn(&str) + 'static,
        end: impl Fn(FaultKind, String) + 'static,
    ) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            module,
            generation,
            counters,
            revoked: Cell::new(false),
            calls: RefCell::new(Rate::new(limits.calls_per_second, limits.burst, now)),
            writes: RefCell::new(Rate::new(limits.writes_per_second, 0, now)),
            refusals: RefCell::new(Rate::new(limits.calls_per_second.saturating_mul(PATIENCE), 0, now)),
            limits,
            bytes_in_flight: Cell::new(0),
            held: Cell::new(0),
            denied: Box::new(denied),
            end: Box::new(end),
        })
    }

    /// Closes it for good: every later call answers that the generation is stale.
    pub fn revoke(&self) {
        self.revoked.set(true);
    }

    /// A use outside the grants: counted and put on record.
    pub fn misuse(&self, what: &str) {
        Counters::add(&self.counters.denied);
        tracing::warn!(target: "audit", module = %self.module, generation = self.generation.0, what, "denied");
        (self.denied)(what);
    }

    /// Takes `count` writes from the quota.
    ///
    /// # Errors
    /// `overloaded` when it is used up.
    pub fn take_writes(&self, count: u32) -> capnp::Result<()> {
        if self.writes.borrow_mut().take(count, Instant::now()) {
            self.counters.writes.fetch_add(count.into(), std::sync::atomic::Ordering::Relaxed);
            return Ok(());
        }
        Err(self.refuse(format!("more than {} writes a second", self.limits.writes_per_second)))
    }

    /// Charges an answer of `bytes`: a call that moves much counts for many.
    pub fn charge(&self, bytes: usize) {
        self.calls.borrow_mut().tokens -= f64::from(u32::try_from(bytes / CALL_BYTES).unwrap_or(u32::MAX));
    }

    /// Takes a long-lived thing (a watch, a timer) from an allowance of `most`; given back on drop.
    ///
    /// # Errors
    /// `overloaded` when there are that many.
    pub fn hold(self: &Rc<Self>, most: u32) -> capnp::Result<Held> {
        let most = most.min(self.limits.capabilities);
        if self.held.get() >= most {
            return Err(self.refuse(format!("more than {most} watches and timers")));
        }
        self.held.set(self.held.get() + 1);
        Ok(Held { gate: self.clone() })
    }

    /// What the instance may use.
    pub fn limits(&self) -> &ModuleLimits {
        &self.limits
    }

    /// Whether it is closed.
    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    fn admit(self: &Rc<Self>, bytes: usize) -> capnp::Result<InFlight> {
        if self.revoked.get() {
            self.misuse("a capability of an earlier generation");
            return Err(capnp::Error::failed(format!("{}: this capability was revoked", FaultKind::StaleGeneration)));
        }
        if !self.calls.borrow_mut().take(1, Instant::now()) {
            return Err(self.refuse(format!("more than {} calls a second", self.limits.calls_per_second)));
        }
        let weight = self.bytes_in_flight.get().saturating_add(bytes);
        if weight > self.limits.bytes_in_flight {
            return Err(self.refuse(format!("more than {} bytes in flight", self.limits.bytes_in_flight)));
        }
        self.bytes_in_flight.set(weight);
        Ok(InFlight { gate: self.clone(), bytes })
    }

    fn refuse(&self, why: String) -> capnp::Error {
        Counters::add(&self.counters.denied);
        if !self.refusals.borrow_mut().take(1, Instant::now()) {
            (self.end)(FaultKind::Misuse, format!("it goes on asking for {why}"));
        }
        capnp::Error::overloaded(why)
    }
}

/// Parameters being worked on.
struct InFlight {
    gate: Rc<Gate>,
    bytes: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gate.bytes_in_flight.set(self.gate.bytes_in_flight.get().saturating_sub(self.bytes));
    }
}

/// A watch or a timer that counts against its module.
pub struct Held {
    gate: Rc<Gate>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.held.set(self.gate.held.get().saturating_sub(1));
    }
}

/// A token bucket that holds one second's worth, and a burst beyond that.
struct Rate {
    per_second: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(per_second: u32, burst: u32, at: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        let most = per_second + f64::from(burst);
        Self { per_second, most, tokens: most, at }
    }

    fn take(&mut self, count: u32, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(self.most);
        self.at = now;
        // More than a bucketful at once passes when the bucket is full, and is paid off afterwards.
        let enough = self.tokens >= f64::from(count).min(self.most);
        if enough {
            self.tokens -= f64::from(count);
        }
        enough
    }
}

/// Puts a capability behind a gate.
pub fn behind<C: FromClientHook>(gate: &Rc<Gate>, capability: C) -> C {
    C::new(Box::new(Membrane { inner: capability.into_client_hook(), gate: gate.clone() }))
}

struct Membrane {
    inner: Box<dyn ClientHook>,
    gate: Rc<Gate>,
}

impl ClientHook for Membrane {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(Self { inner: self.inner.add_ref(), gate: self.gate.clone() })
    }

    /// The host's own way in; a guest's calls arrive by `call`.
    fn new_call(&self, interface: u64, method: u16, hint: Option<MessageSize>) -> Request<any_pointer::Owned, any_pointer::Owned> {
        self.inner.new_call(interface, method, hint)
    }

    fn call(&self, interface: u64, method: u16, params: Box<dyn ParamsHook>, results: Box<dyn ResultsHook>) -> Promise<(), capnp::Error> {
        let bytes = params
            .get()
            .and_then(|p| p.target_size())
            .map_or(0, |size| usize::try_from(size.word_count).unwrap_or(usize::MAX).saturating_mul(8));
        match self.gate.admit(bytes) {
            Err(error) => Promise::err(error),
            Ok(in_flight) => {
                tracing::trace!(target: "audit", module = %self.gate.module, generation = self.gate.generation.0, interface, method, bytes, "call");
                let answer = self.inner.call(interface, method, params, results);
                Promise::from_future(async move {
                    let answer = answer.await;
                    drop(in_flight);
                    answer
                })
            }
        }
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn get_ptr(&self) -> usize {
        self.inner.get_ptr()
    }

    fn get_resolved(&self) -> Option<Box<dyn ClientHook>> {
        None
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, capnp::Error>> {
        None
    }

    fn when_resolved(&self) -> Promise<(), capnp::Error> {
        Promise::ok(())
    }
}

#[cfg(test)]
mod tests;
