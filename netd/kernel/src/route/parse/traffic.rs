//! Ports, VLANs, policy rules, qdiscs and filters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rnet_model::Subnet;

use super::{IFINFOMSG, attributes, ip_of, text_of, u32_of};
use crate::links::{Family, Fwmark, Port, Qdisc, Rule, TbfState, VlanEntry};
use crate::route::encode::tc::{NS_PER_TICK, TC_H_INGRESS};

/// Bit of an attribute's type that says that it has attributes in it (NLA_F_NESTED).
const TYPE: u16 = 0x3fff;

// linux/if_link.h, if_bridge.h
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 2;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 4;
/// `struct fib_rule_hdr` of linux/fib_rules.h.
const RULE: usize = 12;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
/// `struct tcmsg` of linux/rtnetlink.h.
const TCMSG: usize = 20;

fn nested(bytes: &[u8], wanted: u16) -> &[u8] {
    attributes(bytes).find(|(kind, _)| kind & TYPE == wanted).map_or(&[], |(_, value)| value)
}

/// The body of an RTM_NEWLINK; nothing unless it is a port of a bridge.
pub(crate) fn port(body: &[u8]) -> Option<Port> {
    let info = nested(body.get(IFINFOMSG..)?, libc::IFLA_LINKINFO);
    if text_of(nested(info, IFLA_INFO_SLAVE_KIND)) != "bridge" {
        return None;
    }
    let data = nested(info, IFLA_INFO_SLAVE_DATA);
    let on = |kind| nested(data, kind).first().is_some_and(|on| *on != 0);
    Some(Port { hairpin: on(IFLA_BRPORT_MODE), isolated: on(IFLA_BRPORT_ISOLATED) })
}

/// The VLANs of a device in the body of an RTM_NEWLINK of AF_BRIDGE.
pub(crate) fn vlans(body: &[u8], index: u32) -> Vec<VlanEntry> {
    let Some(header) = body.get(..IFINFOMSG) else { return Vec::new() };
    if i32::from(header[0]) != libc::AF_BRIDGE || u32_of(&header[4..]) != Some(index) {
        return Vec::new();
    }
    attributes(nested(&body[IFINFOMSG..], libc::IFLA_AF_SPEC))
        .filter(|(kind, value)| kind & TYPE == IFLA_BRIDGE_VLAN_INFO && value.len() >= 4)
        .map(|(_, value)| {
            let flags = u16::from_ne_bytes([value[0], value[1]]);
            VlanEntry {
                vid: u16::from_ne_bytes([value[2], value[3]]),
                pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
                untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
            }
        })
        .collect()
}

/// The body of an RTM_NEWRULE; nothing if there is more to it than a [`Rule`] can say.
pub(crate) fn rule(body: &[u8]) -> Option<Rule> {
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_IIFNAME: u16 = 3;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_SUPPRESS_IFGROUP: u16 = 13;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    const FRA_OIFNAME: u16 = 17;
    const FRA_PAD: u16 = 18;
    const FRA_PROTOCOL: u16 = 21;
    let header = body.get(..RULE)?;
    let family = match i32::from(header[0]) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let (dst_len, src_len, tos, action) = (header[1], header[2], header[3], header[7]);
    if tos != 0 || action != FR_ACT_TO_TBL || u32_of(&header[8..])? & FIB_RULE_INVERT != 0 {
        return None;
    }
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A rule without a priority has 0, which the kernel does not say.
    let mut rule = Rule { priority: Some(0), ..Rule::new(family, u32::from(header[4])) };
    let (mut from, mut to, mut mark, mut mask) = (any, any, 0, 0);
    for (kind, value) in attributes(&body[RULE..]) {
        match kind & TYPE {
            FRA_DST => to = ip_of(value)?,
            FRA_SRC => from = ip_of(value)?,
            FRA_IIFNAME => rule.iif = Some(text_of(value).parse().ok()?),
            FRA_OIFNAME => rule.oif = Some(text_of(value).parse().ok()?),
            FRA_PRIORITY => rule.priority = Some(u32_of(value)?),
            FRA_TABLE => rule.table = u32_of(value)?,
            FRA_FWMARK => mark = u32_of(value)?,
            FRA_FWMASK => mask = u32_of(value)?,
            FRA_SUPPRESS_IFGROUP | FRA_SUPPRESS_PREFIXLEN if u32_of(value)? == u32::MAX => {}
            FRA_PAD | FRA_PROTOCOL => {}
            _ => return None,
        }
    }
    rule.from = Subnet::containing(from, src_len).filter(|_| src_len > 0);
    rule.to = Subnet::containing(to, dst_len).filter(|_| dst_len > 0);
    rule.fwmark = (mask != 0).then_some(Fwmark { mark, mask });
    Some(rule)
}

// linux/rtnetlink.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// A qdisc of a device in the body of an RTM_NEWQDISC.
pub(crate) fn qdisc(body: &[u8], index: u32) -> Option<Qdisc> {
    let header = body.get(..TCMSG)?;
    let handle = u32_of(&header[8..])?;
    if u32_of(&header[4..])? != index || handle == 0 {
        return None;
    }
    let kind = text_of(nested(&body[TCMSG..], TCA_KIND));
    let tbf = if kind == "tbf" { tbf(nested(&body[TCMSG..], TCA_OPTIONS)) } else { None };
    Some(Qdisc { kind, handle, parent: u32_of(&header[12..])?, tbf })
}

/// `struct tc_tbf_qopt` of linux/pkt_sched.h, with TCA_TBF_RATE64.
fn tbf(options: &[u8]) -> Option<TbfState> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    let parms = nested(options, TCA_TBF_PARMS);
    let rate = match <[u8; 8]>::try_from(nested(options, TCA_TBF_RATE64)) {
        Ok(rate) => u64::from_ne_bytes(rate),
        Err(_) => u64::from(u32_of(parms.get(8..)?)?),
    };
    let ticks = u128::from(u32_of(parms.get(28..)?)?);
    let burst = (u128::from(rate) * ticks * u128::from(NS_PER_TICK)).div_ceil(1_000_000_000);
    Some(TbfState { rate, burst: u64::try_from(burst).ok()?, limit: u32_of(parms.get(24..)?)? })
}

/// Where the filter of the body of an RTM_NEWTFILTER sends everything.
pub(crate) fn mirror(body: &[u8]) -> Option<u32> {
    const TCA_U32_SEL: u16 = 5;
    const TCA_U32_ACT: u16 = 7;
    const TCA_ACT_KIND: u16 = 1;
    const TCA_ACT_OPTIONS: u16 = 2;
    const TCA_MIRRED_PARMS: u16 = 2;
    const TCA_EGRESS_REDIR: u32 = 1;
    let all = body.get(TCMSG..)?;
    if text_of(nested(all, TCA_KIND)) != "u32" {
        return None;
    }
    let options = nested(all, TCA_OPTIONS);
    // The mask of the first key: nothing is compared.
    if u32_of(nested(options, TCA_U32_SEL).get(16..)?)? != 0 {
        return None;
    }
    let (_, action) = attributes(nested(options, TCA_U32_ACT)).next()?;
    if text_of(nested(action, TCA_ACT_KIND)) != "mirred" {
        return None;
    }
    let parms = nested(nested(action, TCA_ACT_OPTIONS), TCA_MIRRED_PARMS);
    (u32_of(parms.get(20..)?)? == TCA_EGRESS_REDIR).then(|| u32_of(parms.get(24..)?)).flatten()
}

/// Whether it is what takes frames in.
pub(crate) fn is_ingress(qdisc: &Qdisc) -> bool {
    qdisc.kind == "ingress" && qdisc.parent == TC_H_INGRESS
}
