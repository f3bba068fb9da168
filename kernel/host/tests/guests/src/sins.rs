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
        "forged" => Pumped { frames: [honest.frames, forged_call()].concat(), more: honest.more },
        "more-for-ever" => Pumped { frames: honest.frames, more: true },
        _ => honest,
    }
}

/// A call on a capability that the host never gave.
fn forged_call() -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut call = message.init_root::<rpc_capnp::message::Builder>().init_call();
    call.set_question_id(7);
    call.set_interface_id(0xb01f00000000c10d);
    call.set_method_id(1);
    call.init_target().set_imported_cap(4242);
    capnp::serialize::write_message_to_words(&message)
}
