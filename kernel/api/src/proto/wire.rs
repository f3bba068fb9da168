//! The wire format: tagged numbers and lengths, nothing about objects.

use super::ProtoError;

/// The value of one field on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in their order.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), ProtoError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Wire<'a>), ProtoError> {
    let tag = take_varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| ProtoError::Varint)?;
    let wire = match tag & 7 {
        0 => Wire::Varint(take_varint(rest)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(rest, 8)?.try_into().map_err(|_| ProtoError::Truncated)?)),
        2 => {
            let length = usize::try_from(take_varint(rest)?).map_err(|_| ProtoError::Truncated)?;
            Wire::Bytes(take(rest, length)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(take(rest, 4)?.try_into().map_err(|_| ProtoError::Truncated)?)),
        _ => return Err(ProtoError::WireType(number)),
    };
    Ok((number, wire))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtoError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(ProtoError::Truncated)?;
    *rest = left;
    Ok(taken)
}

/// One number off the front.
pub(super) fn take_varint(rest: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (byte, left) = rest.split_first().ok_or(ProtoError::Truncated)?;
        *rest = left;
        if shift == 63 && *byte > 1 {
            return Err(ProtoError::Varint);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ProtoError::Varint)
}

/// Bytes of a field as text.
pub(super) fn text(number: u32, bytes: &[u8]) -> Result<String, ProtoError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtoError::Utf8(number))
}

pub(super) fn varint(out: &mut Vec<u8>, number: u32, value: u64) {
    put(out, u64::from(number) << 3);
    put(out, value);
}

pub(super) fn fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    put(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put(out, u64::from(number) << 3 | 2);
    put(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub(super) fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
