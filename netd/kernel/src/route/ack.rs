//! Answers of the kernel: headers, acknowledgements and their texts. Pure.

use netlink_packet_core::{NLM_F_DUMP_INTR, NlasIterator};

/// `struct nlmsghdr` of linux/netlink.h.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
// Flags of an NLMSG_ERROR and, for the second, of an NLMSG_DONE.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) text: Option<String>,
}

impl Refusal {
    pub(crate) fn errno(errno: i32) -> Self {
        Refusal { errno, text: None }
    }
}

/// One message of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) sequence: u32,
    /// The dump it is part of was interrupted by a change.
    pub(crate) interrupted: bool,
    pub(crate) body: Body<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// NLMSG_ERROR: an acknowledgement or a refusal.
    Ack(Result<(), Refusal>),
    /// NLMSG_DONE: the end of a dump.
    Done(Result<(), Refusal>),
    /// Anything else, with its type.
    Object(u16, &'a [u8]),
}

/// The messages of a datagram, up to the first that is cut short.
pub(crate) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = u32_at(header, 8)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let body = match kind {
            NLMSG_ERROR => Body::Ack(refusal(payload, flags, request_length(payload, flags))),
            NLMSG_DONE => Body::Done(refusal(payload, flags, 0)),
            _ => Body::Object(kind, payload),
        };
        Some(Answer { sequence, interrupted: flags & NLM_F_DUMP_INTR != 0, body })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// How much of the request an NLMSG_ERROR repeats after the errno: its header, and all of it unless capped.
fn request_length(payload: &[u8], flags: u16) -> usize {
    if flags & NLM_F_CAPPED != 0 {
        return HEADER;
    }
    u32_at(payload, 4).and_then(|n| usize::try_from(n).ok()).unwrap_or(HEADER).next_multiple_of(4)
}

fn refusal(payload: &[u8], flags: u16, repeated: usize) -> Result<(), Refusal> {
    // NLMSG_DONE may be empty.
    let errno = u32_at(payload, 0).map_or(0, |e| e.cast_signed().wrapping_neg());
    if errno == 0 {
        return Ok(());
    }
    let attributes = payload.get(4 + repeated..).filter(|_| flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    let text =
        NlasIterator::new(attributes).map_while(Result::ok).find(|nla| nla.kind() == NLMSGERR_ATTR_MSG).map(|nla| {
            let text = String::from_utf8_lossy(nla.value()).into_owned();
            text.trim_end_matches('\0').trim_end_matches('.').to_owned()
        });
    Err(Refusal { errno, text: text.filter(|t| !t.is_empty()) })
}

/// Acknowledgements of a run of messages with the sequence numbers from `first`.
#[derive(Debug)]
pub(crate) struct Acks {
    first: u32,
    results: Vec<Option<Result<(), Refusal>>>,
    missing: usize,
}

impl Acks {
    pub(crate) fn new(first: u32, count: usize) -> Self {
        Acks { first, results: vec![None; count], missing: count }
    }

    /// Answers of other requests, left from an earlier time-out, are passed over.
    pub(crate) fn take(&mut self, answer: Answer<'_>) {
        let Body::Ack(result) = answer.body else { return };
        let slot = usize::try_from(answer.sequence.wrapping_sub(self.first)).ok().and_then(|i| self.results.get_mut(i));
        if let Some(slot @ None) = slot {
            *slot = Some(result);
            self.missing -= 1;
        }
    }

    pub(crate) fn complete(&self) -> bool {
        self.missing == 0
    }

    /// What became of each message; `lost` for those nothing was heard of.
    pub(crate) fn finish(self, lost: &Refusal) -> Vec<Result<(), Refusal>> {
        self.results.into_iter().map(|r| r.unwrap_or_else(|| Err(lost.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        m.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend(sequence.to_ne_bytes());
        m.extend(7u32.to_ne_bytes());
        m.extend(payload);
        m.resize(m.len().next_multiple_of(4), 0);
        m
    }

    fn error(sequence: u32, errno: i32, text: Option<&str>) -> Vec<u8> {
        let mut payload = (-errno).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        let mut flags = NLM_F_CAPPED;
        if let Some(text) = text {
            flags |= NLM_F_ACK_TLVS;
            payload.extend(u16::try_from(4 + text.len() + 1).unwrap().to_ne_bytes());
            payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
            payload.extend(text.as_bytes());
            payload.push(0);
        }
        message(NLMSG_ERROR, flags, sequence, &payload)
    }

    #[test]
    fn acknowledgements_are_matched_by_sequence_not_by_order() {
        let mut acks = Acks::new(u32::MAX, 3);
        let mut bytes = error(1, 17, Some("Device exists."));
        bytes.extend(error(99, 1, None));
        bytes.extend(error(u32::MAX, 0, None));
        bytes.extend(error(1, 0, None));
        bytes.extend(message(16, 0, 0, &[1, 2, 3]));
        for answer in answers(&bytes) {
            acks.take(answer);
        }
        assert!(!acks.complete());
        let results = acks.finish(&Refusal::errno(105));
        assert_eq!(
            results,
            [Ok(()), Err(Refusal::errno(105)), Err(Refusal { errno: 17, text: Some("Device exists".into()) })]
        );
    }

    #[test]
    fn texts_are_found_behind_an_uncapped_request() {
        let mut request = message(19, 5, 4, &[0xff; 30]);
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.append(&mut request);
        payload.extend([9, 0, 1, 0]);
        payload.extend(b"what\0");
        let bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS, 4, &payload);
        let answer = answers(&bytes).next().unwrap();
        assert_eq!(answer.body, Body::Ack(Err(Refusal { errno: 22, text: Some("what".into()) })));
    }

    #[test]
    fn dumps_end_and_say_that_they_were_interrupted() {
        let mut bytes = message(16, 2 | NLM_F_DUMP_INTR, 3, &[1, 2]);
        bytes.extend(message(NLMSG_DONE, 2, 3, &0i32.to_ne_bytes()));
        bytes.extend(message(NLMSG_DONE, 2, 3, &[]));
        bytes.extend(message(NLMSG_DONE, 2, 3, &(-2i32).to_ne_bytes()));
        let all: Vec<_> = answers(&bytes).collect();
        assert_eq!(all[0], Answer { sequence: 3, interrupted: true, body: Body::Object(16, &[1, 2]) });
        assert_eq!(all[1].body, Body::Done(Ok(())));
        assert_eq!(all[2].body, Body::Done(Ok(())));
        assert_eq!(all[3].body, Body::Done(Err(Refusal::errno(2))));
    }

    #[test]
    fn cut_messages_end_the_datagram() {
        let whole = error(1, 17, Some("Device exists"));
        for cut in 0..whole.len() - 4 {
            assert_eq!(answers(&whole[..cut]).count(), 0, "{cut}");
        }
        // A length below the header's must not loop.
        let mut short = whole;
        short[0] = 3;
        assert_eq!(answers(&short).count(), 0);
    }
}
