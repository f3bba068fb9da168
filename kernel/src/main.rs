//! The `pintle` command: the kernel itself, and a whole cluster on one machine.
//!
//! A thin executable: it parses arguments, assembles the rooms of `kernel/`, and prints errors. It decides nothing.

mod assemble;
mod cluster;
mod services;

use clap::{Parser, Subcommand};
use std::{error::Error, path::PathBuf, process::ExitCode};

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
    Up(cluster::UpArgs),
    /// Stops a cluster and removes every process, mount, namespace, cgroup and link of it.
    Down(cluster::DownArgs),
    /// Prints the names and addresses that a cluster uses on this machine.
    Layout {
        /// Where the state is kept.
        #[arg(long, default_value = ".pintle")]
        data_dir: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Verb::Kernel(args) => assemble::run(args).await.map_err(|e| Box::new(e) as Box<dyn Error>),
        Verb::Up(args) => cluster::up(args).await.map_err(Into::into),
        Verb::Down(args) => cluster::down(&args).map_err(Into::into),
        Verb::Layout { data_dir } => cluster::Layout::new(&data_dir).map(|l| print!("{l}")).map_err(Into::into),
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
