//! The `pintle` command: the kernel itself, and a whole cluster on one machine.
//!
//! A thin executable: it parses arguments, assembles the rooms of `kernel/`, and prints errors. It decides nothing.

mod assemble;
mod services;

use clap::{Parser, Subcommand};
use std::{
    error::Error,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

/// A quarter of a create's processor time went to the C library's allocator, and what compiling modules took was never given back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Pintle: a Kubernetes-API-compatible orchestrator with the shape of a microkernel.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the kernel in the foreground: storage, API, module host, node link.
    Kernel(assemble::KernelArgs),
    /// Starts a cluster on this machine, or repairs one that lost processes.
    Up(pintle_cluster::UpArgs),
    /// Stops a cluster and removes every process, mount, namespace, cgroup and link of it.
    Down(pintle_cluster::DownArgs),
    /// Prints the names and addresses that a cluster uses on this machine.
    Layout {
        /// Where the state is kept.
        #[arg(long, default_value = ".pintle")]
        data_dir: PathBuf,
    },
    /// Makes, tests, builds and loads modules: runs the program `pintle-module`, which lies beside this one.
    #[command(disable_help_flag = true)]
    Module {
        /// Its arguments; `pintle module --help` tells them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Verb::Kernel(args) => assemble::run(args).await.map_err(|e| Box::new(e) as Box<dyn Error>),
        Verb::Up(args) => pintle_cluster::up(args).await.map_err(Into::into),
        Verb::Down(args) => pintle_cluster::down(&args).map_err(Into::into),
        Verb::Module { args } => module(&args),
        Verb::Layout { data_dir } => pintle_cluster::Layout::new(&data_dir).map(|l| print!("{l}")).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("pintle: {error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                eprint!(": {inner}");
                cause = inner.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Becomes `pintle-module`; comes back only when it cannot.
fn module(args: &[OsString]) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("pintle-module");
    let error = Command::new(&program).args(args).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}
