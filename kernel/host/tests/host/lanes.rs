//! The engine alone: both lanes, deadlines, memory, the code cache.

use crate::world::{cache_dir, guest, guest_variant, scratch};
use capnp::{message, serialize, traits::HasTypeId};
use pintle_host::{
    FaultKind, Generation, HostError, ModuleId,
    engine::{Code, Engine, Instance, Vat},
};
use pintle_wit::{admission_capnp::admission, module_capnp::module};
use std::{
    fs,
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_millis(100);

async fn code() -> (Engine, Code) {
    let engine = Engine::new(Some(cache_dir())).expect("an engine");
    let code = engine.load(guest()).await.expect("the guest loads");
    (engine, code)
}

fn instance(code: &Code) -> Instance {
    Instance::new(code, ModuleId::new("test"), Generation(1), 64 << 20, DEADLINE).expect("an instance")
}

/// Starts the module with a mode and gives the vat.
async fn started(code: &Code, mode: &str) -> (Vat, Result<(), pintle_host::Fault>) {
    let vat = Vat::open(instance(code), DEADLINE);
    let module: module::Client = vat.bootstrap();
    let mut request = module.start_request();
    request.get().init_hello().set_config(format!("{{\"mode\":\"{mode}\"}}").as_bytes());
    let answer = vat.run(async move { request.send().promise.await?.get()?.get_info().map(|i| i.get_api_level()) }).await;
    (vat, answer.map(|level| assert_eq!(level.expect("the guest answers"), 1)))
}

fn review(object: &[u8]) -> Vec<u8> {
    let mut message = message::Builder::new_default();
    let mut review = message.init_root::<admission::review_params::Builder<'_>>().init_review();
    review.set_object(object);
    serialize::write_message_to_words(&message)
}

fn allowed(answer: &[u8]) -> bool {
    let message = serialize::read_message(answer, Default::default()).expect("a message");
    let results = message.get_root::<admission::review_results::Reader<'_>>().expect("results");
    results.get_verdict().expect("a verdict").get_allowed()
}

async fn in_local_set<T>(work: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(work).await
}

#[tokio::test]
async fn the_hot_lane_answers_one_message_with_one() {
    let (_engine, code) = code().await;
    let mut instance = instance(&code);
    let interface = admission::Client::TYPE_ID;
    let mut ask =
        |object: &str| allowed(&instance.call(interface, 0, &review(object.as_bytes()), DEADLINE).expect("no fault").expect("an answer"));
    assert!(ask("{\"spec\":{\"containers\":[{}]}}"));
    assert!(!ask("{\"spec\":{\"containers\":[{\"securityContext\":{\"privileged\":true}}]}}"));
    assert!(instance.call(interface, 99, &[], DEADLINE).expect("no fault").is_err(), "an unknown method is the guest's own error");
    assert!(instance.call(interface, 0, b"garbage", DEADLINE).expect("no fault").is_err());
}

#[tokio::test]
async fn the_rpc_lane_starts_a_module_and_gives_its_instance_back() {
    let (_engine, code) = code().await;
    in_local_set(async {
        let (vat, answer) = started(&code, "honest").await;
        answer.expect("no fault");
        let mut instance = vat.into_instance().expect("the instance lives");
        assert!(instance.call(admission::Client::TYPE_ID, 0, &review(b"{}"), DEADLINE).expect("no fault").is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_sin_on_the_hot_lane_ends_the_instance_and_names_it() {
    let (_engine, code) = code().await;
    for (mode, kind, says) in
        [("loop", FaultKind::Deadline, "deadline"), ("grow", FaultKind::Memory, "64 MiB"), ("trap", FaultKind::Trap, "the guest gives up")]
    {
        let fault = in_local_set(async {
            let (vat, answer) = started(&code, mode).await;
            answer.expect("it starts honestly");
            let mut instance = vat.into_instance().expect("the instance lives");
            let before = Instant::now();
            let fault = instance.call(admission::Client::TYPE_ID, 0, &review(b"{}"), Duration::from_millis(250)).expect_err(mode);
            assert!(before.elapsed() < Duration::from_secs(6), "{mode}");
            assert_eq!(instance.call(admission::Client::TYPE_ID, 0, &review(b"{}"), DEADLINE).expect_err("it stays dead"), fault);
            fault
        })
        .await;
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.to_string().contains(says), "{fault}");
        assert_eq!((fault.module.as_str(), fault.generation), ("test", Generation(1)));
    }
}

#[tokio::test]
async fn a_sin_on_the_rpc_lane_ends_the_vat_with_a_fault() {
    let (_engine, code) = code().await;
    for (mode, kind) in [
        ("trap-at-start", FaultKind::Trap),
        ("loop-at-start", FaultKind::Deadline),
        ("malformed", FaultKind::BadFrame),
        ("half-frame", FaultKind::BadFrame),
        ("oversize", FaultKind::BadFrame),
        ("forged", FaultKind::BadFrame),
        ("junk-message", FaultKind::BadFrame),
    ] {
        in_local_set(async {
            let (vat, answer) = started(&code, mode).await;
            let fault = match answer {
                Err(fault) => fault,
                Ok(()) => {
                    tokio::time::timeout(Duration::from_secs(2), vat.fault()).await.unwrap_or_else(|_| panic!("{mode} goes unnoticed"))
                }
            };
            assert_eq!(fault.kind, kind, "{mode}: {fault}");
        })
        .await;
    }
}

#[tokio::test]
async fn damaged_code_in_the_cache_is_compiled_again() {
    let dir = scratch("damaged-cache");
    let wasm = guest_variant("damage");
    let load = |expected: (u64, u64)| {
        let (dir, wasm) = (dir.clone(), wasm.clone());
        async move {
            let engine = Engine::new(Some(dir)).expect("an engine");
            let code = engine.load(wasm).await.expect("it loads");
            assert_eq!(engine.cache_counts(), expected);
            instance(&code);
        }
    };
    load((0, 1)).await;
    load((1, 0)).await;
    let entry = fs::read_dir(&dir).expect("the folder").next().expect("one entry").expect("an entry").path();
    let whole = fs::read(&entry).expect("the entry");
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 1;
    for damage in [&flipped[..], &whole[..middle]] {
        fs::write(&entry, damage).expect("damaged");
        load((0, 1)).await;
        assert_eq!(fs::read(&entry).expect("the entry").len(), whole.len(), "and kept again");
    }
}

#[tokio::test]
async fn what_is_not_a_module_is_refused_with_its_reason() {
    let engine = Engine::new(None).expect("an engine");
    let error = |wasm: Vec<u8>| {
        let engine = engine.clone();
        async move { engine.load(wasm.into()).await.err().expect("refused") }
    };
    assert!(matches!(error(b"not wasm".to_vec()).await, HostError::Compile(_)));
    assert!(matches!(error(b"\0asm\x01\0\0\0".to_vec()).await, HostError::Compile(_)), "a core module is not a component");
    assert!(matches!(error(b"\0asm\x0d\0\x01\0".to_vec()).await, HostError::NotAModule(_)), "an empty component has no pipe");
    assert!(matches!(error(vec![0; pintle_host::limits::WASM_BYTES_MAX + 1]).await, HostError::TooLarge { .. }));
}
