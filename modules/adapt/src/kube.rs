//! Guests of kube-scheduler-wasm-extension (<https://github.com/kubernetes-sigs/kube-scheduler-wasm-extension>): plugins of a scheduler.

use crate::{guest::Guest, linked::Contract};
use std::fmt::Write as _;

/// Functions of guests that are called, and what is made of their results; the adapter knows them by their numbers.
const SERVED: [(&str, Answer); 12] = [
    ("prefilter", Answer::Status),
    ("filter", Answer::Status),
    ("prescore", Answer::Status),
    ("score", Answer::StatusAndMore),
    ("normalizescore", Answer::Status),
    ("reserve", Answer::Status),
    ("unreserve", Answer::None),
    ("postfilter", Answer::StatusAndMore),
    ("permit", Answer::StatusAndMore),
    ("prebind", Answer::Status),
    ("bind", Answer::Status),
    ("postbind", Answer::None),
];

/// What a function returns.
enum Answer {
    None,
    /// 32 bits.
    Status,
    /// 64 bits.
    StatusAndMore,
}

/// Whether the guest is one.
pub fn is(guest: &Guest) -> bool {
    SERVED.iter().any(|(name, _)| guest.exports(name)) && guest.imports.iter().any(|import| import.module.starts_with("k8s.io/"))
}

/// What it and its host have agreed on. That `addpod` and `removepod` are never called is no loss: no pod is evicted for a plugin's sake, and they are asked for
/// that alone.
pub fn contract(guest: &Guest) -> Contract {
    let (mut imports, mut calls) = (String::new(), String::new());
    for (number, (name, answer)) in SERVED.iter().enumerate().filter(|(_, (name, _))| guest.exports(name)) {
        let (result, call) = match answer {
            Answer::None => ("", format!("(call ${name}) (call $result (i64.const 0))")),
            Answer::Status => (" (result i32)", format!("(call $result (i64.extend_i32_u (call ${name})))")),
            Answer::StatusAndMore => (" (result i64)", format!("(call $result (call ${name}))")),
        };
        let _ = writeln!(imports, "(import \"guest\" \"{name}\" (func ${name}{result}))");
        let _ = writeln!(calls, "(if (i32.eq (local.get $code) (i32.const {})) (then {call}))", usize::from(b'0') + number);
    }
    Contract {
        interface: "pintle:module/kube-scheduler@1.0.0",
        spaces: &["k8s.io/api", "k8s.io/scheduler", "k8s.io/klog"],
        calls: imports,
        host: include_str!("kube.wat").replace(";; {calls}", &calls),
    }
}
