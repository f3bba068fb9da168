//! A gRPC health check: one call of `grpc.health.v1.Health/Check` over cleartext HTTP/2.
//!
//! One request on one connection needs so little of HTTP/2 (RFC 9113) and HPACK (RFC 7541) that it is written down here: headers as
//! literals, and of the answer only the message's bytes. Sources: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md> and
//! `doc/PROTOCOL-HTTP2.md` there. Invariant: at most [`super::ANSWER_BYTES_MAX`] of an answer are read.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ANSWER_BYTES_MAX;
use crate::error::{Error, Result, Step};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks for the health of `service` (empty: of the server as a whole); `Ok` means serving.
pub async fn check(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), authority: &str, service: &str) -> Result<()> {
    let mut request = PREFACE.to_vec();
    frame(&mut request, SETTINGS, 0, 0, &[]);
    frame(&mut request, HEADERS, END_HEADERS, STREAM, &headers(authority));
    frame(&mut request, DATA, END_STREAM, STREAM, &message(service));
    stream.write_all(&request).await.step(|| "sending the probe".into())?;
    let mut said = Vec::new();
    let mut budget = ANSWER_BYTES_MAX;
    loop {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.step(|| "reading the answer".into())?;
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        let (kind, flags) = (head[3], head[4]);
        let of_stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff == STREAM;
        budget = budget.checked_sub(length + HEAD_BYTES as u64).ok_or_else(|| answer("too long an answer"))?;
        let mut body = vec![0; usize::try_from(length).unwrap_or_default()];
        stream.read_exact(&mut body).await.step(|| "reading the answer".into())?;
        match kind {
            DATA if of_stream && flags & PADDED == 0 => said.extend_from_slice(&body),
            SETTINGS if flags & ACK == 0 => reply(stream, SETTINGS, &[]).await?,
            PING if flags & ACK == 0 => reply(stream, PING, &body).await?,
            RESET if of_stream => return Err(answer("the server ended the call")),
            GO_AWAY => return Err(answer("the server ended the connection")),
            _ => {}
        }
        if let Some(status) = status(&said) {
            return if status == SERVING { Ok(()) } else { Err(answer(&format!("service unhealthy (responded with status {status})"))) };
        }
        if of_stream && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Err(answer("the server answered without a health status"));
        }
    }
}

fn answer(text: &str) -> Error {
    Error::Answer(text.to_owned())
}

async fn reply(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> Result<()> {
    let mut out = Vec::new();
    frame(&mut out, kind, ACK, 0, body);
    stream.write_all(&out).await.step(|| "answering the server".into())
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// The request's header block: fields of the static table by index, all values as they are.
fn headers(authority: &str) -> Vec<u8> {
    const METHOD_POST: u8 = 0x83;
    const SCHEME_HTTP: u8 = 0x86;
    let mut out = vec![METHOD_POST, SCHEME_HTTP];
    for (index, value) in [(4u8, "/grpc.health.v1.Health/Check"), (1, authority)] {
        out.push(index); // literal without indexing, the name by its index
        text(&mut out, value);
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "kube-probe/1.37")] {
        out.push(0); // literal without indexing, a new name
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// A string literal without Huffman coding; ours are shorter than 127 bytes, longer ones are cut.
fn text(out: &mut Vec<u8>, value: &str) {
    let bytes = &value.as_bytes()[..value.len().min(126)];
    out.push(u8::try_from(bytes.len()).unwrap_or_default());
    out.extend_from_slice(bytes);
}

/// `HealthCheckRequest { service }` with gRPC's prefix: not compressed, the length.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        let bytes = &service.as_bytes()[..service.len().min(127)];
        body.extend_from_slice(&[0x0a, u8::try_from(bytes.len()).unwrap_or_default()]);
        body.extend_from_slice(bytes);
    }
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// The status of a `HealthCheckResponse` once its message is whole. Field 1 absent is UNKNOWN, 0.
fn status(said: &[u8]) -> Option<u64> {
    let length = usize::try_from(u32::from_be_bytes(said.get(1..5)?.try_into().ok()?)).ok()?;
    let body = said.get(5..5usize.checked_add(length)?)?;
    match body {
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_when_its_message_is_whole() {
        assert_eq!(status(&[]), None);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8]), None);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 255, 255, 255, 255]), None);
    }

    /// Plays a server that says `frames` after it has read the preface.
    async fn against(frames: Vec<u8>) -> Result<()> {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut preface = vec![0; PREFACE.len()];
            theirs.read_exact(&mut preface).await.expect("a preface");
            assert_eq!(preface, PREFACE);
            theirs.write_all(&frames).await.expect("written");
            theirs
        });
        let result = check(&mut ours, "10.0.0.1:5000", "liveness").await;
        drop(server.await);
        result
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let frames = |list: &[(u8, u8, u32, &[u8])]| {
            let mut out = Vec::new();
            list.iter().for_each(|(kind, flags, stream, body)| frame(&mut out, *kind, *flags, *stream, body));
            out
        };
        let settings: (u8, u8, u32, &[u8]) = (SETTINGS, 0, 0, &[]);
        let healthy = frames(&[settings, (HEADERS, END_HEADERS, 1, &[0x88]), (DATA, 0, 1, &[0, 0, 0, 0, 2, 8, 1])]);
        assert!(against(healthy).await.is_ok());
        let sick = frames(&[settings, (DATA, 0, 1, &[0, 0, 0, 0, 2, 8, 2])]);
        assert!(against(sick).await.is_err_and(|e| e.to_string().contains("status 2")));
        let unknown = frames(&[settings, (HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])]);
        assert!(against(unknown).await.is_err());
        assert!(against(frames(&[(GO_AWAY, 0, 0, &[0; 8])])).await.is_err());
        assert!(against(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await.is_err());
    }
}
