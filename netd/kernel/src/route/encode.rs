//! Operations as route netlink messages. Pure.

pub(super) mod device;
pub(super) mod rule;
pub(super) mod tc;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeBooleanOptionFlags, BridgeBooleanOptions, In6AddrGenMode, InfoBridge,
    InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rnet_model::{IfAddr, IfName, MacAddr};

use crate::links::{AddressGeneration, LinkOp, NewBridge, NewVeth, Route, RouteKind, Snooping};

/// The flag of a request for all objects.
pub(super) const DUMP: u16 = NLM_F_DUMP;

/// Where the ifindex of a name comes from.
pub(super) trait Names {
    /// The error is the errno.
    fn index(&mut self, name: &IfName) -> Result<u32, i32>;
}

/// A message that waits for its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    flags: u16,
    message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    Typed(RouteNetlinkMessage),
    /// Type and body.
    Raw(u16, Vec<u8>),
}

impl Request {
    fn new(flags: u16, message: RouteNetlinkMessage) -> Self {
        Request { flags: NLM_F_REQUEST | flags, message: Message::Typed(message) }
    }

    pub(super) fn raw(flags: u16, kind: u16, body: Vec<u8>) -> Self {
        Request { flags: NLM_F_REQUEST | flags, message: Message::Raw(kind, body) }
    }

    fn raw_acked(flags: u16, kind: u16, body: Vec<u8>) -> Self {
        Request::raw(NLM_F_ACK | flags, kind, body)
    }

    fn acked(flags: u16, message: RouteNetlinkMessage) -> Self {
        Request::new(NLM_F_ACK | flags, message)
    }

    /// Appends the message. All parts of a netlink message are padded to four bytes, so the next one is aligned.
    pub(super) fn append(self, sequence: u32, out: &mut Vec<u8>) {
        let message = match self.message {
            Message::Typed(message) => message,
            Message::Raw(kind, body) => {
                let length = u32::try_from(16 + body.len()).expect("messages of ours are small");
                out.extend(length.to_ne_bytes());
                out.extend(kind.to_ne_bytes());
                out.extend(self.flags.to_ne_bytes());
                out.extend(sequence.to_ne_bytes());
                out.extend([0; 4]);
                out.extend(body);
                return;
            }
        };
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
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
        LinkOp::NewBridge(b) => finish_bridge(b),
        LinkOp::NewVeth(v) if v.ipv6 == AddressGeneration::Off => {
            // One message, because each tells all of the kernel about the device, which walks its IPv6 routes then.
            let mut all = match alias_of(&v.alias) {
                Some(alias) => {
                    let both = set(&v.name, [alias.clone(), no_address_of_its_own()]);
                    vec![Finish::RequiredOr(both, set(&v.name, [alias]))]
                }
                None => vec![Finish::Ipv6(quiet(&v.name))],
            };
            if v.netns.is_none() {
                all.push(Finish::Ipv6(quiet(&v.peer)));
            }
            all
        }
        LinkOp::NewVeth(v) => alias_of(&v.alias).map(|a| Finish::Required(set(&v.name, [a]))).into_iter().collect(),
        LinkOp::NewDevice(d) => {
            d.alias.as_deref().map(|a| Finish::Required(set(&d.name, [alias(a)]))).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn alias_of(text: &str) -> Option<LinkAttribute> {
    (!text.is_empty()).then(|| alias(text))
}

fn finish_bridge(b: &NewBridge) -> Vec<Finish> {
    // An MTU given at creation would go down with the smallest port; one set later stays (br_change_mtu).
    let settings: Vec<_> = alias_of(&b.alias).into_iter().chain(b.mtu.map(LinkAttribute::Mtu)).collect();
    let bare = settings.is_empty();
    match b.ipv6 {
        AddressGeneration::Off => {
            let settings = (!bare).then(|| Finish::Required(set(&b.name, settings)));
            // Up comes last: with carrier the kernel would make an address at once.
            settings.into_iter().chain([Finish::Ipv6(quiet(&b.name)), Finish::Required(up(&b.name))]).collect()
        }
        AddressGeneration::Kernel if bare => Vec::new(),
        AddressGeneration::Kernel => vec![Finish::Required(set(&b.name, settings))],
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
        LinkOp::NewDevice(d) if d.netns.is_some() && (d.master.is_some() || d.alias.is_some()) => {
            return Err((libc::EINVAL, "alias and master of a device born elsewhere are set there".to_owned()));
        }
        LinkOp::NewDevice(d) => {
            let parent = d.parent.as_ref().map(&mut index).transpose()?;
            device::new_device(d, parent, d.master.as_ref().map(index).transpose()?)
        }
        LinkOp::NewTap(_) => return Err((libc::EINVAL, "a tap device is not made by a message".to_owned())),
        LinkOp::Move { name, netns, new_name } => {
            device::relocate(index(name)?, new_name.as_ref().unwrap_or(name), netns)
        }
        LinkOp::Rename(old, new) => device::rename(index(old)?, new),
        LinkOp::Promisc(d, on) => device::flag(d, LinkFlags::Promisc, *on),
        LinkOp::AllMulti(d, on) => device::flag(d, LinkFlags::Allmulti, *on),
        LinkOp::TxQueueLen(d, n) => set(d, [LinkAttribute::TxQueueLen(*n)]),
        LinkOp::Hairpin(d, on) => device::port(d, InfoBridgePort::HairpinMode(on.is_on())),
        LinkOp::VlanFiltering(d, on) => device::vlan_filtering(d, *on),
        LinkOp::PortVlan(v) => device::add_vlans(v, index(&v.dev)?),
        LinkOp::DelPortVlan(v) => device::del_vlans(v, index(&v.dev)?),
        LinkOp::Devconf4(d, key, value) => device::devconf4(d, *key, *value),
        LinkOp::DetectAddress(d, a) => Request::acked(
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewAddress(address(index(d)?, a, AddressUse::Detect)),
        ),
        LinkOp::AddRule(r) => rule::add(r),
        LinkOp::DelRule(r) => rule::delete(r),
        LinkOp::Tbf(t) => tc::tbf(t, index(&t.dev)?),
        LinkOp::Ingress(d) => tc::ingress(index(d)?),
        LinkOp::MirrorIngress { from, to } => tc::mirror(index(from)?, index(to)?),
        LinkOp::DelQdisc(d, place) => tc::del_qdisc(index(d)?, *place),
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
        LinkOp::AddRoute(r) => Request::acked(
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewRoute(add_route(r, &hops(r, &mut index)?)),
        ),
        LinkOp::DelRoute(r) => Request::acked(0, RouteNetlinkMessage::DelRoute(del_route(r, &hops(r, &mut index)?))),
        LinkOp::Isolated(d, on) => device::port(d, InfoBridgePort::Isolated(*on)),
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
    let mut options = Vec::new();
    if b.snooping == Snooping::Off {
        options.push(InfoBridge::MulticastSnooping(false));
        // Frames for the bridge itself (LLDP) pass no hook of nf_tables, and addresses would be learned from them
        // (__br_handle_local_finish, net/bridge/br_input.c). Kernels before 4.20 ignore the option.
        let option = BridgeBooleanOptionFlags::NoLinkLocalLearn;
        options.push(InfoBridge::MultiBoolOpt(BridgeBooleanOptions { value: option, mask: option }));
    }
    options.extend(b.vlan_filtering.then_some(InfoBridge::VlanFiltering(true)));
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(options))];
    let attributes = [LinkAttribute::Address(mac.octets().to_vec()), LinkAttribute::LinkInfo(info)];
    let mut message = named(&b.name, attributes);
    if b.ipv6 == AddressGeneration::Kernel {
        message = flagged(message, LinkFlags::Up, LinkFlags::Up);
    }
    Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
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
    attributes.extend(v.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
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

enum AddressUse {
    /// With this broadcast address.
    Add(Option<Ipv4Addr>),
    /// With the usual one and with duplicate detection.
    Detect,
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
    let broadcast = match usage {
        AddressUse::Add(broadcast) => {
            if a.ip().is_ipv6() {
                message.header.flags = AddressHeaderFlags::Nodad;
            }
            broadcast
        }
        AddressUse::Detect => a.broadcast(),
        AddressUse::Remove => None,
    };
    message.attributes.extend(broadcast.map(AddressAttribute::Broadcast));
    message
}

/// Metric the kernel takes for an IPv6 route without one (IP6_RT_PRIO_USER). IPv4 takes 0.
pub(super) const METRIC6: u32 = 1024;

/// The ifindexes of the next hops; none for a route that leads nowhere.
fn hops<E>(r: &Route, index: &mut impl FnMut(&IfName) -> Result<u32, E>) -> Result<Vec<u32>, E> {
    if r.kind != RouteKind::Unicast {
        return Ok(Vec::new());
    }
    std::iter::once(&r.dev).chain(r.more.iter().map(|h| &h.dev)).map(index).collect()
}

fn add_route(r: &Route, hops: &[u32]) -> RouteMessage {
    let mut message = route(r, hops);
    message.header.protocol = RouteProtocol::from(r.protocol);
    message.header.scope = RouteScope::from(r.scope.unwrap_or_else(|| fitting_scope(r)));
    if r.onlink && r.more.is_empty() {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.extend(r.metric.map(RouteAttribute::Priority));
    message.attributes.extend(r.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    let metrics: Vec<_> = r.mtu.map(RouteMetric::Mtu).into_iter().chain(r.advmss.map(RouteMetric::Advmss)).collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// An IPv4 route without a next hop is only taken with link scope; IPv6 has no scopes.
pub(super) fn fitting_scope(r: &Route) -> u8 {
    let direct = r.kind == RouteKind::Unicast && r.via.is_none() && r.destination.is_ipv4();
    if direct { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE }
}

/// Scope "nowhere" and protocol 0 match any. IPv4 takes metric 0 for "any" too, so an IPv4 route without a metric
/// can only be named as "the one with the lowest metric".
fn del_route(r: &Route, hops: &[u32]) -> RouteMessage {
    let mut message = route(r, hops);
    message.header.scope = RouteScope::NoWhere;
    let metric = if r.destination.is_ipv4() { r.metric } else { Some(r.metric.unwrap_or(METRIC6)) };
    message.attributes.extend(metric.map(RouteAttribute::Priority));
    message
}

fn route(r: &Route, hops: &[u32]) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(r.destination.network());
    message.header.destination_prefix_length = r.destination.prefix();
    match u8::try_from(r.table) {
        Ok(table) => message.header.table = table,
        // The header has room for small numbers only.
        Err(_) => message.attributes.push(RouteAttribute::Table(r.table)),
    }
    message.header.kind = RouteType::from(r.kind.number());
    if r.destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(r.destination.network().into()));
    }
    if let [index] = hops {
        message.attributes.extend(next_hop(r, r.via));
        message.attributes.push(RouteAttribute::Oif(*index));
    } else if !hops.is_empty() {
        let all = std::iter::once((r.via, r.onlink)).chain(r.more.iter().map(|h| (h.via, h.onlink)));
        let several = all.zip(hops).map(|((via, onlink), index)| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = *index;
            if onlink {
                hop.flags = RouteNextHopFlags::Onlink;
            }
            hop.attributes = next_hop(r, via).into_iter().collect();
            hop
        });
        message.attributes.push(RouteAttribute::MultiPath(several.collect()));
    }
    message
}

fn next_hop(r: &Route, via: Option<IpAddr>) -> Option<RouteAttribute> {
    match via {
        Some(IpAddr::V6(via)) if r.destination.is_ipv4() => Some(RouteAttribute::Via(RouteVia::Inet6(via))),
        via => via.map(|via| RouteAttribute::Gateway(via.into())),
    }
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

/// All routes of a table, of every type.
pub(super) fn dump_table(family: AddressFamily, table: u32) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetRoute(message))
}

#[cfg(test)]
mod tests;
