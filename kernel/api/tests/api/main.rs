//! The crate against upstream's facts. Data that lives outside the project is read where it is there, and skipped aloud where not.

mod apply;
mod custom;
mod decode;
mod defaults;
mod definitions;
mod discovery;
mod fixtures;
mod openapi;
mod patch;
mod printer;
mod proto;
mod status;
mod strategy;
mod table;
mod validate;

use std::path::PathBuf;

/// A folder or file of shared test data, or `None` with a word about it.
fn shared_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PINTLE_TEST_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {name} at {} (PINTLE_TEST_DATA names another folder)", root.display());
    None
}

/// The resource served at `version/plural` or `group/version/plural`.
#[track_caller]
fn resource(path: &str) -> &'static pintle_api::Resource {
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version, plural) = match parts[..] {
        [version, plural] => ("", version, plural),
        [group, version, plural] => (group, version, plural),
        _ => panic!("{path}"),
    };
    pintle_api::Schema::builtin().resource(group, version, plural).unwrap_or_else(|| panic!("no resource {path}"))
}

/// An object from YAML, conformed to its type.
#[track_caller]
fn object(path: &str, yaml: &str) -> serde_json::Value {
    let decoded =
        pintle_api::decode::decode(pintle_api::Schema::builtin(), resource(path), yaml.as_bytes(), pintle_api::decode::Format::Yaml);
    let (value, issues) = decoded.unwrap_or_else(|e| panic!("{e}"));
    assert!(issues.is_empty(), "{issues:?}");
    value
}
