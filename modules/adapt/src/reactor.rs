//! A reactor (a core module that exports the functions of an interface of `wit/module.wit` by the canonical ABI, and calls WASI preview 1) as a component:
//! what Go's own toolchain makes.
//!
//! What it calls of preview 1 is served by `preview1.wat` out of WASI 0.2, as the kernel links it. That is ours and not the usual adapter, because
//! that one grows the guest's memory for itself, and Go takes all that memory grows by for its own.

use crate::{AdaptError, guest::Guest, unreadable};
use std::fmt::Write as _;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What the guest may import functions of.
const PREVIEW1: &str = "wasi_snapshot_preview1";
/// Its functions, as far as they do something.
const SERVED: &str = include_str!("preview1.wat");
/// What of WASI 0.2 they are made of.
const SERVED_BY: &str = include_str!("preview1.wit");
/// The contract.
const MODULE: &str = include_str!("../../../wit/module.wit");

/// The component.
///
/// # Errors
/// `Import` when it wants more than preview 1; `Unreadable` when its exports are not those of `world`.
pub fn component(guest: &Guest, mut core: Vec<u8>, world: &str) -> Result<Vec<u8>, AdaptError> {
    if let Some(other) = guest.others.first() {
        return Err(AdaptError::Import(other.clone()));
    }
    if let Some(import) = guest.imports.iter().find(|import| import.module != PREVIEW1) {
        return Err(AdaptError::Import(import.key()));
    }
    let mut served = wat::parse_str(preview1(guest)).map_err(unreadable)?;
    describe(&mut served, SERVED_BY, "served")?;
    describe(&mut core, MODULE, world)?;
    let mut encoder = ComponentEncoder::default();
    encoder.module(&core).and_then(|encoder| encoder.adapter(PREVIEW1, &served)).map_err(unreadable)?;
    encoder.encode().map_err(unreadable)
}

/// `preview1.wat`, with what else the guest calls.
fn preview1(guest: &Guest) -> String {
    let mut text = String::new();
    for import in guest.imports.iter().filter(|import| !SERVED.contains(&format!("(export \"{}\")", import.name))) {
        let _ = writeln!(text, "(func (export \"{}\"){} {})", import.name, import.signature(), import.refusal());
    }
    match SERVED.trim_end().strip_suffix(')') {
        Some(open) => format!("{open}\n{text})"),
        None => SERVED.to_owned(),
    }
}

/// Writes into a core module which world of `wit` its imports and exports mean.
fn describe(core: &mut Vec<u8>, wit: &str, world: &str) -> Result<(), AdaptError> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit).map_err(unreadable)?;
    let world = resolve.select_world(&[package], Some(world)).map_err(unreadable)?;
    embed_component_metadata(core, &resolve, world, StringEncoding::UTF8).map_err(unreadable)
}
