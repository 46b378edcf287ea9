//! Operations as route netlink messages. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rnet_model::{IfAddr, IfName, MacAddr};

use crate::links::{LinkOp, NewBridge, NewVeth, Route};

/// Where the ifindex of a name comes from.
pub(super) trait Names {
    /// The error is the errno.
    fn index(&mut self, name: &IfName) -> Result<u32, i32>;
}

/// A message that waits for its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Request {
    fn new(flags: u16, message: RouteNetlinkMessage) -> Self {
        Request { flags: NLM_F_REQUEST | flags, message }
    }

    fn acked(flags: u16, message: RouteNetlinkMessage) -> Self {
        Request::new(NLM_F_ACK | flags, message)
    }

    /// Appends the message. All parts of a netlink message are padded to four bytes, so the next one is aligned.
    pub(super) fn append(self, sequence: u32, out: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(self.message));
        message.finalize();
        let start = out.len();
        out.resize(start + message.buffer_len(), 0);
        message.serialize(&mut out[start..]);
    }
}

fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
}

/// The device goes by name with ifindex 0, which RTM_SETLINK, RTM_DELLINK and RTM_GETLINK accept (rtnetlink(7)).
fn named(name: &IfName, more: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
    link(std::iter::once(LinkAttribute::IfName(name.to_string())).chain(more).collect())
}

fn flagged(mut message: LinkMessage, flags: LinkFlags, mask: LinkFlags) -> LinkMessage {
    message.header.flags = flags;
    message.header.change_mask = mask;
    message
}

fn set(name: &IfName, more: impl IntoIterator<Item = LinkAttribute>) -> Request {
    Request::acked(0, RouteNetlinkMessage::SetLink(named(name, more)))
}

fn up(name: &IfName) -> Request {
    let message = flagged(named(name, []), LinkFlags::Up, LinkFlags::Up);
    Request::acked(0, RouteNetlinkMessage::SetLink(message))
}

/// Without the closing NUL of [`LinkAttribute::IfAlias`]: the kernel keeps all bytes, and only length 0 removes.
fn alias(text: &str) -> LinkAttribute {
    LinkAttribute::Other(DefaultNla::new(libc::IFLA_IFALIAS, text.as_bytes().to_vec()))
}

/// No link-local address made by the kernel (IN6_ADDR_GEN_MODE_NONE), which also means no router solicitation.
pub(super) fn quiet(name: &IfName) -> Request {
    set(name, [no_address_of_its_own()])
}

fn no_address_of_its_own() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

/// What a new device needs that RTM_NEWLINK does not do. Sent only for devices that were made: by name these would
/// otherwise hit the foreign device whose name was in the way.
///
/// rtnl_newlink_create (net/core/rtnetlink.c) ignores IFLA_IFALIAS, and refuses IFLA_AF_SPEC with EAFNOSUPPORT because
/// the device has no IPv6 part yet (measured on 6.18).
pub(super) fn finish(op: &LinkOp) -> Vec<Finish> {
    match op {
        LinkOp::NewBridge(b) => vec![
            // An MTU given at creation would go down with the smallest port; one set later stays (br_change_mtu).
            Finish::Required(set(&b.name, std::iter::once(alias(&b.alias)).chain(b.mtu.map(LinkAttribute::Mtu)))),
            Finish::Ipv6(quiet(&b.name)),
            // Up comes last: with carrier the kernel would make an address at once.
            Finish::Required(up(&b.name)),
        ],
        LinkOp::NewVeth(v) => {
            // One message, because each tells all of the kernel about the device, which walks its IPv6 routes then.
            let both = set(&v.name, [alias(&v.alias), no_address_of_its_own()]);
            let mut all = vec![Finish::RequiredOr(both, set(&v.name, [alias(&v.alias)]))];
            if v.netns.is_none() {
                all.push(Finish::Ipv6(quiet(&v.peer)));
            }
            all
        }
        _ => Vec::new(),
    }
}

/// A message of [`finish`].
#[derive(Debug)]
pub(super) enum Finish {
    /// Its failure is the operation's.
    Required(Request),
    /// The same; where the first fails with EAFNOSUPPORT, for lack of IPv6, the second is sent.
    RequiredOr(Request, Request),
    /// EAFNOSUPPORT is success: the device or the kernel is without IPv6.
    Ipv6(Request),
}

/// The message of an operation; the error is an errno and what it is about.
pub(super) fn operation(op: &LinkOp, names: &mut impl Names) -> Result<Request, (i32, String)> {
    let mut index = |name: &IfName| names.index(name).map_err(|errno| (errno, format!("no device {name}")));
    Ok(match op {
        LinkOp::NewBridge(b) => new_bridge(b),
        LinkOp::NewVeth(v) => new_veth(v, v.master.as_ref().map(index).transpose()?),
        LinkOp::Up(d) => up(d),
        LinkOp::Down(d) => {
            let message = flagged(named(d, []), LinkFlags::empty(), LinkFlags::Up);
            Request::acked(0, RouteNetlinkMessage::SetLink(message))
        }
        LinkOp::Master(d, m) => set(d, [LinkAttribute::Controller(index(m)?)]),
        LinkOp::NoMaster(d) => set(d, [LinkAttribute::Controller(0)]),
        LinkOp::Mtu(d, mtu) => set(d, [LinkAttribute::Mtu(*mtu)]),
        LinkOp::Mac(d, mac) => set(d, [LinkAttribute::Address(mac.octets().to_vec())]),
        LinkOp::Alias(d, text) => set(d, [alias(text)]),
        LinkOp::Quiet(d) => quiet(d),
        LinkOp::Retire(d, group) => {
            let message = named(d, [LinkAttribute::Group(*group)]);
            Request::acked(0, RouteNetlinkMessage::SetLink(flagged(message, LinkFlags::empty(), LinkFlags::Up)))
        }
        LinkOp::Delete(d) => delete(d),
        LinkOp::DeleteGroup(g) => Request::acked(0, RouteNetlinkMessage::DelLink(link(vec![LinkAttribute::Group(*g)]))),
        LinkOp::AddAddress(d, a) => Request::acked(
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewAddress(address(index(d)?, a, AddressUse::Add(a.broadcast()))),
        ),
        LinkOp::MoveAddress(d, a, broadcast) => Request::acked(
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewAddress(address(index(d)?, a, AddressUse::Add(*broadcast))),
        ),
        LinkOp::DelAddress(d, a) => {
            Request::acked(0, RouteNetlinkMessage::DelAddress(address(index(d)?, a, AddressUse::Remove)))
        }
        LinkOp::AddRoute(r) => {
            Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(add_route(r, index(&r.dev)?)))
        }
        LinkOp::DelRoute(r) => Request::acked(0, RouteNetlinkMessage::DelRoute(del_route(r, index(&r.dev)?))),
        LinkOp::Isolated(d, on) => isolated(d, *on),
    })
}

pub(super) fn delete(name: &IfName) -> Request {
    Request::acked(0, RouteNetlinkMessage::DelLink(named(name, [])))
}

fn new_bridge(b: &NewBridge) -> Request {
    // An address given at creation is NET_ADDR_SET: the bridge keeps it, instead of taking the lowest of its ports.
    let mac = b.mac.unwrap_or_else(random_mac);
    // Snooping sets timers of all ports whenever one joins (br_port_state_selection): half of an attach at a thousand.
    // Without a querier in the network, which nobody told us of, it is no use anyway.
    let mut options = vec![InfoBridge::MulticastSnooping(false)];
    options.extend(b.vlan_filtering.then_some(InfoBridge::VlanFiltering(true)));
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(options))];
    let attributes = [LinkAttribute::Address(mac.octets().to_vec()), LinkAttribute::LinkInfo(info)];
    Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(named(&b.name, attributes)))
}

fn random_mac() -> MacAddr {
    let mut seed = [0; 8];
    // Without flags it can fail only before the pool is seeded at boot, and then it blocks instead.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    MacAddr::local(u64::from_ne_bytes(seed))
}

fn new_veth(v: &NewVeth, master: Option<u32>) -> Request {
    let mut inside = vec![LinkAttribute::Mtu(v.mtu), LinkAttribute::Address(v.peer_mac.octets().to_vec())];
    inside.extend(one_queue());
    // The number is read by the kernel while the message is handled; `v` holds the descriptor open until then.
    inside.extend(v.netns.as_ref().map(|ns| LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd())));
    let peer = named(&v.peer, inside);
    let mut attributes = vec![LinkAttribute::Mtu(v.mtu)];
    attributes.extend(one_queue());
    attributes.extend(master.map(LinkAttribute::Controller));
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    // IFF_UP works for this end only; in the peer's header it fails with ENOTCONN.
    let message = flagged(named(&v.name, attributes), LinkFlags::Up, LinkFlags::Up);
    Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
}

/// A veth uses one queue of each kind, whatever number it is born with; giving the others up takes a grace period
/// (veth_init_queues, netif_set_real_num_tx_queues).
fn one_queue() -> [LinkAttribute; 2] {
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
}

/// Port attributes go through RTM_NEWLINK without NLM_F_CREATE: RTM_SETLINK does not look at IFLA_LINKINFO.
fn isolated(name: &IfName, on: bool) -> Request {
    let info = LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(on)])),
    ]);
    Request::acked(0, RouteNetlinkMessage::NewLink(named(name, [info])))
}

enum AddressUse {
    /// With this broadcast address.
    Add(Option<Ipv4Addr>),
    Remove,
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(index: u32, a: &IfAddr, usage: AddressUse) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(a.ip());
    message.header.prefix_len = a.prefix();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(a.ip()), AddressAttribute::Address(a.ip())];
    if let AddressUse::Add(broadcast) = usage {
        if a.ip().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.extend(broadcast.map(AddressAttribute::Broadcast));
    }
    message
}

/// Metric the kernel takes for an IPv6 route without one (IP6_RT_PRIO_USER). IPv4 takes 0.
pub(super) const METRIC6: u32 = 1024;

fn add_route(r: &Route, index: u32) -> RouteMessage {
    let mut message = route(r, index);
    message.header.protocol = RouteProtocol::from(r.protocol);
    // An IPv4 route without a next hop is only taken with link scope; IPv6 has no scopes.
    message.header.scope =
        if r.via.is_none() && r.destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    if r.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.extend(r.metric.map(RouteAttribute::Priority));
    message.attributes.extend(r.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    message
}

/// Scope "nowhere" and protocol 0 match any. IPv4 takes metric 0 for "any" too, so an IPv4 route without a metric
/// can only be named as "the one with the lowest metric".
fn del_route(r: &Route, index: u32) -> RouteMessage {
    let mut message = route(r, index);
    message.header.scope = RouteScope::NoWhere;
    let metric = if r.destination.is_ipv4() { r.metric } else { Some(r.metric.unwrap_or(METRIC6)) };
    message.attributes.extend(metric.map(RouteAttribute::Priority));
    message
}

fn route(r: &Route, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(r.destination.network());
    message.header.destination_prefix_length = r.destination.prefix();
    match u8::try_from(r.table) {
        Ok(table) => message.header.table = table,
        // The header has room for small numbers only.
        Err(_) => message.attributes.push(RouteAttribute::Table(r.table)),
    }
    message.header.kind = RouteType::Unicast;
    if r.destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(r.destination.network().into()));
    }
    match r.via {
        Some(IpAddr::V6(via)) if r.destination.is_ipv4() => {
            message.attributes.push(RouteAttribute::Via(RouteVia::Inet6(via)));
        }
        Some(via) => message.attributes.push(RouteAttribute::Gateway(via.into())),
        None => {}
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// One link by name. Statistics are left out: they cost more than the rest.
pub(super) fn get_link(name: &IfName) -> Request {
    Request::new(
        0,
        RouteNetlinkMessage::GetLink(named(name, [LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])])),
    )
}

pub(super) fn dump_links() -> Request {
    let message = link(vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetLink(message))
}

pub(super) fn dump_addresses() -> Request {
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetAddress(AddressMessage::default()))
}

/// With strict checking on, the ifindex of the header filters in the kernel.
pub(super) fn dump_addresses_of(index: u32) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetAddress(message))
}

/// With strict checking on, the table and the type of the header filter in the kernel.
pub(super) fn dump_routes(family: AddressFamily, table: u8) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = table;
    message.header.kind = RouteType::Unicast;
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetRoute(message))
}

#[cfg(test)]
mod tests;
