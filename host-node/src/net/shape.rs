//! Bandwidth of a pod: a token bucket on each side of its link, as the annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth` say.
//!
//! What a pod gets waits on the machine's side; what it sends waits on its own side, inside its namespace, where a process with `NET_ADMIN` could
//! lift the limit. Facts: linux/pkt_sched.h (`struct tc_tbf_qopt`); the annotations' range is upstream's.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rtnetlink::Handle;
use rtnetlink::packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::error::{Error, Result};
use crate::quantity;

/// Bits a second that an annotation may say.
const BITS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000_000_000_000;
/// A packet waits this long at most before it is dropped.
const WAIT_MS: u64 = 50;
/// Bytes that may be sent at once: the largest packet that the system makes, and more for fast links.
const BURST_BYTES_MIN: u64 = 64 << 10;

/// Limits in bits a second; `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of what the pod gets.
    pub ingress: Option<u64>,
    /// Of what it sends.
    pub egress: Option<u64>,
}

impl Bandwidth {
    /// As a pod's annotations say.
    ///
    /// # Errors
    /// An annotation is no quantity, or outside 1k to 1P.
    pub fn of(pod: &Pod) -> Result<Self> {
        let read = |direction: &str| {
            let name = format!("kubernetes.io/{direction}-bandwidth");
            let Some(text) = pod.metadata.annotations.as_ref().and_then(|all| all.get(&name)) else { return Ok(None) };
            let bits =
                quantity::units(&Quantity(text.clone())).filter(|bits| BITS.contains(bits)).and_then(|bits| u64::try_from(bits).ok());
            bits.map(Some).ok_or_else(|| Error::invalid(format!("annotation {name}"), format!("{text:?} is not a quantity from 1k to 1P")))
        };
        Ok(Self { ingress: read("ingress")?, egress: read("egress")? })
    }
}

/// Holds what leaves by a link to a rate.
pub async fn limit(handle: &Handle, index: u32, bits: u64) -> Result<()> {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options(bits))];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let failed = |source| Error::Netlink { step: format!("limiting link {index} to {bits} bits a second"), source };
    let mut answers = handle.clone().request(request).map_err(failed)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(failed(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
}

/// Bits that may be sent at once at a rate, as plugins are told it.
pub fn burst_bits(bits: u64) -> u64 {
    // The plugin for bandwidth refuses more bytes than its kernel interface holds.
    burst_bytes(bits).min(u64::from(u32::MAX) - 1) * 8
}

fn burst_bytes(bits: u64) -> u64 {
    (bits.div_ceil(8) * WAIT_MS / 1000).clamp(BURST_BYTES_MIN, u32::MAX.into())
}

fn options(bits: u64) -> Vec<TcOption> {
    const PARMS: u16 = 1;
    const RATE64: u16 = 4;
    const BURST: u16 = 6;
    let rate = bits.div_ceil(8);
    let burst = burst_bytes(bits);
    let limit = u32::try_from(burst + rate * WAIT_MS / 1000).unwrap_or(u32::MAX);
    // Of a rate: cell, layer, overhead, alignment, smallest packet, bytes a second (all ones where RATE64 says more).
    let spec = |rate: u32| [&[0, 1][..], &[0; 6], &rate.to_ne_bytes()].concat();
    let slow = u32::try_from(rate).unwrap_or(u32::MAX);
    let numbers = [limit, 0, 0].map(u32::to_ne_bytes).concat();
    let parameters = [spec(slow), spec(0), numbers].concat();
    let other = |kind: u16, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    let mut all = vec![other(PARMS, parameters), other(BURST, burst.to_ne_bytes().to_vec())];
    if slow == u32::MAX {
        all.push(other(RATE64, rate.to_ne_bytes().to_vec()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_quantities_in_a_range() {
        let check = |text: &str, expected: Option<u64>| {
            let annotations = [("kubernetes.io/ingress-bandwidth".to_owned(), text.to_owned())].into();
            let mut pod = Pod::default();
            pod.metadata.annotations = Some(annotations);
            let found = Bandwidth::of(&pod).ok();
            assert_eq!(found, expected.map(|bits| Bandwidth { ingress: Some(bits), egress: None }), "{text}");
        };
        check("10M", Some(10_000_000));
        check("1k", Some(1000));
        check("1P", Some(1_000_000_000_000_000));
        for bad in ["", "fast", "-1M", "999", "2P"] {
            check(bad, None);
        }
        assert_eq!(Bandwidth::of(&Pod::default()).ok(), Some(Bandwidth::default()));
    }
}
