//! Ends pods so that the machine lives, and pods that take more of the disk than they may.
//!
//! One look a period. A pod goes at a time, and the next one only when the first has left its place, because what it frees is seen late. For disk space what
//! nobody uses goes first: remains, then images.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::pressure::{Threshold, Watch};
use super::ranking::{self, Usage};
use super::signal::{CONDITIONS, Observations, Resource, observe};
use super::{images, remains, usage};
use crate::error::Error;
use crate::node::Node;
use crate::pod::note::{Note, View};
use crate::pod::record::{name, uid};

/// How long an evicted pod is waited for before the next one goes.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(30);

/// The machine's pressure conditions as they are now.
#[derive(Debug, Default)]
pub struct Board {
    /// Condition, whether it holds, since when.
    rows: RefCell<Vec<(&'static str, bool, Timestamp)>>,
}

impl Board {
    /// All three conditions; before the first look none holds.
    pub fn rows(&self) -> Vec<(&'static str, bool, Timestamp)> {
        let mut rows = self.rows.borrow_mut();
        if rows.is_empty() {
            *rows = CONDITIONS.map(|condition| (condition, false, Timestamp::now())).to_vec();
        }
        rows.clone()
    }

    /// Conditions that hold.
    pub fn holding(&self) -> Vec<&'static str> {
        self.rows().into_iter().filter(|row| row.1).map(|row| row.0).collect()
    }

    fn set(&self, holding: &[&str], now: Timestamp) {
        let rows = self.rows().into_iter().map(|(condition, held, since)| {
            let holds = holding.contains(&condition);
            (condition, holds, if holds == held { since } else { now })
        });
        let rows = rows.collect();
        *self.rows.borrow_mut() = rows;
    }
}

/// Watches for pressure, for ever.
pub async fn run(node: Rc<Node>, thresholds: Vec<Threshold>) {
    let options = &node.options.housekeeping;
    let transition = SignedDuration::from_secs(options.eviction_pressure_transition_period_s.into());
    let mut watch = Watch::new(thresholds, transition);
    let mut last: Option<(Rc<View>, Instant)> = None;
    loop {
        let seen = look(&node);
        let first = watch.look(&seen, Timestamp::now());
        node.pressure.set(&watch.conditions(), Timestamp::now());
        if !enforce_limits(&node).await
            && let Some(threshold) = first
            && !last.as_ref().is_some_and(|(view, at)| at.elapsed() < CLEANUP_PATIENCE && view.record.borrow().sandbox.is_some())
        {
            last = relieve(&node, &threshold).await.map(|view| (view, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(options.eviction_monitor_ms)).await;
    }
}

fn look(node: &Node) -> Observations {
    observe(&node.options.state_dir, &node.images_dir())
}

/// Pods that could be chosen: they run here and nothing has been decided about them.
fn active(node: &Node) -> Vec<Rc<View>> {
    let undecided = |view: &Rc<View>| {
        let (pod, record) = (view.pod.borrow(), view.record.borrow());
        let over = pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        !over && record.ended.is_none() && record.verdict.is_none() && pod.metadata.deletion_timestamp.is_none()
    };
    node.roster.views().into_iter().filter(undecided).collect()
}

/// Ends pods that take more of the disk than they may; whether there was one.
async fn enforce_limits(node: &Node) -> bool {
    let mut any = false;
    for view in active(node) {
        let pod = view.pod.borrow().clone();
        if !ranking::has_disk_limits(&pod) || !ranking::may_go(&pod) {
            continue;
        }
        let usage = usage::measure(node, &view, true).await;
        if let Some(verdict) = ranking::over_its_limits(&pod, &usage) {
            tracing::info!(pod = name(&pod), message = verdict.message, "a pod is over its limits of disk space");
            node.roster.tell(uid(&pod), Note::Evict(verdict));
            any = true;
        }
    }
    any
}

/// Frees what nobody uses, else evicts a pod; gives the pod.
async fn relieve(node: &Node, threshold: &Threshold) -> Option<Rc<View>> {
    let resource = threshold.signal.resource();
    let on_disk = matches!(resource, Resource::Storage | Resource::Inodes);
    tracing::warn!(signal = threshold.signal.name(), "attempting to reclaim {}", resource.name());
    if on_disk {
        remains::sweep(node);
        if let Err(error) = images::remove_unused(node).await {
            tracing::warn!(error = Error::chain(&error), "unused images stay");
        }
        if !Watch::persists(threshold, &look(node)) {
            return None;
        }
    }
    let views = active(node);
    let mut measured: Vec<(Rc<Pod>, Usage)> = Vec::new();
    for view in &views {
        let usage = usage::measure(node, view, on_disk).await;
        measured.push((view.pod.borrow().clone(), usage));
    }
    let list: Vec<(&Pod, &Usage)> = measured.iter().map(|(pod, usage)| (&**pod, usage)).collect();
    let Some(index) = ranking::first(&list, resource) else {
        tracing::warn!(signal = threshold.signal.name(), "no pod can be evicted");
        return None;
    };
    let (pod, usage) = &measured[index];
    let grace_max = i64::from(node.options.housekeeping.eviction_max_pod_grace_period_s);
    let verdict = ranking::verdict(pod, usage, threshold, &look(node), grace_max);
    tracing::warn!(pod = name(pod), message = verdict.message, "a pod is evicted");
    node.roster.tell(uid(pod), Note::Evict(verdict));
    Some(views[index].clone())
}
