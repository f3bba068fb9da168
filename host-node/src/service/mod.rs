//! The Service proxy: the cluster's Services and EndpointSlices in, rules in the kernel out.
//!
//! `model` is what is read, `frontends` says what leads where (pure), `ruleset` what the maps hold (pure), this file follows and acts.
//! Everything is set anew once, when both sets are known whole: the rules that an earlier daemon left serve until then. After that only
//! what changed is written. Established connections are the kernel's and live through all of it.
//!
//! Invariant: the claim on a frontend that comes first by name holds; who loses it does not disturb who has it.

pub mod frontends;
pub mod health;
pub mod model;
pub mod ruleset;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use pintle_values::network::Network;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::follow::{Followed, Key};
use crate::ingress;
use crate::link::Row;
use crate::net::nft::wire::{Messages, Socket};
use crate::net::nft::{self, Family, Transaction, conntrack};
use crate::node::Node;
use frontends::{Back, Front, Frontends, Place};
use health::HealthChecks;
use model::{Service, Slice};
use ruleset::{CLIENTS, Ground, Ruleset, TABLE};

/// Wait before everything is set anew after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The Services of the cluster and what stands behind them. The resolver answers from it, too.
#[derive(Default)]
pub struct Catalog {
    /// Services by name.
    pub services: Followed<Service>,
    /// Slices by their own names.
    pub slices: Followed<Slice>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
}

impl Catalog {
    /// Whether both sets are whole.
    pub fn is_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced()
    }

    /// The slices of a Service.
    pub fn slices_of(&self, service: &Key) -> Vec<&Slice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|key| self.slices.get(key)).collect()
    }

    /// Takes a row of a Service; notes whose frontends may have changed.
    pub fn take_service(&mut self, row: Row, dirty: &mut BTreeSet<Key>) {
        self.services.take(row, |key, _| {
            dirty.insert(key.clone());
        });
    }

    /// Takes a row of a slice; notes whose frontends may have changed.
    pub fn take_slice(&mut self, row: Row, dirty: &mut BTreeSet<Key>) {
        let mut moved = Vec::new();
        self.slices.take(row, |key, before| moved.push((key.clone(), before.and_then(Slice::service))));
        for (key, before) in moved {
            let now = self.slices.get(&key).and_then(Slice::service);
            if let Some(service) = before {
                if let Some(keys) = self.slices_of.get_mut(&service) {
                    keys.remove(&key);
                }
                dirty.insert(service);
            }
            if let Some(service) = now {
                self.slices_of.entry(service.clone()).or_default().insert(key);
                dirty.insert(service);
            }
        }
    }
}

/// Who wants which frontends, and who has them.
#[derive(Default)]
pub struct Claims {
    by_front: BTreeMap<Front, BTreeMap<Key, Back>>,
    by_owner: BTreeMap<Key, BTreeSet<Front>>,
}

impl Claims {
    /// An owner wants these and no others. Gives the frontends that may lead elsewhere now.
    pub fn set(&mut self, owner: &Key, wanted: Frontends) -> BTreeSet<Front> {
        let mut touched = self.by_owner.remove(owner).unwrap_or_default();
        for front in &touched {
            if let Some(claims) = self.by_front.get_mut(front) {
                claims.remove(owner);
            }
        }
        let fronts: BTreeSet<Front> = wanted.keys().copied().collect();
        for (front, back) in wanted {
            self.by_front.entry(front).or_default().insert(owner.clone(), back);
        }
        touched.extend(&fronts);
        if !fronts.is_empty() {
            self.by_owner.insert(owner.clone(), fronts);
        }
        self.by_front.retain(|front, claims| !touched.contains(front) || !claims.is_empty());
        touched
    }

    /// What stands behind a frontend.
    pub fn holder(&self, front: &Front) -> Option<&Back> {
        self.by_front.get(front).and_then(|claims| claims.values().next())
    }

    /// All frontends.
    pub fn all(&self) -> BTreeMap<Front, Back> {
        self.by_front.iter().filter_map(|(front, claims)| Some((*front, claims.values().next()?.clone()))).collect()
    }
}

/// What the proxy is told.
pub enum Told {
    /// A row of a Service.
    Service(Row),
    /// A row of a slice.
    Slice(Row),
    /// The ports of this machine that lead to a pod, by its uid; none when it goes.
    Pod(String, Frontends),
    /// The node's own addresses have become known.
    Look,
    /// The node's zone.
    Zone(String),
}

/// The running proxy's end.
#[derive(Clone)]
pub struct Proxy {
    /// What is known of Services.
    pub catalog: Rc<RefCell<Catalog>>,
    tell: mpsc::UnboundedSender<Told>,
}

impl Proxy {
    /// A proxy and what it will hear.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (tell, told) = mpsc::unbounded_channel();
        (Self { catalog: Rc::default(), tell }, told)
    }

    /// Where it is told.
    pub fn sender(&self) -> mpsc::UnboundedSender<Told> {
        self.tell.clone()
    }

    /// Tells it something.
    pub fn tell(&self, told: Told) {
        let _ = self.tell.send(told);
    }
}

/// Follows for ever.
pub async fn run(node: Rc<Node>, mut told: mpsc::UnboundedReceiver<Told>) {
    let mut claims = Claims::default();
    let mut health = HealthChecks::default();
    let mut zone = String::new();
    let mut installed: Option<(Ground, Ruleset)> = None;
    let mut retry = false;
    loop {
        let first = match retry {
            false => told.recv().await,
            true => tokio::time::timeout(RETRY, told.recv()).await.unwrap_or(Some(Told::Look)),
        };
        let Some(first) = first else { return };
        let mut touched = BTreeSet::new();
        let mut dirty = BTreeSet::new();
        let mut next = Some(first);
        while let Some(news) = next {
            match news {
                Told::Service(row) => node.proxy.catalog.borrow_mut().take_service(row, &mut dirty),
                Told::Slice(row) => node.proxy.catalog.borrow_mut().take_slice(row, &mut dirty),
                Told::Pod(uid, ports) => touched.extend(claims.set(&(String::new(), uid), ports)),
                Told::Look => {}
                Told::Zone(now) if now == zone => {}
                Told::Zone(now) => {
                    zone = now;
                    dirty.extend(node.proxy.catalog.borrow().services.iter().map(|(key, _)| key.clone()));
                }
            }
            next = told.try_recv().ok();
        }
        for key in &dirty {
            let catalog = node.proxy.catalog.borrow();
            let place = Place { node: &node.options.name, zone: &zone };
            let (service, slices) = (catalog.services.get(key), catalog.slices_of(key));
            let wanted = service.map(|service| frontends::frontends(service, &slices, place));
            touched.extend(claims.set(key, wanted.unwrap_or_default()));
            health.set(key, service, &slices, &node.options.name);
        }
        let _ = node.ingress.send(ingress::Told::Services(dirty));
        let Some(ground) = ground(&node).filter(|_| node.proxy.catalog.borrow().is_synced()) else { continue };
        let outcome = match installed.take().filter(|(before, _)| *before == ground) {
            Some((ground, ruleset)) => change(ruleset, ground, &claims, &touched).await,
            None => replace(ground, claims.all()).await,
        };
        retry = outcome.is_err();
        match outcome {
            Ok(now) => installed = Some(now),
            Err(error) => tracing::error!(error = Error::chain(&error), "the Service rules could not be written; all are set anew"),
        }
    }
}

fn ground(node: &Node) -> Option<Ground> {
    let config = node.kernel.config();
    Some(Ground {
        bridge: (!node.foreign_network()).then(|| node.options.bridge.clone()),
        own_pods: Some(node.network.own_pods()).filter(|own| !own.is_empty())?,
        all_pods: Network::list(&config.pod_cidr).ok()?,
        services: Network::list(&config.service_cidr).ok()?,
    })
}

async fn replace(ground: Ground, all: BTreeMap<Front, Back>) -> Result<(Ground, Ruleset)> {
    let udp: BTreeMap<Front, Option<Back>> =
        all.iter().filter(|(front, _)| front.protocol == conntrack::UDP).map(|(front, back)| (*front, Some(back.clone()))).collect();
    // Whom affinity has sent where is known to the kernel alone.
    let families = ground.families();
    let read = move || -> Result<Vec<_>> {
        let socket = Socket::open()?;
        families.into_iter().map(|family| Ok((family, nft::lasting_elements(&socket, family, TABLE, CLIENTS)?))).collect()
    };
    let clients = tokio::task::spawn_blocking(read).await.map_err(|e| Error::io("reading rules", std::io::Error::other(e)))??;
    let (ruleset, transaction) = Ruleset::replace(&ground, all, &clients);
    let count = ruleset.len();
    commit(transaction.into_messages(), udp).await?;
    tracing::info!(frontends = count, "the Service rules are set");
    Ok((ground, ruleset))
}

async fn change(mut ruleset: Ruleset, ground: Ground, claims: &Claims, touched: &BTreeSet<Front>) -> Result<(Ground, Ruleset)> {
    let changes: BTreeMap<Front, Option<Back>> = touched.iter().map(|front| (*front, claims.holder(front).cloned())).collect();
    let udp: BTreeMap<Front, Option<Back>> = changes
        .iter()
        .filter(|(front, back)| {
            let before = ruleset.back(front).map(|back| (&back.endpoints, &back.insiders));
            front.protocol == conntrack::UDP && before != back.as_ref().map(|back| (&back.endpoints, &back.insiders))
        })
        .map(|(front, back)| (*front, back.clone()))
        .collect();
    let mut transaction = Transaction::on(TABLE);
    ruleset.change(&ground, changes, &mut transaction);
    commit(transaction.into_messages(), udp).await?;
    Ok((ground, ruleset))
}

/// The kernel's work may take a while: on a thread that may block. Streams of UDP that go elsewhere than the frontends now say are forgotten.
async fn commit(messages: Messages, udp: BTreeMap<Front, Option<Back>>) -> Result<()> {
    let work = move || {
        let socket = Socket::open()?;
        socket.commit(messages)?;
        if udp.is_empty() {
            return Ok(());
        }
        let forgotten = conntrack::forget(&socket, |asked, answering| {
            let front = |address| Front { address, protocol: conntrack::UDP, port: asked.destination.port() };
            let asked_for = asked.destination.ip();
            let fronts = [front(asked_for), front(Family::of(asked_for).unspecified())];
            let Some(back) = fronts.iter().find_map(|front| udp.get(front)) else { return false };
            // A port of this machine may be asked for at an address that is no frontend: only what was translated is stale then.
            let translated = answering.source != asked.destination;
            let stands = back.as_ref().is_some_and(|back| back.all().any(|at| *at == answering.source));
            !stands && (translated || back.is_some() && udp.contains_key(&fronts[0]))
        })?;
        if forgotten > 0 {
            tracing::debug!(forgotten, "streams of UDP to endpoints that are gone");
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::io("writing rules", std::io::Error::other(e)))?
}

/// Removes the rules. Used by `purge`.
pub fn purge() -> Result<()> {
    nft::remove_tables(TABLE)
}
