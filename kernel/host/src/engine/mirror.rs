//! An instance that is asked what another was asked, and does nothing: it holds no capability, and what it answers is only looked at.
//!
//! Shadows of a running module and replays of a record are mirrors. Lives on one thread, inside a `LocalSet`.

use super::{Code, Instance, Vat};
use crate::{
    fault::{Fault, Generation, HostError, ModuleId},
    tap,
};
use capnp::{message::ReaderOptions, serialize};
use pintle_record::Outcome;
use pintle_wit::{controller_capnp::controller, module_capnp::module};
use std::{cell::RefCell, rc::Rc, time::Duration};

/// The lane that a kind of module answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// `Controller.reconcile`, on the RPC lane.
    Reconcile,
    /// Everything else, on the hot lane.
    Hot,
}

/// How a mirror is asked, and what one call may take.
#[derive(Clone, Copy, Debug)]
pub struct MirrorSettings {
    /// Where it is asked.
    pub answers: Answers,
    /// Linear memory, in bytes.
    pub memory_bytes: usize,
    /// Of one call, in processor time.
    pub deadline: Duration,
}

/// The instance, on the lane that its kind of module answers on.
pub struct Mirror {
    lane: Lane,
    deadline: Duration,
}

enum Lane {
    Rpc { vat: Vat, controller: controller::Client },
    Hot(Box<Instance>),
}

impl Mirror {
    /// Starts `code` with the parameters of `Module.start` that another instance was started with.
    ///
    /// # Errors
    /// The fault that ended it, or `Refused` when it does not want to start so.
    pub async fn start(
        code: &Code,
        module: ModuleId,
        generation: Generation,
        settings: MirrorSettings,
        hello: &[u8],
    ) -> Result<Self, HostError> {
        let MirrorSettings { answers, memory_bytes, deadline } = settings;
        let vat = Vat::open(Instance::new(code, module, generation, memory_bytes, deadline)?, deadline);
        let refused = |error: capnp::Error| HostError::Refused(error.to_string());
        let bootstrap: module::Client = vat.bootstrap();
        let mut request = bootstrap.start_request();
        let message = read(hello).map_err(refused)?;
        request.set(message.get_root().map_err(refused)?).map_err(refused)?;
        vat.run(async move { request.send().promise.await?.get().map(drop) }).await?.map_err(refused)?;
        let lane = match answers {
            Answers::Reconcile => {
                let asked = bootstrap.controller_request().send();
                let controller = vat.run(async move { asked.promise.await?.get()?.get_controller() }).await?.map_err(refused)?;
                Lane::Rpc { vat, controller }
            }
            Answers::Hot => {
                Lane::Hot(Box::new(vat.into_instance().ok_or_else(|| HostError::Refused("it ended while it was started".into()))?))
            }
        };
        Ok(Self { lane, deadline })
    }

    /// What it says to a call. After a fault that is always the fault.
    pub async fn ask(&mut self, interface: u64, method: u16, params: &[u8]) -> Outcome {
        match &mut self.lane {
            Lane::Hot(instance) => tap::outcome(&instance.call(interface, method, params, self.deadline)),
            Lane::Rpc { vat, controller } => tap::outcome(&reconcile(vat, controller, params).await),
        }
    }
}

async fn reconcile(vat: &Vat, controller: &controller::Client, params: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
    let (heard, mut request) = (Rc::new(RefCell::new(Vec::new())), controller.reconcile_request());
    let filled = read(params).and_then(|message| request.set(message.get_root()?));
    if let Err(error) = filled {
        return Ok(Err(error.to_string()));
    }
    let hears = heard.clone();
    let call = async move {
        hears.replace(tap::message::<controller::reconcile_results::Owned>(request.send().promise.await?.get()?));
        Ok(())
    };
    Ok(vat.run(call).await?.map(|()| heard.take()).map_err(|error| error.to_string()))
}

/// A message that the kernel itself made.
fn read(mut bytes: &[u8]) -> capnp::Result<capnp::message::Reader<serialize::OwnedSegments>> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    serialize::read_message(&mut bytes, options)
}
