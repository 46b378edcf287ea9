//! What a container's port may send. Frames are made by hand; the neighbour and the host listen.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use rnet_model::MacAddr;

use super::super::Guard;
use super::*;

const EVIL: [u8; 6] = [2, 0, 0, 0, 0x66, 0x66];
const ALL: [u8; 6] = [0xff; 6];
const ONE: [u8; 4] = [10, 1, 0, 2];
const TWO: [u8; 4] = [10, 1, 0, 3];
const GATEWAY: [u8; 4] = [10, 1, 0, 1];

fn ether(src: [u8; 6], dst: [u8; 6], kind: u16, rest: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), rest].concat()
}

/// An ARP packet: 1 asks, 2 answers.
fn arp(src: [u8; 6], dst: [u8; 6], operation: u8, says: ([u8; 6], [u8; 4]), of: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    ether(src, dst, 0x0806, &[&head[..], &says.0, &says.1, &[0; 6], &of].concat())
}

fn udp4(src: [u8; 6], from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src, ALL).ipv4(from, to, 64).udp(ports.0, ports.1);
    builder.write(&mut frame, b"x").unwrap();
    frame
}

fn udp6(from: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let builder = PacketBuilder::ethernet2(MAC_ONE, [0x33, 0x33, 0, 0, 0, 1]);
    builder.ipv6(from.octets(), to.octets(), 255).udp(ports.0, ports.1).write(&mut frame, b"x").unwrap();
    frame
}

fn icmp6(from: Ipv6Addr, kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let builder = PacketBuilder::ethernet2(MAC_ONE, [0x33, 0x33, 0, 0, 0, 1]);
    let payload = [&target.octets()[..], &[0; 16]].concat();
    builder.ipv6(from.octets(), to.octets(), 255).icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &payload).unwrap();
    frame
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn own_link_local() -> Ipv6Addr {
    match MacAddr::new(MAC_ONE).unwrap().link_local().ip() {
        IpAddr::V6(ip) => ip,
        IpAddr::V4(_) => unreachable!("it is an IPv6 address"),
    }
}

fn guard() -> FilterChange {
    let mac = MacAddr::new(MAC_ONE).unwrap();
    FilterChange::Guard(Guard::new("p1".parse().unwrap(), mac, [ip("10.1.0.2"), ip("fd01::2")]))
}

/// Frames of `one`, whether the neighbour is to hear them, and words.
fn frames() -> Vec<(&'static str, bool, Vec<u8>)> {
    let nobody = Ipv6Addr::UNSPECIFIED;
    let (own, own_ll, other) = (v6("fd01::2"), own_link_local(), v6("fd01::3"));
    let tagged = |kind: u16, inner: &[u8]| [&inner[..12], &kind.to_be_bytes(), &[0, 5], &inner[12..]].concat();
    let plain = udp4(MAC_ONE, ONE, TWO, (1000, 1001));
    let single = tagged(0x8100, &plain);
    vec![
        ("IPv4", true, udp4(MAC_ONE, ONE, TWO, (1000, 1000))),
        ("ARP asks", true, arp(MAC_ONE, ALL, 1, (MAC_ONE, ONE), TWO)),
        ("ARP says its own", true, arp(MAC_ONE, ALL, 2, (MAC_ONE, ONE), ONE)),
        ("ARP probe", true, arp(MAC_ONE, ALL, 1, (MAC_ONE, [0; 4]), [10, 1, 0, 77])),
        ("DHCP discover", true, udp4(MAC_ONE, [0; 4], [255; 4], (68, 67))),
        ("neighbour advertisement", true, icmp6(own, 136, own)),
        ("the same of its link-local address", true, icmp6(own_ll, 136, own_ll)),
        ("neighbour solicitation", true, icmp6(own_ll, 135, other)),
        ("duplicate address detection", true, icmp6(nobody, 135, own)),
        ("the same of its link-local address", true, icmp6(nobody, 135, own_ll)),
        ("router solicitation", true, icmp6(nobody, 133, nobody)),
        ("DHCPv6 client", true, udp6(own_ll, (546, 547))),
        ("a MAC address", false, udp4(EVIL, ONE, TWO, (1000, 1000))),
        ("an IPv4 address", false, udp4(MAC_ONE, TWO, GATEWAY, (1000, 1000))),
        ("no IPv4 address", false, udp4(MAC_ONE, [0; 4], TWO, (1000, 1000))),
        ("ARP for the gateway", false, arp(MAC_ONE, ALL, 2, (MAC_ONE, GATEWAY), GATEWAY)),
        ("ARP for a neighbour", false, arp(MAC_ONE, ALL, 1, (MAC_ONE, TWO), TWO)),
        ("ARP with another MAC address", false, arp(MAC_ONE, ALL, 2, (EVIL, ONE), ONE)),
        ("an ARP answer of nobody", false, arp(MAC_ONE, ALL, 2, (MAC_ONE, [0; 4]), TWO)),
        ("a router", false, icmp6(own_ll, 134, nobody)),
        ("an advertisement for another", false, icmp6(own, 136, other)),
        ("an advertisement for the gateway", false, icmp6(own_ll, 136, v6("fd01::1"))),
        ("a redirect", false, icmp6(own_ll, 137, other)),
        ("somebody else's duplicate", false, icmp6(nobody, 135, other)),
        ("an IPv6 address", false, icmp6(other, 128, nobody)),
        ("a DHCP server", false, udp4(MAC_ONE, ONE, [255; 4], (67, 68))),
        ("a DHCPv6 server", false, udp6(own_ll, (547, 546))),
        ("a tag", false, single.clone()),
        ("two tags", false, tagged(0x88a8, &single)),
        ("an unknown protocol", false, ether(MAC_ONE, ALL, 0x88b5, b"rnet-unknown-protocol-of-a-frame-here-and-now")),
        ("spanning tree", false, {
            let bpdu = [0x42, 0x42, 3, 0, 0, 0, 0, 0, 0x13, 0x37, 0x13, 0x37, 0x13, 0x37, 0x13, 0x37];
            ether(MAC_ONE, [1, 0x80, 0xc2, 0, 0, 0], 38, &[&bpdu[..], &[0; 30]].concat())
        }),
    ]
}

/// The part of a frame by which it is known again: without what a device takes off or adds.
fn known_by(frame: &[u8]) -> &[u8] {
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    match kind {
        0x8100 => &frame[18..],
        0x88a8 => &frame[22..],
        _ => frame,
    }
}

/// Whether the neighbour hears each of them.
fn heard(bed: &Bed, frames: &[(&'static str, bool, Vec<u8>)]) -> Vec<bool> {
    let from = bed.one.wire("eth0");
    let all = frames.iter().enumerate().map(|(n, (_, _, frame))| {
        let to = bed.two.wire("eth0");
        from.send(frame);
        // Sent after it by the host, so that it comes last and passes whatever the port may.
        let marker =
            ether([2, 0, 0, 0, 9, 9], MAC_TWO, 0x88b6, format!("marker {n} of the frames that are sent").as_bytes());
        bed.host.wire("rb0").send(&marker);
        to.hears(known_by(frame), &marker[14..])
    });
    all.collect()
}

#[test]
fn a_guarded_port_sends_what_is_its_own() {
    let Some(mut bed) = Bed::new() else { return };
    let frames = frames();
    bed.with(&[]);
    let without = heard(&bed, &frames);
    let lost: Vec<_> = frames.iter().zip(without).filter(|(_, heard)| !heard).map(|(f, _)| f.0).collect();
    assert!(lost.is_empty(), "the twin: without a guard everything is heard, but not {lost:?}");
    bed.with(&[guard()]);
    let with = heard(&bed, &frames);
    let wrong: Vec<_> = frames.iter().zip(with).filter(|(f, heard)| f.1 != *heard).map(|(f, _)| (f.0, f.1)).collect();
    assert!(wrong.is_empty(), "(what, whether it is to be heard): {wrong:?}");
    bed.one.serve("0.0.0.0:80", "one");
    bed.one.serve("[::]:8080", "one");
    assert_eq!(bed.two.ask("10.1.0.2:80").unwrap(), "one 10.1.0.3");
    assert_eq!(bed.two.ask("[fd01::2]:8080").unwrap(), "one fd01::3");
}

fn learned(bed: &Bed) -> usize {
    let show = || Command::new("bridge").args(["fdb", "show", "br", "rb0"]).output().unwrap();
    let output = bed.host.ns.run(show).unwrap();
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.starts_with("06:00:00:00:")).count()
}

#[test]
fn hardware_addresses_of_a_flood_are_not_learned() {
    let Some(mut bed) = Bed::new() else { return };
    let flood = |bed: &Bed, count: u16, dst: [u8; 6]| {
        let from = bed.one.wire("eth0");
        for n in 0..count {
            let [a, b] = n.to_be_bytes();
            from.send(&udp4_to([6, 0, 0, 0, a, b], dst));
        }
    };
    // LLDP's address: such frames pass no hook, and the bridge itself must not learn from them.
    for dst in [ALL, [1, 0x80, 0xc2, 0, 0, 0x0e]] {
        bed.host.ip("link set rb0 type bridge no_linklocal_learn 0");
        bed.with(&[]);
        flood(&bed, 100, dst);
        assert!(learned(&bed) >= 100, "the twin: {} of {dst:?}", learned(&bed));
        bed.host.ip("link set rb0 type bridge no_linklocal_learn 1");
        bed.with(&[guard()]);
        bed.host.ip("link set p1 type bridge_slave fdb_flush");
        flood(&bed, 10_000, dst);
        assert_eq!(learned(&bed), 0, "{dst:?}");
    }
}

fn udp4_to(src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let (from, to) = (Ipv4Addr::from(ONE).octets(), TWO);
    PacketBuilder::ethernet2(src, dst).ipv4(from, to, 64).udp(1, 2).write(&mut frame, b"flood").unwrap();
    frame
}
