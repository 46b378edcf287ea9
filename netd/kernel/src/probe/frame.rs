//! ARP and Neighbour Discovery frames. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, EtherType, Ethernet2Header, Icmpv6Slice, Icmpv6Type, IpNumber,
    Ipv6FlowLabel, Ipv6Header, Ipv6HeaderSlice,
};
use rnet_model::MacAddr;

use super::Probe;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// RFC 4861 section 7.1: any other value came through a router.
const HOP_LIMIT: u8 = 255;
const NS: u8 = 135;
const NA: u8 = 136;
/// Target link-layer address option of RFC 4861 section 4.6.1.
const TARGET_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn ethernet(source: MacAddr, destination: [u8; 6], ether_type: EtherType) -> Vec<u8> {
    Ethernet2Header { source: source.octets(), destination, ether_type }.to_bytes().to_vec()
}

fn arp(source: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(source, [0xff; 6], EtherType::ARP);
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: source.octets(),
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    frame.extend(packet.to_bytes());
    frame
}

/// RFC 2464 section 7.
pub(super) fn multicast_mac(ip: Ipv6Addr) -> [u8; 6] {
    let o = ip.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// RFC 4291 section 2.7.1.
pub(super) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from_be_bytes([o[14], o[15]]))
}

pub(super) fn all_nodes() -> [u8; 6] {
    multicast_mac(ALL_NODES)
}

fn icmpv6(source: MacAddr, from: Ipv6Addr, to: Ipv6Addr, kind: &Icmpv6Type, payload: &[u8]) -> Option<Vec<u8>> {
    let header = kind.to_header(from.octets(), to.octets(), payload).ok()?;
    let ip = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(header.header_len() + payload.len()).ok()?,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: HOP_LIMIT,
        source: from.octets(),
        destination: to.octets(),
    };
    let mut frame = ethernet(source, multicast_mac(to), EtherType::IPV6);
    frame.extend(ip.to_bytes());
    frame.extend(header.to_bytes());
    frame.extend(payload);
    Some(frame)
}

/// Asks who has `ip` without claiming it: RFC 5227 section 2.1.1 and RFC 4862 section 5.4.2.
pub(super) fn question(source: MacAddr, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(source, Ipv4Addr::UNSPECIFIED, ip),
        IpAddr::V6(ip) => {
            icmpv6(source, Ipv6Addr::UNSPECIFIED, solicited_node(ip), &Icmpv6Type::NeighborSolicitation, &ip.octets())
                .expect("a solicitation fits a packet")
        }
    }
}

/// Tells everybody that `ip` is at `source` now: RFC 5227 section 2.3 and RFC 4861 section 7.2.6.
pub(super) fn announcement(source: MacAddr, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(source, ip, ip),
        IpAddr::V6(ip) => {
            let flags = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
            let mut payload = ip.octets().to_vec();
            payload.extend([TARGET_ADDRESS, 1]);
            payload.extend(source.octets());
            icmpv6(source, ip, ALL_NODES, &Icmpv6Type::NeighborAdvertisement(flags), &payload)
                .expect("an advertisement fits a packet")
        }
    }
}

/// What a received frame says about who has which address. `own` is the asker.
pub(super) fn claim(frame: &[u8], own: MacAddr) -> Option<Probe> {
    let source = MacAddr::new(frame.get(6..12)?.try_into().ok()?)?;
    let found = match frame.get(12..ETHERNET)? {
        [0x08, 0x06] => arp_claim(&frame[ETHERNET..]),
        [0x86, 0xdd] => nd_claim(&frame[ETHERNET..], source),
        _ => None,
    }?;
    (source != own && found.mac != own).then_some(found)
}

/// Any ARP packet is a claim of its sender's address; a probe is a claim of the address asked for, as somebody else is
/// about to take it.
fn arp_claim(packet: &[u8]) -> Option<Probe> {
    let packet = ArpPacketSlice::from_slice(packet).ok()?.to_packet().try_eth_ipv4().ok()?;
    let sender = packet.sender_ipv4_addr();
    let ip = if sender.is_unspecified() && packet.operation == ArpOperation::REQUEST {
        packet.target_ipv4_addr()
    } else {
        sender
    };
    Some(Probe { ip: ip.into(), mac: MacAddr::new(packet.sender_mac)? })
}

fn nd_claim(packet: &[u8], source: MacAddr) -> Option<Probe> {
    let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
    if ip.next_header() != IpNumber::IPV6_ICMP || ip.hop_limit() != HOP_LIMIT {
        return None;
    }
    let body = packet.get(IPV6..IPV6 + usize::from(ip.payload_length()))?;
    let icmp = Icmpv6Slice::from_slice(body).ok()?;
    if !icmp.is_checksum_valid(ip.source(), ip.destination()) {
        return None;
    }
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(icmp.payload().get(..16)?).ok()?);
    let mac = match (icmp.type_u8(), icmp.code_u8()) {
        (NA, 0) => target_address(&icmp.payload()[16..]).unwrap_or(source),
        // A solicitation from :: is somebody else's duplicate detection.
        (NS, 0) if Ipv6Addr::from(ip.source()).is_unspecified() => source,
        _ => return None,
    };
    Some(Probe { ip: target.into(), mac })
}

fn target_address(mut options: &[u8]) -> Option<MacAddr> {
    while let [kind, units, ..] = options {
        let length = usize::from(*units) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        if *kind == TARGET_ADDRESS {
            return MacAddr::new(option.get(2..8)?.try_into().ok()?);
        }
        options = &options[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mac(n: u8) -> MacAddr {
        MacAddr::new([2, 0, 0, 0, 0, n]).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn frames_on_the_wire() {
        let v4 = "192.0.2.9".parse().unwrap();
        assert_eq!(
            hex(&question(mac(1), v4)),
            "ffffffffffff0200000000010806000108000604000102000000000100000000000000000000c0000209"
        );
        assert_eq!(
            hex(&announcement(mac(1), v4)),
            "ffffffffffff02000000000108060001080006040001020000000001c0000209000000000000c0000209"
        );
        let v6 = "fd00::12:3456".parse().unwrap();
        assert_eq!(
            hex(&question(mac(1), v6)),
            "3333ff12345602000000000186dd6000000000183aff00000000000000000000000000000000ff0200000000000000000001ff123456\
             870014d700000000fd000000000000000000000000123456"
        );
        assert_eq!(hex(&announcement(mac(1), v6))[108..116], *"8800f1cc");
        assert!(hex(&announcement(mac(1), v6)).ends_with("20000000fd0000000000000000000000001234560201020000000001"));
    }

    #[test]
    fn claims() {
        for ip in ["192.0.2.9", "fd00::12:3456"] {
            let ip: IpAddr = ip.parse().unwrap();
            for frame in [question(mac(2), ip), announcement(mac(2), ip)] {
                assert_eq!(claim(&frame, mac(1)), Some(Probe { ip, mac: mac(2) }));
                assert_eq!(claim(&frame, mac(2)), None, "our own frame");
                for cut in 0..frame.len() {
                    let _ = claim(&frame[..cut], mac(1));
                }
            }
        }
    }

    #[test]
    fn forged_neighbours_are_not_heard() {
        let ip = "fd00::9".parse().unwrap();
        let mut frame = announcement(mac(2), ip);
        frame[ETHERNET + 7] = 254;
        assert_eq!(claim(&frame, mac(1)), None, "came through a router");
        let mut frame = announcement(mac(2), ip);
        frame[ETHERNET + IPV6 + 20] ^= 1;
        assert_eq!(claim(&frame, mac(1)), None, "checksum");
        assert_eq!(target_address(&[2, 0, 1, 2, 3, 4, 5, 6]), None, "an option of no length ends the list");
    }
}
