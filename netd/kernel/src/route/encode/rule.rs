//! Policy rules.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Request;
use crate::links::{Family, Route, Rule};

pub(super) fn family(of: Family) -> AddressFamily {
    match of {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn rule(r: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(r.family);
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    if let Some(from) = r.from {
        message.header.src_len = from.prefix();
        attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(to) = r.to {
        message.header.dst_len = to.prefix();
        attributes.push(RuleAttribute::Destination(to.network()));
    }
    attributes.extend(r.iif.as_ref().map(|d| RuleAttribute::Iifname(d.to_string())));
    attributes.extend(r.oif.as_ref().map(|d| RuleAttribute::Oifname(d.to_string())));
    if let Some(fwmark) = r.fwmark {
        attributes.extend([RuleAttribute::FwMark(fwmark.mark), RuleAttribute::FwMask(fwmark.mask)]);
    }
    attributes.extend(r.priority.map(RuleAttribute::Priority));
    match u8::try_from(r.table) {
        Ok(table) => message.header.table = table,
        Err(_) => attributes.push(RuleAttribute::Table(r.table)),
    }
    message
}

pub(super) fn add(r: &Rule) -> Request {
    let mut message = rule(r);
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(Route::OURS)));
    Request::acked(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRule(message))
}

/// Without a protocol: whoever made it.
pub(super) fn delete(r: &Rule) -> Request {
    Request::acked(0, RouteNetlinkMessage::DelRule(rule(r)))
}

pub(crate) fn dump(of: Family) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = family(of);
    Request::new(NLM_F_DUMP, RouteNetlinkMessage::GetRule(message))
}
