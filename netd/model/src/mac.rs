//! Unicast MAC addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use md5::{Digest, Md5};

use crate::IfAddr;
use crate::error::{InvalidInput, string_value};

/// A unicast, non-zero IEEE 802 MAC address. Written `xx:xx:xx:xx:xx:xx` in lower case; `U:text` parses to a stable
/// locally administered address made from the text, the one pipework gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// From raw octets; `None` for a group address or all zeros.
    pub fn new(octets: [u8; 6]) -> Option<Self> {
        (octets[0] & 1 == 0 && octets != [0; 6]).then_some(MacAddr(octets))
    }

    /// `02:` and the first five bytes of md5(text + "\n"): what pipework makes of `U:text`.
    pub fn from_text(text: &str) -> Self {
        let digest = Md5::new().chain_update(text).chain_update(b"\n").finalize();
        MacAddr([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
    }

    /// A locally administered unicast address that carries 46 bits of `seed`.
    pub fn local(seed: u64) -> Self {
        let b = seed.to_be_bytes();
        MacAddr([(b[2] & 0xfc) | 0x02, b[3], b[4], b[5], b[6], b[7]])
    }

    /// The IPv6 link-local address of an interface with this address: modified EUI-64 (RFC 4291 appendix A), /64.
    pub fn link_local(self) -> IfAddr {
        let [a, b, c, d, e, f] = self.0;
        let ip = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        IfAddr::new(ip.into(), 64).expect("64 is a prefix length of IPv6, and the host bits are not zero")
    }

    /// The six octets in transmission order.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        if let Some(text) = s.strip_prefix("U:") {
            if text.is_empty() {
                return Err(InvalidInput::new("MAC address", s, "has no text after U:").hint("write U:host.example"));
            }
            return Ok(MacAddr::from_text(text));
        }
        let form = || {
            InvalidInput::new("MAC address", s, "is not six hexadecimal bytes").hint("write it as 02:42:ac:11:00:02")
        };
        let mut octets = [0u8; 6];
        let mut parts = s.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(form)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(form());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| form())?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        MacAddr::new(octets).ok_or_else(|| {
            InvalidInput::new("MAC address", s, "is a group or zero address, an interface needs a unicast one")
                .hint("make the lowest bit of the first byte 0")
        })
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

string_value!(MacAddr, "unicast MAC address, or U:text for a stable one made from the text");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses() {
        let mac: MacAddr = "06:78:8d:59:27:c1".parse().expect("a MAC address");
        assert_eq!(mac.link_local().to_string(), "fe80::478:8dff:fe59:27c1/64");
    }

    #[test]
    fn text_gives_pipeworks_address() {
        assert_eq!(MacAddr::from_text("myhost.foo.com").to_string(), "02:72:6c:cd:9b:8d");
        assert_eq!("U:myhost.foo.com".parse(), Ok(MacAddr::from_text("myhost.foo.com")));
    }

    #[test]
    fn only_unicast() {
        assert!("ff:ff:ff:ff:ff:ff".parse::<MacAddr>().is_err());
        assert!("01:00:5e:00:00:01".parse::<MacAddr>().is_err());
        assert!("00:00:00:00:00:00".parse::<MacAddr>().is_err());
        for bad in
            ["", "02:00", "02:00:00:00:00:0g", "02-00-00-00-00-01", "02:00:00:00:00:01:02", "+2:00:00:00:00:01", "U:"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert_eq!("02:AB:00:00:00:01".parse::<MacAddr>().map(|m| m.to_string()), Ok("02:ab:00:00:00:01".into()));
        for seed in [0, 1, u64::MAX] {
            assert!(MacAddr::new(MacAddr::local(seed).octets()).is_some());
        }
    }
}
