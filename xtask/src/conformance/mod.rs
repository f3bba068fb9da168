//! `cargo xtask conformance [FOCUS] [--parallel N]`: the upstream conformance suite against a cluster of two nodes.
//!
//! The suite, its images and its kubectl are built here; tests run as published, with the suite's own timeouts, and what it skips is counted as
//! skipped. A whole run (no FOCUS) writes `RESULTS.md` and `passed.txt` beside the suite's module. A test that is in `passed.txt` and does not pass
//! fails the command, whole run or not. With `--built` the cluster's programs are not built anew.

mod images;
mod report;
mod tools;

use crate::{Outcome, compile, needs};
use pintle_tests::{cluster::Cluster, registry::Registry};
use report::Report;
use std::{
    error::Error,
    fs,
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

const API_PORT: u16 = 36443;
const REGISTRY_PORT: u16 = 5091;
const NODES: u8 = 2;
/// Tests at a time, unless told otherwise. Most of a failing test is waiting.
const PARALLEL: usize = 8;

/// Where everything of a run is kept.
fn dir() -> PathBuf {
    pintle_tests::programs().with_file_name("conformance")
}

/// Which tests, and how many at a time.
struct Choice {
    focus: Option<String>,
    parallel: usize,
    /// Use the cluster's programs and modules as they are.
    built: bool,
}

/// The command.
pub fn conformance(args: &[String]) -> Outcome {
    let choice = parse(args)?;
    tools::require()?;
    needs::packages(needs::FOR_UP)?;
    if !choice.built {
        needs::wasm_target()?;
        compile::programs()?;
        compile::modules()?;
    }
    let report = run(&choice)?;
    println!("{}", report.totals());
    if choice.focus.is_none() {
        report.write()?;
    } else {
        print!("{}", report.failures());
    }
    report.ratchet()
}

/// Where the suite's programs are put.
fn programs() -> PathBuf {
    dir().join("programs")
}

/// Begins to build the suite on what the processors have left over, for [`stable`]. It need not be waited for, but is quicker so.
pub fn ahead() -> std::thread::JoinHandle<()> {
    std::thread::spawn(|| {
        if tools::missing().is_none() {
            let _ = tools::Tools::build(&programs(), true);
        }
    })
}

/// The fast, stable part of what passes, as a part of `cargo xtask test`; everything is built.
pub fn stable() -> Outcome {
    let names = report::stable()?;
    if names.is_empty() {
        println!("no conformance test is in stable.txt");
        return Ok(());
    }
    if let Some(reason) = tools::missing() {
        println!("skipped: {} conformance tests: {reason}", names.len());
        return Ok(());
    }
    let focus = names.iter().map(|n| format!(" {}$", escape(n))).collect::<Vec<_>>().join("|");
    let report = run(&Choice { focus: Some(focus), parallel: PARALLEL, built: true })?;
    println!("{}", report.totals());
    print!("{}", report.failures());
    report.all_passed(&names)
}

fn parse(args: &[String]) -> Result<Choice, Box<dyn Error>> {
    const USAGE: &str = "usage: cargo xtask conformance [FOCUS] [--parallel N] [--built]";
    let mut choice = Choice { focus: None, parallel: PARALLEL, built: false };
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--parallel" => choice.parallel = rest.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or(USAGE)?,
            "--built" => choice.built = true,
            flag if flag.starts_with('-') || choice.focus.is_some() => return Err(USAGE.into()),
            focus => choice.focus = Some(focus.to_owned()),
        }
    }
    Ok(choice)
}

/// A text as a regular expression that matches it alone.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !" -/_\"'`".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Starts the cluster, runs the chosen tests, stops the cluster.
fn run(choice: &Choice) -> Result<Report, Box<dyn Error>> {
    let tools = tools::Tools::build(&programs(), false)?;
    let cluster = Cluster::new(dir().join("cluster"), API_PORT);
    cluster.down(&["--delete-data"])?;
    let address = SocketAddr::from((cluster.gateway()?, REGISTRY_PORT));
    let mirror = format!("{}=http://{address}", images::REGISTRY);
    let outcome = match cluster.up(NODES, &["--registry-mirror", &mirror]) {
        Ok(said) => {
            eprint!("{said}");
            serve_and_judge(choice, &tools, &cluster, address)
        }
        // What did start is taken down below.
        Err(error) => Err(error.into()),
    };
    if std::env::var_os("PINTLE_KEEP").is_some() {
        eprintln!("PINTLE_KEEP is set: the cluster in {} stays", cluster.data_dir().display());
        return outcome;
    }
    let logs = dir().join("log");
    let _ = fs::remove_dir_all(&logs);
    let _ = fs::rename(cluster.data_dir().join("log"), &logs);
    cluster.down(&["--delete-data"])?;
    outcome
}

fn serve_and_judge(choice: &Choice, tools: &tools::Tools, cluster: &Cluster, address: SocketAddr) -> Result<Report, Box<dyn Error>> {
    let registry = Registry::start(address, &dir().join("registry"))?;
    images::push(&registry, &dir().join("registry"), tools)?;
    let results = dir().join("report.json");
    let _ = fs::remove_file(&results);
    let output = dir().join("output.txt");
    let log = fs::File::create(&output)?;
    let mut command = Command::new(tools.program("ginkgo"));
    command.arg(format!("--procs={}", choice.parallel)).args(["--no-color", "--timeout=6h", "--label-filter=Conformance"]);
    command.arg(format!("--json-report={}", results.display()));
    if let Some(focus) = &choice.focus {
        command.arg(format!("--focus={focus}"));
    }
    command.arg(tools.program("e2e.test")).args(["--", "--provider=skeleton"]);
    command.arg(format!("--kubeconfig={}", cluster.data_dir().join("kubeconfig").display()));
    command.arg(format!("--kubectl-path={}", tools.program("kubectl").display()));
    eprintln!("running the suite, {} tests at a time; its output goes to {}", choice.parallel, output.display());
    let mut child = command.current_dir(dir()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let seconds = follow(&mut child, &output)?;
    let report = Report::read(&results, seconds)?;
    if report.is_empty() {
        return Err(format!("no test ran; see {}", output.display()).into());
    }
    Ok(report)
}

/// Shows how far the run is until it ends; how many seconds it took.
fn follow(child: &mut Child, output: &Path) -> Result<u64, Box<dyn Error>> {
    let begin = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let (mut shown, mut shown_at) = (String::new(), begin);
    while child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_secs(1));
        let line = progress(&fs::read_to_string(output).unwrap_or_default());
        let (minutes, seconds) = (begin.elapsed().as_secs() / 60, begin.elapsed().as_secs() % 60);
        if terminal {
            eprint!("\r{line}, {minutes} min {seconds:02} s ");
        } else if line != shown && shown_at.elapsed() > Duration::from_secs(20) {
            eprintln!("{line}, {minutes} min {seconds:02} s");
            (shown, shown_at) = (line, Instant::now());
        }
    }
    if terminal {
        eprintln!();
    }
    Ok(begin.elapsed().as_secs())
}

/// Counts what ginkgo prints for each test: a dot, and a word beside it when it did not pass.
fn progress(output: &str) -> String {
    let selected = output.split("Will run ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
    let (done, failed) = (output.matches('•').count(), output.matches("• [").count());
    format!("{done}/{selected}: {} passed, {failed} failed", done - failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_itself_alone() {
        assert_eq!(escape("[sig-node] a (b) *c*.d"), r"\[sig-node\] a \(b\) \*c\*\.d");
    }

    #[test]
    fn progress_is_read_from_what_ginkgo_prints() {
        assert_eq!(progress("Will run 4 of 9 specs\nSSS•S•SS\n• [FAILED] [1.0 seconds]\n"), "3/4: 2 passed, 1 failed");
        assert_eq!(progress(""), "0/?: 0 passed, 0 failed");
    }

    #[test]
    fn arguments_are_a_focus_and_a_number() {
        let words = |line: &[&str]| parse(&line.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(words(&["ConfigMap", "--parallel", "3"]).is_ok_and(|c| c.parallel == 3 && c.focus.as_deref() == Some("ConfigMap")));
        assert!(words(&[]).is_ok_and(|c| c.focus.is_none()));
        for bad in [&["--parallel"][..], &["--parallel", "0"], &["a", "b"], &["--slow"]] {
            assert!(words(bad).is_err(), "{bad:?}");
        }
    }
}
