//! Network policies: `plan` says what each of this node's pods may get and send (pure), `ruleset` how the kernel holds it to that, this file
//! follows and acts.
//!
//! Invariant: limits become rules only when policies, pods and namespaces are known whole; until then what an earlier daemon set holds.

pub mod plan;
pub mod ruleset;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::link::Row;
use crate::net::nft::wire::Socket;
use crate::net::nft::{self, Family, Transaction};
use crate::node::Node;
use plan::{Known, Limits};

/// Wait before the rules are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A row, and of what.
pub enum Told {
    /// Of a policy.
    Policy(Row),
    /// Of a pod.
    Pod(Row),
    /// Of a namespace.
    Namespace(Row),
}

/// Follows for ever.
pub async fn run(node: Rc<Node>, mut told: mpsc::UnboundedReceiver<Told>) {
    let mut known = Known::default();
    let mut installed: Option<BTreeMap<IpAddr, Limits>> = None;
    let mut retry = false;
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
            }
            next = told.try_recv().ok();
        }
        let synced = known.policies.is_synced() && known.pods.is_synced() && known.namespaces.is_synced();
        if !changed || !synced {
            continue;
        }
        let limits = plan::plan(&known, &node.options.name);
        if installed.as_ref() == Some(&limits) {
            continue;
        }
        // Before the node's addresses are known its pods have none.
        let mut families: Vec<Family> = node.network.own_pods().iter().map(|own| Family::of(own.address())).collect();
        families.extend(families.is_empty().then_some(Family::V4));
        let outcome = commit(ruleset::tables(&families, &limits, node.kernel.config().cluster_dns.parse().ok())).await;
        retry = outcome.is_err();
        match outcome {
            Ok(()) => {
                tracing::info!(pods = limits.len(), "the policies' rules are set");
                installed = Some(limits);
            }
            Err(error) => tracing::error!(error = Error::chain(&error), "the policies' rules could not be written"),
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
