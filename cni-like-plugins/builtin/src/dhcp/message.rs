//! DHCP messages: RFC 2131 section 2 around the options of RFC 2132. Pure.
//!
//! Options are bytes by number: the configuration may ask for and provide any of them. So there is no table of types
//! here, and none of a library either, which would bring a DNS implementation along for one option.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rnet_model::MacAddr;

/// Port of servers and relay agents.
pub(super) const SERVER: u16 = 67;
/// Port of clients.
pub(super) const CLIENT: u16 = 68;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const HEADER: usize = 236;
const FILE: std::ops::Range<usize> = 108..236;
const SNAME: std::ops::Range<usize> = 44..108;
/// BOOTP's length, below which relay agents may drop a message (RFC 1542 section 2.1).
const LEAST: usize = 300;
/// `flags`: answers are to be broadcast.
const BROADCAST: u16 = 0x8000;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];

/// Numbers of options.
pub(super) mod code {
    pub(crate) const PAD: u8 = 0;
    pub(crate) const MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const STATIC_ROUTES: u8 = 33;
    pub(crate) const WANTED_ADDRESS: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const KIND: u8 = 53;
    pub(crate) const SERVER_ID: u8 = 54;
    pub(crate) const WANTED_OPTIONS: u8 = 55;
    pub(crate) const TEXT: u8 = 56;
    pub(crate) const LARGEST_MESSAGE: u8 = 57;
    pub(crate) const RENEWAL_TIME: u8 = 58;
    pub(crate) const REBINDING_TIME: u8 = 59;
    pub(crate) const VENDOR_CLASS: u8 = 60;
    pub(crate) const CLIENT_ID: u8 = 61;
    pub(crate) const USER_CLASS: u8 = 77;
    pub(crate) const SEARCH: u8 = 119;
    pub(crate) const ROUTES: u8 = 121;
    pub(crate) const END: u8 = 255;
}

/// Option 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover = 1,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Discover, Kind::Offer, Kind::Request, Kind::Decline, Kind::Ack, Kind::Nak, Kind::Release];
}

/// Options by number, each with the bytes of all its parts (RFC 3396).
pub(super) type Options = BTreeMap<u8, Vec<u8>>;

/// A message. Requests are written and replies are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    /// Seconds since the client began.
    pub(super) secs: u16,
    /// Whether the answer has to come as a broadcast.
    pub(super) broadcast: bool,
    /// `ciaddr`: the client has it and answers for it.
    pub(super) client: Ipv4Addr,
    /// `yiaddr`: what the client gets.
    pub(super) yours: Ipv4Addr,
    /// `chaddr`.
    pub(super) mac: MacAddr,
    /// All but the kind.
    pub(super) options: Options,
}

impl Message {
    /// As a client sends it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![REQUEST, ETHERNET[0], ETHERNET[1], 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(if self.broadcast { BROADCAST } else { 0 }.to_be_bytes());
        bytes.extend(self.client.octets());
        bytes.extend(self.yours.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.mac.octets());
        bytes.resize(HEADER, 0);
        bytes.extend(MAGIC);
        bytes.extend([code::KIND, 1, self.kind as u8]);
        for (number, value) in &self.options {
            let parts: Vec<&[u8]> = if value.is_empty() { vec![&[]] } else { value.chunks(255).collect() };
            for part in parts {
                bytes.extend([*number, u8::try_from(part.len()).expect("a part has at most 255 bytes")]);
                bytes.extend(part);
            }
        }
        bytes.push(code::END);
        bytes.resize(bytes.len().max(LEAST), 0);
        bytes
    }

    /// What a server sent; `None` for what is none, or is cut off.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        let half = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
        let address = |at: usize| word(at).map(|b: [u8; 4]| Ipv4Addr::from(b));
        if bytes.first() != Some(&REPLY) || bytes.get(1..3) != Some(&ETHERNET) || word(HEADER) != Some(MAGIC) {
            return None;
        }
        let mut options = Options::new();
        read_options(&bytes[HEADER + 4..], &mut options)?;
        // RFC 2132 section 9.3: which of the fixed fields hold further options, `file` before `sname`.
        let overload = options.remove(&code::OVERLOAD).and_then(|v| v.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            read_options(&bytes[FILE], &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(&bytes[SNAME], &mut options)?;
        }
        let kind = options.remove(&code::KIND)?;
        Some(Message {
            kind: Kind::ALL.into_iter().find(|k| kind == [*k as u8])?,
            xid: u32::from_be_bytes(word(4)?),
            secs: half(8)?,
            broadcast: half(10)? & BROADCAST != 0,
            client: address(12)?,
            yours: address(16)?,
            mac: MacAddr::new(bytes.get(28..34)?.try_into().ok()?)?,
            options,
        })
    }

    /// An option of four bytes as an address.
    pub(super) fn address(&self, number: u8) -> Option<Ipv4Addr> {
        self.word(number).map(Ipv4Addr::from)
    }

    /// An option of four bytes as a number: most are seconds.
    pub(super) fn word(&self, number: u8) -> Option<u32> {
        let bytes = self.options.get(&number)?;
        bytes.as_slice().try_into().ok().map(u32::from_be_bytes)
    }

    /// An option as text, without what could confuse a terminal.
    pub(super) fn text(&self, number: u8) -> Option<String> {
        let text = String::from_utf8_lossy(self.options.get(&number)?);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        Some(text).filter(|t| !t.is_empty())
    }
}

/// Parts of the same option are joined. `None` when one is cut off.
fn read_options(bytes: &[u8], options: &mut Options) -> Option<()> {
    let mut rest = bytes;
    while let Some((&number, behind)) = rest.split_first() {
        rest = match number {
            code::PAD => behind,
            code::END => break,
            _ => {
                let (&length, behind) = behind.split_first()?;
                let (value, behind) = behind.split_at_checked(usize::from(length))?;
                options.entry(number).or_default().extend(value);
                behind
            }
        };
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request() -> Message {
        Message {
            kind: Kind::Request,
            xid: 0x0102_0304,
            secs: 5,
            broadcast: true,
            client: Ipv4Addr::UNSPECIFIED,
            yours: Ipv4Addr::UNSPECIFIED,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            options: Options::from([(code::WANTED_ADDRESS, vec![10, 0, 0, 9]), (code::CLIENT_ID, vec![0, b'c'])]),
        }
    }

    /// What we send, answered by a server that repeats it.
    fn reply(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[0] = REPLY;
        bytes
    }

    #[test]
    fn a_request_in_bytes() {
        let bytes = request().encode();
        assert_eq!(bytes.len(), LEAST);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0x80, 0]);
        assert_eq!(bytes[28..34], [2, 0, 0, 0, 0, 1]);
        assert_eq!(bytes[236..240], MAGIC);
        assert_eq!(bytes[240..255], [53, 1, 3, 50, 4, 10, 0, 0, 9, 61, 2, 0, b'c', 255, 0]);
        assert_eq!(Message::decode(&reply(&bytes)), Some(request()));
        assert_eq!(Message::decode(&bytes), None, "a request is no answer");
    }

    #[test]
    fn long_options_are_cut_and_joined() {
        let mut message = request();
        let long: Vec<u8> = (0..=255).chain(0..100).collect();
        message.options.insert(code::ROUTES, long.clone());
        let bytes = message.encode();
        let at = bytes.windows(2).position(|w| w == [code::ROUTES, 255]).unwrap();
        assert_eq!(bytes[at + 257..at + 259], [code::ROUTES, 101]);
        assert_eq!(Message::decode(&reply(&bytes)).unwrap().options[&code::ROUTES], long);
    }

    #[test]
    fn options_go_on_in_the_fixed_fields() {
        let mut bytes = reply(&request().encode());
        bytes[253..257].copy_from_slice(&[code::OVERLOAD, 1, 3, code::END]);
        bytes[108..115].copy_from_slice(&[code::PAD, code::DOMAIN, 2, b'a', b'b', code::END, 7]);
        bytes[44..50].copy_from_slice(&[code::LEASE_TIME, 4, 0, 0, 0, 60]);
        bytes[50] = code::END;
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.text(code::DOMAIN).unwrap(), "ab");
        assert_eq!(message.word(code::LEASE_TIME), Some(60));
    }

    #[test]
    fn no_bytes_are_a_panic() {
        let whole = reply(&request().encode());
        for length in 0..243 {
            assert_eq!(Message::decode(&whole[..length]), None, "{length} bytes");
        }
        // Options that are whole count, though the end is not marked.
        assert_eq!(Message::decode(&whole[..245]), None);
        assert_eq!(Message::decode(&whole[..249]).unwrap().options.len(), 1);
        let mut without_kind = whole.clone();
        without_kind[240] = code::PAD;
        without_kind[241..243].copy_from_slice(&[code::PAD, code::PAD]);
        assert_eq!(Message::decode(&without_kind), None);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            let _ = Message::decode(&bytes);
        }
    }
}
