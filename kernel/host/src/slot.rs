//! The forwarder: a place for the running incarnation of a module. Work holds the slot, the supervisor fills it, so a swap is one
//! assignment and a crash is an empty slot for a while.

use crate::spec::TakeOver;
use std::{cell::RefCell, rc::Rc};
use tokio::sync::Notify;

/// At most one running incarnation, on one thread; and one that takes over from it, for a part of the work.
pub struct Slot<T> {
    current: RefCell<Option<Rc<T>>>,
    heir: RefCell<Option<(Rc<T>, TakeOver)>>,
    filled: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { current: RefCell::new(None), heir: RefCell::new(None), filled: Notify::new() }
    }
}

impl<T> Slot<T> {
    /// Puts a new incarnation in; the old one comes back.
    pub fn put(&self, next: Option<Rc<T>>) -> Option<Rc<T>> {
        let full = next.is_some();
        let old = self.current.replace(next);
        if full {
            self.filled.notify_waiters();
        }
        old
    }

    /// Takes this incarnation out, unless another is in its place already.
    pub fn remove(&self, gone: &Rc<T>) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, gone)) {
            *current = None;
        }
    }

    /// Lets another incarnation do a part of the work, or none; the one that did comes back.
    pub fn set_heir(&self, heir: Option<(Rc<T>, TakeOver)>) -> Option<Rc<T>> {
        let old = self.heir.replace(heir);
        self.filled.notify_waiters();
        old.map(|(old, _)| old)
    }

    /// Who does a part of the work, and which.
    pub fn heir(&self) -> Option<(Rc<T>, TakeOver)> {
        self.heir.borrow().clone()
    }

    /// The running incarnation, if there is one now.
    pub fn now(&self) -> Option<Rc<T>> {
        self.current.borrow().clone()
    }

    /// Waits until the next one is put in.
    pub async fn refilled(&self) {
        self.filled.notified().await;
    }

    /// Waits until there is one.
    pub async fn filled(&self) {
        loop {
            let filled = self.filled.notified();
            if self.current.borrow().is_some() {
                return;
            }
            filled.await;
        }
    }
}
