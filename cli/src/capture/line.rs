//! A packet in a line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpOperation, ArpPacketSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice, TransportSlice};
use serde::Serialize;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

/// Which way a packet passed an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    In,
    Out,
}

/// What is seen of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Seen {
    /// RFC 3339, nanoseconds.
    time: String,
    /// Name inside the container.
    pub(super) interface: String,
    pub(super) direction: Direction,
    /// Bytes on the interface.
    pub(super) length: usize,
    /// `tcp`, `arp`, ..., or an EtherType.
    protocol: String,
    /// Address, with the port if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// VLAN tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    /// Flags, kinds, who is asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

impl Seen {
    /// Of the first bytes of a packet; what is cut short is left out.
    pub(super) fn of(
        time: u64,
        interface: &str,
        direction: Direction,
        length: usize,
        link_type: u16,
        data: &[u8],
    ) -> Self {
        let time = jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap_or_default();
        let mut seen = Seen {
            time: time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
            interface: interface.to_owned(),
            direction,
            length,
            protocol: "unknown".to_owned(),
            source: None,
            destination: None,
            vlan: None,
            details: String::new(),
        };
        let parsed = match link_type {
            ETHERNET => LaxSlicedPacket::from_ethernet(data).ok(),
            _ => LaxSlicedPacket::from_ip(data).ok(),
        };
        if let Some(packet) = parsed {
            seen.look_at(&packet);
        }
        seen
    }

    fn look_at(&mut self, packet: &LaxSlicedPacket<'_>) {
        self.vlan = packet.vlan_ids().first().map(|id| id.value());
        if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
            let mac = |bytes: [u8; 6]| bytes.map(|b| format!("{b:02x}")).join(":");
            (self.source, self.destination) = (Some(mac(ethernet.source())), Some(mac(ethernet.destination())));
            let kind = packet.ether_payload().map_or_else(|| ethernet.ether_type(), |p| p.ether_type);
            self.protocol = format!("{:#06x}", kind.0);
        }
        let addresses: Option<(IpAddr, IpAddr)> = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                self.protocol = named(ip.payload_ip_number());
                Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                self.protocol = named(ip.payload().ip_number);
                Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
            }
            Some(LaxNetSlice::Arp(arp)) => return self.arp(arp),
            None => None,
        };
        let Some((from, to)) = addresses else { return };
        let ports = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                self.details = flags(tcp);
                Some((tcp.source_port(), tcp.destination_port()))
            }
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            Some(TransportSlice::Icmpv4(icmp)) => {
                self.details = icmp4(icmp.type_u8(), icmp.code_u8());
                None
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                self.details = icmp6(icmp.type_u8(), icmp.code_u8());
                None
            }
            _ => None,
        };
        let place = |ip: IpAddr, port: Option<u16>| match port {
            Some(port) => std::net::SocketAddr::new(ip, port).to_string(),
            None => ip.to_string(),
        };
        self.source = Some(place(from, ports.map(|p| p.0)));
        self.destination = Some(place(to, ports.map(|p| p.1)));
    }

    fn arp(&mut self, arp: &ArpPacketSlice<'_>) {
        self.protocol = "arp".to_owned();
        let ip = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).to_string()),
            _ => None,
        };
        let of = |bytes: &[u8]| ip(bytes).unwrap_or_else(|| "?".to_owned());
        let (sender, target) = (of(arp.sender_protocol_addr()), of(arp.target_protocol_addr()));
        let mac: Vec<String> = arp.sender_hw_addr().iter().map(|b| format!("{b:02x}")).collect();
        self.details = match arp.operation() {
            ArpOperation::REQUEST => format!("who has {target}, asks {sender}"),
            ArpOperation::REPLY => format!("{sender} is at {}", mac.join(":")),
            other => format!("operation {}", other.0),
        };
    }
}

fn named(number: etherparse::IpNumber) -> String {
    match number {
        etherparse::IpNumber::TCP => "tcp".to_owned(),
        etherparse::IpNumber::UDP => "udp".to_owned(),
        etherparse::IpNumber::ICMP => "icmp".to_owned(),
        etherparse::IpNumber::IPV6_ICMP => "icmp6".to_owned(),
        other => other.keyword_str().map_or_else(|| format!("ip{}", other.0), str::to_ascii_lowercase),
    }
}

fn flags(tcp: &TcpSlice<'_>) -> String {
    let all = [
        (tcp.syn(), "SYN"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
    ];
    let set: Vec<&str> = all.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    let payload = tcp.payload().len();
    let data = if payload > 0 { format!(" {payload} bytes of data") } else { String::new() };
    format!("{}{data}", set.join(","))
}

fn icmp4(kind: u8, code: u8) -> String {
    match kind {
        0 => "echo reply".to_owned(),
        3 => format!("unreachable, code {code}"),
        5 => "redirect".to_owned(),
        8 => "echo request".to_owned(),
        11 => "time exceeded".to_owned(),
        _ => format!("type {kind}, code {code}"),
    }
}

fn icmp6(kind: u8, code: u8) -> String {
    match kind {
        1 => format!("unreachable, code {code}"),
        2 => "packet too big".to_owned(),
        3 => "time exceeded".to_owned(),
        128 => "echo request".to_owned(),
        129 => "echo reply".to_owned(),
        133 => "router solicitation".to_owned(),
        134 => "router advertisement".to_owned(),
        135 => "neighbour solicitation".to_owned(),
        136 => "neighbour advertisement".to_owned(),
        143 => "multicast report".to_owned(),
        _ => format!("type {kind}, code {code}"),
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The time of day to the microsecond.
        let time = self.time.get(11..26).unwrap_or(&self.time);
        let way = match self.direction {
            Direction::In => "in ",
            Direction::Out => "out",
        };
        write!(f, "{time} {} {way} {}", self.interface, self.protocol)?;
        if let (Some(source), Some(destination)) = (&self.source, &self.destination) {
            write!(f, " {source} > {destination}")?;
        }
        if let Some(vlan) = self.vlan {
            write!(f, " vlan {vlan}")?;
        }
        if !self.details.is_empty() {
            write!(f, " {}", self.details)?;
        }
        write!(f, ", {} bytes", self.length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use etherparse::PacketBuilder;

    use super::*;

    const TIME: u64 = 1_767_323_045_123_456_789;

    fn said(data: &[u8]) -> String {
        Seen::of(TIME, "eth0", Direction::Out, data.len(), ETHERNET, data).to_string()
    }

    #[test]
    fn what_people_look_for() {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut tcp = Vec::new();
        ethernet().ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64).tcp(4000, 80, 1, 512).syn().write(&mut tcp, &[]).unwrap();
        assert_eq!(said(&tcp), "03:04:05.123456 eth0 out tcp 10.0.0.2:4000 > 10.0.0.3:80 SYN, 54 bytes");
        let mut udp = Vec::new();
        let (from, to) = ("fd00::2".parse::<Ipv6Addr>().unwrap(), "fd00::3".parse::<Ipv6Addr>().unwrap());
        ethernet().ipv6(from.octets(), to.octets(), 64).udp(4000, 53).write(&mut udp, b"question").unwrap();
        assert_eq!(said(&udp), "03:04:05.123456 eth0 out udp [fd00::2]:4000 > [fd00::3]:53, 70 bytes");
        let mut icmp = Vec::new();
        ethernet().ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64).icmpv4_echo_request(1, 1).write(&mut icmp, &[]).unwrap();
        assert_eq!(said(&icmp), "03:04:05.123456 eth0 out icmp 10.0.0.2 > 10.0.0.3 echo request, 42 bytes");
        let arp: Vec<u8> = [
            &[0xff; 6][..],
            &[
                2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0,
                0, 3,
            ],
        ]
        .concat();
        let expected = "03:04:05.123456 eth0 out arp 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff \
                        who has 10.0.0.3, asks 10.0.0.2, 42 bytes";
        assert_eq!(said(&arp), expected);
    }

    #[test]
    fn what_is_cut_short_or_unknown_has_a_line_too() {
        let mut tcp = Vec::new();
        let to = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        to.ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64).tcp(4000, 80, 1, 512).write(&mut tcp, &[]).unwrap();
        for length in 0..tcp.len() {
            let seen = Seen::of(TIME, "eth0", Direction::In, tcp.len(), ETHERNET, &tcp[..length]);
            assert!(seen.to_string().ends_with(", 54 bytes"), "{seen}");
        }
        assert!(said(&tcp[..40]).contains(" tcp 10.0.0.2 > 10.0.0.3"), "{}", said(&tcp[..40]));
        let stp = [&[1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..], &[0; 20]].concat();
        assert!(said(&stp).contains("0x88cc 02:00:00:00:00:01 > 01:80:c2:00:00:00"), "{}", said(&stp));
        let raw = Seen::of(TIME, "tun0", Direction::In, 20, 101, &tcp[14..]);
        assert_eq!(raw.source.as_deref(), Some("10.0.0.2:4000"));
    }
}
