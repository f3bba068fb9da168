//! Exec and attach over SPDY, for clients older than WebSocket support (kubectl before 1.31).
//!
//! The client opens a stream for each thing it asked for in the query, told apart by the header `streamtype`; `error` always. Once all are there the
//! process is connected; at its end the error stream says how it ended, and every stream is finished.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;

use super::process::{ClientEnd, Output, Outputs, TerminalSize, Wanted};
use super::spdy::{Connection, Gone, Stream, StreamWriter};

/// Header that the two sides settle the version with.
pub const VERSION_HEADER: &str = "x-stream-protocol-version";
/// Versions served, the newest first. The first ever had no name.
const VERSIONS: [&str; 5] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// The client must open its streams within this time.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// The newest version that client and server both know; the first ever when the client names none.
pub fn choose_version(headers: &HeaderMap) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(VERSION_HEADER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if offered.is_empty() {
        return Some("channel.k8s.io");
    }
    VERSIONS.into_iter().find(|version| offered.contains(version))
}

fn number(version: &str) -> u8 {
    version.strip_prefix('v').and_then(|rest| rest.bytes().next()).map_or(1, |digit| digit.saturating_sub(b'0'))
}

/// Carry a process until it has ended or the client is gone.
pub async fn serve_process(mut connection: Connection, version: &'static str, wanted: Wanted, end: ClientEnd) {
    let streams = match tokio::time::timeout(STREAMS_TIMEOUT, Streams::accept(&mut connection, version, wanted)).await {
        Ok(Some(streams)) => streams,
        _ => return connection.close().await,
    };
    let ClientEnd { stdin, resize, stdout, stderr, exit } = end;
    let mut outputs = Outputs::new(stdout, stderr, exit);
    let readers = [
        streams.stdin.map(|stream| tokio::spawn(forward_stdin(stream.data, stdin))),
        streams.resize.map(|stream| tokio::spawn(forward_resize(stream.data, resize))),
    ];
    tokio::select! {
        _ = write_process(&streams.stdout, &streams.stderr, &streams.error, version, &mut outputs) => connection.close().await,
        () = connection.gone() => {}
    }
    for reader in readers.into_iter().flatten() {
        reader.abort();
    }
}

struct Streams {
    error: StreamWriter,
    stdin: Option<Stream>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    resize: Option<Stream>,
}

impl Streams {
    async fn accept(connection: &mut Connection, version: &str, wanted: Wanted) -> Option<Streams> {
        let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
        let resizes = wanted.tty && number(version) >= 3;
        let expected =
            1 + usize::from(wanted.stdin) + usize::from(wanted.stdout) + usize::from(wanted.stderr && !wanted.tty) + usize::from(resizes);
        for _ in 0..expected {
            let stream = connection.accept().await?;
            match stream.header("streamtype") {
                Some("error") => error = Some(stream.out),
                Some("stdin") => stdin = Some(stream),
                Some("stdout") => stdout = Some(stream.out),
                Some("stderr") => stderr = Some(stream.out),
                Some("resize") => resize = Some(stream),
                _ => stream.out.reset().await.ok()?,
            }
        }
        Some(Streams { error: error?, stdin, stdout, stderr, resize })
    }
}

async fn write_process(
    stdout: &Option<StreamWriter>,
    stderr: &Option<StreamWriter>,
    error: &StreamWriter,
    version: &str,
    outputs: &mut Outputs,
) -> Result<(), Gone> {
    while let Some(output) = outputs.next().await {
        match output {
            Output::Stdout(data) => write(stdout, data).await?,
            Output::Stderr(data) => write(stderr, data).await?,
            Output::Exit(exit) => {
                let text = if number(version) >= 4 { exit.status().to_string() } else { exit.message() };
                error.write(text.into()).await?;
            }
        }
    }
    for stream in [stdout.as_ref(), stderr.as_ref(), Some(error)].into_iter().flatten() {
        stream.finish().await?;
    }
    Ok(())
}

async fn write(stream: &Option<StreamWriter>, data: Bytes) -> Result<(), Gone> {
    match stream {
        Some(stream) => stream.write(data).await,
        None => Ok(()),
    }
}

async fn forward_stdin(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Bytes>) {
    while let Some(data) = from.recv().await {
        if to.send(data).await.is_err() {
            return;
        }
    }
}

/// Sizes come as JSON values, one after the other, not necessarily one a chunk.
async fn forward_resize(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<TerminalSize>) {
    const PENDING_BYTES_MAX: usize = 1024;
    let mut pending: Vec<u8> = Vec::new();
    while let Some(data) = from.recv().await {
        pending.extend_from_slice(&data);
        let mut sizes = serde_json::Deserializer::from_slice(&pending).into_iter::<TerminalSize>();
        while let Some(Ok(size)) = sizes.next() {
            let _ = to.try_send(size);
        }
        let read = sizes.byte_offset();
        pending.drain(..read);
        if pending.len() > PENDING_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
