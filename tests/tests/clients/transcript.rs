//! Command lines and what they must print, as text. Steps are separated by blank lines; lines that begin with `#` are for people:
//!
//! ```text
//! $ kubectl get configmap settings -o name
//! code 0
//! ~ configmap/settings
//! ! NotFound
//! ```
//!
//! The command is the shell's, in the folder of the transcript, with today's kubectl and helm first on the PATH, in a namespace of the
//! transcript's own (`$NAMESPACE`). `code` is its exit code, 0 when not said; `~` is text that must be in its output or errors, `!` text that must
//! not.

use crate::kernel::Kernel;
use pintle_tests::clients::folder;
use std::{fmt::Write as _, fs, path::Path, process::Command};

/// Runs a transcript; all that did not hold, step by step. A step goes on from the one before it: the first failure ends it.
pub fn check(kernel: &Kernel, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let text = fs::read_to_string(path)?;
    let name = format!("commands-{}", path.file_stem().unwrap_or_default().to_string_lossy());
    let home = kernel.folder().join(&name);
    fs::create_dir_all(&home)?;
    fs::copy(kernel.kubeconfig(), home.join("kubeconfig"))?;
    let shell = |line: &str| {
        let search = format!("{}:{}", folder().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{{ {line}\n}} 2>&1")).current_dir(path.with_file_name("")).env("PATH", search);
        command.env("KUBECONFIG", home.join("kubeconfig")).env("HOME", &home).env("NAMESPACE", &name);
        command.output().map(|output| (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let begin = format!("kubectl create namespace {name} && kubectl config set-context --current --namespace={name}");
    let (code, printed) = shell(&begin)?;
    if code != 0 {
        return Err(printed.into());
    }
    for step in text.split("\n\n").filter(|step| step.lines().any(|line| line.starts_with("$ "))) {
        let command = step.lines().find_map(|line| line.strip_prefix("$ ")).unwrap_or_default();
        let (code, printed) = shell(command)?;
        let failures = failures(step, code, &printed)?;
        if !failures.is_empty() {
            return Err(format!("$ {command}\n{failures}it printed:\n{printed}").into());
        }
    }
    Ok(shell(&format!("kubectl delete namespace {name} --wait=false")).map(drop)?)
}

/// What of a step does not hold.
fn failures(step: &str, code: i32, printed: &str) -> Result<String, Box<dyn std::error::Error>> {
    let (mut failures, mut wanted) = (String::new(), 0);
    for line in step.lines().filter(|line| !line.starts_with('#') && !line.starts_with('$') && !line.is_empty()) {
        match line.split_once(' ') {
            Some(("code", number)) => wanted = number.parse()?,
            Some(("~", text)) if !printed.contains(text) => writeln!(failures, "lacks {text:?}")?,
            Some(("!", text)) if printed.contains(text) => writeln!(failures, "has {text:?}")?,
            Some(("~" | "!", _)) => {}
            _ => return Err(format!("not a line of a transcript: {line:?}").into()),
        }
    }
    if code != wanted {
        writeln!(failures, "its exit code is {code}, not {wanted}")?;
    }
    Ok(failures)
}
