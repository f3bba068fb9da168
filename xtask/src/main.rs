//! Developer commands: `cargo xtask up | down | test | conformance | fuzz | bench | churn | cri | vm | modules | wit | ci`.
//!
//! Each says what it installs before it does, shows what it is doing, and ends at the first failure. It orchestrates programs (cargo,
//! apt-get, the `pintle` command); what it knows of the product is only how to build and start it.

mod bench;
mod churn;
mod compile;
mod conformance;
mod cri;
mod demo;
mod fuzz;
mod needs;
mod shell;
mod vm;
mod wit;

use std::{error::Error, process::ExitCode};

type Outcome = Result<(), Box<dyn Error>>;

const USAGE: &str = "\
cargo xtask COMMAND

  up [--nodes N]     install what is missing, build, start a cluster (3 nodes), run the example
  down [--keep-data] stop it and remove what it left on this machine
  test [FILTER]      every test, with real containers and a real kubectl
  conformance [FOCUS] [--parallel N] [--built]
                     the upstream conformance suite; writes tests/conformance/RESULTS.md
  fuzz [TARGET...] [--seconds N]
                     search for inputs that break a decoder; keeps them in tests/fuzz/regressions
  bench [ROW...]     measure; writes target/bench.json
  churn [--pods N] [--seconds S] [--seed X]    pods of one node under random kills; 200 for ten minutes
  cri [FILTER...]    the suite of a node with real containers, its pods on Debian's containerd
  vm [containers|node|selinux|bench] [FILTER...]
                     the suites of real containers with cgroup v2 and AppArmor on Debian's kernel, in a virtual machine; the same
                     kernel with SELinux; or a container's life there against runc's and crun's
  modules            build the built-in modules to target/release/modules
  wit [--check]      regenerate the code of the schemas, or fail when it is stale
  ci                 what .ci/run calls: formatting, schemas, then test
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if fuzz::is_rustc() {
        return fuzz::rustc(&args);
    }
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("up") => demo::up(rest),
        Some("down") => demo::down(rest),
        Some("test") => test(rest),
        Some("conformance") => conformance::conformance(rest),
        Some("fuzz") => fuzz::fuzz(rest),
        Some("bench") => bench::bench(rest),
        Some("churn") => churn::churn(rest),
        Some("cri") => cri::cri(rest),
        Some("vm") => vm::vm(rest),
        Some("modules") => needs::wasm_target().and_then(|()| compile::modules()),
        Some("wit") if rest.iter().any(|a| a == "--check") => needs::packages(&[needs::CAPNP]).and_then(|()| wit::check(&shell::root())),
        Some("wit") => needs::packages(&[needs::CAPNP]).and_then(|()| wit::regenerate(&shell::root())),
        Some("ci") => ci(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds everything once and runs every test of the workspace, then the stable part of the upstream suite. A filter is for the workspace's tests alone.
fn test(filter: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    needs::wasm_target()?;
    let upstreams = filter.is_empty().then(conformance::ahead);
    compile::everything()?;
    compile::modules()?;
    compile::examples()?;
    compile::policy()?;
    compile::guests()?;
    compile::clients()?;
    let mut args = vec!["test", "--release", "--workspace", "--no-fail-fast"];
    if !filter.is_empty() {
        args.push("--");
        args.extend(filter.iter().map(String::as_str));
        return shell::cargo(&args);
    }
    let (ours, adapt, go) = (shell::cargo(&args), compile::adapt_tests(), compile::go_tests());
    // What went wrong there goes wrong again, and is said.
    let _ = upstreams.map(std::thread::JoinHandle::join);
    ours.and(adapt).and(go).and(conformance::stable())
}

/// Formatting and schemas first, because they fail fast.
fn ci() -> Outcome {
    needs::packages(&[needs::CAPNP])?;
    wit::check(&shell::root())?;
    shell::cargo(&["fmt", "--all", "--check"])?;
    test(&[])
}
