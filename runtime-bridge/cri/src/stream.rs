//! Exec and attach: the runtime names a URL, and there the streams are carried by SPDY, as kubelets do it (`v4.channel.k8s.io`).
//!
//! A task holds the connection and pumps; it ends when the process has ended, when it is aborted, or, of an attach, when nobody reads its output
//! any more. Invariant: all output that came is in the streams before the exit is told.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use pintle_runtime_bridge::{AttachSession, Error, ExecSession, Exit, ExitCause, OutputStream, TerminalResizer, TerminalSize};
use pintle_streams::spdy::{Connection, Stream, StreamWriter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// Bytes on their way in one stream.
const BUFFER_BYTES: usize = 64 << 10;
/// Longest word about a process's end.
const STATUS_BYTES_MAX: usize = 64 << 10;
const PROTOCOL: &str = "v4.channel.k8s.io";

/// Which streams there are.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// Joins what runs at `url`; of an exec, its end is told.
pub(crate) async fn exec(url: &str, wanted: Wanted) -> Result<ExecSession, Error> {
    let (session, exit, task) = open("Exec", url, wanted).await?;
    Ok(ExecSession::elsewhere(session, exit, task))
}

/// Joins the streams of a container; the connection ends when its output is not read any more.
pub(crate) async fn attach(url: &str, wanted: Wanted) -> Result<AttachSession, Error> {
    let (mut session, _, task) = open("Attach", url, wanted).await?;
    let guard = Arc::new(Guard(task));
    for stream in [&mut session.stdout, &mut session.stderr] {
        let held = stream.take().map(|inner| -> OutputStream { Box::pin(Held { inner, _guard: guard.clone() }) });
        *stream = held;
    }
    Ok(session)
}

type Opened = (AttachSession, oneshot::Receiver<Result<Exit, Error>>, AbortHandle);

async fn open(call: &'static str, url: &str, wanted: Wanted) -> Result<Opened, Error> {
    let fail = |error: &dyn std::fmt::Display| Error::remote(call, format!("streaming: {error}"));
    let mut connection = dial(url).await.map_err(|error| fail(&error))?;
    let mut started = Vec::new();
    let kinds = [("error", true), ("stdin", wanted.stdin), ("stdout", true), ("stderr", !wanted.tty), ("resize", wanted.tty)];
    for (kind, _) in kinds.into_iter().filter(|(_, there)| *there) {
        started.push((kind, connection.open(&[("streamtype", kind)]).await.map_err(|error| fail(&error))?));
    }
    let mut take = |kind: &str| started.iter().position(|(have, _)| *have == kind).map(|at| started.swap_remove(at).1);
    let (errors, stdin, stdout, stderr, resize) = (take("error"), take("stdin"), take("stdout"), take("stderr"), take("resize"));
    let (told, exit) = oneshot::channel();
    let (mut session, mut inputs) = (AttachSession { stdin: None, stdout: None, stderr: None, resizer: None }, Vec::new());
    if let Some(stream) = stdin {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        session.stdin = Some(Box::pin(near));
        inputs.push(tokio::spawn(send_input(far, stream.out)).abort_handle());
    }
    if let Some(stream) = resize {
        let (sender, sizes) = mpsc::unbounded_channel();
        session.resizer = Some(TerminalResizer::elsewhere(sender));
        inputs.push(tokio::spawn(send_sizes(sizes, stream.out)).abort_handle());
    }
    let output = |stream: Option<Stream>| {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let there = stream.is_some();
        (there.then(|| -> OutputStream { Box::pin(near) }), receive(stream, far))
    };
    let (out, outs) = output(stdout);
    let (err, errs) = output(stderr);
    (session.stdout, session.stderr) = (out, err);
    let inputs = Inputs(inputs);
    let task = tokio::spawn(async move {
        let (_, _, status) = tokio::join!(outs, errs, collect(errors));
        drop(inputs);
        let _ = told.send(ended(call, &status));
        connection.close().await;
    });
    Ok((session, exit, task.abort_handle()))
}

/// The upgraded connection to a runtime's streaming server.
async fn dial(url: &str) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let uri: http::Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err(format!("{} is not served", uri.scheme_str().unwrap_or("no scheme")).into());
    }
    let authority = uri.authority().ok_or("no address")?.clone();
    let address = (authority.host().trim_matches(['[', ']']).to_owned(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::post(path)
        .header("host", authority.as_str())
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", PROTOCOL)
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("HTTP status {}", answer.status()).into());
    }
    Ok(Connection::dial(TokioIo::new(hyper::upgrade::on(answer).await?)))
}

async fn receive(stream: Option<Stream>, mut to: DuplexStream) {
    let Some(mut stream) = stream else { return };
    while let Some(data) = stream.data.recv().await {
        if to.write_all(&data).await.is_err() {
            // Nobody reads: the rest is let go, so that the others' streams are not held up.
            while stream.data.recv().await.is_some() {}
        }
    }
}

async fn collect(stream: Option<Stream>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let _ = stream.out.finish().await;
    let mut all = Vec::new();
    while let Some(data) = stream.data.recv().await {
        let room = STATUS_BYTES_MAX.saturating_sub(all.len());
        all.extend_from_slice(&data[..data.len().min(room)]);
    }
    all
}

async fn send_input(mut from: DuplexStream, to: StreamWriter) {
    let mut block = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut block).await {
        if to.write(Bytes::copy_from_slice(&block[..count])).await.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
}

async fn send_sizes(mut from: mpsc::UnboundedReceiver<TerminalSize>, to: StreamWriter) {
    while let Some(size) = from.recv().await {
        let text = serde_json::json!({ "Width": size.width, "Height": size.height }).to_string();
        if to.write(text.into()).await.is_err() {
            return;
        }
    }
}

/// Reads the last word of a process: a `Status`, as version 4 of the protocol has it.
fn ended(call: &'static str, status: &[u8]) -> Result<Exit, Error> {
    let said: serde_json::Value = serde_json::from_slice(status).map_err(|_| Error::remote(call, "the connection was lost"))?;
    let causes = said["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str()?.parse().ok());
    let exit = |code| Exit { code, signal: None, cause: ExitCause::Ended, at_ns: crate::now_ns() };
    match (said["status"].as_str(), code) {
        (Some("Success"), _) => Ok(exit(0)),
        (_, Some(code)) => Ok(exit(code)),
        _ => Err(Error::remote(call, said["message"].as_str().unwrap_or("failed"))),
    }
}

/// Tasks that write to the process; they end with it.
struct Inputs(Vec<AbortHandle>);

impl Drop for Inputs {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Ends a task when the last holder lets go.
struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Held {
    inner: OutputStream,
    _guard: Arc<Guard>,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_tells_the_exit_code_or_why_there_is_none() {
        let code = |text: &str| ended("Exec", text.as_bytes()).map(|exit| exit.code).map_err(|error| error.to_string());
        assert_eq!(code(r#"{"metadata":{},"status":"Success"}"#), Ok(0));
        let failure = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(code(failure), Ok(7));
        assert_eq!(code(r#"{"status":"Failure","message":"no such file"}"#), Err("Exec: no such file".into()));
        assert_eq!(code(""), Err("Exec: the connection was lost".into()));
    }
}
