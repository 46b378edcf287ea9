//! ctnetlink messages: requests from filters, entries from answers. No I/O.
//!
//! Layouts: include/uapi/linux/netfilter/nfnetlink_conntrack.h. Numbers inside attributes are big endian, but for the
//! flags of a filter, which are native.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::FlowFilter;
use crate::filter::wire::{Message, Messages, NLA_F_NESTED, NLM_F_DUMP, NLM_F_REQUEST, attributes};

/// `NFNL_SUBSYS_CTNETLINK`, the high byte of every message type.
pub(super) const SUBSYS: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`, which is what an entry of a dump is too.
pub(super) const NEW: u16 = SUBSYS;
const GET: u16 = SUBSYS | 1;
const DELETE: u16 = SUBSYS | 2;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(super) const V4: u8 = 2;
pub(super) const V6: u8 = 10;

/// `enum ctattr_type`.
pub(super) const TUPLE_ORIG: u16 = 1;
pub(super) const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// `enum ctattr_tuple`.
pub(super) const TUPLE_IP: u16 = 1;
pub(super) const TUPLE_PROTO: u16 = 2;

/// `enum ctattr_l4proto`.
pub(super) const PROTO_NUM: u16 = 1;
pub(super) const PROTO_SRC_PORT: u16 = 2;
pub(super) const PROTO_DST_PORT: u16 = 3;

/// `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`.
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Which fields of a tuple the kernel compares (net/netfilter/nf_internals.h).
const F_IP_SRC: u32 = 1 << 0;
const F_IP_DST: u32 = 1 << 1;
const F_PROTO_NUM: u32 = 1 << 3;
const F_PROTO_SRC_PORT: u32 = 1 << 4;
const F_PROTO_DST_PORT: u32 = 1 << 5;

/// What is needed to delete a flow, as the kernel sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    family: u8,
    /// Contents of `CTA_TUPLE_ORIG`; never empty.
    tuple: Vec<u8>,
    /// So that a later flow with the same tuple is left alone, if the kernel keeps it elsewhere.
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// An entry of a dump.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    family: u8,
    original: &'a [u8],
    reply: &'a [u8],
    id: Option<&'a [u8]>,
    zone: Option<&'a [u8]>,
}

/// One direction of a flow: who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tuple {
    pub(super) protocol: Option<u8>,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
}

/// Whether flows of a family can fit.
pub(super) fn may_be(filter: &FlowFilter, family: u8) -> bool {
    let fits = |address: Option<IpAddr>| address.is_none_or(|a| a.is_ipv4() == (family == V4));
    fits(filter.original_destination) && fits(filter.reply_source)
}

/// A request for the flows of a family. What all filters agree on is left to the kernel, as far as it can: since Linux
/// 5.8, ports of TCP and UDP only, and no IPv6 addresses, which it leaves out where they are equal
/// (`ctnetlink_filter_match_tuple` takes `ipv6_addr_cmp` for a test of equality).
pub(super) fn ask(request: &mut Messages, family: u8, filters: &[FlowFilter]) {
    let at = request.open(GET, NLM_F_REQUEST | NLM_F_DUMP, family, 0);
    if let Some(protocol) = common(filters, |f| Some(f.protocol)) {
        let original = Tuple {
            protocol: Some(protocol),
            destination: common(filters, |f| f.original_destination).filter(IpAddr::is_ipv4),
            destination_port: common(filters, |f| f.original_port),
            ..Tuple::default()
        };
        let reply = Tuple {
            protocol: Some(protocol),
            source: common(filters, |f| f.reply_source).filter(IpAddr::is_ipv4),
            source_port: common(filters, |f| f.reply_port),
            ..Tuple::default()
        };
        let nest = request.nest(FILTER);
        request.attr(FILTER_ORIG, &original.flags().to_ne_bytes());
        request.attr(FILTER_REPLY, &reply.flags().to_ne_bytes());
        request.close_nest(nest);
        original.put(request, TUPLE_ORIG);
        reply.put(request, TUPLE_REPLY);
    }
    request.close(at);
}

fn common<T: PartialEq>(filters: &[FlowFilter], field: impl Fn(&FlowFilter) -> Option<T>) -> Option<T> {
    let first = field(filters.first()?)?;
    filters.iter().all(|f| field(f).as_ref() == Some(&first)).then_some(first)
}

/// Deletes one flow. Without a tuple the kernel would delete all flows; a [`Flow`] has one.
pub(super) fn delete(request: &mut Messages, flow: &Flow, flags: u16) {
    let at = request.open(DELETE, NLM_F_REQUEST | flags, flow.family, 0);
    request.attr(TUPLE_ORIG | NLA_F_NESTED, &flow.tuple);
    if let Some(id) = &flow.id {
        request.attr(ID, id);
    }
    if let Some(zone) = &flow.zone {
        request.attr(ZONE, zone);
    }
    request.close(at);
}

/// The entry in an answer of a dump; `None` for any other message and for one without both tuples.
pub(super) fn entry<'a>(message: &Message<'a>) -> Option<Entry<'a>> {
    if message.kind != NEW {
        return None;
    }
    let find = |wanted: u16| message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let tuple = |wanted: u16| find(wanted).filter(|value| !value.is_empty());
    Some(Entry {
        family: message.family(),
        original: tuple(TUPLE_ORIG)?,
        reply: tuple(TUPLE_REPLY)?,
        id: find(ID),
        zone: find(ZONE),
    })
}

#[cfg(test)]
impl Flow {
    pub(super) fn with_id(&self, id: [u8; 4]) -> Self {
        Flow { id: Some(id.to_vec()), ..self.clone() }
    }
}

impl Entry<'_> {
    pub(super) fn original(&self) -> Tuple {
        Tuple::read(self.original)
    }

    pub(super) fn reply(&self) -> Tuple {
        Tuple::read(self.reply)
    }

    pub(super) fn fits(&self, filter: &FlowFilter) -> bool {
        let (original, reply) = (self.original(), self.reply());
        original.protocol == Some(filter.protocol)
            && fits(filter.original_destination, original.destination)
            && fits(filter.original_port, original.destination_port)
            && fits(filter.reply_source, reply.source)
            && fits(filter.reply_port, reply.source_port)
    }

    pub(super) fn flow(&self) -> Flow {
        Flow {
            family: self.family,
            tuple: self.original.to_vec(),
            id: self.id.map(<[u8]>::to_vec),
            zone: self.zone.map(<[u8]>::to_vec),
        }
    }
}

fn fits<T: PartialEq>(wanted: Option<T>, is: Option<T>) -> bool {
    wanted.is_none() || wanted == is
}

impl Tuple {
    fn read(bytes: &[u8]) -> Tuple {
        let mut tuple = Tuple::default();
        for (kind, value) in attributes(bytes) {
            for (field, value) in attributes(value) {
                match (kind, field) {
                    (TUPLE_IP, 1 | 3) => tuple.source = address(value),
                    (TUPLE_IP, 2 | 4) => tuple.destination = address(value),
                    (TUPLE_PROTO, PROTO_NUM) => tuple.protocol = value.first().copied(),
                    (TUPLE_PROTO, PROTO_SRC_PORT) => tuple.source_port = port(value),
                    (TUPLE_PROTO, PROTO_DST_PORT) => tuple.destination_port = port(value),
                    _ => {}
                }
            }
        }
        tuple
    }

    fn flags(&self) -> u32 {
        let flag = |there: bool, flag: u32| if there { flag } else { 0 };
        flag(self.protocol.is_some(), F_PROTO_NUM)
            | flag(self.source.is_some(), F_IP_SRC)
            | flag(self.destination.is_some(), F_IP_DST)
            | flag(self.source_port.is_some(), F_PROTO_SRC_PORT)
            | flag(self.destination_port.is_some(), F_PROTO_DST_PORT)
    }

    /// Puts the tuple into a request, with the fields it has.
    pub(super) fn put(&self, request: &mut Messages, kind: u16) {
        let whole = request.nest(kind);
        if self.source.is_some() || self.destination.is_some() {
            let nest = request.nest(TUPLE_IP);
            // CTA_IP_V4_SRC and _DST are 1 and 2, CTA_IP_V6_SRC and _DST 3 and 4.
            for (address, base) in [(self.source, 1), (self.destination, 2)] {
                match address {
                    Some(IpAddr::V4(v4)) => request.attr(base, &v4.octets()),
                    Some(IpAddr::V6(v6)) => request.attr(base + 2, &v6.octets()),
                    None => {}
                }
            }
            request.close_nest(nest);
        }
        let nest = request.nest(TUPLE_PROTO);
        if let Some(protocol) = self.protocol {
            request.attr(PROTO_NUM, &[protocol]);
        }
        for (port, kind) in [(self.source_port, PROTO_SRC_PORT), (self.destination_port, PROTO_DST_PORT)] {
            if let Some(port) = port {
                request.attr(kind, &port.to_be_bytes());
            }
        }
        request.close_nest(nest);
        request.close_nest(whole);
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|v4| Ipv4Addr::from(v4).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|v6| Ipv6Addr::from(v6).into()),
        _ => None,
    }
}

fn port(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}
