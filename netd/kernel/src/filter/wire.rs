//! Netfilter messages as bytes: requests and transactions are built here, replies are taken apart here. No I/O.
//!
//! Written by hand because the generic codec crate does not know the generation check of a batch, and because ten thousand elements should be one pass over one buffer. Layouts: include/uapi/linux/netlink.h,
//! netfilter/nfnetlink.h and netfilter/nf_tables.h. Everything inside an attribute is big endian; headers are native.

/// `NFNL_SUBSYS_NFTABLES`, the high byte of every message type.
const SUBSYS: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// Set in a reply of a dump that the ruleset changed under.
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// `NFT_SET_ELEM_INTERVAL_END`: the key is the first one behind an interval.
pub(super) const ELEM_INTERVAL_END: u32 = 1;
pub(crate) const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// A nested attribute has a 16 bit length, so long element lists are cut into several messages of one transaction.
pub(super) const LIST_LIMIT: usize = 60_000;

/// What a message asks for (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Verb {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    GetGen = 16,
}

/// A growing buffer of messages with consecutive sequence numbers.
#[derive(Debug)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    next: u32,
    last: usize,
}

impl Messages {
    pub(crate) fn new(first_seq: u32) -> Self {
        Messages { bytes: Vec::with_capacity(1024), next: first_seq, last: 0 }
    }

    /// Opens a transaction. With `generation` the kernel refuses it (ERESTART) when anything in the namespace's ruleset
    /// changed since that generation was read.
    pub(super) fn begin(&mut self, generation: Option<u32>) {
        // The batch markers name the subsystem in res_id and belong to no family.
        let at = self.open(BATCH_BEGIN, NLM_F_REQUEST, 0, 10);
        if let Some(generation) = generation {
            self.attr(1, &generation.to_be_bytes());
        }
        self.close(at);
    }

    /// Closes a transaction; the message before it is the one that is acknowledged.
    pub(super) fn end(&mut self) {
        let flags = self.last + 6;
        let acked = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | NLM_F_ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&acked.to_ne_bytes());
        let at = self.open(BATCH_END, NLM_F_REQUEST, 0, 10);
        self.close(at);
    }

    /// Asks for the generation of the namespace's ruleset.
    pub(super) fn generation(&mut self) {
        let at = self.open(SUBSYS | Verb::GetGen as u16, NLM_F_REQUEST, 0, 0);
        self.close(at);
    }

    /// Starts a message of nf_tables about a table of any family; [`Messages::close`] ends it.
    pub(super) fn about(&mut self, verb: Verb, flags: u16, family: u8, table: &str) -> usize {
        let at = self.open(SUBSYS | verb as u16, NLM_F_REQUEST | flags, family, 0);
        if !table.is_empty() {
            self.string(1, table);
        }
        at
    }

    /// A big endian number.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Sequence number of the next message.
    pub(super) fn next_seq(&self) -> u32 {
        self.next
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts a message of any kind of netfilter; [`Messages::close`] ends it.
    pub(crate) fn open(&mut self, kind: u16, flags: u16, family: u8, res_id: u16) -> usize {
        let at = self.bytes.len();
        self.last = at;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.next.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        // struct nfgenmsg: family, version (NFNETLINK_V0), resource id.
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&res_id.to_be_bytes());
        self.next = self.next.wrapping_add(1);
        at
    }

    pub(crate) fn close(&mut self, at: usize) {
        let len = u32::try_from(self.bytes.len() - at).expect("an element list is cut at 60 kB");
        self.bytes[at..at + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(super) fn string(&mut self, kind: u16, value: &str) {
        let len = u16::try_from(value.len() + 5).expect("names in a table have at most 255 bytes");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("values are keys, tuples and numbers");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn nest(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        at
    }

    pub(crate) fn close_nest(&mut self, at: usize) {
        let len = u16::try_from(self.bytes.len() - at).expect("an element list is cut at 60 kB");
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    payload: &'a [u8],
}

/// What an `NLMSG_ERROR` says; errno 0 is an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) seq: u32,
    pub(crate) errno: i32,
    pub(crate) text: Option<String>,
}

/// Splits a datagram into messages; stops at the first that is cut short.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_ne(rest, 0)?).ok()?;
        let payload = rest.get(HEADER..len)?;
        let message = Message { kind: u16_ne(rest, 4)?, flags: u16_ne(rest, 6)?, seq: u32_ne(rest, 8)?, payload };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

impl<'a> Message<'a> {
    /// `nfgen_family` of a netfilter message; 0 (`AF_UNSPEC`) when it is cut short.
    pub(crate) fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// Attributes of a netfilter message.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(4..).unwrap_or(&[]))
    }

    /// Meaning of an `NLMSG_ERROR`, and of an `NLMSG_DONE` (which carries an errno too).
    pub(crate) fn verdict(&self) -> Verdict {
        let code = u32_ne(self.payload, 0).map_or(-libc::EPROTO, u32::cast_signed);
        let mut text = None;
        if self.kind == NLMSG_ERROR && self.flags & NLM_F_ACK_TLVS != 0 {
            // struct nlmsgerr repeats the request, only its header when capped; attributes follow.
            let quoted = u32_ne(self.payload, 4).and_then(|len| usize::try_from(len).ok()).unwrap_or(HEADER);
            let skip = 4 + if self.flags & NLM_F_CAPPED != 0 { HEADER } else { quoted.next_multiple_of(4) };
            text = attributes(self.payload.get(skip..).unwrap_or(&[]))
                .find(|(kind, _)| *kind == 1)
                .map(|(_, value)| c_string(value));
        }
        Verdict { seq: self.seq, errno: code.saturating_neg(), text }
    }
}

pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_ne(rest, 0)?);
        let kind = u16_ne(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// A big endian attribute value.
pub(super) fn u32_be(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn c_string(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn u32_ne(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_ne(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_or_wrong_lengths_end_the_walk() {
        for datagram in [&[][..], &[1, 0], &[15, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[255; 40]] {
            assert_eq!(messages(datagram).count(), 0);
        }
        let empty = [16u8, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(messages(&empty).map(|m| m.verdict().errno).collect::<Vec<_>>(), [libc::EPROTO]);
    }
}
