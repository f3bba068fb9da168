//! A scheduler to test a plugin against, natively: it feeds the plugin its snapshot and asks it through the same messages as the kernel does.

use std::collections::BTreeMap;

use capnp::{message, serialize, traits::HasTypeId, traits::Owned};
use pintle_wit::scheduler_capnp::scheduler_plugin as wire;
use serde_json::Value;

use crate::guest::{Served, start_scheduler_plugin};
use crate::{Error, Result, SchedulerPlugin, Start, Time};

/// A kernel for one scheduler plugin.
pub struct FakeScheduler {
    served: Box<dyn Served>,
    generation: u64,
    nodes: BTreeMap<String, Value>,
}

impl FakeScheduler {
    /// Starts the plugin; there are no nodes and no pods.
    pub fn new<P: SchedulerPlugin>(start: &Start) -> Result<Self> {
        Ok(FakeScheduler { served: start_scheduler_plugin::<P>(start)?, generation: 0, nodes: BTreeMap::new() })
    }

    /// New and changed nodes and placed pods (`spec.nodeName`).
    pub fn put(&mut self, nodes: &[Value], pods: &[Value]) -> Result<()> {
        for node in nodes {
            let name = node["metadata"]["name"].as_str().ok_or_else(|| Error::undecided("a node without a name"))?;
            self.nodes.insert(name.to_owned(), node.clone());
        }
        let (base, next) = (self.generation, self.generation + 1);
        let stale = self.ask::<wire::sync_params::Owned, wire::sync_results::Owned, _>(
            0,
            |params| {
                let mut delta = params.init_delta();
                delta.set_base_generation(base);
                delta.set_generation(next);
                fill(delta.reborrow().init_nodes(nodes.len() as u32), nodes);
                fill(delta.init_pods(pods.len() as u32), pods);
            },
            |results| Ok(results.get_stale()),
        )?;
        self.generation = next;
        if stale { Err(Error::undecided("the plugin calls its snapshot stale")) } else { Ok(()) }
    }

    /// What the plugin says of each node for this pod: its score, or why it will not do.
    pub fn evaluate(&mut self, pod: &Value) -> Result<BTreeMap<String, Result<i16, String>>> {
        let generation = self.generation;
        let (scores, reasons) = self.ask::<wire::evaluate_params::Owned, wire::evaluate_results::Owned, _>(
            3,
            |mut params| {
                params.set_generation(generation);
                params.set_pod(pod.to_string().as_bytes());
            },
            |results| {
                let reasons = results.get_reasons()?.iter().map(|r| Ok(r?.to_string()?)).collect::<capnp::Result<Vec<_>>>()?;
                Ok((results.get_scores()?.iter().collect::<Vec<_>>(), reasons))
            },
        )?;
        if scores.len() != self.nodes.len() {
            return Err(Error::undecided(format!("{} answers for {} nodes", scores.len(), self.nodes.len())));
        }
        let said = |score: i16| if score >= 0 { Ok(score) } else { Err(reasons[(-1 - i32::from(score)) as usize].clone()) };
        Ok(self.nodes.keys().cloned().zip(scores.into_iter().map(said)).collect())
    }

    /// Whether the pod may be tried at all.
    pub fn pre_enqueue(&mut self, pod: &Value) -> Result<Result<(), String>> {
        self.ask::<wire::pre_enqueue_params::Owned, wire::pre_enqueue_results::Owned, _>(
            4,
            |mut params| params.set_pod(pod.to_string().as_bytes()),
            |results| refused(results.get_refused()),
        )
    }

    /// Whether the pod may go there.
    pub fn reserve(&mut self, pod: &Value, node: &str) -> Result<Result<(), String>> {
        self.ask::<wire::reserve_params::Owned, wire::reserve_results::Owned, _>(
            6,
            |mut params| {
                params.set_pod(pod.to_string().as_bytes());
                params.set_node(node);
            },
            |results| refused(results.get_refused()),
        )
    }

    /// The pod does not go there after all.
    pub fn unreserve(&mut self, pod: &Value, node: &str) -> Result<()> {
        self.ask::<wire::unreserve_params::Owned, wire::unreserve_results::Owned, _>(
            7,
            |mut params| {
                params.set_pod(pod.to_string().as_bytes());
                params.set_node(node);
            },
            |_| Ok(()),
        )
    }

    /// Whether the pod may be bound now; the number of milliseconds after which to ask again, if not yet.
    pub fn permit(&mut self, now: Time, pod: &Value, node: &str) -> Result<Result<u32, String>> {
        self.ask::<wire::permit_params::Owned, wire::permit_results::Owned, _>(
            8,
            |mut params| {
                params.set_now_millis(u64::try_from(now.0).unwrap_or(0));
                params.set_pod(pod.to_string().as_bytes());
                params.set_node(node);
            },
            |results| Ok(refused(results.get_refused())?.map(|()| results.get_wait_millis())),
        )
    }

    fn ask<P: Owned, R: Owned, T>(
        &mut self,
        method: u16,
        fill: impl FnOnce(P::Builder<'_>),
        read: impl FnOnce(R::Reader<'_>) -> capnp::Result<T>,
    ) -> Result<T> {
        let mut params = message::Builder::new_default();
        fill(params.init_root::<P::Builder<'_>>());
        let answer = self.served.call(wire::Client::TYPE_ID, method, &serialize::write_message_to_words(&params))?;
        let message = serialize::read_message(&answer[..], message::ReaderOptions::new())?;
        Ok(read(message.get_root::<R::Reader<'_>>()?)?)
    }
}

fn refused(reason: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<Result<(), String>> {
    Ok(match reason?.to_str()? {
        "" => Ok(()),
        why => Err(why.to_owned()),
    })
}

fn fill(mut list: capnp::data_list::Builder<'_>, rows: &[Value]) {
    for (i, row) in rows.iter().enumerate() {
        list.set(i as u32, row.to_string().as_bytes());
    }
}
