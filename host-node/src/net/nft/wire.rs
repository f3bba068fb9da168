//! Bytes of nfnetlink: messages, attributes, one socket.
//!
//! The subsystem's messages go out in a batch that the kernel carries out as one or not at all; its answers are there when the send
//! returns. Facts: linux/netlink.h, linux/netfilter/nfnetlink.h. Nothing here knows what a table or a connection is.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

use crate::error::{Error, Result};

/// The nf_tables subsystem.
pub const NFTABLES: u16 = 10;
/// The connection tracking subsystem.
pub const CONNTRACK: u16 = 1;

/// Make it if it is not there.
pub const CREATE: u16 = 0x400;
/// At the end of what is there.
pub const APPEND: u16 = 0x800;
/// All of them.
pub const DUMP: u16 = 0x300;
const REQUEST: u16 = 1;
const ACK: u16 = 4;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// One read of answers; a dump's message is at most 32 KiB.
const READ_BYTES: usize = 64 << 10;

/// Attributes under construction: each is length, type, payload, padded to four bytes.
#[derive(Default)]
pub struct Attrs(pub Vec<u8>);

impl Attrs {
    /// An attribute of bytes.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // An attribute holds 64 KiB; whoever could exceed it splits what it says.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A zero-terminated text.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// A number in network order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes in an attribute.
    #[must_use]
    pub fn nested(self, kind: u16, inner: Attrs) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Reads attributes: types without their flags, and payloads. Stops at the first that is malformed.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !(NESTED | 0x4000);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The payload of the first attribute of a type.
pub fn attr(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Messages under construction.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// What each message does, for errors.
    steps: Vec<&'static str>,
    last: usize,
}

impl Messages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Adds a message about things of a family; 0 is any.
    pub fn push(&mut self, step: &'static str, (subsystem, message): (u16, u16), flags: u16, family: u8, attrs: &Attrs) {
        self.raw(step, (subsystem << 8) | message, flags, [family, 0, 0, 0], &attrs.0);
    }

    fn raw(&mut self, step: &'static str, kind: u16, flags: u16, family: [u8; 4], attrs: &[u8]) {
        self.last = self.bytes.len();
        let length = u32::try_from(HEADER + family.len() + attrs.len()).unwrap_or(u32::MAX);
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(family);
        self.bytes.extend(attrs);
        self.steps.push(step);
    }

    /// Asks for an answer to the last message.
    fn acknowledged(mut self) -> Self {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let with = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&with.to_ne_bytes());
        }
        self
    }

    /// The messages as one transaction of nf_tables.
    fn batch(self) -> Self {
        let inner = self.acknowledged();
        let mut batch = Messages::default();
        let family = [0, 0, (NFTABLES >> 8) as u8, NFTABLES as u8];
        batch.raw("begin", BATCH_BEGIN, 0, family, &[]);
        // Sequence numbers tell which message an error is about: shifted by the one in front.
        let mut rest = inner.bytes;
        let mut at = 0;
        while let Some(length) = rest.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes) {
            if let Some(sequence) = rest.get_mut(at + 8..at + 12) {
                let shifted = u32::from_ne_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]) + 1;
                sequence.copy_from_slice(&shifted.to_ne_bytes());
            }
            at += length as usize;
        }
        batch.bytes.extend(rest);
        batch.steps.extend(inner.steps);
        batch.raw("end", BATCH_END, 0, family, &[]);
        batch
    }
}

/// A netlink socket for netfilter, in the network namespace of the thread that opens it. Its calls block, for as long as the kernel works.
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens and binds one.
    pub fn open() -> Result<Self> {
        let fail = |step: &'static str| move |errno: nix::Error| Error::io(step, errno);
        let kind = SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, kind, SockProtocol::NetlinkNetFilter)
            .map_err(fail("opening a netfilter socket"))?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(fail("binding a netfilter socket"))?;
        socket::setsockopt(&fd, socket::sockopt::RcvBufForce, &(4 << 20)).map_err(fail("sizing a netfilter socket"))?;
        Ok(Self(fd))
    }

    /// Carries out the messages as one: all of them, or none and the error of the first that failed.
    pub fn commit(&self, messages: Messages) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let batch = messages.batch();
        self.send(&batch)?;
        self.outcome(&batch)
    }

    /// Carries out messages one by one; gives the first error after trying all.
    pub fn each(&self, messages: Messages) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = messages.acknowledged();
        self.send(&messages)?;
        self.outcome(&messages)
    }

    /// Asks for a dump; `take` sees the attributes of every message of it.
    pub fn dump(&self, request: &Messages, mut take: impl FnMut(&[u8])) -> Result<()> {
        self.send(request)?;
        loop {
            let bytes = self.receive(MsgFlags::empty())?;
            for (kind, body) in received(&bytes) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return Err(refused("dumping", code(body))),
                    _ => take(body.get(4..).unwrap_or(&[])),
                }
            }
        }
    }

    fn send(&self, messages: &Messages) -> Result<()> {
        // The kernel takes a batch as one buffer.
        let room = messages.bytes.len() * 2 + READ_BYTES;
        socket::setsockopt(&self.0, socket::sockopt::SndBufForce, &room).map_err(|e| Error::io("sizing a netfilter socket", e))?;
        let to = NetlinkAddr::new(0, 0);
        let sent = socket::sendto(self.0.as_raw_fd(), &messages.bytes, &to, MsgFlags::empty())
            .map_err(|e| Error::io("sending to netfilter", e))?;
        if sent == messages.bytes.len() { Ok(()) } else { Err(Error::io("sending to netfilter", nix::Error::EMSGSIZE)) }
    }

    fn receive(&self, flags: MsgFlags) -> Result<Vec<u8>> {
        let mut bytes = vec![0; READ_BYTES];
        let count = socket::recv(self.0.as_raw_fd(), &mut bytes, flags).map_err(|e| Error::io("hearing netfilter", e))?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// All answers have been queued when the send returned.
    fn outcome(&self, sent: &Messages) -> Result<()> {
        let (mut first, mut answered) = (None, false);
        loop {
            let flags = if answered { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
            let bytes = match self.receive(flags) {
                Err(Error::Io { source, .. }) if source.raw_os_error() == Some(nix::libc::EAGAIN) => break,
                other => other?,
            };
            for (sequence, code) in errors(&bytes) {
                answered = true;
                if code != 0 && first.is_none() {
                    first = Some(refused(sent.steps.get(sequence as usize).copied().unwrap_or("a batch"), code));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn refused(step: &str, code: i32) -> Error {
    Error::io(format!("netfilter: {step}"), nix::Error::from_raw(-code))
}

fn code(body: &[u8]) -> i32 {
    body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes)
}

fn received(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    split(bytes).map(|message| (u16::from_ne_bytes([message[4], message[5]]), &message[HEADER..]))
}

fn errors(bytes: &[u8]) -> impl Iterator<Item = (u32, i32)> {
    let sequence = |message: &[u8]| u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
    split(bytes).filter(|m| u16::from_ne_bytes([m[4], m[5]]) == ERROR).map(move |m| (sequence(m), code(&m[HEADER..])))
}

fn split(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length).filter(|m| m.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_and_a_cut_one_ends_the_list() {
        let written = Attrs::default().number(1, 7).text(2, "abc").nested(3, Attrs::default().bytes(9, &[1]));
        let read: Vec<_> = attrs(&written.0).map(|(kind, value)| (kind, value.to_vec())).collect();
        assert_eq!(read[0], (1, vec![0, 0, 0, 7]));
        assert_eq!(read[1], (2, b"abc\0".to_vec()));
        assert_eq!(attr(&read[2].1, 9), Some(&[1][..]));
        assert_eq!(attrs(&written.0[..written.0.len() - 6]).count(), 2);
        assert_eq!(attrs(&[1, 0, 0, 0]).count(), 0);
    }
}
