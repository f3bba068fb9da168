//! `pintle module new | test | build | adapt | push | logs`: from an empty folder to a running module; `shadow | compare | promote | rollback | record |
//! replay`: from one version to the next.
//!
//! It runs the user's own cargo (or npm, Python or Go) and kubectl, and knows nothing of the kernel: a module is a crate that depends on modules/sdk, or a
//! component that exports an interface of wit/module.wit, and loading one is a write to the API like any other.

mod cluster;
mod project;
mod toolchain;
mod versions;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Makes, tests, builds and loads modules.
#[derive(Debug, Parser)]
#[command(name = "pintle module", version)]
struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a folder with a module that works: a controller that greets namespaces, a rule about images, or a plugin of
    /// the scheduler.
    New {
        /// Name of the module and of the folder: lower case letters, digits and dashes.
        name: String,
        /// What it is.
        #[arg(long, value_enum, default_value = "controller")]
        kind: project::Kind,
        /// What it is written in: rust; or, an admission rule or a controller, in go, javascript or python.
        #[arg(long, value_enum, default_value = "rust")]
        language: project::Language,
        /// The folder of Pintle's SDK (modules/sdk); by default the one that this program was built beside.
        #[arg(long)]
        sdk: Option<PathBuf>,
    },
    /// Runs the module's tests natively, without a cluster.
    Test,
    /// Builds the module, and says what came out.
    Build,
    /// Makes a module of WebAssembly that was not built for Pintle's pipe: a component, or a reactor for WASI preview 1, that
    /// exports an interface of wit/module.wit, or a policy of Kubewarden.
    Adapt {
        /// The component or core module.
        guest: PathBuf,
        /// Where the module goes.
        #[arg(short, long, default_value = "module.wasm")]
        out: PathBuf,
    },
    /// Builds the module, writes it to the cluster that kubectl talks to, and waits until it runs. The one that runs is swapped.
    Push {
        /// Push the component to this registry (HOST/NAME:TAG) and let the kernel pull it from there by its digest.
        #[arg(long)]
        to: Option<String>,
    },
    /// Makes a key for signing.
    NewKey {
        /// FILE.key and FILE.pub are made.
        file: PathBuf,
    },
    /// Signs a module in a registry, as cosign does with a key.
    Sign {
        /// HOST/NAME@sha256:..., as `push --to` said it.
        reference: String,
        /// The key: ECDSA P-256, PKCS#8, not encrypted.
        #[arg(long)]
        key: PathBuf,
    },
    /// Builds the module and lets it be asked what the running version is asked; its answers are compared, and do nothing.
    Shadow {
        /// Push the component to this registry (HOST/NAME:TAG) and let the kernel pull it from there by its digest.
        #[arg(long)]
        to: Option<String>,
        /// Let it answer for real for the objects of this namespace; may be repeated.
        #[arg(long)]
        namespace: Vec<String>,
        /// Let it answer for real for this share of the objects elsewhere.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: Option<u8>,
    },
    /// Says how often the shadow has answered otherwise, and how.
    Compare {
        /// Name of the module.
        name: String,
        /// End the shadow instead.
        #[arg(long)]
        stop: bool,
    },
    /// Lets the shadow take the place of the version that runs.
    Promote {
        /// Name of the module.
        name: String,
        /// Also when it has answered otherwise.
        #[arg(long)]
        despite_differences: bool,
    },
    /// Goes back to the version that ran before, or to another one of its history.
    Rollback {
        /// Name of the module.
        name: String,
        /// The version's digest (sha256:...).
        #[arg(long)]
        to: Option<String>,
    },
    /// Keeps what the module is asked and answers in a file on the kernel's machine, and says which.
    Record {
        /// Name of the module.
        name: String,
        /// Size of the file at most.
        #[arg(long)]
        max_bytes: Option<u64>,
        /// End the record; the file stays.
        #[arg(long)]
        stop: bool,
    },
    /// Asks a version what a record says that another was asked, without a cluster, and says where it answers otherwise.
    Replay {
        /// The record.
        record: PathBuf,
        /// The component; by default the module of this folder, built.
        component: Option<PathBuf>,
    },
    /// Prints what the kernel on this machine logged of a module.
    Logs {
        /// Name of the module.
        name: String,
        /// Go on as more is logged.
        #[arg(short, long)]
        follow: bool,
        /// Where the cluster's state is kept; by default where $KUBECONFIG lies, else .pintle.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A name that no module can have.
    #[error("{0:?} is not a module's name: lower case letters, digits and dashes, beginning with a letter")]
    Name(String),
    /// The folder is there already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// There is no example to begin with.
    #[error(
        "there is no example of a {kind:?} in {language:?}; wit/module.wit says what one has to export, and any tool for components will do"
    )]
    NoTemplate {
        /// What was asked for.
        kind: project::Kind,
        /// In what.
        language: project::Language,
    },
    /// The folder shows no language.
    #[error("there is no Cargo.toml, package.json, requirements.txt, go.mod or guest.wasm here: a module is built in its own folder")]
    NoToolchain,
    /// The SDK is not where it should be.
    #[error("there is no SDK at {0}; say where modules/sdk of Pintle's source is with --sdk")]
    NoSdk(PathBuf),
    /// A file or program cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What happened.
        source: std::io::Error,
    },
    /// A program failed; it has said why.
    #[error("{0} failed")]
    Program(String),
    /// What a program or file said cannot be understood.
    #[error("{what}: {problem}")]
    Unexpected {
        /// Which.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The module does not run.
    #[error("{name} is {state}: {message}")]
    NotRunning {
        /// Name of the module.
        name: String,
        /// From its status.
        state: String,
        /// From its status.
        message: String,
    },
}

impl CliError {
    /// For `map_err` on I/O.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `ok_or_else` and `map_err` on contents.
    pub fn unexpected(what: &str, problem: impl ToString) -> Self {
        Self::Unexpected { what: what.to_owned(), problem: problem.to_string() }
    }
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Verb::New { name, kind, language, sdk } => project::new(&name, kind, language, sdk),
        Verb::Test => toolchain::Toolchain::here().and_then(toolchain::Toolchain::test),
        Verb::Adapt { guest, out } => project::adapt(&guest, &out).map(drop),
        Verb::Build => project::build().map(|built| println!("{built}")),
        Verb::Push { to } => project::build().and_then(|built| cluster::push(&built, to.as_deref())),
        Verb::NewKey { file } => cluster::new_key(&file),
        Verb::Sign { reference, key } => cluster::sign(&reference, &key),
        Verb::Shadow { to, namespace, percent } => {
            project::build().and_then(|built| versions::shadow(&built, to.as_deref(), &namespace, percent))
        }
        Verb::Compare { name, stop } => versions::compare(&name, stop),
        Verb::Promote { name, despite_differences } => versions::promote(&name, despite_differences),
        Verb::Rollback { name, to } => versions::rollback(&name, to.as_deref()),
        Verb::Record { name, max_bytes, stop } => versions::record(&name, max_bytes, stop),
        Verb::Replay { record, component } => {
            let component = component.map_or_else(|| project::build().map(|built| built.path), Ok);
            match component.and_then(|component| versions::replay(&record, &component)) {
                Ok(code) => return ExitCode::from(code),
                Err(error) => Err(error),
            }
        }
        Verb::Logs { name, follow, data_dir } => cluster::logs(&name, follow, data_dir),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pintle module: {error}");
            ExitCode::FAILURE
        }
    }
}
