//! A pcapng section (draft-ietf-opsawg-pcapng): the blocks a capture needs, in this machine's byte order.

use rnet_kernel::{Direction, Packet, Reception};

// Block types, section 4.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Nobody knows the length of a section that is written as it comes.
const UNKNOWN_LENGTH: u64 = u64::MAX;

// Option codes, sections 3.5 and 4.
const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const SHB_OS: u16 = 3;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_OSDROP: u16 = 7;
const ISB_USRDELIV: u16 = 8;

/// Nanoseconds.
const NANOSECONDS: u8 = 9;

// Link types, https://www.tcpdump.org/linktypes.html.
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;

/// How packets of a device begin, by its hardware type (linux/if_arp.h): with an Ethernet header, which a loopback device
/// has too, or, on tunnels, at once with IP.
pub(super) fn link_type(hardware: u16) -> u16 {
    match hardware {
        libc_arphrd::ETHER | libc_arphrd::LOOPBACK => LINKTYPE_ETHERNET,
        _ => LINKTYPE_RAW,
    }
}

/// linux/if_arp.h
mod libc_arphrd {
    pub(super) const ETHER: u16 = 1;
    pub(super) const LOOPBACK: u16 = 772;
}

/// What is counted for one device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    /// Packets that came.
    pub(super) packets: u64,
    /// Packets the kernel threw away because nobody read.
    pub(super) drops: u64,
}

/// `SHB`: the beginning.
pub(super) fn section_header(out: &mut Vec<u8>, system: &str) {
    block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
        // Version 1.0.
        out.extend(1_u16.to_ne_bytes());
        out.extend(0_u16.to_ne_bytes());
        out.extend(UNKNOWN_LENGTH.to_ne_bytes());
        option(out, SHB_OS, system.as_bytes());
        option(out, SHB_USERAPPL, concat!("rnet ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// `IDB`: a device; the first one is number 0.
pub(super) fn interface(out: &mut Vec<u8>, link_type: u16, name: &str, container: &str, snaplen: u32) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(link_type.to_ne_bytes());
        out.extend([0, 0]);
        out.extend(snaplen.to_ne_bytes());
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_DESCRIPTION, format!("{name} of {container}").as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// `EPB`: a packet of the device of that number.
pub(super) fn packet(out: &mut Vec<u8>, number: u32, packet: &Packet<'_>) {
    let u32_of = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    // Section 4.3.1: direction in bits 0 and 1, whom it was for in bits 2 to 4.
    let direction = match packet.direction {
        Direction::In => 1,
        Direction::Out => 2,
    };
    let reception = match packet.reception {
        Reception::Unspecified => 0,
        Reception::Unicast => 1,
        Reception::Multicast => 2,
        Reception::Broadcast => 3,
        Reception::Other => 4,
    };
    let flags: u32 = direction | reception << 2;
    block(out, ENHANCED_PACKET, |out| {
        out.extend(number.to_ne_bytes());
        time(out, packet.time);
        out.extend(u32_of(packet.data.len()).to_ne_bytes());
        out.extend(u32_of(packet.length).to_ne_bytes());
        out.extend(packet.data);
        pad(out, packet.data.len());
        option(out, EPB_FLAGS, &flags.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// `ISB`: what was counted between two times, nanoseconds since 1970.
pub(super) fn statistics(out: &mut Vec<u8>, number: u32, count: Count, from: u64, to: u64, comment: Option<&str>) {
    let words = |at: u64| [high(at).to_ne_bytes(), low(at).to_ne_bytes()].concat();
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend(number.to_ne_bytes());
        time(out, to);
        if let Some(comment) = comment {
            option(out, COMMENT, comment.as_bytes());
        }
        option(out, ISB_STARTTIME, &words(from));
        option(out, ISB_ENDTIME, &words(to));
        option(out, ISB_IFRECV, &(count.packets + count.drops).to_ne_bytes());
        option(out, ISB_OSDROP, &count.drops.to_ne_bytes());
        option(out, ISB_USRDELIV, &count.packets.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

fn high(at: u64) -> u32 {
    u32::try_from(at >> 32).expect("half of it")
}

fn low(at: u64) -> u32 {
    u32::try_from(at & u64::from(u32::MAX)).expect("half of it")
}

/// A timestamp: the upper half first, whatever the byte order.
fn time(out: &mut Vec<u8>, at: u64) {
    out.extend(high(at).to_ne_bytes());
    out.extend(low(at).to_ne_bytes());
}

/// Type, length, body, length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - begin + 4).expect("a packet and a few options");
    out[begin + 4..begin + 8].copy_from_slice(&length.to_ne_bytes());
    out.extend(length.to_ne_bytes());
}

/// Longer text than an option holds is cut.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = &value[..usize::from(length)];
    out.extend(code.to_ne_bytes());
    out.extend(length.to_ne_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + (4 - length % 4) % 4, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths at both ends of each block, and its type.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, usize)> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = word(&bytes[4..]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(&bytes[length - 4..]) as usize, length);
            all.push((word(bytes), length));
            bytes = &bytes[length..];
        }
        all
    }

    #[test]
    fn blocks_are_whole_words_with_their_length_at_both_ends() {
        let mut out = Vec::new();
        section_header(&mut out, "Linux");
        interface(&mut out, LINKTYPE_ETHERNET, "eth0", "web", 64);
        let p = Packet {
            index: 7,
            hardware: 1,
            direction: Direction::In,
            reception: Reception::Broadcast,
            time: 0x1_0000_0002,
            length: 100,
            data: b"12345",
        };
        let begin = out.len();
        packet(&mut out, 0, &p);
        statistics(&mut out, 0, Count { packets: 1, drops: 2 }, 1, 2, Some("all of them"));
        let kinds: Vec<u32> = blocks(&out).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, INTERFACE_STATISTICS]);
        let expected: Vec<u8> = [
            &6_u32.to_ne_bytes()[..],
            &52_u32.to_ne_bytes(),
            &0_u32.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &2_u32.to_ne_bytes(),
            &5_u32.to_ne_bytes(),
            &100_u32.to_ne_bytes(),
            b"12345\0\0\0",
            &2_u16.to_ne_bytes(),
            &4_u16.to_ne_bytes(),
            &0b01101_u32.to_ne_bytes(),
            &[0; 4],
            &52_u32.to_ne_bytes(),
        ]
        .concat();
        assert_eq!(out[begin..begin + 52], expected);
    }

    #[test]
    fn tunnels_begin_with_ip() {
        assert_eq!([1, 772, 0xfffe, 768].map(link_type), [1, 1, 101, 101]);
    }
}
