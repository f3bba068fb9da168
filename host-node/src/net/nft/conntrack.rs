//! Tracked connections: which there are, and how to forget one.
//!
//! A connection that was translated keeps its translation for as long as it is tracked. For TCP that is right; a stream of UDP packets
//! has no end, and would go to an endpoint that is gone for as long as the client sends.

use std::net::{IpAddr, SocketAddr};

use super::Family;
use super::wire::{Attrs, CONNTRACK, DUMP, Messages, Socket, attr};
use crate::error::Result;

const ANY_FAMILY: u8 = 0;
const DELETE: u16 = 2;
const GET: u16 = 1;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
}

/// Forgets the UDP connections that `stale` picks by what the client asked for and who answers. Gives their number.
pub fn forget(socket: &Socket, mut stale: impl FnMut(&Tuple, &Tuple) -> bool) -> Result<usize> {
    let mut dump = Messages::default();
    dump.push("listing connections", (CONNTRACK, GET), DUMP, ANY_FAMILY, &Attrs::default());
    let (mut doomed, mut count) = (Messages::default(), 0);
    socket.dump(&dump, |bytes| {
        let Some((said, reply)) = attr(bytes, 1).zip(attr(bytes, 2)) else { return };
        let Some((asked, answering)) = udp(said).zip(udp(reply)) else { return };
        if stale(&asked, &answering) {
            let family = Family::of(asked.source.ip()).number();
            doomed.push("forgetting a connection", (CONNTRACK, DELETE), 0, family, &Attrs::default().bytes(1 | 0x8000, said));
            count += 1;
        }
    })?;
    socket.each(doomed)?;
    Ok(count)
}

fn udp(bytes: &[u8]) -> Option<Tuple> {
    let (ip, proto) = (attr(bytes, 1)?, attr(bytes, 2)?);
    if attr(proto, 1)? != [UDP] {
        return None;
    }
    let address = |(v4, v6): (u16, u16)| match attr(ip, v4) {
        Some(bytes) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        None => Some(IpAddr::from(<[u8; 16]>::try_from(attr(ip, v6)?).ok()?)),
    };
    let port = |kind: u16| Some(u16::from_be_bytes(attr(proto, kind)?.try_into().ok()?));
    Some(Tuple { source: (address((1, 3))?, port(2)?).into(), destination: (address((2, 4))?, port(3)?).into() })
}
