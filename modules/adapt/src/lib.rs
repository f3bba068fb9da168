//! From WebAssembly that was not built for Pintle's pipe to a module: joined with the adapter for the interface that it exports.
//!
//! The problem: the kernel speaks one language with modules, and it should stay one. The answer: an adapter is WebAssembly, too. Guest
//! and adapter become one component, which the kernel cannot tell from any other module; so what it grants, limits, records and compares
//! holds for both together, and a fault of either ends both.
//!
//! The invariant: what comes out imports nothing but the pipe's `abort` and what a standard library drags in (`wasi:`), which the kernel
//! links to nothing. A guest that wants more is refused here, by the name of what it wants.

mod guest;
mod kube;
mod linked;
mod reactor;
mod wapc;

use guest::Guest;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use wac_graph::{
    CompositionGraph, EncodeOptions,
    types::{Package, Types},
};

/// An interface that guests may export, and the adapter that asks it.
struct Contract {
    /// Without its version.
    interface: &'static str,
    adapter: &'static str,
    /// The world of wit/module.wit that exports it, for core modules.
    world: Option<&'static str>,
}

const CONTRACTS: &[Contract] = &[
    Contract { interface: "pintle:module/admission", adapter: "admission", world: Some("admission-module") },
    Contract { interface: "pintle:module/controller", adapter: "controller", world: Some("controller-module") },
    Contract { interface: "pintle:module/wapc", adapter: "kubewarden", world: None },
    Contract { interface: "pintle:module/kube-scheduler", adapter: "kube-scheduler", world: None },
];

/// What a controller exports that reads, and what stands in for it where one does not: it never wants anything.
const READS: &str = "pintle:module/reads";
const NO_READS: &str = r#"(module (memory (export "memory") 1) (func (export "pintle:module/reads@1.0.0#wanted") (result i32) (i32.const 8)))"#;
/// The worlds of a controller that reads, and of what stands in.
const READING_WORLD: &str = "reading-controller-module";
const NO_READS_WORLD: &str = "no-reads";

/// What a module of the pipe's own exports.
const PIPE: [&str; 2] = ["pump", "call"];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// Not WebAssembly, or of a form that cannot be joined.
    #[error("it is no WebAssembly that can be adapted: {0}")]
    Unreadable(String),
    /// It exports no interface that there is an adapter for.
    #[error("it exports nothing that Pintle knows how to ask ({}), but {exports}", known())]
    NoContract {
        /// What it exports.
        exports: String,
    },
    /// It imports what no module can have.
    #[error("it imports {0}, which a module cannot have")]
    Import(String),
    /// The adapter is not where it should be.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// Where it should be.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

fn known() -> String {
    CONTRACTS.iter().map(|contract| contract.interface).chain([wapc::MARK]).collect::<Vec<_>>().join(", ")
}

/// A module out of `guest`: joined with an adapter from the folder `adapters` (`NAME.wasm`), or as it is when it speaks the pipe itself.
///
/// # Errors
/// As `AdaptError` says.
pub fn adapt(guest: Vec<u8>, adapters: &Path) -> Result<Vec<u8>, AdaptError> {
    let guest = if guest::is_core(&guest) { component(guest)? } else { guest };
    let mut graph = CompositionGraph::new();
    let package = Package::from_bytes("pintle:guest", None, guest.clone(), graph.types_mut()).map_err(unreadable)?;
    let world = &graph.types()[package.ty()];
    let exports: Vec<String> = world.exports.keys().cloned().collect();
    if PIPE.iter().all(|name| exports.iter().any(|export| export == name)) {
        return Ok(guest);
    }
    let exported = |contract: &&Contract| exports.iter().any(|name| unversioned(name) == contract.interface);
    let contract = CONTRACTS.iter().find(exported).ok_or_else(|| AdaptError::NoContract { exports: exports.join(", ") })?;
    if let Some(import) = world.imports.keys().find(|name| !name.starts_with("wasi:")) {
        return Err(AdaptError::Import(import.clone()));
    }
    let adapter = adapter(graph.types_mut(), &adapters.join(contract.adapter).with_extension("wasm"))?;
    let mut plugs = vec![graph.register_package(package).map_err(unreadable)?];
    if contract.adapter == "controller" && !exports.iter().any(|name| unversioned(name) == READS) {
        let none = wat::parse_str(NO_READS).map_err(unreadable)?;
        let none = reactor::component(&Guest::read(&none)?, none, NO_READS_WORLD)?;
        let none = Package::from_bytes("pintle:no-reads", None, none, graph.types_mut()).map_err(unreadable)?;
        plugs.push(graph.register_package(none).map_err(unreadable)?);
    }
    let adapter = graph.register_package(adapter).map_err(unreadable)?;
    wac_graph::plug(&mut graph, plugs, adapter).map_err(unreadable)?;
    graph.encode(EncodeOptions { processor: None, ..EncodeOptions::default() }).map_err(unreadable)
}

/// A core module as a component: a reactor that exports an interface of wit/module.wit itself, or a guest of waPC or of a scheduler.
fn component(core: Vec<u8>) -> Result<Vec<u8>, AdaptError> {
    let guest = Guest::read(&core)?;
    let exports = |interface: &str| guest.exports.iter().any(|(name, _)| name.starts_with(&format!("{interface}@")));
    if let Some(world) = CONTRACTS.iter().find_map(|contract| contract.world.filter(|_| exports(contract.interface))) {
        return reactor::component(&guest, core, if exports(READS) { READING_WORLD } else { world });
    }
    let contract = match () {
        () if guest.exports(wapc::MARK) => wapc::contract(),
        () if kube::is(&guest) => kube::contract(&guest),
        () => {
            let exports: Vec<&str> = guest.exports.iter().map(|(name, _)| name.as_str()).collect();
            return Err(AdaptError::NoContract { exports: exports.join(", ") });
        }
    };
    let core = guest::distinct(core)?;
    linked::component(&Guest::read(&core)?, &core, &contract)
}

fn adapter(types: &mut Types, path: &Path) -> Result<Package, AdaptError> {
    let bytes = fs::read(path).map_err(|source| AdaptError::Adapter { path: path.to_owned(), source })?;
    Package::from_bytes("pintle:adapter", None, bytes, types).map_err(unreadable)
}

/// The whole chain of what went wrong, in one line.
fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AdaptError {
    let error = error.into();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    AdaptError::Unreadable(text)
}

fn unversioned(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
