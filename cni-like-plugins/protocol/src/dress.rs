//! What an interface inside is given out of a result: the part of ADD that all main plugins have in common when the lease
//! comes after the interface.

use std::net::IpAddr;

use rnet_kernel::{LinkOp, NextHop, RouteEntry};
use rnet_model::{IfAddr, IfName, Subnet};
use rnet_plan::{Action, Place, Plan};

use crate::{Call, CniResult, Error, Interface, Route, Work, gateway_of};

/// RTPROT_BOOT of linux/rtnetlink.h, which ip(8) and the reference plugins give their routes.
const BOOT: u8 = 3;
/// RT_SCOPE_LINK of linux/rtnetlink.h.
const SCOPE_LINK: u8 = 253;

/// A route of a result in the kernel's terms, by `gateway` if it has no next hop of its own and does not say that its
/// destination is on the link.
pub fn route_op(dev: &IfName, route: &Route, gateway: Option<IpAddr>) -> RouteEntry {
    let destination =
        Subnet::containing(route.dst.ip(), route.dst.prefix()).expect("the prefix length is one of this family");
    RouteEntry {
        via: route.gw.or(gateway).filter(|_| route.scope != Some(SCOPE_LINK)),
        metric: route.priority,
        protocol: BOOT,
        table: route.table.unwrap_or(RouteEntry::MAIN),
        scope: route.scope,
        mtu: route.mtu,
        advmss: route.advmss,
        ..RouteEntry::new(destination, dev.clone())
    }
}

/// Routes of a result. One without a next hop of its own takes the gateway of its family. Several to one destination
/// become one with several next hops: the kernel takes no second route of the same metric.
pub fn routes(dev: &IfName, result: &CniResult) -> Vec<LinkOp> {
    let mut all: Vec<RouteEntry> = Vec::new();
    for route in &result.routes {
        let new = route_op(dev, route, gateway_of(result, route.gw, route.dst.is_ipv6()));
        let same = |r: &&mut RouteEntry| (r.destination, r.table, r.metric) == (new.destination, new.table, new.metric);
        let Some(first) = all.iter_mut().find(same) else {
            all.push(new);
            continue;
        };
        if first.via != new.via && !first.more.iter().any(|hop| hop.via == new.via) {
            first.more.push(NextHop { via: new.via, dev: new.dev, onlink: false });
        }
    }
    all.into_iter().map(LinkOp::AddRoute).collect()
}

/// Addresses and routes of the lease for the container's interface of `bare`.
///
/// # Errors
/// Code 7 for an address no interface can have, 4 without a namespace or an interface.
pub(crate) fn inside(call: &Call<'_>, bare: CniResult) -> Result<Work, Error> {
    let (ifname, netns) = (call.ifname()?, call.netns()?);
    let leased = call.leased.clone().unwrap_or_default();
    let ours = |i: &Interface| !i.sandbox.is_empty() && i.name == ifname.as_str();
    let mut result = CniResult { routes: leased.routes, ..bare };
    let number = result.interfaces.iter().position(ours);
    for ip in leased.ips {
        result.ips.push(crate::IpConfig { interface: number, ..ip });
    }
    // Name resolution of the configuration replaces that of the lease.
    if result.dns.is_empty() {
        result.dns = leased.dns;
    }
    let mut ops = vec![LinkOp::Up(ifname.clone())];
    for ip in &result.ips {
        ops.push(LinkOp::AddAddress(ifname.clone(), IfAddr::new(ip.address.ip(), ip.address.prefix())?));
    }
    ops.extend(routes(ifname, &result));
    let mut plan = Plan::default();
    plan.step("cni.dress", Action::Links(Place::Inside(netns.clone()), ops));
    Ok(Work::Planned(plan, result))
}
