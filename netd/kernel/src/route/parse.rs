//! What the kernel reports, as values. Pure.
//!
//! Only the attributes rnet decides by are read. A full decoder would refuse a whole dump for one attribute of a
//! newer kernel that nobody asked about.

pub(crate) mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use rnet_model::{IfName, MacAddr, Subnet};

use super::encode::METRIC6;
use super::encode::fitting_scope;
use crate::links::{Address, Counters, IpvlanMode, LinkKind, LinkState, MacvlanMode, NextHop, Route, RouteKind};

/// `struct ifinfomsg` of linux/rtnetlink.h.
const IFINFOMSG: usize = 16;
/// `struct ifaddrmsg` of linux/if_addr.h.
const IFADDRMSG: usize = 8;
/// `struct rtmsg` of linux/rtnetlink.h.
const RTMSG: usize = 12;
/// `struct rtnexthop` of linux/rtnetlink.h.
const RTNEXTHOP: usize = 8;

// linux/if_link.h
const IFLA_BR_VLAN_FILTERING: u16 = 7;
// linux/if_addr.h
const IFA_PROTO: u16 = 11;
const IFAPROT_KERNEL_LL: u8 = 3;
/// For IPv6 the bit of IFA_F_SECONDARY says: made by the kernel for privacy.
const IFA_F_TEMPORARY: u32 = 1;
// linux/rtnetlink.h
const RT_SCOPE_LINK: u8 = 253;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;

type Nla<'a> = NlaBuffer<&'a [u8]>;

/// Attributes that are cut short end the list: the kernel never sends any.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla: Nla<'_>| {
        let value = &nla.into_inner()[4..];
        (nla.kind(), &value[..nla.value_length()])
    })
}

pub(super) fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The body of an RTM_NEWLINK or RTM_DELLINK. `None` for another family than AF_UNSPEC (a bridge reports its ports as
/// AF_BRIDGE on the same group) and for a device whose name rnet could not write: it is not ours to look at.
pub(crate) fn link(body: &[u8]) -> Option<LinkState> {
    const LOOPBACK: u32 = libc::IFF_LOOPBACK.cast_unsigned();
    const UP: u32 = libc::IFF_UP.cast_unsigned();
    const LOWER_UP: u32 = libc::IFF_LOWER_UP.cast_unsigned();
    const PROMISC: u32 = libc::IFF_PROMISC.cast_unsigned();
    const ALLMULTI: u32 = libc::IFF_ALLMULTI.cast_unsigned();
    let header = body.get(..IFINFOMSG)?;
    if i32::from(header[0]) != libc::AF_UNSPEC {
        return None;
    }
    let flags = u32_of(&header[8..])?;
    let index = u32_of(&header[4..])?;
    let mut name = None;
    let mut info: &[u8] = &[];
    let mut state = LinkState {
        index,
        name: "lo".parse().expect("lo is a name"),
        kind: LinkKind::Physical,
        up: flags & UP != 0,
        carrier: flags & LOWER_UP != 0,
        mtu: 0,
        mac: None,
        master: None,
        alias: None,
        group: 0,
        promisc: flags & PROMISC != 0,
        allmulti: flags & ALLMULTI != 0,
        tx_queue_len: 0,
        parent: None,
        parent_elsewhere: false,
    };
    for (kind, value) in attributes(&body[IFINFOMSG..]) {
        match kind {
            libc::IFLA_IFNAME => name = text_of(value).parse::<IfName>().ok(),
            libc::IFLA_MTU => state.mtu = u32_of(value)?,
            libc::IFLA_LINK => state.parent = u32_of(value).filter(|i| *i != 0),
            libc::IFLA_LINK_NETNSID => state.parent_elsewhere = true,
            libc::IFLA_TXQLEN => state.tx_queue_len = u32_of(value)?,
            libc::IFLA_MASTER => state.master = u32_of(value),
            libc::IFLA_GROUP => state.group = u32_of(value)?,
            libc::IFLA_IFALIAS => state.alias = Some(text_of(value)).filter(|a| !a.is_empty()),
            libc::IFLA_LINKINFO => info = value,
            libc::IFLA_ADDRESS => state.mac = <[u8; 6]>::try_from(value).ok().and_then(MacAddr::new),
            _ => {}
        }
    }
    state.name = name?;
    state.kind = if flags & LOOPBACK != 0 { LinkKind::Loopback } else { link_kind(info, state.parent) };
    Some(state)
}

fn link_kind(info: &[u8], peer: Option<u32>) -> LinkKind {
    let mut kind = None;
    let mut data: &[u8] = &[];
    for (attribute, value) in attributes(info) {
        match attribute {
            libc::IFLA_INFO_KIND => kind = Some(text_of(value)),
            libc::IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    match kind.as_deref() {
        None => LinkKind::Physical,
        Some("veth") => LinkKind::Veth { peer },
        Some("bridge") => LinkKind::Bridge {
            vlan_filtering: attributes(data)
                .any(|(k, v)| k == IFLA_BR_VLAN_FILTERING && v.first().is_some_and(|on| *on != 0)),
        },
        Some(kind) => device_kind(kind, data).unwrap_or_else(|| LinkKind::Other(kind.to_owned())),
    }
}

/// `None` for a kind nobody decides by, and for a mode of a newer kernel.
fn device_kind(kind: &str, data: &[u8]) -> Option<LinkKind> {
    // linux/if_link.h, if_tun.h
    const IFLA_MACVLAN_MODE: u16 = 1;
    const IFLA_IPVLAN_MODE: u16 = 1;
    const IFLA_VLAN_ID: u16 = 1;
    const IFLA_VRF_TABLE: u16 = 1;
    const IFLA_TUN_TYPE: u16 = 3;
    const IFF_TUN: u8 = 1;
    let value = |wanted| attributes(data).find(|(k, _)| *k == wanted).map(|(_, v)| v);
    let short = |wanted| value(wanted).and_then(|v| Some(u16::from_ne_bytes(v.get(..2)?.try_into().ok()?)));
    Some(match kind {
        "macvlan" => LinkKind::Macvlan { mode: MacvlanMode::of(value(IFLA_MACVLAN_MODE).and_then(u32_of)?)? },
        "ipvlan" => LinkKind::Ipvlan { mode: IpvlanMode::of(short(IFLA_IPVLAN_MODE)?)? },
        "vlan" => LinkKind::Vlan { id: short(IFLA_VLAN_ID)? },
        "vrf" => LinkKind::Vrf { table: value(IFLA_VRF_TABLE).and_then(u32_of)? },
        "dummy" => LinkKind::Dummy,
        "ifb" => LinkKind::Ifb,
        "tun" if value(IFLA_TUN_TYPE)?.first() == Some(&IFF_TUN) => LinkKind::Tun,
        "tun" => LinkKind::Tap,
        _ => return None,
    })
}

/// The body of an RTM_NEWADDR or RTM_DELADDR.
pub(crate) fn address(body: &[u8]) -> Option<Address> {
    let header = body.get(..IFADDRMSG)?;
    let (prefix, scope) = (header[1], header[3]);
    let mut flags = u32::from(header[2]);
    let (mut local, mut far, mut broadcast, mut protocol) = (None, None, None, 0);
    for (kind, value) in attributes(&body[IFADDRMSG..]) {
        match kind {
            libc::IFA_LOCAL => local = ip_of(value),
            libc::IFA_ADDRESS => far = ip_of(value),
            libc::IFA_FLAGS => flags = u32_of(value)?,
            libc::IFA_BROADCAST => broadcast = ip_of(value),
            IFA_PROTO => protocol = *value.first()?,
            _ => {}
        }
    }
    // IFA_ADDRESS is the far end of a point-to-point link; IPv6 reports its only address there.
    let ip = local.or(far)?;
    Some(Address {
        index: u32_of(&header[4..])?,
        ip,
        prefix,
        automatic: ip.is_loopback()
            || (1..=IFAPROT_KERNEL_LL).contains(&protocol)
            || (ip.is_ipv6() && flags & IFA_F_TEMPORARY != 0),
        narrow: scope >= RT_SCOPE_LINK,
        broadcast: match broadcast {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        },
    })
}

/// A route before its devices have names.
#[derive(Clone)]
pub(crate) struct IndexedRoute {
    destination: Subnet,
    hops: Vec<Hop>,
    metric: Option<u32>,
    source: Option<IpAddr>,
    protocol: u8,
    pub(crate) table: u32,
    kind: RouteKind,
    scope: u8,
    mtu: Option<u32>,
    advmss: Option<u32>,
}

impl IndexedRoute {
    /// One route for each next hop.
    pub(crate) fn split(self) -> impl Iterator<Item = IndexedRoute> {
        let hops = self.hops.clone();
        hops.into_iter().map(move |hop| IndexedRoute { hops: vec![hop], ..self.clone() })
    }

    /// Of the first next hop; 0 if it leads nowhere.
    pub(crate) fn index(&self) -> u32 {
        self.hops.first().map_or(0, |h| h.index)
    }

    pub(crate) fn is_unicast(&self) -> bool {
        self.kind == RouteKind::Unicast
    }

    /// `None` if a device has no name any more: it took its routes along.
    pub(crate) fn named(self, mut name: impl FnMut(u32) -> Option<IfName>) -> Option<Route> {
        let mut hops = Vec::new();
        if self.is_unicast() {
            for hop in &self.hops {
                hops.push(NextHop { via: hop.via, dev: name(hop.index)?, onlink: hop.flags & RTNH_F_ONLINK != 0 });
            }
        } else {
            hops.push(NextHop { via: None, dev: "lo".parse().expect("lo is a name"), onlink: false });
        }
        let mut hops = hops.into_iter();
        let NextHop { via, dev, onlink } = hops.next()?;
        let mut route = Route {
            via,
            onlink,
            metric: self.metric,
            source: self.source,
            protocol: self.protocol,
            table: self.table,
            kind: self.kind,
            mtu: self.mtu,
            advmss: self.advmss,
            more: hops.collect(),
            ..Route::new(self.destination, dev)
        };
        // What the kernel was asked for without words is reported without.
        route.scope = Some(self.scope).filter(|s| *s != fitting_scope(&route));
        Some(route)
    }
}

/// The body of an RTM_NEWROUTE: nothing for types nobody asks for, and for what is not in a table.
pub(crate) fn route(body: &[u8]) -> Option<IndexedRoute> {
    // linux/rtnetlink.h
    const RTAX_MTU: u16 = 2;
    const RTAX_ADVMSS: u16 = 8;
    let header = body.get(..RTMSG)?;
    let flags = u32_of(&header[8..])?;
    let kind = RouteKind::of(header[7])?;
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let is_v4 = i32::from(header[0]) == libc::AF_INET;
    let mut table = u32::from(header[4]);
    let (mut destination, mut source, mut metric, mut hops) = (None, None, 0, None);
    let (mut mtu, mut advmss) = (None, None);
    let mut hop = Hop { index: 0, via: None, flags };
    for (kind, value) in attributes(&body[RTMSG..]) {
        match kind {
            libc::RTA_DST => destination = ip_of(value),
            libc::RTA_TABLE => table = u32_of(value)?,
            libc::RTA_PRIORITY => metric = u32_of(value)?,
            libc::RTA_PREFSRC => source = ip_of(value),
            libc::RTA_MULTIPATH => hops = Some(value),
            libc::RTA_METRICS => {
                let number = |wanted| attributes(value).find(|(k, _)| *k == wanted).and_then(|(_, v)| u32_of(v));
                (mtu, advmss) = (number(RTAX_MTU), number(RTAX_ADVMSS));
            }
            _ => hop.read(kind, value)?,
        }
    }
    let any: IpAddr = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Some(IndexedRoute {
        destination: Subnet::containing(destination.unwrap_or(any), header[1])?,
        hops: hops.map_or_else(|| vec![hop], multipath),
        // The kernel's own metric is reported as none, so that a route reads as it was asked for.
        metric: Some(metric).filter(|m| *m != 0 && (is_v4 || *m != METRIC6)),
        source,
        protocol: header[5],
        table,
        kind,
        scope: header[6],
        mtu,
        advmss,
    })
}

/// The device of the body of an RTM_DELROUTE, 0 if it names none.
pub(crate) fn device_of_route(body: &[u8]) -> u32 {
    let mut all = attributes(body.get(RTMSG..).unwrap_or_default());
    all.find(|(kind, _)| *kind == libc::RTA_OIF).and_then(|(_, value)| u32_of(value)).unwrap_or(0)
}

#[derive(Clone)]
struct Hop {
    index: u32,
    via: Option<IpAddr>,
    flags: u32,
}

impl Hop {
    fn read(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        match kind {
            libc::RTA_OIF => self.index = u32_of(value)?,
            libc::RTA_GATEWAY => self.via = ip_of(value),
            // `struct rtvia`: two bytes of family, then the address.
            libc::RTA_VIA => self.via = ip_of(value.get(2..)?),
            _ => {}
        }
        Some(())
    }
}

fn multipath(mut bytes: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    while let Some(header) = bytes.get(..RTNEXTHOP) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let (Some(index), Some(own)) = (u32_of(&header[4..]), bytes.get(RTNEXTHOP..length)) else { break };
        let mut hop = Hop { index, via: None, flags: u32::from(header[2]) };
        for (kind, value) in attributes(own) {
            if hop.read(kind, value).is_none() {
                return hops;
            }
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// The body of an RTM_NEWSTATS: ifindex and counters.
pub(crate) fn counters(body: &[u8]) -> Option<(u32, Counters)> {
    /// `struct if_stats_msg` of linux/if_link.h.
    const IF_STATS_MSG: usize = 12;
    const IFLA_STATS_LINK_64: u16 = 1;
    let index = u32_of(body.get(4..IF_STATS_MSG)?)?;
    let (_, stats) = attributes(&body[IF_STATS_MSG..]).find(|(kind, _)| *kind == IFLA_STATS_LINK_64)?;
    // The first fields of struct rtnl_link_stats64.
    let number = |n: usize| Some(u64::from_ne_bytes(stats.get(n * 8..n * 8 + 8)?.try_into().ok()?));
    let counters = Counters {
        rx_packets: number(0)?,
        tx_packets: number(1)?,
        rx_bytes: number(2)?,
        tx_bytes: number(3)?,
        rx_errors: number(4)?,
        tx_errors: number(5)?,
        rx_dropped: number(6)?,
        tx_dropped: number(7)?,
    };
    Some((index, counters))
}
