//! Frames of SPDY/3.1, as far as Kubernetes' old streaming protocol uses them (draft-mbelshe-httpbis-spdy-00). Bytes in, frames out, and back; no I/O.
//!
//! Header blocks are compressed with zlib, one stream for the life of the connection in each direction, seeded with the draft's dictionary. A
//! peer is hostile: lengths, counts and inflated sizes are bounded before anything is allocated for them.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Size of the head of every frame.
pub const HEAD_BYTES: usize = 8;
/// Largest control frame that is accepted.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Largest header block after inflating.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Most headers of one stream.
const HEADERS_MAX: u32 = 256;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

/// The words of the draft's dictionary that are written with their length, then its tail.
const DICTIONARY_WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|\
authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|content-location|content-md5|\
content-range|content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|\
last-modified|location|max-forwards|pragma|proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|\
transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
keep-alive|origin";
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found\
500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split('|') {
        bytes.put_u32(word.len() as u32);
        bytes.put_slice(word.as_bytes());
    }
    bytes.put_slice(DICTIONARY_TAIL.as_bytes());
    bytes
}

/// Names (lower case) and values, in the peer's order.
pub type Headers = Vec<(String, String)>;

/// A control frame that means something to us.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the draft's")]
pub enum Control {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates, and what a later version may bring.
    Ignored,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the draft's")]
pub enum Head {
    /// `length` bytes of a control frame follow.
    Control { kind: u16, flags: u8, length: usize },
    /// `length` bytes of a stream follow.
    Data { id: u32, fin: bool, length: usize },
}

/// The peer does not speak SPDY/3.1, or beyond our limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SPDY/3.1 frame within limits: {0}")]
pub struct BadFrame(pub &'static str);

/// Read the head of a frame.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<Head, BadFrame> {
    let mut bytes = &bytes[..];
    let word = bytes.get_u32();
    let flags = bytes.get_u8();
    let length = bytes.get_uint(3) as usize;
    if word & 0x8000_0000 == 0 {
        return Ok(Head::Data { id: word, fin: flags & FLAG_FIN != 0, length });
    }
    if (word >> 16) as u16 & 0x7fff != VERSION {
        return Err(BadFrame("version"));
    }
    if length > CONTROL_BYTES_MAX {
        return Err(BadFrame("length"));
    }
    Ok(Head::Control { kind: word as u16, flags, length })
}

/// Reads control frames of one connection; keeps the state of the peer's compression.
pub struct Reader {
    inflate: Decompress,
}

impl Reader {
    /// At the start of a connection.
    pub fn new() -> Reader {
        Reader { inflate: Decompress::new(true) }
    }

    /// Read a control frame's payload.
    pub fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Control, BadFrame> {
        let fin = flags & FLAG_FIN != 0;
        let mut word = || -> Result<u32, BadFrame> {
            if payload.len() < 4 {
                return Err(BadFrame("short"));
            }
            Ok(payload.get_u32())
        };
        match kind {
            1 => {
                let id = word()? & 0x7fff_ffff;
                word()?; // the associated stream
                let block = payload.get(2..).ok_or(BadFrame("short"))?; // priority and slot
                Ok(Control::SynStream { id, fin, headers: self.headers(block)? })
            }
            2 => {
                let id = word()? & 0x7fff_ffff;
                Ok(Control::SynReply { id, fin, headers: self.headers(payload)? })
            }
            3 => Ok(Control::RstStream { id: word()? & 0x7fff_ffff }),
            6 => Ok(Control::Ping { id: word()? }),
            7 => Ok(Control::GoAway),
            8 => {
                // Late headers mean nothing to us, but the compression's state must follow them.
                self.headers(payload.get(4..).ok_or(BadFrame("short"))?)?;
                Ok(Control::Ignored)
            }
            _ => Ok(Control::Ignored),
        }
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, BadFrame> {
        let block = self.inflate(block)?;
        let mut rest = &block[..];
        let count = take_u32(&mut rest)?;
        if count > HEADERS_MAX {
            return Err(BadFrame("too many headers"));
        }
        (0..count).map(|_| Ok((take_text(&mut rest)?.to_ascii_lowercase(), take_text(&mut rest)?))).collect()
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, BadFrame> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() == out.capacity() {
                if out.len() >= HEADERS_BYTES_MAX {
                    return Err(BadFrame("headers too large"));
                }
                out.reserve(4096);
            }
            let before = (self.inflate.total_in(), out.len());
            match self.inflate.decompress_vec(block, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(BadFrame("compression ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| BadFrame("dictionary"))?;
                }
                Err(_) => return Err(BadFrame("compression")),
            }
            let consumed = (self.inflate.total_in() - before.0) as usize;
            block = block.get(consumed..).unwrap_or_default();
            let progress = consumed > 0 || out.len() > before.1;
            if block.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            if !progress && out.len() < out.capacity() {
                return Err(BadFrame("compression"));
            }
        }
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BadFrame> {
    if rest.len() < 4 {
        return Err(BadFrame("short header block"));
    }
    Ok(rest.get_u32())
}

fn take_text(rest: &mut &[u8]) -> Result<String, BadFrame> {
    let length = take_u32(rest)? as usize;
    let (text, after) = rest.split_at_checked(length).ok_or(BadFrame("short header block"))?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| BadFrame("header is not UTF-8"))
}

/// Writes frames of one connection; keeps the state of our compression.
pub struct Writer {
    deflate: Compress,
}

impl Writer {
    /// At the start of a connection.
    pub fn new() -> Writer {
        let mut deflate = Compress::new(Compression::default(), true);
        // Without its dictionary the stream would still be valid zlib; clients set the dictionary only when asked for it.
        let _ = deflate.set_dictionary(&dictionary());
        Writer { deflate }
    }

    /// A new stream.
    pub fn syn_stream(&mut self, id: u32, fin: bool, headers: &[(&str, &str)]) -> Result<Bytes, BadFrame> {
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        payload.put_u32(0);
        payload.put_u16(0);
        payload.put_slice(&self.headers(headers)?);
        Ok(control(1, if fin { FLAG_FIN } else { 0 }, &payload))
    }

    /// The answer to a new stream.
    pub fn syn_reply(&mut self, id: u32, headers: &[(&str, &str)]) -> Result<Bytes, BadFrame> {
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        payload.put_slice(&self.headers(headers)?);
        Ok(control(2, 0, &payload))
    }

    fn headers(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, BadFrame> {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(block.len() + 128);
        let mut rest = &block[..];
        loop {
            let before = self.deflate.total_in();
            self.deflate.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(|_| BadFrame("compression"))?;
            rest = rest.get((self.deflate.total_in() - before) as usize..).unwrap_or_default();
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// The stream is refused or given up.
pub fn rst_stream(id: u32, status: u32) -> Bytes {
    control(3, 0, &words([id, status]))
}

/// The answer to a ping is the ping.
pub fn ping(id: u32) -> Bytes {
    control(6, 0, &id.to_be_bytes())
}

/// No more streams; `last` was the last one taken.
pub fn go_away(last: u32) -> Bytes {
    control(7, 0, &words([last, 0]))
}

/// The head of a data frame; the data follows. At most 2^24 - 1 bytes.
pub fn data_head(id: u32, fin: bool, length: usize) -> [u8; HEAD_BYTES] {
    let length = (length as u32).to_be_bytes();
    let id = id.to_be_bytes();
    [id[0] & 0x7f, id[1], id[2], id[3], if fin { FLAG_FIN } else { 0 }, length[1], length[2], length[3]]
}

fn words([a, b]: [u32; 2]) -> [u8; 8] {
    ((u64::from(a) << 32) | u64::from(b)).to_be_bytes()
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(flags);
    frame.put_uint(payload.len() as u64, 3);
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests;
