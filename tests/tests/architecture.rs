//! Which room may know which, and how large the kernel may grow. `cargo metadata` is enough to hold the arrows.

use pintle_tests::workspace;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// May depend on: (crate, crates of ours it may name). Third-party crates are free unless listed in `OWNERS`.
const ARROWS: &[(&str, &[&str])] = &[
    ("pintle-cel", &["pintle-values"]),
    ("pintle-schema", &[]),
    ("pintle-structural", &["pintle-cel"]),
    ("pintle-policies", &["pintle-cel", "pintle-structural"]),
    ("pintle-values", &[]),
    ("pintle-wit", &[]),
    ("pintle-store", &[]),
    ("pintle-api", &["pintle-structural", "pintle-values", "pintle-policies"]),
    ("pintle-registry", &["pintle-store", "pintle-api", "pintle-policies"]),
    ("pintle-server", &["pintle-registry", "pintle-api", "pintle-pki", "pintle-policies", "pintle-streams", "pintle-wit", "pintle-store"]),
    ("pintle-record", &["pintle-wit"]),
    ("pintle-signing", &[]),
    ("pintle-replay", &["pintle-host", "pintle-record", "pintle-wit"]),
    ("pintle-host", &["pintle-record", "pintle-registry", "pintle-signing", "pintle-api", "pintle-wit", "pintle-store"]),
    (
        "pintle-kernel",
        &["pintle-cluster", "pintle-pki", "pintle-store", "pintle-api", "pintle-registry", "pintle-server", "pintle-host", "pintle-wit"],
    ),
    ("pintle-sdk", &["pintle-wit", "pintle-values"]),
    ("pintle-module", &["pintle-signing"]),
    ("pintle-runtime-bridge", &["pintle-signing", "pintle-wit"]),
    ("pintle-cri", &["pintle-runtime-bridge", "pintle-streams"]),
    ("pintle-cluster", &["pintle-pki"]),
    ("pintle-pki", &[]),
    ("pintle-streams", &[]),
    ("pintle-host-node", &["pintle-cri", "pintle-pki", "pintle-runtime-bridge", "pintle-wit", "pintle-values"]),
];

/// Heavy dependencies have one owner.
const OWNERS: &[(&str, &[&str])] = &[
    ("redb", &["pintle-store"]),
    ("wasmtime", &["pintle-host"]),
    ("cgroups-rs", &["pintle-runtime-bridge"]),
    ("oci-client", &["pintle-runtime-bridge"]),
    ("rtnetlink", &["pintle-host-node"]),
];

/// Lines of code that kernel/ may hold, without generated code and tests.
const KERNEL_LINES_MAX: usize = 30_000;

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let normal = |d: &&Value| d["kind"].is_null();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| {
            let names = p["dependencies"].as_array().into_iter().flatten().filter(normal).map(|d| text(&d["name"])).collect();
            (text(&p["name"]), names)
        })
        .collect()
}

#[test]
fn every_room_depends_only_on_the_rooms_it_may_know() {
    for (name, all) in dependencies() {
        let ours = all.iter().filter(|d| d.starts_with("pintle-"));
        let allowed: &[&str] = match ARROWS.iter().find(|(n, _)| *n == name) {
            Some((_, allowed)) => allowed,
            None if name.starts_with("pintle-module-") || name.starts_with("pintle-adapter-") => &["pintle-sdk"],
            None if ["pintle-tests", "pintle-fuzz", "xtask"].contains(&name.as_str()) => continue,
            None => panic!("{name} has no row in ARROWS"),
        };
        for dependency in ours {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn heavy_dependencies_have_one_owner() {
    for (name, all) in dependencies() {
        for (heavy, owners) in OWNERS {
            assert!(!all.iter().any(|d| d == heavy) || owners.contains(&name.as_str()), "{name} must not depend on {heavy}");
        }
    }
}

#[test]
fn the_kernel_stays_small() {
    let lines = count(&workspace().join("kernel"));
    println!("kernel/ holds {lines} lines of code");
    assert!(lines <= KERNEL_LINES_MAX, "kernel/ holds {lines} lines, more than {KERNEL_LINES_MAX}");
}

/// Lines that are neither blank nor comment in the Rust files below `dir`, outside tests, examples and generated code.
fn count(dir: &Path) -> usize {
    let skipped = ["tests", "examples", "generated", "target", "benches"];
    let mut lines = 0;
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            lines += if skipped.contains(&name.as_str()) { 0 } else { count(&path) };
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("readable");
            lines += text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//")).count();
        }
    }
    lines
}
