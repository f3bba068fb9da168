//! `cargo xtask fuzz [TARGET...] [--seconds N]`: targets of `tests/fuzz` under libFuzzer, on a stable compiler.
//!
//! Coverage is of our own crates only: this program stands before rustc for the workspace's crates ([`rustc`]) and adds LLVM's
//! instrumentation, so that third-party crates are those that are built already. What is found is kept in
//! `tests/fuzz/regressions/TARGET/`, which every later test run replays; what was merely new is in `target/fuzz/TARGET/`.

use crate::{Outcome, needs, shell};
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// Set for the compiler runs of a fuzz build.
const WRAPPING: &str = "PINTLE_FUZZ_RUSTC";
/// Seconds for each target, unless said otherwise.
const SECONDS: u64 = 60;
/// Edge counters, the table of their places, and comparisons' operands: what libFuzzer searches by. Arithmetic that wraps is a finding, too.
const INSTRUMENTATION: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Coverflow-checks=on",
    "-Cdebug-assertions=on",
    "-Ccodegen-units=1",
    "-Clink-arg=-Wl,-z,nostart-stop-gc",
];
/// Crates of the workspace that run while others are built, where there is no libFuzzer.
const BUILDERS: &[&str] = &["build_script_build", "pintle_schema"];

/// Whether cargo runs this program as a compiler.
pub fn is_rustc() -> bool {
    std::env::var_os(WRAPPING).is_some()
}

/// Becomes rustc, with instrumentation for what runs under libFuzzer. `args` begin with the compiler's path.
pub fn rustc(args: &[String]) -> ExitCode {
    let Some((rustc, rest)) = args.split_first() else { return ExitCode::FAILURE };
    let name = rest.iter().position(|arg| arg == "--crate-name").and_then(|at| rest.get(at + 1));
    let mut command = Command::new(rustc);
    command.args(rest).env_remove(WRAPPING);
    if name.is_some_and(|name| !BUILDERS.contains(&name.as_str())) {
        command.args(INSTRUMENTATION);
    }
    let error = command.exec();
    eprintln!("{rustc}: {error}");
    ExitCode::FAILURE
}

/// Runs the named targets, or all, each for some seconds. Fails when one found something.
pub fn fuzz(args: &[String]) -> Outcome {
    let (mut names, mut seconds) = (Vec::new(), SECONDS);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--seconds" => seconds = rest.next().ok_or("--seconds N")?.parse()?,
            name => names.push(name.to_owned()),
        }
    }
    needs::packages(&[needs::CXX])?;
    let this = std::env::current_exe()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    eprintln!("building the targets with coverage");
    let built = Command::new(cargo)
        // The features of the whole workspace, so that third-party crates are those of every other build.
        .args(["build", "--release", "--workspace", "--features", "pintle-fuzz/libfuzzer", "--bin", "pintle-fuzz"])
        .current_dir(shell::root())
        .env("RUSTC_WORKSPACE_WRAPPER", this)
        .env(WRAPPING, "1")
        .status()?;
    if !built.success() {
        return Err("the targets do not build".into());
    }
    if names.is_empty() {
        names = listed()?;
    }
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        eprintln!("\n== {name} ({} of {}), {seconds} s", at + 1, names.len());
        if !run(name, seconds)? {
            found.push(name.as_str());
        }
    }
    if found.is_empty() { Ok(()) } else { Err(format!("found something: {}; see tests/fuzz/regressions", found.join(", ")).into()) }
}

fn program() -> Command {
    Command::new(pintle_tests::programs().join("pintle-fuzz"))
}

/// The names of all targets, as the program tells them.
fn listed() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let output = program().env("PINTLE_FUZZ_TARGET", "list").output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Whether a target held for its time.
fn run(name: &str, seconds: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let corpus = pintle_tests::programs().with_file_name("fuzz").join(name);
    let kept = shell::root().join("tests/fuzz/regressions").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&kept)?;
    let status = program()
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", kept.display()))
        .arg(format!("-dict={}", corpus.with_extension("words").display()))
        .args(["-timeout=20", "-rss_limit_mb=3072", "-max_len=65536", "-reload=0", "-print_final_stats=1"])
        .env("PINTLE_FUZZ_TARGET", name)
        .env("PINTLE_FUZZ_FOLDER", &corpus)
        .status()?;
    // A folder stays only when there is something in it.
    let _ = fs::remove_dir(&kept);
    Ok(status.success())
}
