//! Port-forward: pairs of SPDY streams, one for data and one for an error, each pair a connection to a port of a pod.
//!
//! Newer clients (kubectl 1.31) carry the same SPDY inside a WebSocket; `tunnel` unwraps it. Others (Python's) name the ports in the
//! query and get two numbered channels for each.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::spdy::{Connection, Gone, Stream};
use super::websocket::{Channels, Socket, goodbye};

/// The protocol's name in `X-Stream-Protocol-Version`.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// The WebSocket subprotocol that carries it.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// All that is served over WebSockets; what is no tunnel is channels.
pub const WEBSOCKETS: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// Ports of one client, which a byte can number in pairs.
pub const PORTS_MAX: usize = 127;

/// Streams whose other half has not come yet.
const HALVES_MAX: usize = 64;
/// Chunks in flight from a pod.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Bytes in flight through a tunnel.
const TUNNEL_BYTES: usize = 128 * 1024;

/// Serve a client until it is gone. `dial` connects to a port of the pod, or says why not.
pub async fn serve<F>(
    mut connection: Connection,
    dial: impl Fn(u16, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut pairs = tokio::task::JoinSet::new();
    while let Some(stream) = connection.accept().await {
        while pairs.try_join_next().is_some() {}
        let key = stream.header("requestid").or(stream.header("port")).unwrap_or_default().to_owned();
        let Some(other) = halves.remove(&key) else {
            if halves.len() >= HALVES_MAX {
                let _ = stream.out.reset().await;
            } else {
                halves.insert(key, stream);
            }
            continue;
        };
        let (error, data) = if other.header("streamtype") == Some("error") { (other, stream) } else { (stream, other) };
        let dial = dial.clone();
        pairs.spawn(async move {
            if forward(error, data, dial).await.is_err() {
                tracing::debug!("a forwarded connection was cut off");
            }
        });
    }
}

async fn forward<F>(error: Stream, data: Stream, dial: impl Fn(u16, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>) -> F) -> Result<(), Gone>
where
    F: Future<Output = Result<(), String>>,
{
    let (to_client, mut from_pod) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let port = data.header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let out = data.out;
    let connected = match port {
        Some(port) => dial(port, data.data, to_client).await,
        None => Err("the stream names no port".to_owned()),
    };
    match connected {
        Ok(()) => {
            while let Some(bytes) = from_pod.recv().await {
                out.write(bytes).await?;
            }
        }
        Err(why) => error.out.write(why.into()).await?,
    }
    out.finish().await?;
    error.out.finish().await
}

/// Serve a client in channels until it or all its connections are gone: of the i-th port, channel 2i has data and 2i + 1 an error. Both
/// begin with the port's number, little-endian.
pub async fn serve_channels<F>(
    socket: Socket,
    channels: Channels,
    ports: Vec<u16>,
    dial: impl Fn(u16, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut answers) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (mut inputs, mut connections) = (Vec::new(), tokio::task::JoinSet::new());
    for (port, data) in ports.into_iter().zip((0..u8::MAX).step_by(2)) {
        let (to_pod, from_client) = mpsc::channel(CHUNKS_IN_FLIGHT);
        inputs.push(to_pod);
        for channel in [data, data + 1] {
            if sink.send(channels.encode(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        let (to_client, dial) = (to_client.clone(), dial.clone());
        connections.spawn(async move {
            let (to, mut from_pod) = mpsc::channel(CHUNKS_IN_FLIGHT);
            if let Err(why) = dial(port, from_client, to).await {
                let _ = to_client.send((data + 1, Bytes::from(why))).await;
            }
            while let Some(bytes) = from_pod.recv().await {
                if to_client.send((data, bytes)).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(to_client);
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some((channel, bytes)) = channels.decode(message) else { continue };
            if let Some(to_pod) = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                // A pod that is gone says so by the end of its answers.
                let _ = to_pod.send(bytes).await;
            }
        }
    };
    let outward = async {
        while let Some((channel, bytes)) = answers.recv().await {
            sink.send(channels.encode(channel, &bytes)).await.ok()?;
        }
        sink.send(goodbye()).await.ok()
    };
    tokio::select! {
        () = inward => {}
        _ = outward => {}
    }
}

/// The SPDY connection inside a WebSocket.
pub fn tunnel(socket: Socket) -> Connection {
    let (inner, outer) = tokio::io::duplex(TUNNEL_BYTES);
    tokio::spawn(carry(socket, outer));
    Connection::serve(inner)
}

/// Binary messages to bytes and back, until either end is gone.
async fn carry(socket: Socket, bytes: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(bytes);
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) => write.write_all(&data).await.ok()?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        write.shutdown().await.ok()
    };
    let outward = async {
        let mut buffer = vec![0; super::process::CHUNK_BYTES_MAX];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await.ok()?,
            }
        }
        sink.send(goodbye()).await.ok()
    };
    tokio::select! {
        _ = inward => {}
        _ = outward => {}
    }
}
