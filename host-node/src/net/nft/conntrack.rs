//! Tracked connections: which there are, and how to forget one.
//!
//! A connection that was translated keeps its translation for as long as it is tracked. For TCP that is right; a stream of UDP packets
//! has no end, and would go to an endpoint that is gone for as long as the client sends.

use std::net::Ipv4Addr;

use super::wire::{Attrs, CONNTRACK, DUMP, Messages, Socket, attr};
use crate::error::Result;

const DELETE: u16 = 2;
const GET: u16 = 1;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Where it comes from.
    pub source: (Ipv4Addr, u16),
    /// Where it goes.
    pub destination: (Ipv4Addr, u16),
}

/// Forgets the UDP connections that `stale` picks by what the client asked for and who answers. Gives their number.
pub fn forget(socket: &Socket, mut stale: impl FnMut(&Tuple, &Tuple) -> bool) -> Result<usize> {
    let mut dump = Messages::default();
    dump.push("listing connections", CONNTRACK, GET, DUMP, &Attrs::default());
    let (mut doomed, mut count) = (Messages::default(), 0);
    socket.dump(&dump, |bytes| {
        let Some((said, reply)) = attr(bytes, 1).zip(attr(bytes, 2)) else { return };
        let Some((asked, answering)) = udp(said).zip(udp(reply)) else { return };
        if stale(&asked, &answering) {
            doomed.push("forgetting a connection", CONNTRACK, DELETE, 0, &Attrs::default().bytes(1 | 0x8000, said));
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
    let address = |kind: u16| Some(Ipv4Addr::from(<[u8; 4]>::try_from(attr(ip, kind)?).ok()?));
    let port = |kind: u16| Some(u16::from_be_bytes(attr(proto, kind)?.try_into().ok()?));
    Some(Tuple { source: (address(1)?, port(2)?), destination: (address(2)?, port(3)?) })
}
