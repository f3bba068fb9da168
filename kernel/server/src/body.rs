//! Bodies of answers: nothing, one piece, a list written from shared objects as it is sent, or a stream.
//!
//! Invariant: whatever the size of a list, no more than one buffer of it ([`CHUNK_BYTES`]) is copied at a time.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use futures::stream::BoxStream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// How much of a list is written at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The body of an answer.
pub(crate) enum Body {
    Full(Option<Bytes>),
    List(ListBody),
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Full(None)
    }

    pub(crate) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
        Body::Stream(Box::pin(stream))
    }

    /// Bytes that will be sent, when that is known.
    pub(crate) fn known_length(&self) -> Option<u64> {
        match self {
            Body::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::List(list) if list.gzip.is_none() => list.length,
            Body::List(_) | Body::Stream(_) => None,
        }
    }

    /// The same, compressed.
    pub(crate) fn gzipped(self) -> Body {
        match self {
            Body::Full(Some(bytes)) => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
                // Writing to a Vec does not fail.
                let _ = encoder.write_all(&bytes);
                Body::Full(Some(encoder.finish().unwrap_or_default().into()))
            }
            Body::List(list) => Body::List(ListBody { gzip: Some(GzEncoder::new(Vec::new(), Compression::fast())), ..list }),
            other => other,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Full(Some(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match self.get_mut() {
            Body::Full(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()),
            Body::List(list) => list.next(),
            Body::Stream(stream) => match stream.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(chunk) => chunk,
            },
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::List(_) | Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.known_length().map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// A list: a head, items that share the registry's bytes or are made as they are sent, a tail.
pub(crate) struct ListBody {
    head: Bytes,
    items: Box<dyn Iterator<Item = Bytes> + Send>,
    opening: &'static [u8],
    first: bool,
    tail: Bytes,
    ended: bool,
    length: Option<u64>,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl ListBody {
    /// `head`, then each item with `opening` before it, comma-separated, then `tail`.
    pub(crate) fn new(head: Bytes, items: Vec<Bytes>, opening: &'static [u8], tail: Bytes) -> ListBody {
        let commas = items.len().saturating_sub(1);
        let content: usize = items.iter().map(|item| item.len() + opening.len()).sum();
        let length = Some((head.len() + content + commas + tail.len()) as u64);
        ListBody { length, opening, ..ListBody::made(head, items.into_iter(), tail) }
    }

    /// The same of items that are made only when they are sent.
    pub(crate) fn made(head: Bytes, items: impl Iterator<Item = Bytes> + Send + 'static, tail: Bytes) -> ListBody {
        ListBody { head, items: Box::new(items), opening: b"", first: true, tail, ended: false, length: None, gzip: None }
    }

    /// All of it in one piece.
    pub(crate) fn whole(mut self) -> Bytes {
        let mut whole = Vec::with_capacity(self.length.and_then(|length| length.try_into().ok()).unwrap_or(0));
        while let Some(chunk) = self.next() {
            whole.extend_from_slice(&chunk);
        }
        whole.into()
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = self.next_plain();
            let Some(mut encoder) = self.gzip.take() else { return chunk };
            let Some(chunk) = chunk else {
                let end = encoder.finish().unwrap_or_default();
                return (!end.is_empty()).then(|| end.into());
            };
            let _ = encoder.write_all(&chunk);
            let compressed = std::mem::take(encoder.get_mut());
            self.gzip = Some(encoder);
            if !compressed.is_empty() {
                return Some(compressed.into());
            }
        }
    }

    fn next_plain(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let length = self.length.and_then(|length| length.try_into().ok()).unwrap_or(usize::MAX);
        let mut chunk = BytesMut::with_capacity(length.min(CHUNK_BYTES + 4096));
        chunk.put(std::mem::take(&mut self.head));
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                chunk.put(std::mem::take(&mut self.tail));
                self.ended = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                chunk.put_u8(b',');
            }
            chunk.put_slice(self.opening);
            chunk.put(item);
        }
        Some(chunk.freeze())
    }
}

#[cfg(test)]
mod tests;
