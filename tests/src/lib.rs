//! The harness of the whole-system tests, also used by `cargo xtask`: builds the example image, serves it from a real registry on this
//! machine, starts and stops clusters with the `pintle` command, and drives them with a real kubectl.
//!
//! It holds no assertion; those are in `tests/`. Everything waits on conditions with a bound, never for a while.

pub mod books;
pub mod clients;
pub mod cluster;
#[cfg(feature = "load")]
pub mod https;
pub mod image;
pub mod kubectl;
pub mod registry;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Why the harness could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or socket could not be used.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed with {status}:\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The registry answered something unexpected.
    #[error("the registry answered {status} to {request}")]
    Registry {
        /// The request line.
        request: String,
        /// The status line.
        status: String,
    },
    /// An HTTPS exchange broke.
    #[error("{what}: {reason}")]
    Http {
        /// What was tried.
        what: String,
        /// Why it failed.
        reason: String,
    },
    /// A condition did not come true in time.
    #[error("gave up after {seconds} s waiting until {what}; last seen: {last}")]
    Timeout {
        /// The condition, as the end of a sentence.
        what: String,
        /// Seconds waited.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
}

impl Error {
    /// Wraps a system error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where the built programs are: `CARGO_TARGET_DIR` or `target`, profile release.
pub fn programs() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release")
}

/// Whether a program is on the PATH.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|d| d.join(name).is_file())
}

/// Runs a command to its end; its standard output, or an error with all it printed.
pub fn run(command: &mut Command) -> Result<String, Error> {
    let line = format!("{command:?}");
    let output = command.output().map_err(Error::io(line.clone()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let printed = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Command { command: line, status: output.status.to_string(), output: printed })
}

/// Polls `probe` until it answers `Ok`, at most `limit`. The error says what was seen last.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, Error> {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if begin.elapsed() > limit => {
                return Err(Error::Timeout { what: what.into(), seconds: limit.as_secs(), last });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
