//! What a refusal means for the operation it answers. Pure.

use super::ack::Refusal;
use super::encode::METRIC6;
use crate::KernelError;
use crate::links::{LinkOp, NextHop, Route, RouteKind};

/// Ports of a Linux bridge: BR_MAX_PORTS is 1 << BR_PORT_BITS = 1024, and port number 0 is not given out.
const BRIDGE_PORTS: u32 = 1023;

pub(crate) enum Verdict {
    /// The world is as it was asked to be.
    Already,
    Fault(KernelError),
}

pub(crate) fn settle(op: &LinkOp, refusal: Refusal) -> Verdict {
    let already = match op {
        LinkOp::Delete(_) | LinkOp::DeleteGroup(_) | LinkOp::Retire(..) => refusal.errno == libc::ENODEV,
        LinkOp::DelAddress(..) => matches!(refusal.errno, libc::EADDRNOTAVAIL | libc::ENODEV),
        LinkOp::DelRoute(_) => matches!(refusal.errno, libc::ESRCH | libc::ENODEV),
        LinkOp::DelPortVlan(_) => refusal.errno == libc::ENODEV,
        LinkOp::DelQdisc(..) => matches!(refusal.errno, libc::ENOENT | libc::ENODEV),
        // rule_exists (net/core/fib_rules.c): an equal one of that priority.
        LinkOp::AddRule(_) => refusal.errno == libc::EEXIST,
        LinkOp::DelRule(_) => matches!(refusal.errno, libc::ENOENT | libc::EAFNOSUPPORT),
        // No IPv6 in the kernel or on the device: no address will be made.
        LinkOp::Quiet(_) => refusal.errno == libc::EAFNOSUPPORT,
        _ => false,
    };
    if already {
        return Verdict::Already;
    }
    let error = KernelError { text: refusal.text, ..KernelError::os(op.to_string(), refusal.errno) };
    Verdict::Fault(match hint(op, refusal.errno) {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn hint(op: &LinkOp, errno: i32) -> Option<String> {
    match (op, errno) {
        (LinkOp::NewVeth(_) | LinkOp::Master(..), libc::EXFULL) => {
            Some(format!("a Linux bridge takes {BRIDGE_PORTS} ports; use a second network for more endpoints"))
        }
        // addrconf.c: IPv6 addresses are refused with EACCES where the sysctl forbids them.
        (LinkOp::AddAddress(dev, a) | LinkOp::DetectAddress(dev, a) | LinkOp::MoveAddress(dev, a, _), libc::EACCES)
            if a.ip().is_ipv6() =>
        {
            Some(format!("IPv6 is switched off there: set net/ipv6/conf/{dev}/disable_ipv6 to 0"))
        }
        (LinkOp::AddRoute(r), libc::ENETUNREACH | libc::EHOSTUNREACH) if r.via.is_some() && !r.onlink => {
            Some("the next hop must be inside a connected subnet, or be marked as on the link".to_owned())
        }
        (_, libc::EPERM) => Some("changing links takes CAP_NET_ADMIN in the namespace".to_owned()),
        _ => None,
    }
}

/// Whether a route that is there is the one that was asked for, whoever made it.
pub(crate) fn same_route(wanted: &Route, there: &Route) -> bool {
    let metric = |r: &Route| match r.metric {
        None if r.destination.is_ipv4() => 0,
        None => METRIC6,
        Some(metric) => metric,
    };
    let hops = |r: &Route| {
        let first = NextHop { via: r.via, dev: r.dev.clone(), onlink: false };
        let mut all = vec![first];
        all.extend(r.more.iter().map(|h| NextHop { onlink: false, ..h.clone() }));
        all.sort();
        all
    };
    wanted.destination == there.destination
        && wanted.kind == there.kind
        && (wanted.kind != RouteKind::Unicast || hops(wanted) == hops(there))
        && wanted.table == there.table
        && metric(wanted) == metric(there)
        && (wanted.source.is_none() || wanted.source == there.source)
        && (wanted.mtu.is_none() || wanted.mtu == there.mtu)
        && (wanted.advmss.is_none() || wanted.advmss == there.advmss)
}
