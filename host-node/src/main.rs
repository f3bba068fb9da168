//! The `host-node` program: helper hook, command line, logs, then the daemon. Everything else is in the library.

use clap::Parser;
use pintle_host_node::options::{Command, Line};
use tracing_subscriber::EnvFilter;

fn main() -> std::process::ExitCode {
    // Before any thread exists: this same binary is the container helper, and a CNI plugin.
    pintle_runtime_bridge::helper::maybe_run();
    pintle_host_node::plugin::maybe_run();
    let mut line = Line::parse();
    let filter = EnvFilter::try_from_env("PINTLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let result = match line.command.take() {
        Some(Command::Purge(options)) => pintle_host_node::purge::run(&options),
        None => match line.into_node() {
            Some(options) => pintle_host_node::node::run(options),
            None => Err(pintle_host_node::Error::invalid("command line", "see --help")),
        },
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-node: {}", pintle_host_node::Error::chain(&error));
            std::process::ExitCode::FAILURE
        }
    }
}
