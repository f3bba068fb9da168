//! What deadlines cost: the same guest, asked the same on an engine whose code looks at the clock (`epoch_interruption`, as the kernel's does) and on one
//! whose code does not, in turns.

use super::{Outcome, START};
use bare::Module;
use capnp::{message, serialize, traits::HasTypeId};
use capnp_rpc::rpc_capnp as rpc;
use nix::time::{ClockId, clock_gettime};
use pintle_host::limits::EPOCH_TICK;
use pintle_wit::module_capnp::module;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};
use wasmtime::{
    Config, Engine, Store,
    component::{Component, Linker},
};

mod bare {
    wasmtime::component::bindgen!({ path: "../../wit/world.wit", world: "module" });
}

/// In turns, and calls of each in a turn.
const TURNS: usize = 20;
const CALLS: usize = 300;
/// Ticks that a call may take; none takes one.
const TICKS: u64 = 100;

/// What a call does for its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadlines {
    /// Nothing, and its code does not look.
    None,
    /// Its code looks.
    Compiled,
    /// The processor's time is read before and after, too, as the kernel does for each entry.
    Kept,
}

/// A guest on an engine of its own, with none of what the host has around it.
struct Bare {
    store: Store<()>,
    module: Module,
    deadlines: Deadlines,
    stop: Arc<AtomicBool>,
    ticker: Option<thread::JoinHandle<()>>,
}

impl Bare {
    /// Started as the kernel starts it, told nothing.
    fn start(wasm: &[u8], deadlines: Deadlines) -> Outcome<Self> {
        let mut config = Config::new();
        config.epoch_interruption(deadlines != Deadlines::None).cranelift_nan_canonicalization(true);
        let engine = Engine::new(&config)?;
        let component = Component::from_binary(&engine, wasm)?;
        let mut linker = Linker::<()>::new(&engine);
        for (name, _) in component.component_type().imports(&engine) {
            if name.starts_with("wasi:random/insecure-seed") {
                linker.instance(name)?.func_wrap("insecure-seed", |_, (): ()| Ok(((1_u64, 2_u64),)))?;
            }
        }
        linker.define_unknown_imports_as_traps(&component)?;
        let (mut store, stop) = (Store::new(&engine, ()), Arc::new(AtomicBool::new(false)));
        store.set_epoch_deadline(TICKS);
        let stopped = stop.clone();
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        };
        let ticker = (deadlines != Deadlines::None).then(|| thread::spawn(tick));
        let module = Module::instantiate(&mut store, &component, &linker)?;
        let mut guest = Self { store, module, deadlines, stop, ticker };
        guest.module.call_pump(&mut guest.store, &start_frames()?)?;
        Ok(guest)
    }

    fn ask(&mut self, interface: u64, method: u16, params: &[u8]) -> Outcome<usize> {
        let now = |kept: bool| if kept { clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(drop) } else { Ok(()) };
        let kept = self.deadlines == Deadlines::Kept;
        now(kept)?;
        if self.deadlines != Deadlines::None {
            self.store.set_epoch_deadline(TICKS);
        }
        let answer = self.module.call_call(&mut self.store, interface, method, params)?;
        now(kept)?;
        Ok(answer?.len())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ticker.take().into_iter().for_each(|ticker| drop(ticker.join()));
    }
}

/// Two frames: the bootstrap capability is asked for, and its `start` is called before it has come.
fn start_frames() -> Outcome<Vec<u8>> {
    let mut bootstrap = message::Builder::new_default();
    bootstrap.init_root::<rpc::message::Builder<'_>>().init_bootstrap().set_question_id(0);
    let mut start = message::Builder::new_default();
    let mut call = start.init_root::<rpc::message::Builder<'_>>().init_call();
    call.set_question_id(1);
    call.set_interface_id(module::Client::TYPE_ID);
    call.set_method_id(START);
    call.reborrow().get_send_results_to().set_caller(());
    call.reborrow().init_target().init_promised_answer().set_question_id(0);
    call.init_params().get_content().init_as::<module::start_params::Builder<'_>>().init_hello();
    Ok([bootstrap, start].iter().flat_map(serialize::write_message_to_words).collect())
}

/// Microseconds of what is asked, with each way of keeping deadlines; `before` comes first, once.
pub fn epochs(wasm: &[u8], before: &[(u64, u16, Vec<u8>)], asked: &(u64, u16, Vec<u8>)) -> Outcome<Value> {
    let all = [Deadlines::None, Deadlines::Compiled, Deadlines::Kept];
    let mut guests = all.iter().map(|deadlines| Bare::start(wasm, *deadlines)).collect::<Outcome<Vec<_>>>()?;
    let mut times = all.map(|_| Vec::new());
    for guest in &mut guests {
        for (interface, method, params) in before {
            guest.ask(*interface, *method, params)?;
        }
    }
    let (interface, method, params) = asked;
    for turn in 0..=TURNS {
        for (guest, times) in guests.iter_mut().zip(&mut times) {
            for _ in 0..CALLS {
                let started = Instant::now();
                guest.ask(*interface, *method, params)?;
                if turn > 0 {
                    times.push(started.elapsed());
                }
            }
        }
    }
    let [none, compiled, kept] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    });
    Ok(json!({"none_us": none, "compiled_us": compiled, "kept_us": kept}))
}
