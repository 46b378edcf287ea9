//! Reads the pcapng netd writes: sections of this machine's byte order, with nanoseconds.

use std::collections::HashMap;

use rnet_api::ApiError;
use rnet_model::Kind;

use super::line::{Direction, Seen};

// Block types and options, draft-ietf-opsawg-pcapng.
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const IF_NAME: u16 = 2;
const EPB_FLAGS: u16 = 2;
const ISB_OSDROP: u16 = 7;
/// A block is never longer: a packet of 256 KiB and its options.
const LONGEST: usize = 1 << 20;

/// What is of interest.
#[derive(Debug)]
pub(super) enum Block {
    Packet(Seen),
    /// Of one interface, at the end.
    Statistics {
        drops: u64,
    },
}

#[derive(Debug, Default)]
struct Interface {
    name: String,
    link_type: u16,
}

/// Blocks out of a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    /// Bytes that are used up.
    at: usize,
    interfaces: HashMap<u32, Interface>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

/// The value of an option.
fn option(mut options: &[u8], code: u16) -> Option<&[u8]> {
    loop {
        let (kind, length) = (u16_at(options, 0)?, usize::from(u16_at(options, 2)?));
        let value = options.get(4..4 + length)?;
        if kind == code {
            return Some(value);
        }
        if kind == 0 {
            return None;
        }
        options = options.get(4 + length.next_multiple_of(4)..)?;
    }
}

impl Reader {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next block of interest, `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Block>, ApiError> {
        let broken = || ApiError::new(Kind::Bug, "netd's capture cannot be read");
        loop {
            let rest = &self.bytes[self.at..];
            let (Some(kind), Some(length)) = (u32_at(rest, 0), length_at(rest, 4)) else { return Ok(None) };
            if !(12..=LONGEST).contains(&length) {
                return Err(broken());
            }
            let Some(block) = rest.get(..length) else { return Ok(None) };
            let body = &block[8..length - 4];
            let found = match kind {
                INTERFACE_DESCRIPTION => {
                    let interface = Interface {
                        link_type: u16_at(body, 0).ok_or_else(broken)?,
                        name: body
                            .get(8..)
                            .and_then(|options| option(options, IF_NAME))
                            .map(|name| String::from_utf8_lossy(name).into_owned())
                            .unwrap_or_default(),
                    };
                    let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
                    self.interfaces.insert(number, interface);
                    None
                }
                ENHANCED_PACKET => Some(Block::Packet(self.packet(body).ok_or_else(broken)?)),
                INTERFACE_STATISTICS => {
                    let drops = body.get(12..).and_then(|options| option(options, ISB_OSDROP));
                    let drops = drops.and_then(|d| d.try_into().ok()).map_or(0, u64::from_ne_bytes);
                    Some(Block::Statistics { drops })
                }
                _ => None,
            };
            self.at += length;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn packet(&self, body: &[u8]) -> Option<Seen> {
        let interface = self.interfaces.get(&u32_at(body, 0)?)?;
        let time = u64::from(u32_at(body, 4)?) << 32 | u64::from(u32_at(body, 8)?);
        let kept = length_at(body, 12)?;
        let data = body.get(20..20 + kept)?;
        let flags = option(body.get(20 + kept.next_multiple_of(4)..)?, EPB_FLAGS).and_then(|f| u32_at(f, 0));
        let direction = match flags.map(|f| f & 3) {
            Some(2) => Direction::Out,
            _ => Direction::In,
        };
        Some(Seen::of(time, &interface.name, direction, length_at(body, 16)?, interface.link_type, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 12).expect("small").to_ne_bytes();
        [&kind.to_ne_bytes()[..], &length, body, &length].concat()
    }

    #[test]
    fn pieces_of_any_size() {
        let name = [&2_u16.to_ne_bytes()[..], &4_u16.to_ne_bytes(), b"eth0", &[0; 4]].concat();
        let interface = block(1, &[&1_u16.to_ne_bytes()[..], &[0; 6], &name].concat());
        let numbers = [0_u32, 0, 5, 3, 60].map(u32::to_ne_bytes).concat();
        let flags = [&2_u16.to_ne_bytes()[..], &4_u16.to_ne_bytes(), &2_u32.to_ne_bytes(), &[0; 4]].concat();
        let packet = block(6, &[&numbers[..], b"abc\0", &flags].concat());
        let drops = [&7_u16.to_ne_bytes()[..], &8_u16.to_ne_bytes(), &9_u64.to_ne_bytes()].concat();
        let end = block(5, &[&[0; 12][..], &drops].concat());
        let all = [interface, packet, end].concat();
        for size in [1, 7, all.len()] {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for piece in all.chunks(size) {
                reader.feed(piece);
                while let Some(block) = reader.next().expect("it is right") {
                    found.push(block);
                }
            }
            let [Block::Packet(seen), Block::Statistics { drops: 9 }] = &found[..] else { panic!("{found:?}") };
            assert_eq!((seen.interface.as_str(), seen.direction, seen.length), ("eth0", Direction::Out, 60));
        }
        let mut wrong = Reader::default();
        wrong.feed(&[0; 12]);
        assert!(wrong.next().is_err());
    }
}
