//! Devices, their settings, and the VLANs of bridge ports.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::link::{
    AfSpecUnspec, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind,
    InfoMacVlan, InfoPortData, InfoPortKind, InfoVlan, InfoVrf, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rnet_model::IfName;

use super::tc::nla;
use super::{Request, flagged, link, named, set};
use crate::Netns;
use crate::links::{Admin, Devconf4, DeviceKind, NewDevice, PortVlan, Switch, VlanTarget};

/// linux/if_bridge.h
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_SELF: u16 = 2;
/// linux/if_link.h
const IFLA_INET_CONF: u16 = 1;

/// The number of `netns` is read by the kernel while the message is handled; the operation holds it open until then.
fn netns(ns: &Netns) -> LinkAttribute {
    LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd())
}

pub(super) fn new_device(d: &NewDevice, parent: Option<u32>, master: Option<u32>) -> Request {
    let (kind, data) = match d.kind {
        DeviceKind::Macvlan { mode, bc_queue_len } => {
            let mut data = vec![InfoMacVlan::Mode(mode.number().into())];
            data.extend(bc_queue_len.map(InfoMacVlan::BcQueueLen));
            (InfoKind::MacVlan, Some(InfoData::MacVlan(data)))
        }
        DeviceKind::Ipvlan { mode } => {
            (InfoKind::IpVlan, Some(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode.number().into())])))
        }
        DeviceKind::Vlan { id } => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(id)]))),
        DeviceKind::Vrf { table } => (InfoKind::Vrf, Some(InfoData::Vrf(vec![InfoVrf::TableId(table)]))),
        DeviceKind::Dummy => (InfoKind::Dummy, None),
        DeviceKind::Ifb => (InfoKind::Ifb, None),
    };
    let mut attributes: Vec<_> = parent.map(LinkAttribute::Link).into_iter().collect();
    attributes.extend(d.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    attributes.extend(d.mtu.map(LinkAttribute::Mtu));
    attributes.extend(master.map(LinkAttribute::Controller));
    attributes.extend(d.netns.as_ref().map(netns));
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    attributes.push(LinkAttribute::LinkInfo(info));
    let message = match d.admin {
        Admin::Up => flagged(named(&d.name, attributes), LinkFlags::Up, LinkFlags::Up),
        Admin::Down => named(&d.name, attributes),
    };
    Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
}

/// By ifindex, so that IFLA_IFNAME is the name it gets.
fn numbered(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = link(attributes);
    message.header.index = index;
    message
}

pub(super) fn relocate(index: u32, name: &IfName, ns: &Netns) -> Request {
    let attributes = vec![LinkAttribute::IfName(name.to_string()), netns(ns)];
    Request::acked(0, RouteNetlinkMessage::SetLink(numbered(index, attributes)))
}

pub(super) fn rename(index: u32, name: &IfName) -> Request {
    let attributes = vec![LinkAttribute::IfName(name.to_string())];
    Request::acked(0, RouteNetlinkMessage::SetLink(numbered(index, attributes)))
}

pub(super) fn flag(name: &IfName, flag: LinkFlags, on: Switch) -> Request {
    let flags = if on.is_on() { flag } else { LinkFlags::empty() };
    Request::acked(0, RouteNetlinkMessage::SetLink(flagged(named(name, []), flags, flag)))
}

/// Port attributes go through RTM_NEWLINK without NLM_F_CREATE: RTM_SETLINK does not look at IFLA_LINKINFO.
pub(super) fn port(name: &IfName, attribute: InfoBridgePort) -> Request {
    let info = LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![attribute])),
    ]);
    Request::acked(0, RouteNetlinkMessage::NewLink(named(name, [info])))
}

pub(super) fn vlan_filtering(name: &IfName, on: Switch) -> Request {
    let info = LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(on.is_on())])),
    ]);
    Request::acked(0, RouteNetlinkMessage::NewLink(named(name, [info])))
}

/// In a message of AF_BRIDGE the attributes of IFLA_AF_SPEC are those of the bridge itself, without a level of family.
fn vlans(v: &PortVlan, index: u32, flags: BridgeVlanInfoFlags) -> LinkMessage {
    let info = |vid: u16, flags: BridgeVlanInfoFlags| {
        let value = <[u8; 4]>::from(&BridgeVlanInfo { vid, flags });
        nla(IFLA_BRIDGE_VLAN_INFO, &value)
    };
    let mut spec = Vec::new();
    if v.target == VlanTarget::Bridge {
        spec.extend(nla(IFLA_BRIDGE_FLAGS, &BRIDGE_FLAGS_SELF.to_ne_bytes()));
    }
    if v.from == v.to {
        spec.extend(info(v.from, flags));
    } else {
        spec.extend(info(v.from, flags | BridgeVlanInfoFlags::RangeBegin));
        spec.extend(info(v.to, flags | BridgeVlanInfoFlags::RangeEnd));
    }
    let mut message = numbered(index, vec![LinkAttribute::Other(DefaultNla::new(libc::IFLA_AF_SPEC, spec))]);
    message.header.interface_family = AddressFamily::Bridge;
    message
}

pub(super) fn add_vlans(v: &PortVlan, index: u32) -> Request {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, v.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, v.untagged);
    Request::acked(0, RouteNetlinkMessage::SetLink(vlans(v, index, flags)))
}

pub(super) fn del_vlans(v: &PortVlan, index: u32) -> Request {
    Request::acked(0, RouteNetlinkMessage::DelLink(vlans(v, index, BridgeVlanInfoFlags::empty())))
}

/// inet_set_link_af (net/ipv4/devinet.c) takes single settings by number.
pub(super) fn devconf4(name: &IfName, key: Devconf4, value: i32) -> Request {
    let conf = nla(key.number(), &value.to_ne_bytes());
    let inet = nla(IFLA_INET_CONF, &conf);
    let family = DefaultNla::new(u16::from(u8::from(AddressFamily::Inet)), inet);
    set(name, [LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Other(family)])])
}

pub(crate) fn get_link_by_index(index: u32) -> Request {
    let message = numbered(index, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
    Request::new(0, RouteNetlinkMessage::GetLink(message))
}

/// The ports of all bridges, and the bridges, with each VLAN on its own. With strict checking no device can be chosen.
pub(crate) fn dump_vlans() -> Request {
    let mut message = link(vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])]);
    message.header.interface_family = AddressFamily::Bridge;
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetLink(message))
}
