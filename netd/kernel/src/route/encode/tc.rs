//! Traffic control, written by hand: structures and numbers are those of linux/pkt_sched.h, pkt_cls.h and
//! tc_act/tc_mirred.h.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};

use super::Request;
use crate::links::{QdiscPlace, Tbf};

pub(crate) const TC_H_ROOT: u32 = 0xffff_ffff;
pub(crate) const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// 1:, as the first qdisc somebody makes by hand.
const ROOT_HANDLE: u32 = 0x0001_0000;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// A tick is 64 ns (PSCHED_SHIFT of net/pkt_sched.h).
pub(crate) const NS_PER_TICK: u64 = 64;

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
/// Priority 1 in the upper half, ETH_P_ALL in network order in the lower.
const FIRST_OF_ALL: u32 = 1 << 16 | (0x0003_u16.to_be() as u32);
/// Entry 0x800 of the root table (800::800), the one the kernel would give out first.
const FIRST_ENTRY: u32 = 0x8000_0800;

/// An attribute, padded to four bytes.
pub(super) fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("attributes of ours are small");
    let mut out = Vec::with_capacity(value.len() + 7);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn make(kind: u16, body: Vec<u8>) -> Request {
    Request::raw_acked(NLM_F_CREATE | NLM_F_EXCL, kind, body)
}

/// The link layer is said, and so the kernel needs no rate table to guess it from (tbf_change, __detect_linklayer).
pub(super) fn tbf(t: &Tbf, index: u32) -> Request {
    let rate = u32::try_from(t.rate).unwrap_or(u32::MAX);
    let nanoseconds = u128::from(t.burst) * 1_000_000_000 / u128::from(t.rate.max(1));
    let ticks = u32::try_from(nanoseconds / u128::from(NS_PER_TICK)).unwrap_or(u32::MAX);
    // Two struct tc_ratespec (cell_log, linklayer, overhead, cell_align, mpu, rate), limit, buffer, mtu.
    let mut options = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    options.extend(rate.to_ne_bytes());
    options.extend([0; 12]);
    for number in [t.limit(), ticks, 0] {
        options.extend(number.to_ne_bytes());
    }
    let mut options = nla(TCA_TBF_PARMS, &options);
    if rate == u32::MAX {
        options.extend(nla(TCA_TBF_RATE64, &t.rate.to_ne_bytes()));
    }
    options.extend(nla(TCA_TBF_BURST, &t.burst.to_ne_bytes()));
    let mut body = tcmsg(index, ROOT_HANDLE, TC_H_ROOT, 0);
    body.extend(nla(TCA_KIND, b"tbf\0"));
    body.extend(nla(TCA_OPTIONS, &options));
    make(libc::RTM_NEWQDISC, body)
}

pub(super) fn ingress(index: u32) -> Request {
    let mut body = tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0);
    body.extend(nla(TCA_KIND, b"ingress\0"));
    make(libc::RTM_NEWQDISC, body)
}

/// With a fixed entry a second one of the kind is EEXIST.
pub(super) fn mirror(from: u32, to: u32) -> Request {
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let mirred: Vec<u8> =
        [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to].into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut action = nla(TCA_ACT_KIND, b"mirred\0");
    action.extend(nla(TCA_ACT_OPTIONS, &nla(TCA_MIRRED_PARMS, &mirred)));
    // struct tc_u32_sel with one struct tc_u32_key of mask 0: everything.
    let mut select = vec![TC_U32_TERMINAL, 0, 1, 0];
    select.resize(16 + 16, 0);
    let mut options = nla(TCA_U32_CLASSID, &(ROOT_HANDLE | 1).to_ne_bytes());
    options.extend(nla(TCA_U32_SEL, &select));
    options.extend(nla(TCA_U32_ACT, &nla(1, &action)));
    let mut body = tcmsg(from, FIRST_ENTRY, INGRESS_HANDLE, FIRST_OF_ALL);
    body.extend(nla(TCA_KIND, b"u32\0"));
    body.extend(nla(TCA_OPTIONS, &options));
    make(libc::RTM_NEWTFILTER, body)
}

pub(super) fn del_qdisc(index: u32, place: QdiscPlace) -> Request {
    let parent = match place {
        QdiscPlace::Root => TC_H_ROOT,
        QdiscPlace::Ingress => TC_H_INGRESS,
    };
    Request::raw_acked(0, libc::RTM_DELQDISC, tcmsg(index, 0, parent, 0))
}

/// Of all devices: the ifindex of the header does not filter.
pub(crate) fn dump_qdiscs() -> Request {
    Request::raw(NLM_F_DUMP, libc::RTM_GETQDISC, tcmsg(0, 0, 0, 0))
}

pub(crate) fn dump_ingress_filters(index: u32) -> Request {
    Request::raw(NLM_F_DUMP, libc::RTM_GETTFILTER, tcmsg(index, 0, INGRESS_HANDLE, 0))
}
