//! gRPC's unary calls over a Unix socket: HTTP/2 by hyper, one message each way, the status in the trailers.
//!
//! One connection for all calls, made anew when it is gone. Dropping a call's future resets its stream, which cancels it at the other side.

use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle_runtime_bridge::Error;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Before a message: one byte for its compression, four for its length.
const HEAD_BYTES: usize = 5;

/// gRPC's status codes that mean something here.
pub mod code {
    /// What was asked for does not exist.
    pub const NOT_FOUND: i32 = 5;
    /// Nobody answers.
    pub const UNAVAILABLE: i32 = 14;
}

/// A call that failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The method.
    pub call: &'static str,
    /// gRPC's status code.
    pub code: i32,
    /// The other side's words.
    pub message: String,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error::remote(fault.call, fault.message)
    }
}

/// Who serves gRPC on a socket.
pub struct Client {
    socket: PathBuf,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Of the socket at this path; it need not be there yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, connection: Mutex::new(None) }
    }

    /// Calls a method of `runtime.v1.RuntimeService`.
    pub(crate) async fn runtime<A: Message + Default>(&self, method: &'static str, request: &impl Message) -> Result<A, Fault> {
        self.call("runtime.v1.RuntimeService", method, request).await
    }

    /// Calls a method of `runtime.v1.ImageService`.
    pub(crate) async fn image<A: Message + Default>(&self, method: &'static str, request: &impl Message) -> Result<A, Fault> {
        self.call("runtime.v1.ImageService", method, request).await
    }

    /// Calls a method of a service, which is named with its package.
    ///
    /// # Errors
    /// What the other side answers; [`code::UNAVAILABLE`] when there is no answer.
    pub async fn call<A: Message + Default>(&self, service: &str, method: &'static str, message: &impl Message) -> Result<A, Fault> {
        let lost = |error: &dyn std::fmt::Display| Fault { call: method, code: code::UNAVAILABLE, message: error.to_string() };
        let mut body = BytesMut::with_capacity(HEAD_BYTES + message.encoded_len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).map_err(|error| lost(&error))?);
        message.encode(&mut body).map_err(|error| lost(&error))?;
        let request = http::Request::post(format!("http://localhost/{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .map_err(|error| lost(&error))?;
        let mut sender = self.connect().await.map_err(|error| lost(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| lost(&error))?;
        // A call that fails before it answers has its status in the head.
        let trailers = body.trailers().cloned().unwrap_or_default();
        let field = |name: &str| trailers.get(name).or_else(|| head.headers.get(name)).and_then(|value| value.to_str().ok());
        let status = field("grpc-status").and_then(|text| text.parse().ok()).unwrap_or(2);
        if status != 0 {
            let text = field("grpc-message").map_or_else(|| format!("HTTP status {}", head.status), percent_decoded);
            return Err(Fault { call: method, code: status, message: text });
        }
        let bytes = body.to_bytes();
        let malformed = || lost(&"a malformed answer");
        if bytes.first() != Some(&0) {
            return Err(malformed());
        }
        A::decode(bytes.get(HEAD_BYTES..).ok_or_else(malformed)?).map_err(|_| malformed())
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", self.socket.display())))?;
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection of gRPC ended");
            }
        });
        Ok(connection.insert(sender).clone())
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_faults_are_percent_encoded() {
        assert_eq!(percent_decoded("a %22b%22%0A100%"), "a \"b\"\n100%");
        assert_eq!(percent_decoded("%zz%C3%A9"), "%zzé");
    }
}
