//! The crate against upstream's facts. Data that lives outside the project is read where it is there, and skipped aloud where not.

mod decode;
mod fixtures;
mod status;
mod table;

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
