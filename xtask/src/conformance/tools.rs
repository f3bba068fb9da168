//! The suite and its programs, built by the Go toolchain from `tests/conformance/go.mod`.

use crate::{Outcome, shell};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The Go minor version that the suite's modules ask for.
const GO_MINOR: u32 = 26;
/// Where the version that programs print is set.
const VERSION: &str = "k8s.io/component-base/version";
/// Runs a program on what the processors have left over, and ends it when whoever waits for it ends.
const BESIDE: [&str; 6] = ["setpriv", "--pdeathsig", "KILL", "chrt", "--idle", "0"];

/// What was built, and from where.
pub struct Tools {
    programs: PathBuf,
    /// `tests/conformance/`.
    pub source: PathBuf,
    /// Where the module cache has `k8s.io/kubernetes`.
    pub upstream: PathBuf,
}

/// What this machine lacks to build the suite, if anything: a Go toolchain, or the modules.
pub fn missing() -> Option<String> {
    let Ok(version) = pintle_tests::run(Command::new("go").args(["env", "GOVERSION"])) else {
        return Some("the Go toolchain, 1.26 or later (https://go.dev/dl), is not on the PATH".into());
    };
    let minor: Option<u32> = version.trim().strip_prefix("go1.").and_then(|v| v.split(['.', 'r', 'b']).next()).and_then(|v| v.parse().ok());
    if minor.is_none_or(|m| m < GO_MINOR) {
        return Some(format!("the Go toolchain is {}, the suite needs 1.{GO_MINOR}", version.trim()));
    }
    upstream(&source()).err().map(|e| format!("the Go module proxy does not answer: {e}"))
}

fn source() -> PathBuf {
    shell::root().join("tests/conformance")
}

/// Fetches `k8s.io/kubernetes` into the module cache and says where it is there, and its version.
fn upstream(source: &Path) -> Result<(PathBuf, String), Box<dyn Error>> {
    go(&["go"], source, &["mod", "download", "k8s.io/kubernetes"])?;
    let line = go(&["go"], source, &["list", "-m", "-f", "{{.Dir}} {{.Version}}", "k8s.io/kubernetes"])?;
    let (dir, version) = line.trim().split_once(' ').ok_or("go list names no module")?;
    Ok((dir.into(), version.to_owned()))
}

fn go(program: &[&str], source: &Path, args: &[&str]) -> Result<String, Box<dyn Error>> {
    let [program, first @ ..] = program else { return Err("no program".into()) };
    Ok(pintle_tests::run(Command::new(program).args(first).args(args).current_dir(source).env("CGO_ENABLED", "0"))?)
}

impl Tools {
    /// Builds the suite, its runner, the programs of its images and the kubectl that it drives into `out`; Go's build cache makes the second time
    /// quick. `beside`: while the processors have other work, which comes first.
    pub fn build(out: &Path, beside: bool) -> Result<Self, Box<dyn Error>> {
        let source = source();
        let program: Vec<&str> = BESIDE.into_iter().filter(|_| beside).chain(["go"]).collect();
        let (upstream, version) = upstream(&source)?;
        fs::create_dir_all(out)?;
        let (major, minor) = version.trim_start_matches('v').split_once('.').ok_or("not a version")?;
        let minor = minor.split('.').next().unwrap_or_default();
        let link = format!("-s -w -X {VERSION}.gitVersion={version} -X {VERSION}.gitMajor={major} -X {VERSION}.gitMinor={minor}");
        eprintln!("building the conformance suite of {version} (the first time takes some 20 minutes of processor time)");
        let into = format!("{}/", out.display());
        go(&program, &source, &["build", "-trimpath", "-ldflags", &link, "-o", &into, "tool"])?;
        let suite = out.join("e2e.test").display().to_string();
        go(&program, &source, &["test", "-c", "-vet=off", "-trimpath", "-ldflags", &link, "-o", &suite, "."])?;
        Ok(Self { programs: out.to_owned(), source, upstream })
    }

    /// A built program: `e2e.test`, `ginkgo`, `kubectl`, `agnhost`, `nonewprivs`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Changes when an image made of these programs would: the module's sums, and this file's own recipes.
    pub fn stamp(&self) -> Result<String, Box<dyn Error>> {
        let sums = fs::read(self.source.join("go.sum"))?;
        let recipes = include_bytes!("images.rs");
        Ok(format!("{}-{}", checksum(&sums), checksum(recipes)))
    }
}

/// FNV-1a: tells whether a text changed, no more.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Fails with what is missing.
pub fn require() -> Outcome {
    missing().map_or(Ok(()), |reason| Err(reason.into()))
}
