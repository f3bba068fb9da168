//! One SPDY/3.1 connection: as a server, whose client opens streams, or as the client itself. Data flows both ways on each stream.
//!
//! Two tasks, one reading and one writing, joined by bounded queues. SPDY's window updates are not used by Kubernetes' clients; what keeps memory
//! bounded here is that a stream whose queue is full stops the reading of the whole connection. Invariant: a stream's `data` ends exactly
//! when the peer has finished or reset it, or the connection is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::process::CHUNK_BYTES_MAX;
use super::spdy_frame::{self, BadFrame, Control, HEAD_BYTES, Head, Headers, Reader};

/// Chunks in flight on one stream.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Frames that wait to be written.
const FRAMES_IN_FLIGHT: usize = 16;
/// Streams that a client may have open at once.
const STREAMS_MAX: usize = 512;
const REFUSED_STREAM: u32 = 3;

/// A stream.
pub struct Stream {
    /// As the client sent them, names in lower case.
    pub headers: Headers,
    /// What the peer writes on it.
    pub data: mpsc::Receiver<Bytes>,
    /// What is written to the peer.
    pub out: StreamWriter,
}

/// Our side of a stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Out>,
}

/// A connection; dropping it ends it.
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Out>,
    open: Open,
    last: u32,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// Streams whose other side has not ended, and where what comes on them goes; `None`: the connection is gone.
type Open = Arc<Mutex<Option<HashMap<u32, mpsc::Sender<Bytes>>>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

enum Out {
    SynStream {
        id: u32,
        headers: Headers,
    },
    SynReply(u32),
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    Raw(Bytes),
    /// Everything queued so far is written, then the connection is shut.
    Shut,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is gone")]
pub struct Gone;

impl Stream {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

impl StreamWriter {
    /// Write; waits for room.
    pub async fn write(&self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK_BYTES_MAX));
            self.frames.send(Out::Data { id: self.id, fin: false, data: chunk }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// No more from us on this stream.
    pub async fn finish(&self) -> Result<(), Gone> {
        self.frames.send(Out::Data { id: self.id, fin: true, data: Bytes::new() }).await.map_err(|_| Gone)
    }

    /// Give the stream up.
    pub async fn reset(&self) -> Result<(), Gone> {
        self.frames.send(Out::Raw(spdy_frame::rst_stream(self.id, REFUSED_STREAM))).await.map_err(|_| Gone)
    }
}

impl Connection {
    /// Speak SPDY on `io` as the server.
    pub fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Connection {
        Self::start(io, Side::Server)
    }

    /// Speak SPDY on `io` as the client.
    pub fn dial(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Connection {
        Self::start(io, Side::Client)
    }

    fn start(io: impl AsyncRead + AsyncWrite + Send + 'static, side: Side) -> Connection {
        let (read, write) = tokio::io::split(io);
        let (opened, streams) = mpsc::channel(STREAMS_MAX);
        let (frames, queue) = mpsc::channel(FRAMES_IN_FLIGHT);
        let open: Open = Arc::new(Mutex::new(Some(HashMap::new())));
        let mut state = ReadState { side, reader: Reader::new(), streams: open.clone(), opened, frames: frames.clone() };
        let reading = tokio::spawn(async move {
            if let Err(error) = state.run(read).await {
                tracing::debug!(%error, "SPDY connection ended");
            }
            *state.streams.lock().unwrap_or_else(PoisonError::into_inner) = None;
        });
        let writing = tokio::spawn(async move {
            if let Err(error) = write_frames(write, queue).await {
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        Connection { streams, frames, open, last: 0, reading, writing }
    }

    /// Open a stream, as the client.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<Stream, Gone> {
        // A client's streams have odd numbers.
        let id = if self.last == 0 { 1 } else { self.last + 2 };
        self.last = id;
        let headers: Headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (sender, data) = mpsc::channel(CHUNKS_IN_FLIGHT);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).as_mut().ok_or(Gone)?.insert(id, sender);
        self.frames.send(Out::SynStream { id, headers: headers.clone() }).await.map_err(|_| Gone)?;
        Ok(Stream { headers, data, out: StreamWriter { id, frames: self.frames.clone() } })
    }

    /// The next stream that the client opens; `None` when it is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Returns when the client is gone.
    pub async fn gone(&mut self) {
        let _ = (&mut self.reading).await;
    }

    /// Write out what is queued, say goodbye, and wait a moment for the client to hang up first.
    pub async fn close(mut self) {
        let _ = self.frames.send(Out::Raw(spdy_frame::go_away(0))).await;
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), &mut self.reading).await;
        let _ = self.frames.send(Out::Shut).await;
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), &mut self.writing).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

struct ReadState {
    side: Side,
    reader: Reader,
    streams: Open,
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Out>,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("reading")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl ReadState {
    fn open_streams<T>(&self, act: impl FnOnce(&mut HashMap<u32, mpsc::Sender<Bytes>>) -> T) -> T {
        act(self.streams.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
    }

    async fn run(&mut self, mut io: impl AsyncRead + Unpin) -> Result<(), ReadError> {
        let mut head = [0; HEAD_BYTES];
        loop {
            match io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match spdy_frame::head(head)? {
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length];
                    io.read_exact(&mut payload).await?;
                    let control = self.reader.control(kind, flags, &payload)?;
                    self.control(control).await?;
                }
                Head::Data { id, fin, length } => self.data(&mut io, id, fin, length).await?,
            }
        }
    }

    async fn control(&mut self, control: Control) -> Result<(), Gone> {
        match control {
            Control::SynStream { id, fin, headers } if self.side == Side::Server => self.open(id, fin, headers).await,
            Control::SynStream { id, .. } => self.send(Out::Raw(spdy_frame::rst_stream(id, REFUSED_STREAM))).await,
            Control::RstStream { id } | Control::SynReply { id, fin: true, .. } => {
                self.open_streams(|streams| streams.remove(&id));
                Ok(())
            }
            // Clients' pings have odd ids, servers' even ones; ours would be the other way round, and we send none.
            Control::Ping { id } if (id % 2 == 1) == (self.side == Side::Server) => self.send(Out::Raw(spdy_frame::ping(id))).await,
            Control::SynReply { .. } | Control::Ping { .. } | Control::GoAway | Control::Ignored => Ok(()),
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Gone> {
        let full = self.open_streams(|streams| {
            streams.retain(|_, data| !data.is_closed());
            streams.len() >= STREAMS_MAX || streams.contains_key(&id)
        });
        if full {
            return self.send(Out::Raw(spdy_frame::rst_stream(id, REFUSED_STREAM))).await;
        }
        let (sender, data) = mpsc::channel(CHUNKS_IN_FLIGHT);
        if !fin {
            self.open_streams(|streams| streams.insert(id, sender));
        }
        self.send(Out::SynReply(id)).await?;
        let out = StreamWriter { id, frames: self.frames.clone() };
        self.opened.send(Stream { headers, data, out }).await.map_err(|_| Gone)
    }

    async fn data(&mut self, io: &mut (impl AsyncRead + Unpin), id: u32, fin: bool, length: usize) -> Result<(), ReadError> {
        let mut left = length;
        while left > 0 {
            let mut chunk = BytesMut::zeroed(left.min(CHUNK_BYTES_MAX));
            io.read_exact(&mut chunk).await?;
            left -= chunk.len();
            if let Some(stream) = self.open_streams(|streams| streams.get(&id).cloned())
                && stream.send(chunk.freeze()).await.is_err()
            {
                self.open_streams(|streams| streams.remove(&id));
            }
        }
        if fin {
            self.open_streams(|streams| streams.remove(&id));
        }
        Ok(())
    }

    async fn send(&self, frame: Out) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Out>) -> Result<(), ReadError> {
    let mut writer = spdy_frame::Writer::new();
    while let Some(frame) = queue.recv().await {
        match frame {
            Out::SynStream { id, headers } => {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                io.write_all(&writer.syn_stream(id, false, &headers)?).await?;
            }
            Out::SynReply(id) => io.write_all(&writer.syn_reply(id, &[])?).await?,
            Out::Data { id, fin, data } => {
                io.write_all(&spdy_frame::data_head(id, fin, data.len())).await?;
                io.write_all(&data).await?;
            }
            Out::Raw(frame) => io.write_all(&frame).await?,
            Out::Shut => break,
        }
        if queue.is_empty() {
            io.flush().await?;
        }
    }
    io.flush().await?;
    io.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
