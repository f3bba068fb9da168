//! Runs one container by hand: the runtime without a cluster. Also the daemon that the tests kill.
//!
//! ```text
//! pintle-runtime run <state dir> <cgroup parent> <OCI layout> [--log FILE] -- <command>...   prints the id, then the exit code
//! pintle-runtime exec <state dir> <cgroup parent> <container id> -- <command>...
//! pintle-runtime list <state dir> <cgroup parent>
//! pintle-runtime purge <state dir>
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pintle_runtime_bridge::{ContainerId, ContainerSpec, ExecSpec, ImageRef, Result, Runtime, RuntimeConfig, SandboxSpec};
use tokio::io::AsyncReadExt;

const USAGE: &str = "usage: pintle-runtime run|exec|list|purge <state dir> ... (see the source's head)";

fn main() -> ExitCode {
    pintle_runtime_bridge::helper::maybe_run();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e),
    };
    let split = words.iter().position(|w| *w == "--").unwrap_or(words.len());
    let (options, command) = (&words[..split], words.get(split + 1..).unwrap_or_default());
    let command: Vec<String> = command.iter().map(|w| (*w).to_owned()).collect();
    let done = runtime.block_on(async {
        match options {
            ["run", state, cgroup, layout, rest @ ..] => run(state, cgroup, layout, rest, command).await,
            ["exec", state, cgroup, id] => exec(state, cgroup, id, command).await,
            ["list", state, cgroup] => list(state, cgroup).await,
            ["purge", state] => Runtime::purge(Path::new(state), None).await.map(|()| 0),
            _ => {
                eprintln!("{USAGE}");
                Ok(2)
            }
        }
    });
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => failed(&e),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("pintle-runtime: {error}");
    ExitCode::FAILURE
}

async fn open(state: &str, cgroup: &str) -> Result<Runtime> {
    Runtime::open(RuntimeConfig { cgroup_parent: cgroup.to_owned(), ..RuntimeConfig::new(state) }).await
}

async fn run(state: &str, cgroup: &str, layout: &str, rest: &[&str], command: Vec<String>) -> Result<i32> {
    let runtime = open(state, cgroup).await?;
    let name = ImageRef::parse("localhost/by-hand")?;
    let image = runtime.import_layout(Path::new(layout), Some(&name)).await?;
    let sandbox = runtime.create_sandbox(SandboxSpec::default()).await?;
    let log_path = match rest {
        ["--log", file] => Some(PathBuf::from(file)),
        _ => None,
    };
    let spec = ContainerSpec {
        sandbox: Some(sandbox.id.clone()),
        image: image.first().map(ToString::to_string).unwrap_or_default(),
        command,
        log_path,
        ..ContainerSpec::default()
    };
    let id = runtime.create_container(spec).await?;
    runtime.start(&id).await?;
    println!("{id}");
    let exit = runtime.wait(&id).await?;
    println!("exit {}", exit.code);
    runtime.remove(&id).await?;
    runtime.remove_sandbox(&sandbox.id).await?;
    Ok(exit.code)
}

async fn exec(state: &str, cgroup: &str, id: &str, command: Vec<String>) -> Result<i32> {
    let runtime = open(state, cgroup).await?;
    let mut session = runtime.exec(&ContainerId::parse(id)?, ExecSpec { command, ..ExecSpec::default() }).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    if let (Some(mut stdout), Some(mut stderr)) = (session.stdout.take(), session.stderr.take()) {
        let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    }
    print!("{}", String::from_utf8_lossy(&out));
    eprint!("{}", String::from_utf8_lossy(&err));
    Ok(session.wait().await?.code)
}

async fn list(state: &str, cgroup: &str) -> Result<i32> {
    for container in open(state, cgroup).await?.list().await? {
        let code = container.exit.map(|e| e.code.to_string()).unwrap_or_default();
        println!("{} {} {} {code}", container.id, container.phase.as_str(), container.image);
    }
    Ok(0)
}
