//! A scheduler: keeps a snapshot fed by deltas and says which node each pod goes to.

use pintle_wit::scheduler_capnp::{self, decision, scheduler};

use crate::controller::{text, write_ref, write_write};
use crate::{Error, ObjectRef, Result, Start, Time, Write};

/// Says which node each pod goes to. The kernel keeps the queue and carries out the bindings.
pub trait Scheduler: Sized + 'static {
    /// Makes the scheduler. An error here keeps the module from starting and is shown in its status.
    fn start(start: &Start) -> Result<Self>;

    /// Applies a change to the snapshot, or says that one is missing in between.
    fn sync(&mut self, delta: &Delta<'_>) -> Result<Freshness>;

    /// Decides for the pods in the given order, each decision counting for those behind it. `None`: the snapshot is not at `generation`.
    fn schedule(&mut self, generation: u64, now: Time, pods: &[&[u8]]) -> Result<Option<Vec<Decision>>>;

    /// The same with what plugins say of every node for the pod; there is one pod then. A scheduler that knows no plugins decides without them.
    fn schedule_with(&mut self, generation: u64, now: Time, pods: &[&[u8]], _opinions: &[Opinion<'_>]) -> Result<Option<Vec<Decision>>> {
        self.schedule(generation, now, pods)
    }
}

/// What one plugin says of every node for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion<'a> {
    /// Its name.
    pub plugin: &'a str,
    /// Of its scores beside the built-in ones.
    pub weight: i32,
    /// One a node, in the order of their names: 0 to 100; below 0 the node will not do, for `reasons[-1 - score]`.
    pub scores: Vec<i16>,
    /// As users see them.
    pub reasons: Vec<&'a str>,
}

impl Opinion<'_> {
    /// Of the node at this place in the order of names: its score, or why it will not do. A plugin that knows fewer nodes has nothing against the others.
    pub fn of(&self, at: usize) -> std::result::Result<i64, &str> {
        match self.scores.get(at).copied().unwrap_or(0) {
            score @ 0.. => Ok(i64::from(score.min(100))),
            score => Err(self.reasons.get((-1 - i32::from(score)) as usize).copied().unwrap_or("node(s) did not suit a plugin")),
        }
    }
}

fn read_opinion(reader: scheduler_capnp::opinion::Reader<'_>) -> Result<Opinion<'_>> {
    Ok(Opinion {
        plugin: text(reader.get_plugin())?,
        weight: reader.get_weight(),
        scores: reader.get_scores()?.iter().collect(),
        reasons: reader.get_reasons()?.iter().map(text).collect::<Result<_>>()?,
    })
}

/// Whether the snapshot is what the kernel thinks it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is.
    Fresh,
    /// It is not: the kernel sends everything anew.
    Stale,
}

/// A change to the snapshot. Rows are JSON objects projected to the fields that a scheduler needs.
#[derive(Clone, Debug, Default)]
pub struct Delta<'a> {
    /// The snapshot this applies to; 0: forget everything, this is the whole state.
    pub base_generation: u64,
    /// The snapshot after it.
    pub generation: u64,
    /// New and changed nodes.
    pub nodes: Vec<&'a [u8]>,
    /// Names of nodes that are gone.
    pub gone_nodes: Vec<&'a str>,
    /// New and changed pods that have a node.
    pub pods: Vec<&'a [u8]>,
    /// Uids of pods that are gone.
    pub gone_pods: Vec<&'a str>,
    /// New and changed namespaces.
    pub namespaces: Vec<&'a [u8]>,
    /// New and changed claims, volumes and storage classes, whole, as far as the manifest's permissions cover them.
    pub objects: Vec<&'a [u8]>,
    /// Those that are gone, as `resource/namespace/name`.
    pub gone_objects: Vec<&'a str>,
}

/// What becomes of one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Bind it here.
    Node(String),
    /// It fits nowhere; the message of its PodScheduled condition.
    Unschedulable(String),
    /// Make room first, then try again.
    Evict {
        /// Where the room is made.
        node: String,
        /// Who goes.
        victims: Vec<ObjectRef>,
    },
    /// It is gated: not to be tried until it changes; why.
    Wait(String),
    /// Carry these out, as far as there are any; the pod is tried again when something changes.
    Prepare(Vec<Write>),
}

pub(crate) fn read_delta(reader: scheduler_capnp::delta::Reader<'_>) -> Result<Delta<'_>> {
    Ok(Delta {
        base_generation: reader.get_base_generation(),
        generation: reader.get_generation(),
        nodes: reader.get_nodes()?.iter().collect::<capnp::Result<_>>()?,
        gone_nodes: reader.get_gone_nodes()?.iter().map(text).collect::<Result<_>>()?,
        pods: reader.get_pods()?.iter().collect::<capnp::Result<_>>()?,
        gone_pods: reader.get_gone_pods()?.iter().map(text).collect::<Result<_>>()?,
        namespaces: reader.get_namespaces()?.iter().collect::<capnp::Result<_>>()?,
        objects: reader.get_objects()?.iter().collect::<capnp::Result<_>>()?,
        gone_objects: reader.get_gone_objects()?.iter().map(text).collect::<Result<_>>()?,
    })
}

/// The hot lane's `sync`.
pub(crate) fn serve_sync(module: &mut impl Scheduler, params: &[u8]) -> Result<Vec<u8>> {
    crate::guest::one_message::<scheduler::sync_params::Owned, scheduler::sync_results::Owned, _>(
        params,
        |params: scheduler::sync_params::Reader<'_>| module.sync(&read_delta(params.get_delta()?)?),
        |mut results: scheduler::sync_results::Builder<'_>, freshness| results.set_stale(freshness == Freshness::Stale),
    )
}

/// The hot lane's `schedule`.
pub(crate) fn serve_schedule(module: &mut impl Scheduler, params: &[u8]) -> Result<Vec<u8>> {
    crate::guest::one_message::<scheduler::schedule_params::Owned, scheduler::schedule_results::Owned, _>(
        params,
        |params: scheduler::schedule_params::Reader<'_>| {
            let pods = params.get_pods()?.iter().collect::<capnp::Result<Vec<_>>>()?;
            let (generation, now) = (params.get_generation(), Time::from_millis(params.get_now_millis()));
            let opinions = params.get_opinions()?.iter().map(read_opinion).collect::<Result<Vec<_>>>()?;
            let decisions = match &opinions[..] {
                [] => module.schedule(generation, now, &pods)?,
                opinions => module.schedule_with(generation, now, &pods, opinions)?,
            };
            match decisions {
                Some(decisions) if decisions.len() != pods.len() => Err(Error::undecided("the scheduler did not answer for every pod")),
                answer => Ok(answer),
            }
        },
        |mut results: scheduler::schedule_results::Builder<'_>, decisions| match decisions {
            None => results.set_stale(true),
            Some(decisions) => {
                let mut list = results.init_decisions(decisions.len() as u32);
                for (i, decision) in decisions.iter().enumerate() {
                    write_decision(list.reborrow().get(i as u32), decision);
                }
            }
        },
    )
}

fn write_decision(mut builder: decision::Builder<'_>, decision: &Decision) {
    match decision {
        Decision::Node(name) => builder.set_node(name),
        Decision::Unschedulable(message) => builder.set_unschedulable(message),
        Decision::Wait(why) => builder.set_wait(why),
        Decision::Prepare(writes) => {
            let mut list = builder.init_prepare(writes.len() as u32);
            for (i, write) in writes.iter().enumerate() {
                write_write(list.reborrow().get(i as u32), write);
            }
        }
        Decision::Evict { node, victims } => {
            let mut evict = builder.init_evict();
            evict.set_node(node);
            let mut list = evict.init_victims(victims.len() as u32);
            for (i, victim) in victims.iter().enumerate() {
                write_ref(list.reborrow().get(i as u32), victim);
            }
        }
    }
}
