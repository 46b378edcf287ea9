//! A container's port on a bridge, planned: the veth pair with one end in the container and the other in a bridge.
//!
//! netd makes all its endpoints by it, and the plugin `bridge` shares its parts.

use std::net::IpAddr;

use rnet_kernel::{LinkKind, LinkOp, LinkState, Netns, NewBridge, NewVeth, RouteEntry};
use rnet_model::{EndpointId, IfAddr, IfName, Kind, MacAddr, RouteSpec, Subnet};
use rnet_plan::{Action, Place, Plan};

use crate::shaping::{self, Shaping};

/// Bytes, of Ethernet and of a new bridge.
const DEFAULT_MTU: u32 = 1500;

/// The interface that is wanted. Every default is filled in.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Endpoint.
    pub id: EndpointId,
    /// Alias of the host end, which marks it as ours.
    pub alias: String,
    /// Device of the host the endpoint hangs on.
    pub master: IfName,
    /// Alias of the device of the host, if the plan has to make it.
    pub master_alias: String,
    /// Name of the host end.
    pub host_ifname: IfName,
    /// Namespace of the container.
    pub netns: Netns,
    /// Name inside.
    pub ifname: IfName,
    /// Address inside.
    pub mac: MacAddr,
    /// Bytes.
    pub mtu: u32,
    /// Addresses inside.
    pub addresses: Vec<IfAddr>,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Additional routes.
    pub routes: Vec<RouteSpec>,
    /// Metric of the default and additional routes.
    pub metric: Option<u32>,
    /// How fast it may be.
    pub shaping: Option<Shaping>,
}

/// What the container's namespace looks like before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// `lo` is down and must come up.
    Down,
    /// `lo` is up.
    Up,
}

/// Why the port cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct PortError {
    /// What it means to the caller.
    pub kind: Kind,
    /// What, which object, why.
    pub text: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// The plan that makes the port.
///
/// # Errors
/// When the master is no bridge.
pub fn add(wanted: &Wanted, master: Option<&LinkState>, loopback: Loopback) -> Result<Plan, PortError> {
    if let Some(master) = master
        && !matches!(master.kind, LinkKind::Bridge { .. })
    {
        return Err(PortError {
            kind: Kind::Unsupported,
            text: format!("{} is not a bridge", master.name),
            hint: None,
        });
    }
    // A bridge takes the smallest MTU of its ports (br_mtu_auto_adjust): only the container's end is made smaller.
    let port_mtu = master.map_or(DEFAULT_MTU, |m| m.mtu).max(wanted.mtu);
    let mut plan = Plan::default();
    if master.is_none() {
        let bridge = NewBridge {
            alias: wanted.master_alias.clone(),
            mtu: Some(port_mtu),
            ..NewBridge::new(wanted.master.clone())
        };
        plan.undoable(
            "attach.bridge",
            host(vec![LinkOp::NewBridge(bridge)]),
            vec![host(vec![LinkOp::Delete(wanted.master.clone())])],
        );
    }
    let veth = NewVeth {
        alias: wanted.alias.clone(),
        master: Some(wanted.master.clone()),
        mtu: port_mtu,
        netns: Some(wanted.netns.clone()),
        ..NewVeth::new(wanted.host_ifname.clone(), wanted.ifname.clone(), wanted.mac)
    };
    plan.undoable(
        "attach.veth",
        host(vec![LinkOp::NewVeth(veth)]),
        vec![host(vec![LinkOp::Delete(wanted.host_ifname.clone())])],
    );
    if let Some(limits) = &wanted.shaping {
        shaping::add(limits, &mut plan);
    }
    let lo: IfName = "lo".parse().expect("lo is an interface name");
    let inside = |ops| Action::Links(Place::Inside(wanted.netns.clone()), ops);
    let mut ops = Vec::new();
    let mut undo = Vec::new();
    if loopback == Loopback::Down {
        ops.push(LinkOp::Up(lo.clone()));
        undo.push(inside(vec![LinkOp::Down(lo)]));
    }
    // Its own multicast on a bridge with a thousand ports is what a first packet would cost most.
    ops.push(LinkOp::Quiet(wanted.ifname.clone()));
    if wanted.mtu < port_mtu {
        ops.push(LinkOp::Mtu(wanted.ifname.clone(), wanted.mtu));
    }
    ops.push(LinkOp::Up(wanted.ifname.clone()));
    ops.extend(dress(wanted));
    plan.undoable("attach.inside", inside(ops), undo);
    Ok(plan)
}

/// The plan that cuts the port off at once; the device itself goes with its device group, as does the device that limits
/// what it sends, if it has one.
pub fn del(host_ifname: &IfName, limiter: Option<&IfName>, retired_group: u32) -> Plan {
    let mut plan = Plan::default();
    let retire = |dev: &IfName| LinkOp::Retire(dev.clone(), retired_group);
    plan.step("detach.retire", host([Some(host_ifname), limiter].into_iter().flatten().map(retire).collect()));
    plan
}

/// What is not as wanted, a line each. `end` is the host end, `master` what it should hang on.
pub fn check(wanted: &Wanted, end: Option<&LinkState>, master: Option<&LinkState>) -> Vec<String> {
    let Some(master) = master else { return vec![format!("{} is gone", wanted.master)] };
    let Some(end) = end else { return vec![format!("{} is gone", wanted.host_ifname)] };
    let mut wrong = Vec::new();
    if end.alias.as_deref() != Some(&wanted.alias) {
        wrong.push(format!("{} is not the one rnet made", end.name));
    }
    if end.master != Some(master.index) {
        wrong.push(format!("{} is no port of {}", end.name, master.name));
    }
    if !end.up {
        wrong.push(format!("{} is down", end.name));
    }
    wrong
}

/// The plan that removes links of ours that belong to no endpoint.
pub fn gc(stale: &[LinkState], retired_group: u32) -> Plan {
    let mut plan = Plan::default();
    let is_bridge = |l: &&LinkState| matches!(l.kind, LinkKind::Bridge { .. });
    let (bridges, ends): (Vec<_>, Vec<_>) = stale.iter().partition(is_bridge);
    // One grace period for all of them instead of one for each.
    let mut ops: Vec<LinkOp> = ends.iter().map(|l| LinkOp::Retire(l.name.clone(), retired_group)).collect();
    if !ops.is_empty() {
        ops.push(LinkOp::DeleteGroup(retired_group));
    }
    ops.extend(bridges.iter().map(|l| LinkOp::Delete(l.name.clone())));
    for ops in ops.chunks(128) {
        plan.step("gc.delete", host(ops.to_vec()));
    }
    plan
}

fn host(ops: Vec<LinkOp>) -> Action {
    Action::Links(Place::Host, ops)
}

/// Addresses and routes of an interface that is there and up.
pub fn dress(wanted: &Wanted) -> Vec<LinkOp> {
    let dev = &wanted.ifname;
    let is_v6 = |a: &IfAddr| a.ip().is_ipv6();
    let has_link_local = |a: &IfAddr| matches!(a.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    // RFC 4291 section 2.1: every IPv6 interface has one. The kernel's own came with questions to the whole link.
    let link_local = (wanted.addresses.iter().any(is_v6) && !wanted.addresses.iter().any(has_link_local))
        .then(|| LinkOp::AddAddress(dev.clone(), wanted.mac.link_local()));
    let addresses = wanted.addresses.iter().map(|a| LinkOp::AddAddress(dev.clone(), *a));
    let near = |ip| wanted.addresses.iter().any(|a| a.subnet().contains(ip));
    let route = |destination: Subnet, via: Option<IpAddr>| {
        let link_local = matches!(via, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
        LinkOp::AddRoute(RouteEntry {
            via,
            metric: wanted.metric,
            // A next hop outside of every subnet is taken to be on the link.
            onlink: via.is_some_and(|ip| !near(ip) && !link_local),
            ..RouteEntry::new(destination, dev.clone())
        })
    };
    let any = |like: IpAddr| Subnet::containing(like, 0).expect("0 is a prefix length of both families");
    let defaults = wanted.gateways.iter().map(|g| route(any(*g), Some(*g)));
    let routes = wanted.routes.iter().map(|r| route(r.destination, r.via));
    link_local.into_iter().chain(addresses).chain(defaults).chain(routes).collect()
}
