//! A plugin of a scheduler: says of every node whether it will do for a pod and how well, and has a word before the pod is bound.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use pintle_wit::scheduler_capnp::scheduler_plugin as wire;

use crate::controller::{text, write_ref, write_write};
use crate::scheduler::read_delta;
use crate::{Delta, Error, Freshness, ObjectRef, Result, Start, Time, Write};

/// Why a node will not do, as users see it: "node(s) had no licence".
pub type Reason = Cow<'static, str>;

/// A plugin of a scheduler. What it does not say is left to the others: each method has a default, and the kernel calls those that the manifest names
/// (`spec.plugin.points`). The SDK keeps the nodes and their pods; a plugin says once what it needs to know of each.
pub trait SchedulerPlugin: Sized + 'static {
    /// What it needs to know of a node.
    type Node;
    /// What it needs to know of a pod, pending or placed.
    type Pod;

    /// Makes the plugin. An error here keeps the module from starting and is shown in its status.
    fn start(start: &Start) -> Result<Self>;

    /// Reads a node: JSON with metadata, `spec.taints`, `spec.unschedulable` and the scheduling part of its status.
    fn node(&self, row: &[u8]) -> Result<Self::Node>;

    /// Reads a pod: JSON.
    fn pod(&self, row: &[u8]) -> Result<Self::Pod>;

    /// Point `preEnqueue`: why the pod is not to be tried until it changes.
    fn pre_enqueue(&mut self, _pod: &Self::Pod) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Point `queueSort`: pods with smaller keys (their bytes are compared) are tried first, those with the same key in the order in which they came. Of the plugins
    /// that serve this point one is asked, the first in order.
    fn sort_key(&self, _pod: &Self::Pod) -> Vec<u8> {
        Vec::new()
    }

    /// Point `filter`: whether the place will do.
    fn filter(&self, _pod: &Self::Pod, _place: &Place<Self>) -> std::result::Result<(), Reason> {
        Ok(())
    }

    /// Point `score`: how well, 0 to 100. Only asked of places that will do.
    fn score(&self, _pod: &Self::Pod, _place: &Place<Self>) -> i16 {
        0
    }

    /// Points `filter` and `score` for all places at once, in their order: for a plugin that must see them together.
    fn evaluate(&self, pod: &Self::Pod, places: &Places<Self>) -> impl IntoIterator<Item = std::result::Result<i16, Reason>> {
        places.iter().map(|place| self.filter(pod, place).map(|()| self.score(pod, place)))
    }

    /// Point `postFilter`: no node will take the pod; who would have to go from where so that one does.
    fn post_filter(&mut self, _pod: &Self::Pod, _places: &Places<Self>) -> Option<(String, Vec<ObjectRef>)> {
        None
    }

    /// Point `reserve`: the pod is going there.
    fn reserve(&mut self, _pod: &Self::Pod, _node: &str) -> std::result::Result<(), String> {
        Ok(())
    }

    /// What `reserve` took is free again: the pod is not going there after all.
    fn unreserve(&mut self, _pod: &Self::Pod, _node: &str) {}

    /// Point `permit`: whether it may be bound now.
    fn permit(&mut self, _now: Time, _pod: &Self::Pod, _node: &str, _waited: Duration) -> Permit {
        Permit::Allow
    }

    /// Point `preBind`: what must be written before.
    fn pre_bind(&mut self, _pod: &Self::Pod, _node: &str) -> std::result::Result<Vec<Write>, String> {
        Ok(Vec::new())
    }

    /// Point `bind`: the writes that bind the pod, if this plugin is who binds it. A pod that is not bound when they are carried out goes back to the queue.
    fn bind(&mut self, _pod: &Self::Pod, _node: &str) -> std::result::Result<Option<Vec<Write>>, String> {
        Ok(None)
    }

    /// Point `postBind`: the pod has been bound.
    fn post_bind(&mut self, _pod: &Self::Pod, _node: &str) {}
}

/// Whether a pod may be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Allow,
    /// Not yet: ask again after this long.
    Wait(Duration),
    /// No, and why.
    Deny(String),
}

/// A node with the pods on it, those that are on their way included.
pub struct Place<P: SchedulerPlugin> {
    /// Its name.
    pub name: String,
    /// What [`SchedulerPlugin::node`] read of it.
    pub node: P::Node,
    /// What [`SchedulerPlugin::pod`] read of each, by uid.
    pub pods: Pods<P::Pod>,
}

/// The pods of a place, in the order of their uids. What was read of them lies side by side in memory, because plugins go over it for
/// each place and pod.
pub struct Pods<T> {
    uids: Vec<String>,
    read: Vec<T>,
}

impl<T> Pods<T> {
    const NONE: Self = Pods { uids: Vec::new(), read: Vec::new() };

    /// What was read of each.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.read.iter()
    }

    /// The uid of each, and what was read of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.uids.iter().map(String::as_str).zip(&self.read)
    }

    /// What was read of the pod with this uid, if it is there.
    pub fn get(&self, uid: &str) -> Option<&T> {
        self.find(uid).ok().and_then(|at| self.read.get(at))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    fn find(&self, uid: &str) -> std::result::Result<usize, usize> {
        self.uids.binary_search_by(|known| known.as_str().cmp(uid))
    }

    /// Adds a pod that is not there.
    fn add(&mut self, uid: String, read: T) {
        let (Ok(at) | Err(at)) = self.find(&uid);
        self.uids.insert(at, uid);
        self.read.insert(at, read);
    }

    fn remove(&mut self, uid: &str) {
        if let Ok(at) = self.find(uid) {
            self.uids.remove(at);
            self.read.remove(at);
        }
    }
}

/// All nodes, in the order of their names: beside each other in memory, because all are looked at for each pod.
pub type Places<P> = [Place<P>];

/// A plugin with its snapshot.
pub(crate) struct Serving<P: SchedulerPlugin> {
    plugin: P,
    generation: u64,
    places: Vec<Place<P>>,
    /// Where each pod is, by uid.
    at: BTreeMap<String, String>,
    /// Pods on nodes that are not known (yet).
    homeless: BTreeMap<String, (String, P::Pod)>,
}

/// The part of a pod's row that says where it is.
#[derive(serde::Deserialize)]
struct Placed {
    metadata: PlacedMetadata,
    spec: PlacedSpec,
    #[serde(default)]
    status: PlacedStatus,
}

#[derive(serde::Deserialize)]
struct PlacedMetadata {
    #[serde(default)]
    uid: String,
}

#[derive(serde::Deserialize)]
struct PlacedSpec {
    #[serde(default, rename = "nodeName")]
    node_name: String,
}

#[derive(serde::Deserialize, Default)]
struct PlacedStatus {
    #[serde(default)]
    phase: String,
}

#[derive(serde::Deserialize)]
struct NamedRow {
    metadata: NamedMetadata,
}

#[derive(serde::Deserialize)]
struct NamedMetadata {
    name: String,
}

fn read<'a, T: serde::Deserialize<'a>>(what: &str, row: &'a [u8]) -> Result<T> {
    serde_json::from_slice(row).map_err(|source| Error::Shape { what: what.into(), source })
}

impl<P: SchedulerPlugin> Serving<P> {
    pub(crate) fn start(start: &Start) -> Result<Self> {
        let plugin = P::start(start)?;
        Ok(Serving { plugin, generation: 0, places: Vec::new(), at: BTreeMap::new(), homeless: BTreeMap::new() })
    }

    fn sync(&mut self, delta: &Delta<'_>) -> Result<Freshness> {
        if delta.base_generation == 0 {
            self.places.clear();
            self.at.clear();
            self.homeless.clear();
        } else if delta.base_generation != self.generation {
            return Ok(Freshness::Stale);
        }
        for name in &delta.gone_nodes {
            if let Ok(at) = self.find(name) {
                let place = self.places.remove(at);
                let pods = place.pods.uids.into_iter().zip(place.pods.read);
                self.homeless.extend(pods.map(|(uid, pod)| (uid, (place.name.clone(), pod))));
            }
        }
        for row in &delta.nodes {
            let name = read::<NamedRow>("a node", row)?.metadata.name;
            let node = self.plugin.node(row)?;
            match self.find(&name) {
                Ok(at) => self.places[at].node = node,
                Err(at) => self.places.insert(at, Place { name, node, pods: Pods::NONE }),
            }
        }
        for uid in &delta.gone_pods {
            self.take(uid);
        }
        for row in &delta.pods {
            let placed: Placed = read("a pod", row)?;
            self.take(&placed.metadata.uid);
            if !matches!(placed.status.phase.as_str(), "Succeeded" | "Failed") {
                self.homeless.insert(placed.metadata.uid, (placed.spec.node_name, self.plugin.pod(row)?));
            }
        }
        for (uid, (node, pod)) in std::mem::take(&mut self.homeless) {
            match self.find(&node) {
                Ok(at) => {
                    self.at.insert(uid.clone(), node);
                    self.places[at].pods.add(uid, pod);
                }
                Err(_) => drop(self.homeless.insert(uid, (node, pod))),
            }
        }
        self.generation = delta.generation;
        Ok(Freshness::Fresh)
    }

    fn take(&mut self, uid: &str) {
        self.homeless.remove(uid);
        if let Some(at) = self.at.remove(uid).and_then(|node| self.find(&node).ok()) {
            self.places[at].pods.remove(uid);
        }
    }

    /// Where a node is, or would be.
    fn find(&self, node: &str) -> std::result::Result<usize, usize> {
        self.places.binary_search_by(|place| place.name.as_str().cmp(node))
    }

    /// A score a place in the order of names; below 0: why not, as a place in the list of reasons.
    fn evaluate(&self, pod: &P::Pod) -> (Vec<i16>, Vec<Reason>) {
        let mut reasons: Vec<Reason> = Vec::new();
        let told = |opinion: std::result::Result<i16, Reason>| match opinion {
            Ok(score) => score.clamp(0, 100),
            Err(reason) => {
                // Most are the same text at the same place.
                let same = |known: &Reason| (known.as_ptr(), known.len()) == (reason.as_ptr(), reason.len()) || *known == reason;
                let at = reasons.iter().position(same).unwrap_or_else(|| {
                    reasons.push(reason);
                    reasons.len() - 1
                });
                i16::try_from(at).map_or(i16::MIN, |at| -1 - at)
            }
        };
        let scores = self.plugin.evaluate(pod, &self.places).into_iter().map(told).collect();
        (scores, reasons)
    }

    /// The hot lane. `None`: there is no such method.
    pub(crate) fn call(&mut self, method: u16, params: &[u8]) -> Option<Result<Vec<u8>>> {
        use crate::guest::one_message as one;
        Some(match method {
            0 => one::<wire::sync_params::Owned, wire::sync_results::Owned, _>(
                params,
                |params: wire::sync_params::Reader<'_>| self.sync(&read_delta(params.get_delta()?)?),
                |mut results: wire::sync_results::Builder<'_>, freshness| results.set_stale(freshness == Freshness::Stale),
            ),
            3 => one::<wire::evaluate_params::Owned, wire::evaluate_results::Owned, _>(
                params,
                |params: wire::evaluate_params::Reader<'_>| {
                    let fresh = params.get_generation() == self.generation;
                    if fresh { Ok(Some(self.evaluate(&self.plugin.pod(params.get_pod()?)?))) } else { Ok(None) }
                },
                |mut results: wire::evaluate_results::Builder<'_>, opinion| match opinion {
                    None => results.set_stale(true),
                    Some((scores, reasons)) => {
                        let mut list = results.reborrow().init_scores(scores.len() as u32);
                        if let Some(slots) = list.as_slice() {
                            slots.copy_from_slice(&scores);
                        }
                        let mut list = results.init_reasons(reasons.len() as u32);
                        for (i, reason) in reasons.iter().enumerate() {
                            list.set(i as u32, &**reason);
                        }
                    }
                },
            ),
            4 => one::<wire::pre_enqueue_params::Owned, wire::pre_enqueue_results::Owned, _>(
                params,
                |params: wire::pre_enqueue_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    Ok(self.plugin.pre_enqueue(&pod))
                },
                |mut results: wire::pre_enqueue_results::Builder<'_>, answer| results.set_refused(refusal(&answer)),
            ),
            5 => one::<wire::post_filter_params::Owned, wire::post_filter_results::Owned, _>(
                params,
                |params: wire::post_filter_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    Ok(self.plugin.post_filter(&pod, &self.places))
                },
                |results: wire::post_filter_results::Builder<'_>, found| {
                    let mut preemption = results.init_preemption();
                    if let Some((node, victims)) = found {
                        preemption.set_node(&node);
                        let mut list = preemption.init_victims(victims.len() as u32);
                        for (i, victim) in victims.iter().enumerate() {
                            write_ref(list.reborrow().get(i as u32), victim);
                        }
                    }
                },
            ),
            6 => one::<wire::reserve_params::Owned, wire::reserve_results::Owned, _>(
                params,
                |params: wire::reserve_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    Ok(self.plugin.reserve(&pod, text(params.get_node())?))
                },
                |mut results: wire::reserve_results::Builder<'_>, answer| results.set_refused(refusal(&answer)),
            ),
            7 => one::<wire::unreserve_params::Owned, wire::unreserve_results::Owned, _>(
                params,
                |params: wire::unreserve_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    self.plugin.unreserve(&pod, text(params.get_node())?);
                    Ok(())
                },
                |_: wire::unreserve_results::Builder<'_>, ()| {},
            ),
            8 => one::<wire::permit_params::Owned, wire::permit_results::Owned, _>(
                params,
                |params: wire::permit_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    let (now, waited) = (Time::from_millis(params.get_now_millis()), Duration::from_millis(params.get_waited_millis()));
                    Ok(self.plugin.permit(now, &pod, text(params.get_node())?, waited))
                },
                |mut results: wire::permit_results::Builder<'_>, permit| match permit {
                    Permit::Allow => {}
                    Permit::Wait(pause) => results.set_wait_millis(u32::try_from(pause.as_millis()).unwrap_or(u32::MAX).max(1)),
                    Permit::Deny(why) => results.set_refused(refusal(&Err(why))),
                },
            ),
            9 => one::<wire::pre_bind_params::Owned, wire::pre_bind_results::Owned, _>(
                params,
                |params: wire::pre_bind_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    Ok(self.plugin.pre_bind(&pod, text(params.get_node())?))
                },
                |mut results: wire::pre_bind_results::Builder<'_>, answer| match answer {
                    Err(why) => results.set_refused(refusal(&Err(why))),
                    Ok(writes) => {
                        let mut list = results.init_writes(writes.len() as u32);
                        for (i, write) in writes.iter().enumerate() {
                            write_write(list.reborrow().get(i as u32), write);
                        }
                    }
                },
            ),
            10 => one::<wire::sort_keys_params::Owned, wire::sort_keys_results::Owned, _>(
                params,
                |params: wire::sort_keys_params::Reader<'_>| {
                    params.get_pods()?.iter().map(|pod| Ok(self.plugin.sort_key(&self.plugin.pod(pod?)?))).collect::<Result<Vec<_>>>()
                },
                |results: wire::sort_keys_results::Builder<'_>, keys| {
                    let mut list = results.init_keys(keys.len() as u32);
                    for (i, key) in keys.iter().enumerate() {
                        list.set(i as u32, key);
                    }
                },
            ),
            11 => one::<wire::bind_params::Owned, wire::bind_results::Owned, _>(
                params,
                |params: wire::bind_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    Ok(self.plugin.bind(&pod, text(params.get_node())?))
                },
                |mut results: wire::bind_results::Builder<'_>, answer| match answer {
                    Err(why) => results.set_refused(refusal(&Err(why))),
                    Ok(None) => {}
                    Ok(Some(writes)) => {
                        results.set_binds(true);
                        let mut list = results.init_writes(writes.len() as u32);
                        for (i, write) in writes.iter().enumerate() {
                            write_write(list.reborrow().get(i as u32), write);
                        }
                    }
                },
            ),
            12 => one::<wire::post_bind_params::Owned, wire::post_bind_results::Owned, _>(
                params,
                |params: wire::post_bind_params::Reader<'_>| {
                    let pod = self.plugin.pod(params.get_pod()?)?;
                    self.plugin.post_bind(&pod, text(params.get_node())?);
                    Ok(())
                },
                |_: wire::post_bind_results::Builder<'_>, ()| {},
            ),
            _ => return None,
        })
    }
}

/// A refusal always says something: an empty one would be none.
fn refusal(answer: &std::result::Result<(), String>) -> &str {
    match answer {
        Ok(()) => "",
        Err(why) if why.is_empty() => "refused",
        Err(why) => why,
    }
}
