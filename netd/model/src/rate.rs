//! How fast an interface may be.

use std::fmt;
use std::str::FromStr;

use crate::error::{InvalidInput, string_value};

/// `RATE[/BURST]`: bits a second, and the bytes that may go at once. `100mbit`, `1gbit/256k`.
///
/// Units are those of tc(8): `bit kbit mbit gbit tbit` in powers of 1000, `kibit mibit gibit tibit` in powers of 1024,
/// and `bps kbps mbps gbps` bytes a second. A burst is in bytes, `k` and `m` being powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Bits a second, at least 8.
    pub bits: u64,
    /// Bytes; `None` = what the rate lets through in 10 ms, at least ten full frames.
    pub burst: Option<u64>,
}

impl Rate {
    /// Bytes a second.
    pub fn bytes(self) -> u64 {
        self.bits / 8
    }

    /// Bytes that may go at once, at frames of `mtu` bytes.
    pub fn burst_bytes(self, mtu: u32) -> u64 {
        const ETHERNET: u64 = 14;
        self.burst.unwrap_or_else(|| (self.bytes() / 100).max(10 * (u64::from(mtu) + ETHERNET)))
    }
}

const BITS: [(&str, u64); 13] = [
    ("tibit", 1 << 40),
    ("gibit", 1 << 30),
    ("mibit", 1 << 20),
    ("kibit", 1 << 10),
    ("tbit", 1_000_000_000_000),
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
    ("gbps", 8_000_000_000),
    ("mbps", 8_000_000),
    ("kbps", 8_000),
    ("bps", 8),
];
const BYTES: [(&str, u64); 7] =
    [("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30), ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("b", 1)];

/// A number with one of the units.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?.to_owned(), *unit)))?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse::<u64>().ok().filter(|n| digits && *n > 0)?.checked_mul(unit)
}

impl FromStr for Rate {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("rate", s, why).hint("write for example 100mbit or 1gbit/256k");
        let (rate, burst) = match s.split_once('/') {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (s, None),
        };
        let bits = measure(rate, &BITS).ok_or_else(|| bad("is not a number with a unit"))?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
        let burst = burst
            .map(|text| measure(text, &BYTES).or_else(|| number(text)).ok_or_else(|| bad("the burst is not a size")))
            .transpose()?;
        if bits < 8 || burst.is_some_and(|b| b >= 1 << 32) {
            return Err(bad("is out of range"));
        }
        Ok(Rate { bits, burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];
        let (name, size) = unit.into_iter().find(|(_, size)| self.bits.is_multiple_of(*size)).unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.bits / size)?;
        self.burst.map_or(Ok(()), |burst| match burst % 1024 {
            0 => write!(f, "/{}k", burst / 1024),
            _ => write!(f, "/{burst}b"),
        })
    }
}
string_value!(Rate, "rate, RATE[/BURST] as in 100mbit/64k");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let bits = |s: &str| s.parse::<Rate>().map(|r| (r.bits, r.burst));
        assert_eq!(bits("100mbit"), Ok((100_000_000, None)));
        assert_eq!(bits("1Gbit/256k"), Ok((1_000_000_000, Some(256 * 1024))));
        assert_eq!(bits("10mbps/9000"), Ok((80_000_000, Some(9000))));
        assert_eq!(bits("8kibit"), Ok((8192, None)));
        for text in ["100mbit", "1gbit/256k", "17bit", "2500kbit/1500b"] {
            assert_eq!(text.parse::<Rate>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for bad in [
            "",
            "100",
            "mbit",
            "-1mbit",
            "1.5mbit",
            "0mbit",
            "1mbit/",
            "1mbit/x",
            "1mbit/8g",
            "7bit",
            "99999999999tbit",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_burst_holds_some_frames() {
        let rate = |s: &str| s.parse::<Rate>().unwrap();
        assert_eq!(rate("1gbit").burst_bytes(1500), 1_250_000);
        assert_eq!(rate("8kbit").burst_bytes(1500), 15_140);
        assert_eq!(rate("8kbit/2k").burst_bytes(1500), 2048);
    }
}
