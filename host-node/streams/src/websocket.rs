//! WebSockets as Kubernetes' clients speak them: the handshake, the choice of a subprotocol, and messages that begin with a channel number.
//!
//! Facts: channels 0 to 4 are stdin, stdout, stderr, error, resize; in v5 a message `255 c` closes channel c; the base64 forms carry the channel
//! as a digit and the rest as base64 text; before v4 the error channel is plain text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::process::{CHUNK_BYTES_MAX, ClientEnd, Output, Outputs, Wanted};

/// Largest message that a client may send.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A WebSocket of the server's.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const CLOSE: u8 = 255;

/// How channel messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Binary,
    Base64,
}

/// A subprotocol for exec and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    name: &'static str,
    codec: Codec,
    version: u8,
}

/// The subprotocols served; a client that names none gets the first.
pub const CHANNELS: [Channels; 6] = [
    Channels { name: "", codec: Codec::Binary, version: 1 },
    Channels { name: "v5.channel.k8s.io", codec: Codec::Binary, version: 5 },
    Channels { name: "v4.channel.k8s.io", codec: Codec::Binary, version: 4 },
    Channels { name: "v4.base64.channel.k8s.io", codec: Codec::Base64, version: 4 },
    Channels { name: "channel.k8s.io", codec: Codec::Binary, version: 1 },
    Channels { name: "base64.channel.k8s.io", codec: Codec::Base64, version: 1 },
];

/// Whether the request asks to become a WebSocket.
pub fn requested(headers: &HeaderMap) -> bool {
    let says = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|have| have.trim().eq_ignore_ascii_case(token))
    };
    says(CONNECTION, "upgrade") && says(UPGRADE, "websocket") && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// The subprotocols that the client offers, in its order.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The first subprotocol of the client's that is among `served`; "" when it offers none and "" is served.
pub fn choose(headers: &HeaderMap, served: &[&'static str]) -> Option<&'static str> {
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return offered(headers).find_map(|name| served.iter().copied().find(|have| *have == name && !name.is_empty()));
    }
    served.iter().copied().find(|name| name.is_empty())
}

/// The headers of the answer 101. `None`: the request's are not those of a WebSocket handshake of version 13.
pub fn accept(headers: &HeaderMap, protocol: &'static str) -> Option<HeaderMap> {
    if headers.get(SEC_WEBSOCKET_VERSION)?.as_bytes() != b"13" {
        return None;
    }
    let key = derive_accept_key(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes());
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&key).ok()?);
    if !protocol.is_empty() {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Some(answer)
}

/// Wrap an upgraded connection.
pub async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

impl Channels {
    /// Choose by the client's offer.
    pub fn choose(headers: &HeaderMap) -> Option<Channels> {
        Channels::named(choose(headers, &CHANNELS.map(|channels| channels.name))?)
    }

    /// The subprotocol of a name that is served.
    pub fn named(name: &str) -> Option<Channels> {
        CHANNELS.into_iter().find(|channels| channels.name == name)
    }

    /// The subprotocol's name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// A message of a channel.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self.codec {
            Codec::Binary => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Codec::Base64 => {
                let mut text = String::with_capacity(data.len() * 4 / 3 + 8);
                text.push(char::from(b'0' + channel));
                STANDARD.encode_string(data, &mut text);
                Message::Text(text.into())
            }
        }
    }

    /// Channel and payload. `None`: not a channel message.
    pub fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        if data.is_empty() {
            return None;
        }
        let channel = data.split_to(1)[0];
        match self.codec {
            Codec::Binary => Some((channel, data)),
            Codec::Base64 => Some((channel.wrapping_sub(b'0'), STANDARD.decode(data).ok()?.into())),
        }
    }
}

/// Carry a process over a WebSocket until it has ended or the client is gone.
pub async fn serve_process(socket: Socket, channels: Channels, wanted: Wanted, end: ClientEnd) {
    let (mut sink, stream) = socket.split();
    let ClientEnd { stdin, resize, stdout, stderr, exit } = end;
    let mut reader = tokio::spawn(read_process(stream, channels, wanted, stdin, resize));
    let mut outputs = Outputs::new(stdout, stderr, exit);
    tokio::select! {
        _ = write_process(&mut sink, channels, wanted, &mut outputs) => {
            // The close frame is out; wait a moment for the client's own, so that the last bytes are not cut off by a reset.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), &mut reader).await;
        }
        _ = &mut reader => {}
    }
    reader.abort();
}

type Sink = SplitSink<Socket, Message>;
type SocketResult = Result<(), tokio_tungstenite::tungstenite::Error>;

async fn write_process(sink: &mut Sink, channels: Channels, wanted: Wanted, outputs: &mut Outputs) -> SocketResult {
    // An empty message says that the connection stands, on the first channel that the client reads.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.send(channels.encode(first, b"")).await?;
    while let Some(output) = outputs.next().await {
        match output {
            Output::Stdout(data) if wanted.stdout => sink.send(channels.encode(STDOUT, &data)).await?,
            Output::Stderr(data) if wanted.stderr => sink.send(channels.encode(STDERR, &data)).await?,
            Output::Stdout(_) | Output::Stderr(_) => {}
            Output::Exit(exit) => {
                let text = if channels.version >= 4 { exit.status().to_string() } else { exit.message() };
                if !text.is_empty() {
                    sink.send(channels.encode(ERROR, text.as_bytes())).await?;
                }
            }
        }
    }
    sink.send(goodbye()).await
}

/// A close with the code for a normal end: clients take one without a code for an error.
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Ends when the client is gone.
async fn read_process(
    mut stream: SplitStream<Socket>,
    channels: Channels,
    wanted: Wanted,
    stdin: tokio::sync::mpsc::Sender<Bytes>,
    resize: tokio::sync::mpsc::Sender<super::process::TerminalSize>,
) {
    let mut stdin = wanted.stdin.then_some(stdin);
    while let Some(Ok(message)) = stream.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
        match channels.decode(message) {
            Some((0, mut data)) => {
                while let (false, Some(to)) = (data.is_empty(), &stdin) {
                    let chunk = data.split_to(data.len().min(CHUNK_BYTES_MAX));
                    if to.send(chunk).await.is_err() {
                        stdin = None;
                    }
                }
            }
            Some((4, data)) => {
                if let Ok(size) = serde_json::from_slice(&data) {
                    // A machine that does not keep up with resizing misses some; the last one matters to people only.
                    let _ = resize.try_send(size);
                }
            }
            Some((CLOSE, data)) if channels.version >= 5 && data.as_ref() == [0] => stdin = None,
            _ => {}
        }
    }
}

/// Subprotocols for a plain stream of bytes to the client (logs).
pub const BYTE_STREAMS: [&str; 3] = ["", "binary.k8s.io", "base64.binary.k8s.io"];

/// Text where it is text, else bytes.
pub fn message(bytes: Bytes) -> Message {
    Utf8Bytes::try_from(bytes.clone()).map_or(Message::Binary(bytes), Message::Text)
}

/// Bytes as a message of one of [`BYTE_STREAMS`].
pub fn byte_message(protocol: &str, bytes: Bytes) -> Message {
    if protocol == BYTE_STREAMS[2] { Message::Text(STANDARD.encode(&bytes).into()) } else { Message::Binary(bytes) }
}

/// Carry messages to the client until they end or the client is gone.
pub async fn serve_messages(socket: Socket, mut messages: impl Stream<Item = Message> + Unpin) {
    let (mut sink, mut stream) = socket.split();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                None => break,
                Some(message) => if sink.send(message).await.is_err() {
                    return;
                },
            },
            message = stream.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = sink.send(goodbye()).await;
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

#[cfg(test)]
mod tests;
