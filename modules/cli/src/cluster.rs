//! A module in a cluster: written through kubectl, watched until it runs, read from the kernel's log.

use crate::{CliError, project::Built};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a module may take to run: one with the engine of a language in it is compiled for a minute on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(100);

/// Writes the module's object, with the component in it or in the registry `to`, and waits until it runs.
///
/// # Errors
/// What kubectl says, or the module's own state when it does not run.
pub fn push(built: &Built, to: Option<&str>) -> Result<(), CliError> {
    let name = built.name()?;
    let mut object = built.manifest.clone();
    object["spec"]["source"] = source_of(built, to)?;
    object["spec"]["digest"] = json!(built.digest());
    let existing = kubectl(&["get", "module", &name, "--ignore-not-found", "-o", "json"], None)?;
    let verb = if existing.trim().is_empty() {
        "create"
    } else {
        let existing: Value = parse(&existing)?;
        object["metadata"]["resourceVersion"] = existing["metadata"]["resourceVersion"].clone();
        "replace"
    };
    print!("{}", kubectl(&[verb, "-f", "-"], Some(&object.to_string()))?);
    let (begin, mut told) = (Instant::now(), String::new());
    loop {
        let object: Value = parse(&kubectl(&["get", "module", &name, "-o", "json"], None)?)?;
        let status = &object["status"];
        let (state, message) = (status["state"].as_str().unwrap_or("Loading"), status["message"].as_str().unwrap_or_default());
        let current = status["observedGeneration"] == object["metadata"]["generation"];
        if current && state == "Running" && status["digest"].as_str() == Some(&built.digest()) {
            println!("{name} runs: generation {}, {}", status["generation"], built.digest());
            return Ok(());
        }
        if (current && ["Failed", "Denied", "BackOff", "Stopped"].contains(&state)) || begin.elapsed() > PATIENCE {
            return Err(CliError::NotRunning { name, state: state.to_owned(), message: message.to_owned() });
        }
        let tells = format!("{state} {message}");
        if tells != told {
            println!("{name}: {tells}");
            told = tells;
        }
        thread::sleep(GLANCE);
    }
}

/// Where the kernel finds the component: in the object itself, or in the registry `to`, where it is put.
///
/// # Errors
/// What a registry can do wrong.
pub fn source_of(built: &Built, to: Option<&str>) -> Result<Value, CliError> {
    Ok(match to {
        Some(reference) => json!({"oci": to_registry(built, reference)?}),
        None => json!({"inline": base64::engine::general_purpose::STANDARD.encode(&built.wasm)}),
    })
}

/// Signs an artifact in a registry with a key.
///
/// # Errors
/// The key is none, or what a registry can do wrong.
pub fn sign(reference: &str, key: &Path) -> Result<(), CliError> {
    let program = env::current_exe().map_err(CliError::io("this program"))?.with_file_name("pintle-artifact");
    let status = Command::new(&program).args(["sign", reference]).arg(key).status().map_err(CliError::io(program.display().to_string()))?;
    if status.success() { Ok(()) } else { Err(CliError::Program(format!("pintle-artifact sign {reference}"))) }
}

/// Makes a key for signing: `FILE.key`, readable by nobody else, and `FILE.pub`, for `signingKeys` of a ModulePolicy.
///
/// # Errors
/// A file that is there already, or cannot be written.
pub fn new_key(file: &Path) -> Result<(), CliError> {
    let (private, public) = pintle_signing::generate().map_err(|e| CliError::unexpected("the key", e))?;
    for (ending, mode, text) in [("key", 0o600, private), ("pub", 0o644, public)] {
        let path = file.with_extension(ending);
        let io = || CliError::io(path.display().to_string());
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(io())?;
        out.write_all(text.as_bytes()).map_err(io())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Pushes the component by the program that knows registries; the reference that it is pulled by.
fn to_registry(built: &Built, reference: &str) -> Result<String, CliError> {
    let program = env::current_exe().map_err(CliError::io("this program"))?.with_file_name("pintle-artifact");
    let mut command = Command::new(&program);
    command.args(["push", reference]).arg(&built.path).stderr(Stdio::inherit());
    let output = command.output().map_err(CliError::io(program.display().to_string()))?;
    if !output.status.success() {
        return Err(CliError::Program(format!("pintle-artifact push {reference}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// JSON that kubectl printed.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<Value, CliError> {
    serde_json::from_str(text).map_err(|e| CliError::unexpected("kubectl", e))
}

/// Runs kubectl; what it printed.
///
/// # Errors
/// `Program` when it fails; it has said why.
pub fn kubectl(args: &[&str], input: Option<&str>) -> Result<String, CliError> {
    let mut command = Command::new("kubectl");
    command.args(args).stdout(Stdio::piped()).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(CliError::io("kubectl"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(CliError::io("kubectl"))?;
    }
    let output = child.wait_with_output().map_err(CliError::io("kubectl"))?;
    if !output.status.success() {
        return Err(CliError::Program(format!("kubectl {}", args.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints the lines of the kernel's log that are about a module.
///
/// # Errors
/// `Io` when there is no such log here.
pub fn logs(name: &str, follow: bool, data_dir: Option<PathBuf>) -> Result<(), CliError> {
    let beside_kubeconfig = || env::var_os("KUBECONFIG").and_then(|path| Path::new(&path).parent().map(Path::to_owned));
    let path = data_dir.or_else(beside_kubeconfig).unwrap_or_else(|| ".pintle".into()).join("log/kernel.log");
    let io = || CliError::io(path.display().to_string());
    let mut log = BufReader::new(File::open(&path).map_err(io())?);
    let mut line = String::new();
    loop {
        if log.read_line(&mut line).map_err(io())? == 0 {
            if !follow {
                return Ok(());
            }
            thread::sleep(GLANCE);
        } else if line.ends_with('\n') {
            if is_about(&line, name) {
                print!("{line}");
            }
            line.clear();
        }
    }
}

fn is_about(line: &str, module: &str) -> bool {
    line.split_whitespace().any(|word| word.strip_prefix("module=").is_some_and(|m| m.trim_matches('"') == module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_the_module_that_it_names() {
        let line = "2026-01-01T00:00:00Z  INFO module: hello module=greeter generation=3\n";
        assert!(is_about(line, "greeter") && !is_about(line, "greet"));
        assert!(is_about("INFO x: denied module=\"greeter\"", "greeter"));
        assert!(!is_about("INFO module: greeter", "greeter"));
    }
}
