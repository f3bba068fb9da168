//! Says which node each pod goes to, with Kubernetes' rules and in Kubernetes' words.
//!
//! Not here: the queue of pending pods, bindings, and which pods are this scheduler's; the kernel does that.
//! Invariant: a decision counts at once. A pod that was given a node takes its room until the kernel says otherwise, so that the pods of one
//! call, and of calls before the bindings have come back, never get the same room twice.

mod filter;
mod interpod;
mod model;
mod opinions;
mod plan;
mod preempt;
mod score;
mod snapshot;
mod spread;
mod volumes;

use pintle_sdk::prelude::*;
use pintle_sdk::{Decision, Delta, Freshness, Opinion, Scheduler};

/// The scheduler and its snapshot.
#[derive(Default)]
pub struct DefaultScheduler {
    snapshot: snapshot::Snapshot,
}

impl Scheduler for DefaultScheduler {
    fn start(_: &Start) -> Result<Self> {
        Ok(DefaultScheduler::default())
    }

    fn sync(&mut self, delta: &Delta<'_>) -> Result<Freshness> {
        self.snapshot.apply(delta)
    }

    fn schedule(&mut self, generation: u64, now: Time, pods: &[&[u8]]) -> Result<Option<Vec<Decision>>> {
        if generation != self.snapshot.generation {
            return Ok(None);
        }
        Ok(Some(plan::schedule(&mut self.snapshot, now, pods, &[])))
    }

    fn schedule_with(&mut self, generation: u64, now: Time, pods: &[&[u8]], opinions: &[Opinion<'_>]) -> Result<Option<Vec<Decision>>> {
        if generation != self.snapshot.generation {
            return Ok(None);
        }
        Ok(Some(plan::schedule(&mut self.snapshot, now, pods, opinions)))
    }
}

pintle_sdk::scheduler!(DefaultScheduler);
