//! What a module did that people should know of, as events on its Module object: refusals, faults, swaps, steps back.

use crate::{
    events::{About, EventRecorder},
    fault::Generation,
};
use pintle_registry::Registry;
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// Refusals and differences are counted each, and told at most this often: a module that insists must not write more than one that works.
const SELDOM: Duration = Duration::from_secs(1);

/// The events of one module, over all its incarnations. Lives on the module's thread.
pub struct Audit {
    recorder: EventRecorder,
    about: RefCell<About>,
    /// When each reason was told last.
    told: RefCell<HashMap<&'static str, Instant>>,
}

impl Audit {
    /// For the Module object called `module`.
    pub fn new(registry: Arc<Registry>, module: &str) -> Rc<Self> {
        let recorder = EventRecorder::new(registry, module, "module-host");
        Rc::new(Self { recorder, about: RefCell::new(About::module(module, "")), told: RefCell::default() })
    }

    /// The object's uid, which ties events to it.
    pub fn is_about(&self, module: &str, uid: &str) {
        self.about.replace(About::module(module, uid));
    }

    /// A use outside the grants was refused.
    pub fn denied(self: &Rc<Self>, generation: Generation, what: &str) {
        self.warn_seldom("Denied", format!("generation {generation}: {what}"));
    }

    /// Something goes wrong again and again.
    pub fn warn_seldom(self: &Rc<Self>, reason: &'static str, message: String) {
        let told = self.told.borrow().get(reason).copied();
        if told.is_none_or(|at| at.elapsed() >= SELDOM) {
            self.told.borrow_mut().insert(reason, Instant::now());
            self.warn(reason, message);
        }
    }

    /// Something went wrong.
    pub fn warn(self: &Rc<Self>, reason: &'static str, message: String) {
        self.record(true, reason, message);
    }

    /// Something happened.
    pub fn note(self: &Rc<Self>, reason: &'static str, message: String) {
        self.record(false, reason, message);
    }

    fn record(self: &Rc<Self>, warning: bool, reason: &'static str, message: String) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let about = this.about.borrow().clone();
            this.recorder.record(&about, warning, reason, &message).await;
        });
    }
}
