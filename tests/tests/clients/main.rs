//! Clients that others wrote against a kernel without nodes: client-go, kube-rs, the Python client, kubectl and Helm.
//!
//! `cargo xtask test` makes the clients first; one whose tools are not on this machine is skipped and says so. The kernel is a process
//! of its own on a free port with its state in a folder that is removed, so these tests need neither root nor the machine's networks.
//! Modules: `kernel` starts and stops it, `transcript` runs the command lines of `tests/clients/commands`, `tutorial` those of
//! `docs/other-languages.md`.

mod kernel;
mod transcript;
mod tutorial;

use kernel::Kernel;
use libtest_mimic::{Arguments, Failed, Trial};
use pintle_tests::clients::{CLIENTS, folder, sources};

/// Programs that transcripts are about; the first word of a transcript's name says which.
const COMMANDS: [&str; 2] = ["kubectl", "helm"];
/// Scenarios that need a node are run by the tests of the whole system.
const NEEDS_A_NODE: &str = "pod_";

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, scenarios().into_iter().chain(transcripts()).chain(tutorial::trials()).collect());
    kernel::stop();
    conclusion.exit();
}

/// A trial for each scenario of each client program.
fn scenarios() -> Vec<Trial> {
    let mut trials = Vec::new();
    for client in CLIENTS {
        let names = match client.is_there().then(|| client.scenarios()) {
            Some(Ok(names)) => names,
            Some(Err(error)) => {
                trials.push(Trial::test(client.name, move || Err(Failed::from(error))));
                continue;
            }
            None => {
                trials.push(skipped(client.name));
                continue;
            }
        };
        trials.extend(names.into_iter().filter(|name| !name.starts_with(NEEDS_A_NODE)).map(|scenario| {
            Trial::test(format!("{}_{scenario}", client.name), move || {
                let kernel = Kernel::get().map_err(Failed::from)?;
                pintle_tests::run(client.command(&scenario).env("KUBECONFIG", kernel.kubeconfig())).map(drop).map_err(Failed::from)
            })
        }));
    }
    trials
}

/// A trial for each transcript.
fn transcripts() -> Vec<Trial> {
    let folder_of_commands = sources().join("commands");
    let mut files: Vec<_> = std::fs::read_dir(&folder_of_commands).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let there = COMMANDS.iter().all(|command| folder().join(command).exists());
    files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            if !there {
                return skipped(&name);
            }
            Trial::test(name, move || {
                let kernel = Kernel::get().map_err(Failed::from)?;
                transcript::check(kernel, &path).map_err(Failed::from)
            })
        })
        .collect()
}

/// A client that was not made here.
fn skipped(name: &str) -> Trial {
    println!("skipped: {name} was not built; `cargo xtask test` does it where its tools are (go 1.21 or later, python3)");
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}
