//! `cargo xtask wit [--check]`: regenerates `wit/src/generated/` from the schemas, or fails when it is stale.
//! Needs the `capnp` compiler (Debian package capnproto); nothing else in the project does.

use std::{error::Error, fs, path::Path};

/// Generates the Rust code of every schema in `wit/` into `out`.
fn generate(wit: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out)?;
    let mut command = capnpc::CompilerCommand::new();
    command.src_prefix(wit).output_path(out).default_parent_module(vec!["generated".into()]);
    for entry in fs::read_dir(wit)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "capnp") {
            command.file(path);
        }
    }
    Ok(command.run()?)
}

/// Rewrites the generated code.
pub fn regenerate(root: &Path) -> Result<(), Box<dyn Error>> {
    generate(&root.join("wit"), &root.join("wit/src/generated"))
}

/// Fails, naming the files, when the committed code is not what the schemas give.
pub fn check(root: &Path) -> Result<(), Box<dyn Error>> {
    let fresh = root.join("target/wit-check");
    generate(&root.join("wit"), &fresh)?;
    let mut stale = Vec::new();
    for entry in fs::read_dir(&fresh)? {
        let name = entry?.file_name();
        let committed = fs::read(root.join("wit/src/generated").join(&name)).unwrap_or_default();
        if committed != fs::read(fresh.join(&name))? {
            stale.push(name.to_string_lossy().into_owned());
        }
    }
    if stale.is_empty() { Ok(()) } else { Err(format!("stale: {}; run `cargo xtask wit`", stale.join(", ")).into()) }
}
