//! Generates the schema table: one row a field, for every generally available kind. kernel/api's build script calls it.
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
//! `schema/validation.rows` says what the types' objects are held to, `schema/resources.rows` what is known of each resource beyond its type.
//!
//! Output: `validation.rs`, `resources.rs`, `table.rs` (arrays of integers, so that no relocation touches them at start), `strings.txt` and `docs.txt`.

mod emit;
mod model;
mod openapi;
mod protobuf;
mod resources;
mod rows;
mod rules;
mod source;

use std::path::Path;

/// Writes the table of what the crates that `manifest_dir` depends on and its `schema/*.rows` say, into `out_dir`.
///
/// # Panics
/// When a source does not have the layout that is expected of it; the message names the line. A build stops there.
pub fn generate(manifest_dir: &Path, out_dir: &Path) {
    let openapi_dir = source::locate(manifest_dir, "k8s-openapi");
    let protobuf_dir = source::locate(manifest_dir, "k8s-pb");

    let mut model = openapi::read(&openapi_dir.join("src/v1_37"));
    rows::read_types(&mut model, &manifest_dir.join("schema/pintle.rows"));
    model.keep_reachable();
    let messages = protobuf::read(&protobuf_dir.join("src"));
    protobuf::annotate(&mut model, &messages);
    rows::read_overrides(&mut model, &manifest_dir.join("schema/overrides.rows"));
    rows::read_zeros(&mut model, &manifest_dir.join("schema/zeros.rows"));
    rules::write(&model, &manifest_dir.join("schema/validation.rows"), &out_dir.join("validation.rs"));
    resources::write(&model, &manifest_dir.join("schema/resources.rows"), &out_dir.join("resources.rs"));
    emit::write(&model, out_dir);
}
