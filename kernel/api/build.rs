//! Generates the schema table; how is told in `xtask/schema`.

use std::path::PathBuf;

fn main() {
    for watched in ["build.rs", "schema"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let folder = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("cargo did not set {name}")));
    pintle_schema::generate(&folder("CARGO_MANIFEST_DIR"), &folder("OUT_DIR"));
}
