//! Questions about one packet: which way it goes, and whether the next hop is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Route;
use super::encode::Request;
use super::parse::{attributes, ip_of, u32_of};
use crate::KernelError;

// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTMSG: usize = 12;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
// linux/neighbour.h
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;

/// What the kernel would do with a packet (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayKind {
    /// Sends it to a next hop.
    Unicast,
    /// Takes it itself.
    Local,
    /// Anything else, by its number.
    Other(u8),
}

/// The way of a packet, as the kernel looks it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// What happens to it.
    pub kind: WayKind,
    /// ifindex it goes out at.
    pub output: u32,
    /// Next hop; `None` = the destination itself.
    pub via: Option<IpAddr>,
    /// Source address the kernel would choose.
    pub source: Option<IpAddr>,
    /// Routing table.
    pub table: u32,
}

/// A packet to look the way up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayOf {
    /// Destination.
    pub destination: IpAddr,
    /// Source, if it has one already.
    pub source: Option<IpAddr>,
    /// ifindex it came in at; `None` = it is sent by this host.
    pub input: Option<u32>,
}

/// A neighbour the kernel knows or has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// ifindex.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// It was asked for and has not answered (`NUD_INCOMPLETE`, `NUD_FAILED`).
    pub silent: bool,
}

impl Route {
    /// Asks which way a packet goes.
    ///
    /// # Errors
    /// What the kernel said: `ENETUNREACH` without a route, `EHOSTUNREACH`, `EACCES` and `EINVAL` for routes that
    /// refuse, `EXDEV` for a source that the device it came in at may not have (rp_filter).
    pub fn way(&mut self, packet: &WayOf) -> Result<Way, KernelError> {
        let operation = || format!("route get {}", packet.destination);
        let request = Request::raw(0, RTM_GETROUTE, question(packet));
        let found = self.socket.get(request, way).map_err(|e| e.of(&operation()))?;
        found.ok_or_else(|| KernelError::text(operation(), "the kernel's answer cannot be read"))
    }

    /// All neighbours of both families that are known or asked for.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, KernelError> {
        let request = Request::raw(super::encode::DUMP, RTM_GETNEIGH, vec![0; NDMSG]);
        self.socket.dump(&request, |body, all| all.extend(neighbour(body))).map_err(|e| e.of("list neighbours"))
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `struct rtmsg` and its attributes; all of their sizes are multiples of four.
fn question(packet: &WayOf) -> Vec<u8> {
    let family = if packet.destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let bits = if packet.destination.is_ipv4() { 32 } else { 128 };
    let mut body = vec![0; RTMSG];
    body[0] = u8::try_from(family).expect("the families of IP are small numbers");
    body[1] = bits;
    let mut put = |kind: u16, value: &[u8]| {
        let length = u16::try_from(value.len() + 4).expect("addresses and numbers are short");
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    };
    put(libc::RTA_DST, &octets(packet.destination));
    if let Some(source) = packet.source {
        put(RTA_SRC, &octets(source));
    }
    if let Some(input) = packet.input {
        put(RTA_IIF, &input.to_ne_bytes());
    }
    if packet.source.is_some() {
        body[2] = bits;
    }
    body
}

fn way(body: &[u8]) -> Option<Way> {
    let header = body.get(..RTMSG)?;
    let kind = match header[7] {
        libc::RTN_UNICAST => WayKind::Unicast,
        libc::RTN_LOCAL => WayKind::Local,
        other => WayKind::Other(other),
    };
    let mut way = Way { kind, output: 0, via: None, source: None, table: u32::from(header[4]) };
    for (kind, value) in attributes(&body[RTMSG..]) {
        match kind {
            libc::RTA_OIF => way.output = u32_of(value)?,
            libc::RTA_GATEWAY => way.via = ip_of(value),
            libc::RTA_VIA => way.via = ip_of(value.get(2..)?),
            libc::RTA_PREFSRC => way.source = ip_of(value),
            libc::RTA_TABLE => way.table = u32_of(value)?,
            _ => {}
        }
    }
    way.via =
        way.via.filter(|via| *via != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && *via != IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    Some(way)
}

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let header = body.get(..NDMSG)?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let ip = attributes(&body[NDMSG..]).find(|(kind, _)| *kind == NDA_DST).and_then(|(_, value)| ip_of(value))?;
    Some(Neighbour { index: u32_of(&header[4..])?, ip, silent: state & (NUD_INCOMPLETE | NUD_FAILED) != 0 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::root_or_skip;
    use crate::{Links as _, Netns};

    #[test]
    fn the_way_of_a_packet() {
        if !root_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let ip = |words: &str| {
            let run = || std::process::Command::new("ip").args(words.split(' ')).status();
            assert!(ns.run(run).unwrap().unwrap().success(), "ip {words}");
        };
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("address add 10.0.0.1/24 dev v0");
        ip("link set v0 up");
        ip("link set v1 up");
        let mut route = Route::open(&ns).unwrap();
        let mut way = |to: &str| route.way(&WayOf { destination: to.parse().unwrap(), source: None, input: None });
        assert_eq!(way("10.0.0.1").unwrap().kind, WayKind::Local);
        let near = way("10.0.0.9").unwrap();
        assert_eq!((near.kind, near.via, near.source), (WayKind::Unicast, None, Some("10.0.0.1".parse().unwrap())));
        assert_eq!(way("192.0.2.1").unwrap_err().errno, libc::ENETUNREACH);
        assert_eq!(way("2001:db8::1").unwrap_err().errno, libc::ENETUNREACH);
        ip("route add default via 10.0.0.254");
        ip("route add unreachable 192.0.2.0/24");
        assert_eq!(way("198.51.100.1").unwrap().via, Some("10.0.0.254".parse().unwrap()));
        assert_eq!(way("192.0.2.1").unwrap_err().errno, libc::EHOSTUNREACH);
        let index = route.link(&"v0".parse().unwrap()).unwrap().unwrap().index;
        assert_eq!(near.output, index);
        ip("neighbour add 10.0.0.7 lladdr 02:00:00:00:00:07 dev v0");
        let known = route.neighbours().unwrap();
        let seven = known.iter().find(|n| n.ip == "10.0.0.7".parse::<IpAddr>().unwrap()).unwrap();
        assert_eq!((seven.index, seven.silent), (index, false));
    }
}
