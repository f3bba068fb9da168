//! The hostile parts, one for each sin. Every one is chosen by `mode`, and honest until its moment comes.

use crate::{parts::Granted, vat, Pumped};
use capnp_rpc::rpc_capnp;

fn endless() -> ! {
    let mut x = 1u64;
    loop {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1);
        std::hint::black_box(x);
    }
}

fn grow() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&held);
    }
}

/// A test overwrites the end of this in the compiled module, to make another digest that sins whatever its configuration.
static MARKER: &[u8; 22] = b"pintle-guest-is-honest";

fn is_sinful() -> bool {
    std::hint::black_box(MARKER).ends_with(b"sinful")
}

pub fn on_start(mode: &str) {
    match mode {
        "trap-at-start" => panic!("a panic at start"),
        "loop-at-start" => endless(),
        _ => {}
    }
}

pub fn on_call(mode: &str) {
    match mode {
        _ if is_sinful() => panic!("a sinful version"),
        "loop" => endless(),
        "grow" => grow(),
        "trap" => {
            crate::abort("the guest gives up");
            panic!("a panic in a hot call")
        }
        _ => {}
    }
}

pub async fn on_reconcile(mode: &str, exports: &[Granted]) -> Result<(), capnp::Error> {
    match mode {
        _ if is_sinful() => panic!("a sinful version"),
        "loop" => endless(),
        "grow" => grow(),
        "trap" => {
            crate::abort("the guest gives up");
            panic!("a panic in a reconcile")
        }
        "toil" => drop((0..30_000_000u64).fold(1, |x, n| std::hint::black_box(x ^ n))),
        "flood" => flood(exports),
        "steady-flood" => steady(exports),
        "print" => {
            for i in 0..100_000 {
                println!("line {i}");
            }
        }
        _ => {}
    }
    Ok(())
}

fn reader(exports: &[Granted]) -> Option<pintle_wit::objects_capnp::object_reader::Client> {
    exports.iter().find_map(|e| if let Granted::Reader(_, c) = e { Some(c.clone()) } else { None })
}

/// More calls in one slice than a slice may hold.
fn flood(exports: &[Granted]) {
    let Some(reader) = reader(exports) else { return };
    for _ in 0..5_000 {
        let promise = reader.list_request().send().promise;
        vat::spawn(async move {
            let _ = promise.await;
        });
    }
}

/// One call at a time, for ever, never answering.
fn steady(exports: &[Granted]) {
    let Some(reader) = reader(exports) else { return };
    vat::spawn(async move {
        loop {
            for promise in (0..64).map(|_| reader.list_request().send().promise).collect::<Vec<_>>() {
                let _ = promise.await;
            }
        }
    });
}

pub fn after_pump(mode: &str, honest: Pumped) -> Pumped {
    match mode {
        "malformed" => Pumped { frames: vec![0xff; 64], more: false },
        "half-frame" => Pumped { frames: vec![0, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3], more: false },
        "junk-message" => Pumped { frames: [vec![0, 0, 0, 0, 4, 0, 0, 0], vec![0x5a; 32]].concat(), more: false },
        "oversize" => Pumped { frames: vec![0u8; 17 << 20], more: false },
        "forged" => besides(honest, forged_call),
        "smuggled" => besides(honest, smuggled),
        "pipelined" => besides(honest, pipelined),
        "released" => besides(honest, |message| message.init_release().set_id(4242)),
        "released-again" => besides(honest, released_again),
        "answered" => besides(honest, answered),
        "embargoed" => besides(honest, embargoed),
        "more-for-ever" => Pumped { frames: honest.frames, more: true },
        _ => honest,
    }
}

/// A message of the RPC protocol after the honest ones.
fn besides(honest: Pumped, fill: impl FnOnce(rpc_capnp::message::Builder)) -> Pumped {
    let mut message = capnp::message::Builder::new_default();
    fill(message.init_root());
    Pumped { frames: [honest.frames, capnp::serialize::write_message_to_words(&message)].concat(), more: honest.more }
}

/// A call on a capability that the host never gave.
fn forged_call(message: rpc_capnp::message::Builder) {
    let mut call = message.init_call();
    call.set_question_id(7);
    call.set_interface_id(0xb01f00000000c10d);
    call.set_method_id(1);
    call.init_target().set_imported_cap(4242);
}

/// A call that carries a capability of somebody else's in its parameters.
fn smuggled(message: rpc_capnp::message::Builder) {
    let mut call = message.init_call();
    call.set_question_id(7);
    call.set_interface_id(0xb01f00000000c10d);
    call.reborrow().init_target().set_imported_cap(0);
    call.init_params().init_cap_table(1).get(0).set_receiver_hosted(4242);
}

/// A call on what a question will answer that was never asked.
fn pipelined(message: rpc_capnp::message::Builder) {
    let mut call = message.init_call();
    call.set_question_id(7);
    call.init_target().init_promised_answer().set_question_id(4242);
}

/// A capability given back more often than it was given.
fn released_again(message: rpc_capnp::message::Builder) {
    let mut release = message.init_release();
    release.set_id(0);
    release.set_reference_count(u32::MAX);
}

/// An answer to what the host never asked.
fn answered(message: rpc_capnp::message::Builder) {
    let mut answer = message.init_return();
    answer.set_answer_id(4242);
    answer.init_exception().set_reason("surprise");
}

/// A lock on a path that is not there is opened.
fn embargoed(message: rpc_capnp::message::Builder) {
    let mut disembargo = message.init_disembargo();
    disembargo.reborrow().init_target().set_imported_cap(4242);
    disembargo.init_context().set_receiver_loopback(4242);
}
