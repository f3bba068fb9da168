//! The forwarder: a place for the running incarnation of a module. Work holds the slot, the supervisor fills it, so a swap is one
//! assignment and a crash is an empty slot for a while.

use std::{cell::RefCell, rc::Rc};
use tokio::sync::Notify;

/// At most one running incarnation, on one thread.
pub struct Slot<T> {
    current: RefCell<Option<Rc<T>>>,
    filled: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { current: RefCell::new(None), filled: Notify::new() }
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
