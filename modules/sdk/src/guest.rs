//! The guest's end of the pipe: a Cap'n Proto vat that runs until it has nothing left to do, and the hot lane beside it.
//!
//! Nothing in here knows WebAssembly: [`Guest`] is bytes in, bytes out, and is tested natively. `wasm.rs` puts it behind the WIT world.
//! Invariant: a call never waits. Whatever the guest could do with the bytes it has, it has done when `pump` returns.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use capnp::message::{self, ReaderOptions};
use capnp::serialize;
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::executor::{LocalPool, LocalSpawner};
use futures::task::LocalSpawnExt;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use pintle_wit::admission_capnp::admission;
use pintle_wit::controller_capnp::controller;
use pintle_wit::module_capnp::{export, logger, module};
use pintle_wit::provisioner_capnp::provisioner;
use pintle_wit::scheduler_capnp::{scheduler, scheduler_plugin};

use crate::controller::{read_request, text, write_result};
use crate::reading::Readers;
use crate::scheduler_plugin::Serving;
use crate::{Admission, Controller, Error, Provisioned, Provisioner, Result, Scheduler, SchedulerPlugin, Start, Time, logging};

/// Makes a module from what it is told at the start.
pub type Factory = fn(&Start) -> Result<Box<dyn Served>>;

/// A module as the pipe sees it: which interfaces it serves, and how.
pub trait Served {
    /// Ids of the interfaces.
    fn interfaces(&self) -> &'static [u64];

    /// The hot lane.
    fn call(&mut self, iface: u64, method: u16, _params: &[u8]) -> Result<Vec<u8>> {
        Err(unserved(iface, method))
    }

    /// The controller, if it is one, with what it may read by.
    fn controller(&self, _readers: &Readers) -> Option<controller::Client> {
        None
    }

    /// The provisioner, if it is one.
    fn provisioner(&self) -> Option<provisioner::Client> {
        None
    }
}

fn unserved(iface: u64, method: u16) -> Error {
    Error::undecided(format!("method {method} of interface {iface:#x} is not served here"))
}

/// Makes a [`Controller`] ready for the pipe.
pub fn start_controller<T: Controller>(start: &Start) -> Result<Box<dyn Served>> {
    Ok(Box::new(ServedController(Rc::new(RefCell::new(T::start(start)?)), Readers::default())))
}

/// Makes an [`Admission`] ready for the pipe.
pub fn start_admission<T: Admission>(start: &Start) -> Result<Box<dyn Served>> {
    Ok(Box::new(ServedAdmission(T::start(start)?)))
}

/// Makes a [`Scheduler`] ready for the pipe.
pub fn start_scheduler<T: Scheduler>(start: &Start) -> Result<Box<dyn Served>> {
    Ok(Box::new(ServedScheduler(T::start(start)?)))
}

/// Makes a [`SchedulerPlugin`] ready for the pipe.
pub fn start_scheduler_plugin<T: SchedulerPlugin>(start: &Start) -> Result<Box<dyn Served>> {
    Ok(Box::new(ServedPlugin(Serving::<T>::start(start)?)))
}

/// Makes a [`Provisioner`] ready for the pipe.
pub fn start_provisioner<T: Provisioner>(start: &Start) -> Result<Box<dyn Served>> {
    Ok(Box::new(ServedProvisioner(Provisioned::<T>::start(start)?)))
}

struct ServedController<T>(Rc<RefCell<T>>, Readers);

impl<T: Controller> Served for ServedController<T> {
    fn interfaces(&self) -> &'static [u64] {
        &[controller::Client::TYPE_ID]
    }

    fn controller(&self, readers: &Readers) -> Option<controller::Client> {
        Some(capnp_rpc::new_client(ServedController(self.0.clone(), readers.clone())))
    }
}

impl<T: Controller> controller::Server for ServedController<T> {
    async fn reconcile(
        self: Rc<Self>,
        params: controller::ReconcileParams,
        mut results: controller::ReconcileResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let now = Time::from_millis(params.get_now_millis());
        let requests = params.get_requests()?;
        let mut list = results.get().init_results(requests.len());
        for (i, request) in requests.iter().enumerate() {
            let (decision, read) = match read_request(request) {
                Ok(request) => self.1.decide(&self.0, now, &request).await,
                Err(error) => (Err(error), Vec::new()),
            };
            write_result(list.reborrow().get(i as u32), decision, &read);
        }
        Ok(())
    }
}

struct ServedAdmission<T>(T);

impl<T: Admission> Served for ServedAdmission<T> {
    fn interfaces(&self) -> &'static [u64] {
        &[admission::Client::TYPE_ID]
    }

    fn call(&mut self, iface: u64, method: u16, params: &[u8]) -> Result<Vec<u8>> {
        match (iface, method) {
            (admission::Client::TYPE_ID, 0) => crate::admission::serve_review(&self.0, params),
            _ => Err(unserved(iface, method)),
        }
    }
}

struct ServedScheduler<T>(T);

impl<T: Scheduler> Served for ServedScheduler<T> {
    fn interfaces(&self) -> &'static [u64] {
        &[scheduler::Client::TYPE_ID]
    }

    fn call(&mut self, iface: u64, method: u16, params: &[u8]) -> Result<Vec<u8>> {
        match (iface, method) {
            (scheduler::Client::TYPE_ID, 0) => crate::scheduler::serve_sync(&mut self.0, params),
            (scheduler::Client::TYPE_ID, 1) => crate::scheduler::serve_schedule(&mut self.0, params),
            _ => Err(unserved(iface, method)),
        }
    }
}

struct ServedPlugin<T: SchedulerPlugin>(Serving<T>);

impl<T: SchedulerPlugin> Served for ServedPlugin<T> {
    fn interfaces(&self) -> &'static [u64] {
        &[scheduler_plugin::Client::TYPE_ID]
    }

    fn call(&mut self, iface: u64, method: u16, params: &[u8]) -> Result<Vec<u8>> {
        let answer = if iface == scheduler_plugin::Client::TYPE_ID { self.0.call(method, params) } else { None };
        answer.unwrap_or_else(|| Err(unserved(iface, method)))
    }
}

/// Served as what the kernel runs, a controller of claims and volumes, and as itself.
struct ServedProvisioner<T>(Provisioned<T>);

impl<T: Provisioner> Served for ServedProvisioner<T> {
    fn interfaces(&self) -> &'static [u64] {
        &[provisioner::Client::TYPE_ID, controller::Client::TYPE_ID]
    }

    fn controller(&self, readers: &Readers) -> Option<controller::Client> {
        Some(capnp_rpc::new_client(ServedController(Rc::new(RefCell::new(self.0.clone())), readers.clone())))
    }

    fn provisioner(&self) -> Option<provisioner::Client> {
        Some(capnp_rpc::new_client(crate::provisioner::Server(self.0.shared())))
    }
}

/// Reads one message, decides, writes one message: the shape of every hot call.
pub(crate) fn one_message<P, R, T>(
    params: &[u8],
    decide: impl FnOnce(P::Reader<'_>) -> Result<T>,
    answer: impl FnOnce(R::Builder<'_>, T),
) -> Result<Vec<u8>>
where
    P: capnp::traits::Owned,
    R: capnp::traits::Owned,
{
    let mut rest = params;
    let reader = serialize::read_message_from_flat_slice(&mut rest, reader_options())?;
    let decision = decide(reader.get_root::<P::Reader<'_>>()?)?;
    let mut out = message::Builder::new_default();
    answer(out.init_root::<R::Builder<'_>>(), decision);
    Ok(serialize::write_message_to_words(&out))
}

/// The kernel is trusted with sizes: it bounds what it sends. (It reads what comes back with limits of its own.)
fn reader_options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    options
}

/// The two byte queues under the vat.
#[derive(Default)]
struct Queues {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
    reader: Option<Waker>,
}

#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<Queues>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut queues = self.0.borrow_mut();
        if queues.incoming.is_empty() {
            queues.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(io::Read::read(&mut queues.incoming, buf))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().outgoing.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What `start` fills in and every later call uses.
#[derive(Default)]
struct State {
    served: Option<Box<dyn Served>>,
    logger: Option<logger::Client>,
    readers: Readers,
}

/// One module instance behind the pipe.
pub struct Guest {
    pool: LocalPool,
    spawner: LocalSpawner,
    pipe: Pipe,
    state: Rc<RefCell<State>>,
}

impl Guest {
    /// A module that has not been started yet: the kernel does that through the pipe.
    pub fn new(factory: Factory) -> Self {
        let state = Rc::new(RefCell::new(State::default()));
        let pipe = Pipe::default();
        let network = twoparty::VatNetwork::new(pipe.clone(), pipe.clone(), Side::Server, reader_options());
        let bootstrap: module::Client = capnp_rpc::new_client(Bootstrap { factory, state: state.clone() });
        let system = RpcSystem::new(Box::new(network), Some(bootstrap.client));
        let pool = LocalPool::new();
        let spawner = pool.spawner();
        // The pool is ours and alive: spawning cannot fail.
        let _ = spawner.spawn_local(system.map(|_| ()));
        Guest { pool, spawner, pipe, state }
    }

    /// The RPC lane: takes frames, runs until there is nothing left to do, gives the frames to send.
    pub fn pump(&mut self, frames: Vec<u8>) -> Vec<u8> {
        {
            let mut queues = self.pipe.0.borrow_mut();
            queues.incoming.extend(frames);
            if let Some(reader) = queues.reader.take() {
                reader.wake();
            }
        }
        self.pool.run_until_stalled();
        self.send_log_lines();
        std::mem::take(&mut self.pipe.0.borrow_mut().outgoing)
    }

    /// The hot lane. The error is for logs.
    pub fn call(&mut self, iface: u64, method: u16, params: &[u8]) -> Result<Vec<u8>, String> {
        match &mut self.state.borrow_mut().served {
            Some(served) => served.call(iface, method, params).map_err(|error| error.to_string()),
            None => Err("the module has not been started".into()),
        }
    }

    fn send_log_lines(&mut self) {
        let Some(logger) = self.state.borrow().logger.clone() else { return };
        let lines = logging::take();
        if lines.is_empty() {
            return;
        }
        for (level, message) in lines {
            let mut request = logger.log_request();
            request.get().set_level(match level {
                logging::Level::Debug => logger::Level::Debug,
                logging::Level::Info => logger::Level::Info,
                logging::Level::Warn => logger::Level::Warn,
                logging::Level::Error => logger::Level::Error,
            });
            request.get().set_message(message.as_str());
            let _ = self.spawner.spawn_local(request.send().promise.map(|_| ()));
        }
        self.pool.run_until_stalled();
    }
}

/// The guest's bootstrap capability.
struct Bootstrap {
    factory: Factory,
    state: Rc<RefCell<State>>,
}

impl module::Server for Bootstrap {
    async fn start(self: Rc<Self>, params: module::StartParams, mut results: module::StartResults) -> Result<(), capnp::Error> {
        let hello = params.get()?.get_hello()?;
        for entry in hello.get_exports()? {
            match entry.which() {
                Ok(export::Which::Logger(logger)) => self.state.borrow_mut().logger = Some(logger?),
                Ok(export::Which::ObjectReader(reader)) => self.state.borrow().readers.add(text(entry.get_name())?, reader?),
                _ => {}
            }
        }
        let served = (self.factory)(&Start::read(hello)?)?;
        let mut info = results.get().init_info();
        info.set_api_level(pintle_wit::API_LEVEL);
        info.set_sdk(concat!("pintle-sdk ", env!("CARGO_PKG_VERSION")));
        let interfaces = served.interfaces();
        let mut list = info.init_interfaces(interfaces.len() as u32);
        for (i, id) in interfaces.iter().enumerate() {
            list.set(i as u32, *id);
        }
        self.state.borrow_mut().served = Some(served);
        Ok(())
    }

    async fn controller(self: Rc<Self>, _: module::ControllerParams, mut results: module::ControllerResults) -> Result<(), capnp::Error> {
        let state = self.state.borrow();
        let client = state.served.as_ref().and_then(|served| served.controller(&state.readers));
        results
            .get()
            .set_controller(client.ok_or_else(|| capnp::Error::unimplemented("this module is no controller, or not started".into()))?);
        Ok(())
    }

    async fn provisioner(
        self: Rc<Self>,
        _: module::ProvisionerParams,
        mut results: module::ProvisionerResults,
    ) -> Result<(), capnp::Error> {
        let client = self.state.borrow().served.as_ref().and_then(|served| served.provisioner());
        results
            .get()
            .set_provisioner(client.ok_or_else(|| capnp::Error::unimplemented("this module is no provisioner, or not started".into()))?);
        Ok(())
    }

    async fn stop(self: Rc<Self>, _: module::StopParams, _: module::StopResults) -> Result<(), capnp::Error> {
        self.state.borrow_mut().served = None;
        Ok(())
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
