//! One call of a plugin: a program that reads its configuration and writes what it did, as JSON.
//!
//! Facts: the CNI specification, "Execution Protocol". Invariant: a plugin that hangs is killed, and what it says is bounded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::error::{Error, Result, Step};

/// A call takes this long at most.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of what a plugin says that are read.
const OUTPUT_MAX: u64 = 1 << 20;
/// Tries of a program that is being written just now.
const TRIES: usize = 5;

/// What is asked of a plugin.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `ADD`, `DEL`, `CHECK`, `GC` or `STATUS`.
    pub command: &'static str,
    /// The attachment's container, namespace (empty: gone), interface and arguments; not for `GC` and `STATUS`.
    pub about: Option<About<'a>>,
    /// Directories of plugins, also for those that a plugin calls itself.
    pub path: &'a [PathBuf],
}

/// Which attachment.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// CNI_CONTAINERID.
    pub container: &'a str,
    /// CNI_NETNS.
    pub netns: Option<&'a Path>,
    /// CNI_IFNAME.
    pub interface: &'a str,
    /// CNI_ARGS.
    pub args: &'a str,
}

/// Runs the plugin of a type; gives what it said.
///
/// # Errors
/// There is no such program, it failed (with its own words), or it did not end in time.
pub async fn call(kind: &str, call: Call<'_>, input: &Value) -> Result<Value> {
    let failed = |message: String| Error::CniPlugin { plugin: kind.to_owned(), command: call.command.to_lowercase(), message };
    let program = call.path.iter().map(|directory| directory.join(kind)).find(|path| path.is_file());
    let program = program.ok_or_else(|| failed(format!("failed to find plugin {kind:?} in path {:?}", call.path)))?;
    let input = input.to_string();
    let talk = async {
        let mut child = spawn(&program, call).await?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            let Some(mut stdin) = stdin else { return };
            // A plugin that does not read all has its reasons, and says them.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let ((), said, complained) = tokio::join!(write, read(stdout), read(stderr));
        let status = child.wait().await.step(|| format!("waiting for {}", program.display()))?;
        Ok::<_, Error>((status, said, complained))
    };
    let talked = tokio::time::timeout(PATIENCE, talk).await;
    let (status, said, complained) = talked.map_err(|_| Error::TimedOut(format!("plugin type={kind:?} ({})", call.command)))??;
    if !status.success() {
        return Err(failed(words(&said, &complained, status)));
    }
    if !complained.is_empty() {
        tracing::debug!(plugin = kind, command = call.command, said = %String::from_utf8_lossy(&complained), "a plugin's standard error");
    }
    if said.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&said).map_err(|error| failed(format!("what it says is not JSON: {error}")))
}

async fn spawn(program: &Path, call: Call<'_>) -> Result<tokio::process::Child> {
    let mut command = Command::new(program);
    let path = std::env::join_paths(call.path).map_err(|_| Error::invalid("--cni-bin-dir", "a directory's name has a colon"))?;
    command.env("CNI_COMMAND", call.command).env("CNI_PATH", path);
    if let Some(about) = call.about {
        command.env("CNI_CONTAINERID", about.container).env("CNI_IFNAME", about.interface).env("CNI_ARGS", about.args);
        command.env("CNI_NETNS", about.netns.unwrap_or(Path::new("")));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut left = TRIES;
    loop {
        left -= 1;
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && left > 0 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other.step(|| format!("starting {}", program.display())),
        }
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(OUTPUT_MAX).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What a plugin that failed has to say about it.
fn words(said: &[u8], complained: &[u8], status: std::process::ExitStatus) -> String {
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let trouble = String::from_utf8_lossy(complained).trim().to_owned();
    match serde_json::from_slice::<Failure>(said) {
        Ok(Failure { msg, details }) if !msg.is_empty() && !details.is_empty() => format!("{msg}; {details}"),
        Ok(Failure { msg, .. }) if !msg.is_empty() => msg,
        _ if !trouble.is_empty() => format!("{status}: {trouble}"),
        _ => format!("{status}, and no error message: {:?}", String::from_utf8_lossy(said).trim()),
    }
}
