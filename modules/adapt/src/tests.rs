//! What is refused, by name; and what is made of a guest of waPC, checked by a validator. That the whole works is shown by the tutorial's tests.

use super::{AdaptError, adapt, component};
use std::path::Path;
use wasmparser::{Validator, WasmFeatures};

/// A guest of waPC that does nothing, with more of the text format in it.
fn guest(more: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {more}
            (import "wapc" "__guest_request" (func (param i32 i32)))
            (memory (export "memory") 1)
            (func (export "wapc_init"))
            (func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1)))"#
    );
    wat::parse_str(text).expect("a guest")
}

fn check_refused(bytes: Vec<u8>, says: &str) {
    let refused = adapt(bytes, Path::new("nowhere")).map(|_| ()).expect_err("refused").to_string();
    assert!(refused.contains(says), "{refused}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    check_refused(b"not wasm".to_vec(), "no WebAssembly that can be adapted");
    check_refused(wat::parse_str("(module (func (export \"run\")))").expect("a module"), "but run");
    check_refused(wat::parse_str("(component)").expect("a component"), "exports nothing that Pintle knows");
}

#[test]
fn what_wants_more_than_a_module_can_have_is_refused_by_name() {
    check_refused(guest(r#"(import "env" "system" (func))"#), "imports env/system");
    check_refused(guest(r#"(import "wapc" "__fly" (func))"#), "imports wapc/__fly");
    check_refused(guest(r#"(import "env" "table" (table 1 funcref))"#), "imports env/table");
}

#[test]
fn a_guest_of_wapc_becomes_a_component() {
    let more = r#"(import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
                  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
                  (import "wasi:random/insecure-seed@0.2.9" "insecure-seed" (func (param i32)))"#;
    let component = component(guest(more)).expect("a component");
    Validator::new_with_features(WasmFeatures::all()).validate_all(&component).expect("valid");
    let name = b"pintle:module/wapc@1.0.0";
    assert!(component.windows(name.len()).any(|window| window == name), "it exports the interface");
}

#[test]
fn a_guest_needs_its_adapter() {
    assert!(matches!(adapt(guest(""), Path::new("/nowhere")), Err(AdaptError::Adapter { .. })));
}

/// A reactor that exports an interface of ours by the canonical ABI, with more of the text format in it. It starts by no error.
fn reactor(more: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {more}
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "pintle:module/controller@1.0.0#start") (param i32 i32 i32 i32) (result i32) (i32.const 64))
            (func (export "pintle:module/controller@1.0.0#reconcile") (param i32) (result i32) (unreachable)))"#
    );
    wat::parse_str(text).expect("a reactor")
}

#[test]
fn a_reactor_becomes_a_component_that_imports_what_it_calls() {
    let more = r#"(import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
                  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
                  (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#;
    let component = component(reactor(more)).expect("a component");
    Validator::new_with_features(WasmFeatures::all()).validate_all(&component).expect("valid");
    let has = |name: &str| component.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(has("pintle:module/controller@1.0.0") && has("wasi:cli/stdout@0.2.0"));
    assert!(!has("wasi:random/random@0.2.0"), "it does not call that");
    assert!(!has("wasi:clocks/"), "the time is looked at where nobody can be asked");
}

#[test]
fn a_reactor_that_wants_more_or_exports_less_is_refused_by_name() {
    check_refused(reactor(r#"(import "env" "system" (func))"#), "imports env/system");
    check_refused(reactor(r#"(import "wasi_snapshot_preview1" "memory" (memory 1))"#), "imports wasi_snapshot_preview1/memory");
    let half = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "pintle:module/admission@1.0.0#start")))"#);
    check_refused(half.expect("a module"), "pintle:module/admission@1.0.0#start");
}

/// A plugin of a scheduler that does nothing, with more of the text format in it.
fn plugin(more: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "k8s.io/scheduler" "currentNodeName" (func (param i32 i32) (result i32)))
            (import "k8s.io/api" "node" (func (param i32 i32 i32 i32) (result i32)))
            {more}
            (memory (export "memory") 1)
            (func (export "filter") (result i32) (i32.const 0))
            (func (export "score") (result i64) (i64.const 0)))"#
    );
    wat::parse_str(text).expect("a plugin")
}

#[test]
fn a_plugin_of_a_scheduler_becomes_a_component() {
    // What Go's toolchain does: one function is imported twice.
    let twice = r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                   (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32))) (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))"#;
    let all = r#"(import "k8s.io/scheduler" "nodeToStatusMap" (func (param i32 i32) (result i32)))
                 (import "k8s.io/scheduler" "result.nominated_node_name" (func (param i32 i32)))
                 (import "k8s.io/scheduler" "targetPod" (func (param i32 i32) (result i32)))"#;
    let more = r#"(func (export "postfilter") (result i64) (i64.const 0)) (func (export "permit") (result i64) (i64.const 0))
                  (func (export "prebind") (result i32) (i32.const 0)) (func (export "bind") (result i32) (i32.const 0)) (func (export "postbind"))
                  (func (export "addpod") (result i32) (i32.const 0))"#;
    let component = component(plugin(&format!("{twice}{all}{more}"))).expect("a component");
    Validator::new_with_features(WasmFeatures::all()).validate_all(&component).expect("valid");
    let name = b"pintle:module/kube-scheduler@1.0.0";
    assert!(component.windows(name.len()).any(|window| window == name), "it exports the interface");
}

#[test]
fn a_plugin_that_relies_on_what_is_not_served_is_refused_by_name() {
    check_refused(
        plugin(r#"(import "k8s.io/scheduler" "nodeImageStates" (func (param i32 i32 i32 i32) (result i32)))"#),
        "imports k8s.io/scheduler/nodeImageStates",
    );
}
