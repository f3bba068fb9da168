//! The first look at what a guest sent on the RPC lane: is it a sequence of whole messages within the limits?
//!
//! Runs before Cap'n Proto sees a byte, so that a flood or a forged length costs one scan and no allocation.
//! Framing: <https://capnproto.org/encoding.html#serialization-over-a-stream>.

use crate::{
    fault::FaultKind,
    limits::{PUMP_BYTES_MAX, PUMP_MESSAGES_MAX},
};

const SEGMENTS_MAX: usize = 512;

/// The number of messages in `frames`, each at most `message_bytes` long.
///
/// # Errors
/// `BadFrame` when it is not whole messages within the size limits, `Misuse` when there are too many of them.
pub fn check(frames: &[u8], message_bytes: usize) -> Result<usize, (FaultKind, String)> {
    if frames.len() > PUMP_BYTES_MAX {
        return Err((FaultKind::BadFrame, format!("{} bytes in one slice, more than {PUMP_BYTES_MAX}", frames.len())));
    }
    let (mut rest, mut messages) = (frames, 0);
    while !rest.is_empty() {
        let length = length_of(rest, message_bytes).map_err(|problem| (FaultKind::BadFrame, problem.to_owned()))?;
        rest = rest.get(length..).ok_or_else(|| (FaultKind::BadFrame, "a message ends before its length says".to_owned()))?;
        messages += 1;
        if messages > PUMP_MESSAGES_MAX {
            return Err((FaultKind::Misuse, format!("more than {PUMP_MESSAGES_MAX} messages in one slice")));
        }
    }
    Ok(messages)
}

/// The length in bytes of the first message, its segment table included.
fn length_of(bytes: &[u8], bytes_max: usize) -> Result<usize, &'static str> {
    let word = |i: usize| -> Result<usize, &'static str> {
        let four = bytes.get(i * 4..i * 4 + 4).ok_or("a message ends inside its segment table")?;
        Ok(u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
    };
    let segments = word(0)?.checked_add(1).filter(|n| *n < SEGMENTS_MAX).ok_or("a message has too many segments")?;
    let mut words = 0usize;
    for i in 1..=segments {
        words = words.checked_add(word(i)?).filter(|n| *n <= bytes_max / 8).ok_or("a message is too large")?;
    }
    Ok((segments / 2 + 1) * 8 + words * 8)
}

#[cfg(test)]
mod tests;
