//! The guest's end of the RPC lane: one vat over an in-memory pipe, run until it stalls.

use crate::{parts::Part, Pumped};
use capnp_rpc::{rpc_twoparty_capnp::Side, twoparty, RpcSystem};
use futures::{
    executor::{LocalPool, LocalSpawner},
    io::{AsyncRead, AsyncWrite},
    task::{Context, LocalSpawnExt, Poll, Waker},
    FutureExt,
};
use std::{cell::RefCell, collections::VecDeque, io, pin::Pin, rc::Rc};

#[derive(Default)]
struct PipeInner {
    rx: VecDeque<u8>,
    tx: Vec<u8>,
    waker: Option<Waker>,
}

#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<PipeInner>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.borrow_mut();
        if pipe.rx.is_empty() {
            pipe.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(io::Read::read(&mut pipe.rx, buf))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().tx.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Vat {
    pool: LocalPool,
    pipe: Pipe,
}

thread_local! {
    static VAT: RefCell<Option<Vat>> = const { RefCell::new(None) };
    static SPAWNER: RefCell<Option<LocalSpawner>> = const { RefCell::new(None) };
}

/// Spawns work that outlives the call being answered.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    SPAWNER.with(|s| {
        if let Some(s) = s.borrow().as_ref() {
            let _ = s.spawn_local(work);
        }
    });
}

fn boot() -> Vat {
    let pool = LocalPool::new();
    let pipe = Pipe::default();
    let mut options = capnp::message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(4 << 20));
    let net = twoparty::VatNetwork::new(pipe.clone(), pipe.clone(), Side::Server, options);
    let module: pintle_wit::module_capnp::module::Client = capnp_rpc::new_client(Part::default());
    let system = RpcSystem::new(Box::new(net), Some(module.client));
    let _ = pool.spawner().spawn_local(system.map(|_| ()));
    SPAWNER.with(|s| *s.borrow_mut() = Some(pool.spawner()));
    Vat { pool, pipe }
}

pub fn pump(frames: Vec<u8>) -> Pumped {
    VAT.with(|vat| {
        let mut vat = vat.borrow_mut();
        let vat = vat.get_or_insert_with(boot);
        {
            let mut pipe = vat.pipe.0.borrow_mut();
            pipe.rx.extend(frames);
            if let Some(waker) = pipe.waker.take() {
                waker.wake();
            }
        }
        vat.pool.run_until_stalled();
        let frames = std::mem::take(&mut vat.pipe.0.borrow_mut().tx);
        Pumped { frames, more: false }
    })
}
