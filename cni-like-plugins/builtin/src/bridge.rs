//! `bridge`: a veth pair, one end in the container, the other a port of a Linux bridge.

use std::net::IpAddr;

use rnet_kernel::{
    AddressGeneration, LinkKind, LinkOp, LinkState, NewBridge, NewVeth, RouteEntry, RouteKind, Snooping,
};
use rnet_model::{IfAddr, IfName, Kind, Subnet};
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::{Loopback, Plugin, PluginError, Wanted};

/// Bytes, of Ethernet and of a new bridge.
const DEFAULT_MTU: u32 = 1500;

/// The plugin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, wanted: &Wanted, master: Option<&LinkState>, loopback: Loopback) -> Result<Plan, PluginError> {
        if let Some(master) = master
            && !matches!(master.kind, LinkKind::Bridge { .. })
        {
            return Err(PluginError {
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
                name: wanted.master.clone(),
                alias: wanted.master_alias.clone(),
                mtu: Some(port_mtu),
                mac: None,
                vlan_filtering: false,
                ipv6: AddressGeneration::Off,
                snooping: Snooping::Off,
            };
            plan.undoable(
                "attach.bridge",
                host(vec![LinkOp::NewBridge(bridge)]),
                vec![host(vec![LinkOp::Delete(wanted.master.clone())])],
            );
        }
        let veth = NewVeth {
            name: wanted.host_ifname.clone(),
            alias: wanted.alias.clone(),
            master: Some(wanted.master.clone()),
            mtu: port_mtu,
            peer: wanted.ifname.clone(),
            mac: None,
            ipv6: AddressGeneration::Off,
            peer_mac: wanted.mac,
            netns: Some(wanted.netns.clone()),
        };
        plan.undoable(
            "attach.veth",
            host(vec![LinkOp::NewVeth(veth)]),
            vec![host(vec![LinkOp::Delete(wanted.host_ifname.clone())])],
        );
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

    fn del(&self, host_ifname: &IfName, retired_group: u32) -> Plan {
        let mut plan = Plan::default();
        plan.step("detach.retire", host(vec![LinkOp::Retire(host_ifname.clone(), retired_group)]));
        plan
    }

    fn check(&self, wanted: &Wanted, end: Option<&LinkState>, master: Option<&LinkState>) -> Vec<String> {
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

    fn gc(&self, stale: &[LinkState], retired_group: u32) -> Plan {
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

    fn status(&self) -> Result<(), PluginError> {
        Ok(())
    }
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
            destination,
            via,
            dev: dev.clone(),
            metric: wanted.metric,
            // A next hop outside of every subnet is taken to be on the link.
            onlink: via.is_some_and(|ip| !near(ip) && !link_local),
            source: None,
            protocol: RouteEntry::OURS,
            table: RouteEntry::MAIN,
            kind: RouteKind::Unicast,
            scope: None,
            mtu: None,
            advmss: None,
            more: Vec::new(),
        })
    };
    let any = |like: IpAddr| Subnet::containing(like, 0).expect("0 is a prefix length of both families");
    let defaults = wanted.gateways.iter().map(|g| route(any(*g), Some(*g)));
    let routes = wanted.routes.iter().map(|r| route(r.destination, r.via));
    link_local.into_iter().chain(addresses).chain(defaults).chain(routes).collect()
}
