//! Versions of a module that runs: one tried beside it, one that takes its place, one gone back to; and records of what it was asked.

use crate::{
    CliError,
    cluster::{kubectl, parse, source_of},
    project::Built,
};
use serde_json::{Map, Value, json};
use std::{
    env,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long the kernel may take to do what it was told.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(100);

/// Fields of `spec.source`, so that a patch can take away the ones that are not meant.
const SOURCES: [&str; 5] = ["file", "inline", "oci", "builtin", "kept"];

fn get(name: &str) -> Result<Value, CliError> {
    parse(&kubectl(&["get", "module", name, "-o", "json"], None)?)
}

fn patch(name: &str, spec: &Value) -> Result<(), CliError> {
    // A component in a patch may be longer than a command line can be.
    let file = env::temp_dir().join(format!("pintle-module-{}.json", std::process::id()));
    let io = || CliError::io(file.display().to_string());
    std::fs::write(&file, json!({ "spec": spec }).to_string()).map_err(io())?;
    let patched = kubectl(&["patch", "module", name, "--type=merge", "--patch-file", &file.display().to_string()], None);
    std::fs::remove_file(&file).map_err(io())?;
    print!("{}", patched?);
    Ok(())
}

/// Looks at the module until `done` says something of it.
fn wait<T>(name: &str, what: &str, mut done: impl FnMut(&Value) -> Option<Result<T, CliError>>) -> Result<T, CliError> {
    let begin = Instant::now();
    loop {
        let module = get(name)?;
        if let Some(outcome) = done(&module) {
            return outcome;
        }
        if begin.elapsed() > PATIENCE {
            return Err(CliError::unexpected(name, format!("not within {} s: {what}; status: {}", PATIENCE.as_secs(), module["status"])));
        }
        thread::sleep(GLANCE);
    }
}

fn runs(name: &str, digest: &str) -> Result<(), CliError> {
    wait(name, "that version runs", |module| {
        let status = &module["status"];
        let current = status["observedGeneration"] == module["metadata"]["generation"];
        let state = status["state"].as_str().unwrap_or_default();
        match current {
            true if state == "Running" && status["digest"] == digest => Some(Ok(())),
            true if ["Failed", "Denied", "BackOff", "Stopped"].contains(&state) => Some(Err(CliError::NotRunning {
                name: name.to_owned(),
                state: state.to_owned(),
                message: status["message"].as_str().unwrap_or_default().to_owned(),
            })),
            _ => None,
        }
    })
}

/// A source that replaces whichever there was.
fn replacing(source: &Value) -> Value {
    let mut all: Map<String, Value> = SOURCES.iter().map(|kind| ((*kind).to_owned(), Value::Null)).collect();
    all.extend(source.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// Tries the built version beside the one that runs.
///
/// # Errors
/// What kubectl says, or why it does not start.
pub fn shadow(built: &Built, to: Option<&str>, namespaces: &[String], percent: Option<u8>) -> Result<(), CliError> {
    let name = built.name()?;
    let takes_over = !namespaces.is_empty() || percent.is_some();
    let take_over = if takes_over { json!({ "namespaces": namespaces, "percent": percent.unwrap_or(0) }) } else { Value::Null };
    patch(&name, &json!({ "shadow": { "source": replacing(&source_of(built, to)?), "digest": built.digest(), "takeOver": take_over } }))?;
    wait(&name, "the shadow runs", |module| {
        let shadow = &module["status"]["shadow"];
        match shadow["state"].as_str().filter(|_| module["status"]["observedGeneration"] == module["metadata"]["generation"]) {
            Some("Running") if shadow["digest"] == built.digest() => Some(Ok(())),
            Some("Failed") => Some(Err(CliError::unexpected("the shadow", shadow["message"].as_str().unwrap_or_default()))),
            _ => None,
        }
    })?;
    println!("{} is asked what {name} is asked; `pintle module compare {name}` says how it does", built.digest());
    Ok(())
}

/// Says how the shadow does, or ends it.
///
/// # Errors
/// There is none.
pub fn compare(name: &str, stop: bool) -> Result<(), CliError> {
    if stop {
        return patch(name, &json!({ "shadow": null }));
    }
    let module = get(name)?;
    let shadow = &module["status"]["shadow"];
    if shadow.is_null() {
        return Err(CliError::unexpected(name, "it has no shadow"));
    }
    println!(
        "{} ({}): {} calls, {} answered otherwise, {} missed",
        shadow["digest"].as_str().unwrap_or_default(),
        shadow["state"].as_str().unwrap_or_default(),
        shadow["calls"],
        shadow["differences"],
        shadow["skipped"]
    );
    match shadow["message"].as_str().unwrap_or_default() {
        "" => {}
        message => println!("last: {message}"),
    }
    Ok(())
}

/// Lets the shadow take the place of the version that runs.
///
/// # Errors
/// There is none that runs; or it has answered otherwise, and that was not expected.
pub fn promote(name: &str, despite_differences: bool) -> Result<(), CliError> {
    let module = get(name)?;
    let (spec, status) = (&module["spec"]["shadow"], &module["status"]["shadow"]);
    if status["state"] != "Running" {
        return Err(CliError::unexpected(name, format!("it has no shadow that runs: {status}")));
    }
    if status["differences"].as_u64().unwrap_or(0) > 0 && !despite_differences {
        return Err(CliError::unexpected(
            name,
            format!("its shadow answered {} calls otherwise; if they are meant: --despite-differences", status["differences"]),
        ));
    }
    let digest = status["digest"].as_str().unwrap_or_default();
    patch(name, &json!({ "source": replacing(&spec["source"]), "digest": digest, "shadow": null }))?;
    runs(name, digest)?;
    println!("{name} runs {digest}");
    Ok(())
}

/// Goes back to a version that ran before: the last other one, or the one of this digest.
///
/// # Errors
/// There is none.
pub fn rollback(name: &str, to: Option<&str>) -> Result<(), CliError> {
    let module = get(name)?;
    let (now, history) = (&module["status"]["digest"], module["status"]["history"].as_array().cloned().unwrap_or_default());
    let wanted =
        history.iter().rev().filter_map(|past| past["digest"].as_str()).find(|digest| to.map_or(now != digest, |to| to == *digest));
    let digest = wanted.ok_or_else(|| CliError::unexpected(name, "its history has no such version"))?;
    patch(name, &json!({ "source": replacing(&json!({ "kept": digest })), "digest": digest, "shadow": null }))?;
    runs(name, digest)?;
    println!("{name} runs {digest}");
    Ok(())
}

/// Begins a record of what the module is asked and answers, or ends it.
///
/// # Errors
/// The kernel keeps none.
pub fn record(name: &str, max_bytes: Option<u64>, stop: bool) -> Result<(), CliError> {
    if stop {
        return patch(name, &json!({ "record": null }));
    }
    patch(name, &json!({ "record": { "maxBytes": max_bytes } }))?;
    let file = wait(name, "it is recorded", |module| module["status"]["record"]["file"].as_str().map(|file| Ok(file.to_owned())))?;
    println!("{file}");
    Ok(())
}

/// Asks another version what the record says that one was asked. 0: it answers the same; 1: it does not.
///
/// # Errors
/// The program is not there.
pub fn replay(record: &Path, component: &Path) -> Result<u8, CliError> {
    let program = env::current_exe().map_err(CliError::io("this program"))?.with_file_name("pintle-replay");
    let status = Command::new(&program).arg(record).arg(component).status().map_err(CliError::io(program.display().to_string()))?;
    match status.code() {
        Some(code @ (0 | 1)) => Ok(code as u8),
        _ => Err(CliError::Program("pintle-replay".into())),
    }
}
