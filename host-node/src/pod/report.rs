//! Sends pod statuses to the kernel: the newest of each pod, in batches, as soon as there is a connection.
//!
//! Invariant: a status is only ever replaced by a newer one of the same pod; what could not be sent waits, however long the kernel is away.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::link::{Kernel, Reference};

/// Statuses in one call at most.
const BATCH_MAX: usize = 100;

/// Before a status that the kernel could not take is sent again.
const RETRY: Duration = Duration::from_millis(500);

type Item = (Reference, Vec<u8>);

/// Whether a refused status is worth another try: a kernel in trouble, or too busy, or an object that kept changing under it.
fn retry(item: Item, outcome: Result<Vec<u8>>) -> Option<Item> {
    let Err(Error::Refused { code, reason, message }) = outcome else { return None };
    tracing::debug!(pod = item.0.name, code, reason, message, "a status was refused");
    (code == 409 && reason == "Conflict" || code == 429 || code >= 500).then_some(item)
}

/// Takes statuses and sends them on. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Reporter {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: RefCell<BTreeMap<String, (Reference, Vec<u8>)>>,
    sending: Cell<bool>,
    wake: Notify,
}

impl Reporter {
    /// Has a status sent.
    pub fn submit(&self, pod: Reference, status: Vec<u8>) {
        self.inner.waiting.borrow_mut().insert(pod.uid.clone(), (pod, status));
        self.inner.wake.notify_one();
    }

    /// Whether nothing waits and nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.inner.waiting.borrow().is_empty() && !self.inner.sending.get()
    }

    /// Drops what waits for a pod: someone sends it directly, or the pod is gone.
    pub fn withdraw(&self, uid: &str) {
        self.inner.waiting.borrow_mut().remove(uid);
    }

    /// Sends what is submitted, for ever.
    pub async fn send(self, kernel: Kernel) {
        let mut connections = kernel.connections();
        loop {
            let batch = self.take();
            self.inner.sending.set(!batch.is_empty());
            if batch.is_empty() {
                self.inner.wake.notified().await;
                continue;
            }
            connections.mark_unchanged();
            match kernel.update_pod_statuses(&batch).await {
                Ok(outcomes) => {
                    let again = batch.into_iter().zip(outcomes).filter_map(|(item, outcome)| retry(item, outcome));
                    let again: Vec<_> = again.collect();
                    if !again.is_empty() {
                        self.put_back(again);
                        tokio::time::sleep(RETRY).await;
                    }
                }
                Err(error) => {
                    if !matches!(error, Error::Away) {
                        tracing::warn!(error = Error::chain(&error), "statuses could not be sent");
                    }
                    self.put_back(batch);
                    let _ = connections.changed().await;
                }
            }
        }
    }

    fn take(&self) -> Vec<(Reference, Vec<u8>)> {
        let mut waiting = self.inner.waiting.borrow_mut();
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some((_, item)) = waiting.pop_first()
        {
            batch.push(item);
        }
        batch
    }

    fn put_back(&self, batch: Vec<(Reference, Vec<u8>)>) {
        let mut waiting = self.inner.waiting.borrow_mut();
        for (pod, status) in batch {
            waiting.entry(pod.uid.clone()).or_insert((pod, status));
        }
    }
}
