//! The bounded queue between the one that publishes changes and each that receives them.
//!
//! The publisher never waits for a receiver, and nothing is dropped unnoticed: a queue that overflows is emptied and
//! remembers that it was, and the receiver learns it in place of what it missed.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A bounded queue with one receiver.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Notify,
    items_max: usize,
}

struct State<T> {
    items: VecDeque<T>,
    overflowed: bool,
    closed: bool,
}

/// What the receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    /// The oldest item.
    Item(T),
    /// Items were dropped here. What is pushed after this was returned will be delivered.
    Overflowed,
    /// No more items will come.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(items_max: usize) -> Self {
        Self { state: Mutex::new(State { items: VecDeque::new(), overflowed: false, closed: false }), filled: Notify::new(), items_max }
    }

    /// Add an item, or note the overflow. Items pushed between an overflow and its discovery are dropped too.
    pub(crate) fn push(&self, item: T) {
        {
            let mut state = self.state.lock();
            if state.overflowed || state.closed {
                return;
            }
            if state.items.len() >= self.items_max {
                state.items = VecDeque::new();
                state.overflowed = true;
            } else {
                state.items.push_back(item);
            }
        }
        self.filled.notify_one();
    }

    /// No more items.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }

    /// What there is now.
    pub(crate) fn try_pop(&self) -> Option<Popped<T>> {
        let mut state = self.state.lock();
        if let Some(item) = state.items.pop_front() {
            return Some(Popped::Item(item));
        }
        if state.overflowed {
            state.overflowed = false;
            return Some(Popped::Overflowed);
        }
        state.closed.then_some(Popped::Closed)
    }

    /// Wait for what comes next. For one receiver at a time; cancel safe.
    pub(crate) async fn pop(&self) -> Popped<T> {
        loop {
            if let Some(popped) = self.try_pop() {
                return popped;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests;
