//! Every decoder of bytes from outside, with what must hold of it whatever the bytes.
//!
//! A [`Target`] is a function of bytes that panics when its property does not hold. One table, [`TARGETS`], is used twice:
//! `cargo xtask fuzz` runs a target under libFuzzer, guided by our code's coverage, and keeps what it finds in
//! `regressions/<target>/`; `tests/replay.rs` runs seeds, kept findings and some thousand seeded mutations of them in every test run.
//!
//! Reading order: `draw` (choosing and damaging bytes), `sample` (objects made from the schema table), `input` (how a target divides its
//! bytes), then the targets by whose bytes they read: `objects`, `patches`, `requests`, `rules`, `nodes`.

pub mod draw;
mod input;
mod nodes;
mod objects;
mod patches;
mod requests;
mod rules;
pub mod sample;

pub use nodes::clean;
pub use objects::{conform, through_every_form};
use std::path::PathBuf;

/// A decoder with its property.
pub struct Target {
    /// What it is called on the command line, and its folder of findings.
    pub name: &'static str,
    /// Panics when the property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations in every test run: fewer where one is slow.
    pub mutations: u64,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "json", run: objects::json, seeds: objects::json_seeds, mutations: 4000 },
    Target { name: "yaml", run: objects::yaml, seeds: objects::yaml_seeds, mutations: 2000 },
    Target { name: "object", run: objects::object, seeds: objects::object_seeds, mutations: 2000 },
    Target { name: "protobuf", run: objects::protobuf, seeds: objects::protobuf_seeds, mutations: 2000 },
    Target { name: "projection", run: objects::projection, seeds: objects::projection_seeds, mutations: 4000 },
    Target { name: "json-patch", run: patches::json_patch, seeds: patches::json_patch_seeds, mutations: 3000 },
    Target { name: "merge-patch", run: patches::merge_patch, seeds: patches::merge_patch_seeds, mutations: 3000 },
    Target { name: "strategic-patch", run: patches::strategic_patch, seeds: patches::strategic_patch_seeds, mutations: 3000 },
    Target { name: "apply", run: patches::apply, seeds: patches::apply_seeds, mutations: 1500 },
    Target { name: "label-selector", run: requests::label_selector, seeds: requests::label_selector_seeds, mutations: 5000 },
    Target { name: "field-selector", run: requests::field_selector, seeds: requests::field_selector_seeds, mutations: 3000 },
    Target { name: "request", run: requests::request, seeds: requests::request_seeds, mutations: 5000 },
    Target { name: "continue-token", run: requests::continue_token, seeds: requests::continue_token_seeds, mutations: 5000 },
    Target { name: "spdy", run: requests::spdy, seeds: requests::spdy_seeds, mutations: 3000 },
    Target { name: "websocket", run: requests::websocket, seeds: requests::websocket_seeds, mutations: 5000 },
    Target { name: "quantity", run: rules::quantity, seeds: rules::quantity_seeds, mutations: 8000 },
    Target { name: "cel", run: rules::cel, seeds: rules::cel_seeds, mutations: 3000 },
    Target { name: "structural", run: rules::structural, seeds: rules::structural_seeds, mutations: 3000 },
    Target { name: "definition", run: rules::definition, seeds: rules::definition_seeds, mutations: 1500 },
    Target { name: "json-path", run: rules::json_path, seeds: rules::json_path_seeds, mutations: 5000 },
    Target { name: "cron", run: rules::cron, seeds: rules::cron_seeds, mutations: 600 },
    Target { name: "dns", run: nodes::dns, seeds: nodes::dns_seeds, mutations: 4000 },
    Target { name: "cidr", run: nodes::cidr, seeds: nodes::cidr_seeds, mutations: 5000 },
    Target { name: "image-reference", run: nodes::image_reference, seeds: nodes::image_reference_seeds, mutations: 5000 },
    Target { name: "image-manifest", run: nodes::image_manifest, seeds: nodes::image_manifest_seeds, mutations: 3000 },
    Target { name: "image-layer", run: nodes::image_layer, seeds: nodes::image_layer_seeds, mutations: 600 },
];

/// Where the findings of a target are kept.
pub fn regressions(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target)
}

/// The kept findings of a target: file name and bytes, by name.
pub fn findings(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(regressions(target)).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).ok()?))).collect();
    found.sort();
    found
}
