//! The host's end of a module's RPC lane: a Cap'n Proto vat over an in-memory pipe, driven by whoever writes into it.
//!
//! The problem: capnp-rpc wants an asynchronous stream, a guest is a function that turns bytes into bytes. The answer: writing to the
//! pipe wakes one driver task, which hands everything written to the guest in one slice and puts the guest's frames where
//! the vat reads. Nothing is ever left behind to be woken for: the guest has run until it stalled, and what it sent is in the pipe.
//!
//! The invariant: the driver is the only one that enters the guest, and after the first fault every call on the vat fails with it.
//! A panic inside the RPC machinery is the guest's doing (only its bytes are unusual) and ends the vat, not the process.

use super::Instance;
use crate::{
    fault::{Fault, FaultKind},
    limits::{ANSWER_TIMEOUT, IDLE_SLICES_MAX, NESTING_MAX, TRAVERSAL_WORDS_MAX},
};
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use futures::{
    FutureExt,
    io::{AsyncRead, AsyncWrite},
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

/// The calls of a dying vat fail before its end is on record: the machinery's own task must run once more, and others of the thread before.
const TASKS_BETWEEN_ERROR_AND_FAULT: u32 = 4;

#[derive(Default)]
struct PipeEnds {
    from_guest: VecDeque<u8>,
    to_guest: Vec<u8>,
    reader: Option<Waker>,
    closed: bool,
}

#[derive(Clone, Default)]
struct Pipe {
    ends: Rc<RefCell<PipeEnds>>,
    written: Rc<Notify>,
}

impl Pipe {
    fn feed(&self, frames: Vec<u8>) {
        let mut ends = self.ends.borrow_mut();
        ends.from_guest.extend(frames);
        if let Some(waker) = ends.reader.take() {
            waker.wake();
        }
    }

    fn close(&self) {
        let mut ends = self.ends.borrow_mut();
        ends.closed = true;
        if let Some(waker) = ends.reader.take() {
            waker.wake();
        }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.ends.borrow_mut().to_guest)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.ends.borrow_mut();
        if ends.from_guest.is_empty() && !ends.closed {
            ends.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(io::Read::read(&mut ends.from_guest, buf))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.ends.borrow_mut();
        if ends.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ends.to_guest.extend_from_slice(buf);
        self.written.notify_one();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Shared {
    instance: RefCell<Option<Instance>>,
    pipe: Pipe,
    fault: RefCell<Option<Fault>>,
    faulted: Notify,
    slice_deadline: Duration,
    memory_bytes: Cell<usize>,
}

impl Shared {
    fn end(&self, fault: Fault) {
        self.fault.borrow_mut().get_or_insert(fault);
        self.pipe.close();
        self.faulted.notify_waiters();
    }

    fn end_as(&self, kind: FaultKind, message: String) {
        let fault = self.instance.borrow().as_ref().map(|instance| instance.fault(kind, message));
        if let Some(fault) = fault {
            self.end(fault);
        }
    }
}

/// The RPC lane of one instance. Lives on the thread it was opened on, inside a `LocalSet`. Dropping it drops the instance.
pub struct Vat {
    shared: Rc<Shared>,
    bootstrap: capnp::capability::Client,
    tasks: [JoinHandle<()>; 2],
}

impl Vat {
    /// Opens the lane. Must be called inside a `tokio::task::LocalSet`.
    pub fn open(instance: Instance, slice_deadline: Duration) -> Self {
        let pipe = Pipe::default();
        let shared = Rc::new(Shared {
            memory_bytes: Cell::new(instance.memory_bytes()),
            instance: RefCell::new(Some(instance)),
            pipe: pipe.clone(),
            fault: RefCell::default(),
            faulted: Notify::new(),
            slice_deadline,
        });
        let mut options = capnp::message::ReaderOptions::new();
        options.traversal_limit_in_words(Some(TRAVERSAL_WORDS_MAX)).nesting_limit(NESTING_MAX);
        let network = twoparty::VatNetwork::new(pipe.clone(), pipe, Side::Client, options);
        let mut system = RpcSystem::new(Box::new(network), None);
        let bootstrap: Bootstrap = system.bootstrap(Side::Server);
        let driver = tokio::task::spawn_local(drive(shared.clone()));
        let rpc = tokio::task::spawn_local(run_rpc(system, shared.clone()));
        Self { shared, bootstrap: bootstrap.0, tasks: [driver, rpc] }
    }

    /// The guest's bootstrap capability.
    pub fn bootstrap<C: capnp::capability::FromClientHook>(&self) -> C {
        C::new(self.bootstrap.hook.add_ref())
    }

    /// Awaits something that depends on the guest, at most `ANSWER_TIMEOUT`. The inner error is the guest's answer.
    ///
    /// # Errors
    /// The fault that ended the instance meanwhile or earlier, also when the guest stays silent.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T, capnp::Error>>) -> Result<Result<T, capnp::Error>, Fault> {
        let answer = tokio::select! {
            biased;
            fault = self.fault() => return Err(fault),
            answer = tokio::time::timeout(ANSWER_TIMEOUT, work) => answer,
        };
        match answer {
            Ok(Err(error)) => self.error_or_fault(error).await.map(Err),
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.shared.end_as(FaultKind::Deadline, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
                Err(self.fault().await)
            }
        }
    }

    /// An error is the guest's answer, unless the vat is coming to its end: then that is why.
    async fn error_or_fault(&self, error: capnp::Error) -> Result<capnp::Error, Fault> {
        if error.kind == capnp::ErrorKind::Disconnected {
            return Err(self.fault().await);
        }
        for _ in 0..TASKS_BETWEEN_ERROR_AND_FAULT {
            if let Some(fault) = self.shared.fault.borrow().clone() {
                return Err(fault);
            }
            tokio::task::yield_now().await;
        }
        Ok(error)
    }

    /// Waits for the end of the instance.
    pub async fn fault(&self) -> Fault {
        loop {
            let faulted = self.shared.faulted.notified();
            if let Some(fault) = self.shared.fault.borrow().clone() {
                return fault;
            }
            faulted.await;
        }
    }

    /// Ends the instance as the caller judges.
    pub fn end(&self, kind: FaultKind, message: impl Into<String>) {
        self.shared.end_as(kind, message.into());
    }

    /// A handle that can end the instance from inside a capability.
    pub fn ender(&self) -> impl Fn(FaultKind, String) + 'static {
        let shared = Rc::downgrade(&self.shared);
        move |kind, message| {
            if let Some(shared) = shared.upgrade() {
                shared.end_as(kind, message);
            }
        }
    }

    /// The most linear memory the instance has had, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes.get()
    }

    /// Closes the lane and gives the instance back, for its hot lane; `None` after a fault. The guest's capabilities are gone with it.
    pub fn into_instance(self) -> Option<Instance> {
        self.shared.pipe.close();
        let faulted = self.shared.fault.borrow().is_some();
        self.shared.instance.borrow_mut().take().filter(|_| !faulted)
    }
}

impl Drop for Vat {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The untyped bootstrap capability.
struct Bootstrap(capnp::capability::Client);

impl capnp::capability::FromClientHook for Bootstrap {
    fn new(hook: Box<dyn capnp::private::capability::ClientHook>) -> Self {
        Self(capnp::capability::Client::new(hook))
    }

    fn into_client_hook(self) -> Box<dyn capnp::private::capability::ClientHook> {
        self.0.hook
    }

    fn as_client_hook(&self) -> &dyn capnp::private::capability::ClientHook {
        &*self.0.hook
    }
}

async fn run_rpc(system: RpcSystem<Side>, shared: Rc<Shared>) {
    let message = match AssertUnwindSafe(system).catch_unwind().await {
        Ok(Ok(())) => "the guest closed the connection".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the RPC machinery could not make sense of its messages".to_owned(),
    };
    shared.end_as(FaultKind::BadFrame, message);
}

async fn drive(shared: Rc<Shared>) {
    let (mut more, mut idle_slices) = (false, 0u32);
    loop {
        if !more {
            shared.pipe.written.notified().await;
        }
        let frames = shared.pipe.take();
        if frames.is_empty() && !more {
            continue;
        }
        let debt = shared.instance.borrow().as_ref().and_then(Instance::debt);
        if let Some(debt) = debt {
            tokio::time::sleep(debt).await;
        }
        let slice = match shared.instance.borrow_mut().as_mut() {
            Some(instance) => {
                let slice = instance.pump(&frames, shared.slice_deadline);
                shared.memory_bytes.set(instance.memory_bytes());
                slice
            }
            None => return,
        };
        match slice {
            Ok(slice) => {
                idle_slices = if slice.more && slice.frames.is_empty() { idle_slices + 1 } else { 0 };
                more = slice.more;
                shared.pipe.feed(slice.frames);
            }
            Err(fault) => return shared.end(fault),
        }
        if idle_slices > IDLE_SLICES_MAX {
            return shared.end_as(FaultKind::Deadline, format!("it took {idle_slices} slices without a message"));
        }
        tokio::task::yield_now().await;
    }
}
