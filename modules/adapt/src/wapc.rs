//! Guests of waPC (<https://wapc.io>): what Kubewarden's policies are built for.

use crate::linked::Contract;

/// What a guest of waPC exports.
pub const MARK: &str = "__guest_call";

/// What it and its host have agreed on.
pub fn contract() -> Contract {
    Contract {
        interface: "pintle:module/wapc@1.0.0",
        spaces: &["wapc"],
        calls: format!("(import \"guest\" \"{MARK}\" (func $guest_call (param i32 i32) (result i32)))\n"),
        host: include_str!("wapc.wat").to_owned(),
    }
}
