//! Generates the schema table: one row a field, for every generally available kind.
//!
//! Not a compiler of Rust: both source crates are themselves generated, with one strict layout, so lines are
//! enough, and every assumption about the layout is asserted (a new version of either crate either parses fully
//! or stops the build with the line that surprised it).
//!
//! Sources, in order of authority:
//! 1. k8s-openapi: types, JSON names, documentation, required fields, kinds and scopes, merge behaviour;
//! 2. k8s-pb: protobuf tags and the `+marker` comments (merge keys, list types, defaults);
//! 3. `schema/*.rows`: our own kinds, and facts that neither crate carries.
//!
//! Output: `table.rs` (arrays of integers, so that no relocation touches them at start), `strings.txt` and `docs.txt`.

#[path = "build/emit.rs"]
mod emit;
#[path = "build/model.rs"]
mod model;
#[path = "build/openapi.rs"]
mod openapi;
#[path = "build/protobuf.rs"]
mod protobuf;
#[path = "build/rows.rs"]
mod rows;
#[path = "build/source.rs"]
mod source;

use std::path::PathBuf;

fn main() {
    for watched in ["build.rs", "build", "schema"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let manifest_dir = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out_dir = PathBuf::from(var("OUT_DIR"));

    let openapi_dir = source::locate(&manifest_dir, "k8s-openapi");
    let protobuf_dir = source::locate(&manifest_dir, "k8s-pb");

    let mut model = openapi::read(&openapi_dir.join("src/v1_37"));
    rows::read_types(&mut model, &manifest_dir.join("schema/pintle.rows"));
    model.keep_reachable();
    let messages = protobuf::read(&protobuf_dir.join("src"));
    protobuf::annotate(&mut model, &messages);
    rows::read_overrides(&mut model, &manifest_dir.join("schema/overrides.rows"));
    emit::write(&model, &out_dir);
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}
