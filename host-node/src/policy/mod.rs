//! Network policies: `plan` says what each of this node's pods may get and send (pure), `ruleset` how the kernel holds it to that, this file
//! follows and acts.
//!
//! Invariants: limits become rules only when policies, pods and namespaces are known whole; until then what an earlier daemon set holds. A pod's
//! first process starts when its limits are rules ([`hold`]), unless the daemon cannot learn them for [`PATIENCE`].

pub mod plan;
pub mod ruleset;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::follow::Key;
use crate::link::Row;
use crate::net::nft::wire::Socket;
use crate::net::nft::{self, Family, Transaction};
use crate::node::Node;
use crate::pod::record::{name, namespace, uid};
use plan::{Arrival, Known, Limits};

/// Wait before the rules are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a pod waits for its limits while the kernel does not tell them: a node that lost its kernel runs its pods nevertheless.
const PATIENCE: Duration = Duration::from_secs(2);

/// A row, and of what; or that a pod of this node has got its addresses.
pub enum Told {
    /// Of a policy.
    Policy(Row),
    /// Of a pod.
    Pod(Row),
    /// Of a namespace.
    Namespace(Row),
    /// A pod is about to start; told when its limits are rules.
    Arrival(Key, Arrival, oneshot::Sender<()>),
}

/// Returns when what policies say of a pod holds for its new addresses.
pub async fn hold(node: &Node, pod: &Pod, addresses: &[IpAddr]) {
    if !node.kernel.tells_network() {
        return;
    }
    let key = (namespace(pod).to_owned(), name(pod).to_owned());
    let (held, holds) = oneshot::channel();
    let _ = node.policies.send(Told::Arrival(key, Arrival { uid: uid(pod).to_owned(), addresses: addresses.to_vec() }, held));
    if tokio::time::timeout(PATIENCE, holds).await.is_err() {
        tracing::warn!(pod = name(pod), "the policies are not known: the pod starts under the rules that there are");
    }
}

/// Follows for ever.
pub async fn run(node: Rc<Node>, mut told: mpsc::UnboundedReceiver<Told>) {
    let mut known = Known::default();
    let mut installed: Option<BTreeMap<IpAddr, Limits>> = None;
    let mut retry = false;
    let mut waiting: Vec<(Key, String, oneshot::Sender<()>)> = Vec::new();
    loop {
        let first = match retry {
            false => told.recv().await,
            true => tokio::time::timeout(RETRY, told.recv()).await.unwrap_or(Some(Told::Policy(Row::Synced))),
        };
        let Some(first) = first else { return };
        let mut changed = installed.is_none() || retry;
        let mut next = Some(first);
        while let Some(news) = next {
            match news {
                Told::Policy(row) => known.policies.take(row, |_, _| changed = true),
                Told::Pod(row) => known.pods.take(row, |_, _| changed = true),
                Told::Namespace(row) => known.namespaces.take(row, |_, _| changed = true),
                Told::Arrival(key, arrival, held) => {
                    waiting.push((key.clone(), arrival.uid.clone(), held));
                    known.arrivals.insert(key, arrival);
                    changed = true;
                }
            }
            next = told.try_recv().ok();
        }
        waiting.retain(|(_, _, held)| !held.is_closed());
        known.forget_arrivals(|key| waiting.iter().any(|(waiting, _, _)| waiting == key));
        let synced = known.policies.is_synced() && known.pods.is_synced() && known.namespaces.is_synced();
        if !changed || !synced {
            continue;
        }
        let limits = plan::plan(&known, &node.options.name);
        if installed.as_ref() != Some(&limits) {
            // Before the node's addresses are known its pods have none.
            let mut families: Vec<Family> = node.network.own_pods().iter().map(|own| Family::of(own.address())).collect();
            families.extend(families.is_empty().then_some(Family::V4));
            let outcome = commit(ruleset::tables(&families, &limits, node.kernel.config().cluster_dns.parse().ok())).await;
            retry = outcome.is_err();
            if let Err(error) = outcome {
                tracing::error!(error = Error::chain(&error), "the policies' rules could not be written");
                continue;
            }
            tracing::info!(pods = limits.len(), "the policies' rules are set");
            installed = Some(limits);
        }
        for (_, _, held) in waiting.extract_if(.., |(key, uid, _)| known.has(key, uid)) {
            let _ = held.send(());
        }
    }
}

async fn commit(transaction: Transaction) -> Result<()> {
    let work = move || Socket::open()?.commit(transaction.into_messages());
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::io("writing rules", std::io::Error::other(e)))?
}

/// Removes the rules. Used by `purge`.
pub fn purge() -> Result<()> {
    nft::remove_tables(ruleset::TABLE)
}
